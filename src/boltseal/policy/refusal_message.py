"""The messages of refused pushes and deletes: values in, one line out. Pure.

People read the line inside `docker push` or `skopeo copy`: the present state with its date and user, what the request
was, and what to do. Digests are shortened to twelve digits unless the reader needs all of them. Every value is of a
parsed type or cleaned here (actors), so that no line can contain a control character.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final, Self

from boltseal.oci.digest import Digest
from boltseal.oci.reference import Repository, Tag
from boltseal.policy.globs import parse_repository_glob, parse_tag_glob
from boltseal.policy.requirements import MissingEvidence
from boltseal.policy.rule_decision import signature_subject
from boltseal.policy.rules import Mode, Rule

MAX_NAMED: Final = 3
"""Tags that a line names; the others are counted."""
MAX_COUNTED: Final = 1000
"""Tags that are counted; of more a line says that there are more."""

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_UNCLEAN = re.compile(r"[^ -~]")
_DIGIT = re.compile(r"[0-9]", re.ASCII)
_FEW_PARTS = re.compile(r"v?[0-9]{1,4}(?:\.[0-9]{1,4})?(?:-[A-Za-z][A-Za-z0-9._-]{0,31})?", re.ASCII)
_NAME = re.compile(r"[A-Za-z_][A-Za-z_-]{0,31}", re.ASCII)


@dataclass(frozen=True, slots=True)
class SomeTags:
    """Tags as a line names them: the first few, their number, and whether there are more. True when there is one.

    A hundred thousand tags may be sealed at one digest, and refusals are decided on the writer that all writes wait for.
    So no refusal reads more than `MAX_COUNTED` of them.
    """

    first: tuple[Tag, ...] = ()
    count: int = 0
    more: bool = False

    @classmethod
    def of(cls, names: Iterable[Tag], *, more: bool = False) -> Self:
        """Build from all tags, or from those that were read: up to one more than `MAX_COUNTED`. `more`: others were not read."""
        found = sorted(names)
        return cls(tuple(found[:MAX_NAMED]), min(len(found), MAX_COUNTED), more or len(found) > MAX_COUNTED)

    def __bool__(self) -> bool:
        return self.count > 0


@dataclass(frozen=True, slots=True)
class SealedBinding:
    """The seal of a tag: its digest, its time, the user who sealed it, and how long the bytes are kept (`str(Keep)`).

    `changed_us`: when the tag's row last changed (of a tombstone: when it was deleted). Times: microseconds since the epoch.
    """

    digest: Digest
    since_us: int
    by: str
    changed_us: int
    keep: str


@dataclass(frozen=True, slots=True)
class SettlingTag:
    """A tag that is settling: its digest, the user who pushed it, and when it is sealed (microseconds since the epoch)."""

    digest: Digest
    by: str
    until_us: int


def put_sealed(
    tag: Tag,
    repository: Repository,
    binding: SealedBinding,
    pushed: Digest,
    free: str | None,
    *,
    part_of_image: bool = False,
) -> str:
    """Refuse a push of other content to a sealed tag.

    `free`: the next tag, when that is free. `part_of_image`: this manifest and the sealed one belong to one image, whose
    parts the client pushes under its tag.
    """
    if binding.keep == "deletable":
        stands = f"is sealed at {binding.digest.short} (it may be deleted, never moved)"
    else:
        stands = f"is sealed at {binding.digest.short}"
    return (
        f"tag {tag} of {repository} {stands} since {_day(binding.since_us)} by {person(binding.by)}; "
        f"this push is {pushed.short}; {_PUSHES_PARTS if part_of_image else ''}{_instead(tag, repository, free)}"
    )


def put_settling(tag: Tag, repository: Repository, settling: SettlingTag, pushed: Digest) -> str:
    """Refuse a push of other content to a settling tag."""
    by = person(settling.by)
    return (
        f"tag {tag} of {repository} is settling: {by} pushed {settling.digest.short}, and until it is sealed "
        f"({_moment(settling.until_us)}) only an index from {by} that lists this digest may replace it; "
        f"this push is {pushed.short}; publish under a new tag"
    )


def put_tombstone(tag: Tag, repository: Repository, binding: SealedBinding, pushed: Digest, free: str | None) -> str:
    """Refuse a push of other content to a tombstone. The digest is whole, since the reader has to find it."""
    return (
        f"tag {tag} of {repository} was deleted on {_day(binding.changed_us)}; the tag can return only with "
        f"{binding.digest}; this push is {pushed.short}; {_instead(tag, repository, free)}"
    )


def restore_sealed(tag: Tag, repository: Repository, binding: SealedBinding, target: Digest) -> str:
    """Refuse to restore a sealed tag, or a tombstone, to another digest."""
    return (
        f"tag {tag} of {repository} is sealed at {binding.digest.short} since {_day(binding.since_us)} by "
        f"{person(binding.by)}, and never resolves to another digest: it can't be restored to {target.short}"
    )


def restore_not_extended(tag: Tag, repository: Repository, standing: Digest, target: Digest) -> str:
    """Refuse to restore an append-only tag to a manifest that lacks something of the present one."""
    return (
        f"tag {_shortened(tag)} of {repository} is append-only, and {target.short} lacks layers or entries of the manifest "
        f"that the tag resolves to ({standing.short}): it can't be restored"
    )


def not_extended(tag: Tag, repository: Repository, standing: Digest, pushed: Digest) -> str:
    """Refuse a push to an append-only tag that lacks something of the present manifest."""
    return (
        f"tag {_shortened(tag)} of {repository} is append-only, and this push ({pushed.short}) lacks layers or entries "
        f"of the manifest that the tag resolves to ({standing.short}); fetch that, add to it, push again"
    )


def put_unsigned(tag: Tag, repository: Repository, pushed: Digest, missing: Sequence[MissingEvidence]) -> str:
    """Refuse to give a tag to an image without the evidence that the rule requires. `missing`: at least one."""
    lacks = "; ".join(map(str, missing))
    commands = ", ".join(dict.fromkeys(each.command for each in missing))
    return (
        f"tag {tag} of {repository} is given only to signed images; {pushed.short} lacks: {lacks}; push the image by digest, "
        f"run {commands}, then push the tag; `boltseal publish` does all of this"
    )


def delete_sealed_tag(tag: Tag, repository: Repository, binding: SealedBinding) -> str:
    """Refuse to delete a sealed tag whose bytes are kept."""
    return (
        f"tag {tag} of {repository} is sealed at {binding.digest.short} since {_day(binding.since_us)} by "
        f"{person(binding.by)} and kept {_keep(binding.keep)}; {_LIFT}"
    )


def delete_signature_tag(tag: Tag, repository: Repository, keeping: SomeTags) -> str:
    """Refuse to delete a signature tag while its image is sealed. `keeping`: the tags that seal the image."""
    return (
        f"tag {_shortened(tag)} of {repository} refers to what {_seals(keeping)}, and can't be deleted before that can"
    )


def delete_protected(
    what: str,
    digest: Digest,
    repository: Repository,
    keeping: SomeTags,
    own: SomeTags = SomeTags(),
    deletable: SomeTags = SomeTags(),
) -> str:
    """Refuse to delete by digest what a seal covers. `what`: manifest or blob.

    `keeping`: the sealed tags whose seal covers it; `own`: those of them that resolve to this very digest. The others
    cover it because it is part of what they resolve to. `deletable`: tags that resolve to it and can be deleted by
    themselves, which is what the user of a mutable tag wants to know.
    """
    how = f"is what {_seals(own)}" if own else f"is part of what {_seals(keeping)}"
    return f"{what} {digest.short} of {repository} {how}; {_LIFT}{_alone(deletable)}"


def delete_referrer(digest: Digest, repository: Repository, keeping: SomeTags) -> str:
    """Refuse to delete a referrer of a sealed image, by a client that may not do so (any more)."""
    return (
        f"manifest {digest.short} of {repository} refers to what {_seals(keeping)}; "
        "its pusher may delete it for 24 hours, an admin at any time"
    )


def delete_signature(digest: Digest, repository: Repository, keeping: SomeTags) -> str:
    """Refuse to delete a manifest that a signature tag connects with a sealed image, and that names no subject itself."""
    return f"manifest {digest.short} of {repository} refers to what {_seals(keeping)}, and can't be deleted before that can"


_PUSHES_PARTS: Final = (
    "this client pushes every part of an image under its tag (Docker 23 to 26 with containerd's image store, ctr, nerdctl and "
    "`docker buildx imagetools` of that time do): use a newer client, or build with `--provenance=false`, or ask the operator "
    'for a rule with settle = "60s"; '
)
_LIFT: Final = "an admin can lift that protection with `boltseal tag unseal`"


def _instead(tag: Tag, repository: Repository, free: str | None) -> str:
    advice = "publish under a new tag" + (f" (free: {free})" if free else "")
    rule = floating_rule(tag, repository)
    if rule is None:
        return advice
    lines = ", ".join(rule.as_toml().splitlines())
    return (
        f"{advice}; {tag} stays sealed; this rule makes tags like it, not yet published, mutable (a line each): {lines}"
    )


def floating_rule(tag: Tag, repository: Repository) -> Rule | None:
    """Return the rule that would make tags of this shape mutable; None for a tag that looks like a release.

    The shape of `1.4-alpine` is `[0-9].[0-9]-alpine` in its own repository: such tags move by custom. The shape of a tag
    without digits, such as `staging`, is the tag itself, in every repository, since in this one it is sealed.
    """
    if _NAME.fullmatch(tag):
        return Rule(parse_repository_glob("**"), parse_tag_glob(tag), Mode.FLOATING)
    if _FEW_PARTS.fullmatch(tag):
        shape = parse_tag_glob(_DIGIT.sub("[0-9]", tag))
        return Rule(parse_repository_glob(repository), shape, Mode.FLOATING)
    return None


def _seals(tags: SomeTags) -> str:
    """`tag 1.4.2 seals`, `tags 1.4.2, 1.4.3, 1.5.0 and 4 more seal`."""
    return f"{_named(tags)} seal{'s' if tags.count == 1 else ''}"


def _named(tags: SomeTags) -> str:
    named = [str(tag) for tag in tags.first]
    if tags.count == 1:
        return f"tag {named[0]}"
    if tags.count > len(named):
        return f"tags {', '.join(named)} and {'more than ' if tags.more else ''}{tags.count - len(named)} more"
    return f"tags {', '.join(named[:-1])} and {named[-1]}"


def _alone(tags: SomeTags) -> str:
    """`; tag latest alone can be deleted by its name`; nothing where there is no such tag."""
    if not tags:
        return ""
    return f"; {_named(tags)} alone can be deleted by {'its name' if tags.count == 1 else 'their names'}"


def _shortened(tag: Tag) -> str:
    """A signature tag with its digest cut as digests are in these lines, `sha256-ab12cd34ef56(...).sig`; others whole."""
    subject = signature_subject(tag)
    return tag if subject is None else tag.replace(subject.hex, subject.hex[:12] + "(...)")


def _keep(keep: str) -> str:
    if keep == "forever":
        return "for ever"
    return "for 1 day" if keep == "1d" else f"for {keep.removesuffix('d')} days"


def _day(time_us: int) -> str:
    return (_EPOCH + timedelta(microseconds=time_us)).date().isoformat()


def _moment(time_us: int) -> str:
    return (_EPOCH + timedelta(microseconds=time_us)).isoformat(timespec="seconds").replace("+00:00", "Z")


def person(name: str) -> str:
    """Return the name of an actor as refusals show it: printable ASCII, at most 64 characters."""
    return _UNCLEAN.sub("?", name)[:64] or "an unknown user"
