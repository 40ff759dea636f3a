"""Reads `If-None-Match`, `If-Match` and `If-Range` (RFC 9110, section 13) as digests.

Our ETag is the digest in quotes. On reads an unknown entity tag does not match. On writes a condition that cannot be
parsed is refused, because it must never count as fulfilled. The registry evaluates the conditions of a write inside its
transaction.
"""

from __future__ import annotations

import re
from typing import Final

from boltseal.errors import Invalid, quote
from boltseal.server.registry.models import UNCONDITIONAL, Conditions

_MEMBER: Final = re.compile(
    r'\s*(?P<weak>W/)?(?:"(?P<quoted>[\x21\x23-\x7e\x80-\xff]*)"|(?P<bare>[^\s",*]+))\s*(?:,|$)'
)


class ConditionInvalid(Invalid):
    """A condition of a write cannot be parsed."""


def not_modified(if_none_match: str, digest: str) -> bool:
    """Return whether `If-None-Match` matches the digest (304), by weak comparison.

    Quoted and unquoted digests, `W/`, lists and `*` are understood; anything else does not match.
    """
    if if_none_match.strip() == "*":
        return True
    return any(value == digest for _, value in _members(if_none_match) or ())


def range_applies(if_range: str | None, digest: str) -> bool:
    """Return whether `Range` is honoured: without `If-Range`, or if it has the ETag of this content.

    A weak tag or a date does not match (we send neither), so that client gets the full content.
    """
    return if_range is None or if_range.strip() == f'"{digest}"'


def write_conditions(if_none_match: str | None, if_match: str | None) -> Conditions:
    """Return the conditions of a PUT or DELETE of a manifest. Raises: ConditionInvalid: a header cannot be parsed.

    A weak tag in `If-Match` matches nothing (strong comparison), so the set may be empty.
    """
    if if_none_match is None and if_match is None:
        return UNCONDITIONAL
    if if_none_match is not None and if_none_match.strip() != "*":
        msg = f"If-None-Match {quote(if_none_match)} is not supported on a write; expected * (the tag must not exist)"
        raise ConditionInvalid(msg)
    return Conditions(
        if_none_match_any=if_none_match is not None,
        if_match=None if if_match is None else _digests_to_match(if_match),
    )


def _digests_to_match(if_match: str) -> frozenset[str]:
    if if_match.strip() == "*":
        return frozenset({"*"})
    members = _members(if_match)
    if not members:
        msg = f'If-Match {quote(if_match)} cannot be parsed; expected "<digest>" in double quotes, a list of them, or *'
        raise ConditionInvalid(msg)
    return frozenset(value for weak, value in members if not weak)


def _members(header: str) -> list[tuple[bool, str]] | None:
    """Return the (weak, value) pairs of a list of entity tags; None if it is not one."""
    members = []
    position = 0
    while position < len(header):
        member = _MEMBER.match(header, position)
        if member is None:
            return None
        quoted = member["quoted"]
        members.append((member["weak"] is not None, member["bare"] if quoted is None else quoted))
        position = member.end()
    return members
