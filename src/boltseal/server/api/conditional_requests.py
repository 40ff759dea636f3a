"""What `If-None-Match`, `If-Match` and `If-Range` say (RFC 9110, section 13), in terms of digests.

Our ETag is the digest in quotes. On reads anything that is no tag of ours simply does not match; on writes
a condition that can't be understood is refused, because "not understood" must never count as "holds".
Whether a write's condition holds is decided by the registry, inside its transaction.
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
    """A condition of a write that can't be understood."""


def not_modified(if_none_match: str, digest: str) -> bool:
    """Whether a reader who sent this `If-None-Match` already holds the answer (304); comparison is weak.

    Quoted and unquoted digests, `W/`, lists and `*` are understood; garbage matches nothing.
    """
    if if_none_match.strip() == "*":
        return True
    return any(value == digest for _, value in _members(if_none_match) or ())


def range_applies(if_range: str | None, digest: str) -> bool:
    """Whether `Range` is to be honoured: no `If-Range`, or one that names exactly this content.

    A weak tag or a date never does (we give neither), so such a reader gets the whole.
    """
    return if_range is None or if_range.strip() == f'"{digest}"'


def write_conditions(if_none_match: str | None, if_match: str | None) -> Conditions:
    """What must hold for a PUT or DELETE of a manifest; ConditionInvalid when that can't be read.

    A weak tag in `If-Match` matches nothing (comparison is strong), so it can make the set empty.
    """
    if if_none_match is None and if_match is None:
        return UNCONDITIONAL
    if if_none_match is not None and if_none_match.strip() != "*":
        msg = f"If-None-Match {quote(if_none_match)} is not understood on a write; expected * (the name must not exist)"
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
        msg = f'If-Match {quote(if_match)} can\'t be read; expected "<digest>" in double quotes, a list of them, or *'
        raise ConditionInvalid(msg)
    return frozenset(value for weak, value in members if not weak)


def _members(header: str) -> list[tuple[bool, str]] | None:
    """The (weak, value) pairs of a list of entity tags; None when it is not one."""
    found = []
    position = 0
    while position < len(header):
        member = _MEMBER.match(header, position)
        if member is None:
            return None
        quoted = member["quoted"]
        found.append((member["weak"] is not None, member["bare"] if quoted is None else quoted))
        position = member.end()
    return found
