"""What a person reads when the registry refuses: values in, one line out.

The line is read inside `docker push` or `skopeo copy` by somebody who wants to go home: what stands, since when and by
whom, what this request is, what to do instead. Digests are shortened to twelve digits unless the person needs all of
it. Every value comes from a parsed type, or is cleaned here (actors), so no line can hold a control character.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from boltseal.oci.digest import Digest
from boltseal.oci.reference import Repository, Tag

MAX_NAMED: Final = 3
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_UNCLEAN = re.compile(r"[^!-~]")
_FEW_PARTS = re.compile(r"v?[0-9]+(?:\.[0-9]+)?(?:-[A-Za-z][A-Za-z0-9._-]*)?", re.ASCII)


@dataclass(frozen=True, slots=True)
class Binding:
    """What a bound name is bound to. `changed_us`: when its row last changed (of a tombstone: when it was deleted)."""

    digest: Digest
    since_us: int
    by: str
    changed_us: int
    keep: str


def put_sealed(tag: Tag, repository: Repository, binding: Binding, pushed: Digest, free: str | None) -> str:
    """A push of other content to a name that is there and bound."""
    how = "sealed" if binding.keep != "deletable" else "bound (its seal was lifted for deletion only)"
    return (
        f"tag {tag} of {repository} is {how} at {binding.digest.short} since {_day(binding.since_us)} "
        f"by {_person(binding.by)}; this push is {pushed.short}; {_instead(tag, repository, free)}"
    )


def put_tombstone(tag: Tag, repository: Repository, binding: Binding, pushed: Digest, free: str | None) -> str:
    """A push of other content to a name that was sealed once and deleted."""
    return (
        f"tag {tag} of {repository} was deleted on {_day(binding.changed_us)}, and the name can return only with "
        f"{binding.digest}; this push is {pushed.short}; {_instead(tag, repository, free)}"
    )


def not_extended(tag: Tag, repository: Repository, standing: Digest, pushed: Digest) -> str:
    """A push to an append-only name that would lose something."""
    return (
        f"tag {tag} of {repository} is append-only and means {standing.short}; this push is {pushed.short} and lacks "
        "some of its layers or entries; pull the tag, add to it, push again"
    )


def delete_sealed_tag(tag: Tag, repository: Repository, binding: Binding) -> str:
    """A delete of a tag that its own seal keeps."""
    return (
        f"tag {tag} of {repository} is sealed at {binding.digest.short} since {_day(binding.since_us)} by "
        f"{_person(binding.by)} and kept {_keep(binding.keep)}; an admin can lift that with `boltseal unseal`"
    )


def delete_signature_tag(tag: Tag, repository: Repository, subject: Digest, keeping: Sequence[Tag]) -> str:
    """A delete of a signature tool's tag whose image is sealed."""
    return (
        f"tag {tag} of {repository} speaks of {subject.short}, which is kept by the seal on {_names(keeping)}; "
        "it can go when that has gone"
    )


def delete_protected(what: str, digest: Digest, repository: Repository, keeping: Sequence[Tag]) -> str:
    """A delete by digest of something that a seal covers. `what`: manifest or blob."""
    return (
        f"{what} {digest.short} of {repository} is kept by the seal on {_names(keeping)}; "
        "an admin can lift that with `boltseal unseal`"
    )


def _instead(tag: Tag, repository: Repository, free: str | None) -> str:
    advice = "publish under a new tag" + (f" (free: {free})" if free else "")
    if not _FEW_PARTS.fullmatch(tag):
        return advice
    rule = f'[[rule]] repository = "{repository}" tag = "{tag}" mode = "floating"'
    return f"{advice}; a tag like this floats only if a rule says so before its first push: {rule}"


def _names(tags: Sequence[Tag]) -> str:
    shown = ", ".join(tags[:MAX_NAMED])
    return shown if len(tags) <= MAX_NAMED else f"{shown} and {len(tags) - MAX_NAMED} more"


def _keep(keep: str) -> str:
    return "for ever" if keep == "forever" else f"for {keep.removesuffix('d')} days"


def _day(time_us: int) -> str:
    return (_EPOCH + timedelta(microseconds=time_us)).date().isoformat()


def _person(name: str) -> str:
    return _UNCLEAN.sub("?", name)[:64] or "somebody"
