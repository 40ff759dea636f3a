"""The file `boltseal.holds` beside a lock: what a rollback in git took back. Pure.

`boltseal rollback --git-branch` writes it, in the commit that goes back. While it has a reference, `lock --update`, `update` and
`deploy --update` do not resolve that reference again, and `deploy --git-branch` refuses its held digest. The file comes with the
checkout, so it is untrusted: it can only prevent an update. One that can't be read ends the command.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

import msgspec

from boltseal.errors import Invalid
from boltseal.oci.digest import Digest
from boltseal.oci.reference import Reference

HOLDS_NAME: Final = "boltseal.holds"
MAX_HOLDS: Final = 10_000


class HoldsInvalid(Invalid):
    """A file of holds that can't be read or has an invalid value."""


@dataclass(frozen=True, slots=True)
class HeldDigest:
    """A digest that a rollback took back. `reference`: with its tag. `undone`: the commit that had deployed it."""

    reference: Reference
    digest: Digest
    undone: str

    @property
    def reason(self) -> str:
        """Return why it is held."""
        return f"held by {HOLDS_NAME}, since a rollback took commit {self.undone[:12]} back"


class _Row(msgspec.Struct, forbid_unknown_fields=True):
    ref: str
    digest: str
    undone: str


class _Document(msgspec.Struct, forbid_unknown_fields=True):
    holds: list[_Row]


def parse_holds(text: str | bytes) -> tuple[HeldDigest, ...]:
    """Parse a file of holds. Raises: HoldsInvalid."""
    try:
        rows = msgspec.json.decode(text, type=_Document).holds
        found = tuple(HeldDigest(Reference.parse(each.ref), Digest.parse(each.digest), each.undone) for each in rows)
    except (msgspec.DecodeError, Invalid) as error:
        raise HoldsInvalid(f"{HOLDS_NAME} can't be read: {error}; restore it from git") from error
    if len(found) > MAX_HOLDS:
        raise HoldsInvalid(f"{HOLDS_NAME} has {len(found)} holds, expected at most {MAX_HOLDS}")
    return found


def format_holds(holds: Iterable[HeldDigest]) -> str:
    """Return the text of a file of holds, sorted, each digest of a reference once."""
    rows = {(str(each.reference), str(each.digest)): each.undone for each in holds}
    document = _Document([_Row(ref, digest, undone) for (ref, digest), undone in sorted(rows.items())])
    return msgspec.json.format(msgspec.json.encode(document), indent=2).decode() + "\n"


def git_end_hint(options: str = "--git-branch NAME") -> str:
    """Return how to end a hold. `options`: those that name the branch, where it is known."""
    return f"end it with `boltseal release hold --end {options}`"


def held_references(holds: Iterable[HeldDigest]) -> Mapping[Reference, str]:
    """Return the references that are not resolved again, each with the reason."""
    return {each.reference.by_tag: each.reason for each in holds}
