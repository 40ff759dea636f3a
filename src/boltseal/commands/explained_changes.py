"""Explain a change of an image: who pushed the new one, why it differs, and what is in it.

For each change: digests and tags; pusher and time by the ledger; whether the base or the sources changed, by labels; a
link to the commits; packages and files; size, platforms, signatures; since when it is known; which hosts run the old one.
Labels, annotations and SBOMs are claims of the publisher. What could not be found out is a result, with the reason.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from boltseal.client.history import ProvenHistory, read_tags
from boltseal.client.transport import Transport
from boltseal.commands.contents_diff import ContentsDiff, contents_diff
from boltseal.commands.engine_releases import known_folders
from boltseal.commands.image_contents import read_contents
from boltseal.commands.image_locations import opened_sources
from boltseal.commands.known_since import known_since
from boltseal.commands.mirror_observations import observed_since
from boltseal.commands.registry_access import RegistryOptions, followed
from boltseal.deploy.releases import last_good
from boltseal.errors import BoltsealError
from boltseal.ledger.entry import format_time
from boltseal.ledger.follow import LedgerBroken
from boltseal.oci.annotations import REVISION, SOURCE
from boltseal.oci.digest import Digest
from boltseal.oci.reference import Reference, Repository, Tag
from boltseal.project.bases.image_documents import RemoteRepository, read_from
from boltseal.transfer.inspect import Inspected, inspect
from boltseal.transfer.locations import Location
from boltseal.transfer.source_link import compare_link

_SIGNATURES = ("sigstore", "cosign", "notary", "notation", "signature")
_NO_SIGNATURE = (".att.", ".sbom.", "attestation")


@dataclass(frozen=True, slots=True)
class ImageChange:
    """A change to explain. `places`: the services or files. References have a tag; `old_digest` None: nothing was locked.

    `new_digest` None: the new reference could not be resolved, and `unresolved` says why.
    """

    places: tuple[str, ...]
    old: Reference
    old_digest: Digest | None
    new: Reference
    new_digest: Digest | None
    unresolved: str = ""


@dataclass(frozen=True, slots=True)
class Push:
    """The push of the new image under its tag by the registry's ledger: actor and time; else "" and the reason.

    `proven`: whether the entry was proven to be in the signed ledger. Of a mirrored tag the reason says since when the mirror
    has it.
    """

    actor: str = ""
    time_us: int = 0
    proven: bool = False
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Cause:
    """Why the image differs, by its labels. `what`: base, own, or both, and what the labels do not state.

    `base`, `base_was`, `base_now`: name and digests of the base. `source`, `old`, `new`: of the revisions; "" if not stated.
    """

    what: str
    base: str = ""
    base_was: str = ""
    base_now: str = ""
    source: str = ""
    old: str = ""
    new: str = ""

    @property
    def link(self) -> str | None:
        """The link to the commits between the revisions."""
        return compare_link(self.source, self.old, self.new) if self.old != self.new else None


@dataclass(frozen=True, slots=True)
class PlatformChanges:
    """Platforms by what happened to them. An image without an index counts as its one platform."""

    added: tuple[str, ...]
    removed: tuple[str, ...]
    changed: tuple[str, ...]
    same: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Comparison:
    """What was found by reading both images."""

    platform: str
    cause: Cause
    contents: ContentsDiff
    sizes: tuple[int, int]
    platforms: PlatformChanges
    signatures: tuple[tuple[str, ...], tuple[str, ...]]
    created: str


@dataclass(frozen=True, slots=True)
class Explanation:
    """An explained change. `comparison`: None with a `reason` if an image could not be read.

    `known_since_us`: since when we know the new image; None if it could not be resolved. `runs`: where the old one runs, by the releases on this machine.
    """

    change: ImageChange
    push: Push
    comparison: Comparison | None
    reason: str
    known_since_us: int | None
    runs: tuple[str, ...]

    def as_json(self) -> dict[str, Any]:
        """Return the explanation for programs; texts of images are as they are there."""
        change, found, push = self.change, self.comparison, self.push
        return {
            "places": list(change.places),
            "old": {"ref": str(change.old), "digest": None if change.old_digest is None else str(change.old_digest)},
            "new": {"ref": str(change.new), "digest": None if change.new_digest is None else str(change.new_digest)},
            "pushed": {
                "by": push.actor or None,
                "at": time_z(push.time_us) if push.time_us else None,
                "proven": push.proven,
                "reason": push.reason or None,
            },
            "known_since": None if self.known_since_us is None else time_z(self.known_since_us),
            "runs": list(self.runs),
            "reason": self.reason or None,
            **({} if found is None else _comparison_json(found)),
        }


class _ImageAt(NamedTuple):
    """An image in the repository that it is read from."""

    place: RemoteRepository
    digest: Digest


def time_z(time_us: int) -> str:
    """Return a time in seconds, as ISO 8601 in UTC."""
    return f"{format_time(time_us)[:19]}Z"


async def explain_changes(
    changes: Sequence[ImageChange], transport: Transport, options: RegistryOptions
) -> list[Explanation]:
    """Explain changes, one after the other. Raises: LedgerBroken, StateUnusable."""
    current = {each.new: each.new_digest for each in changes if each.new_digest is not None}
    since = await known_since(transport, options, current, options.client.now_us(), remember=False)
    return [await _explain(each, since.get(each.new), transport, options) for each in changes]


async def _explain(
    change: ImageChange, since_us: int | None, transport: Transport, options: RegistryOptions
) -> Explanation:
    comparison, reason = None, ""
    if change.new_digest is None:
        reason = f"could not check: {change.unresolved}"
        return Explanation(change, Push(reason=reason), None, reason, None, _runs(change, options))
    if change.old_digest is None:
        reason = "there is no earlier image to compare with"
    else:
        try:
            comparison = await _compare(change, change.old_digest, change.new_digest, transport, options)
        except LedgerBroken:
            raise
        except BoltsealError as error:
            reason = f"could not check: {error.message}"
    return Explanation(
        change,
        await _push(change, change.new_digest, transport, options),
        comparison,
        reason,
        since_us,
        _runs(change, options),
    )


async def _compare(
    change: ImageChange, old_digest: Digest, new_digest: Digest, transport: Transport, options: RegistryOptions
) -> Comparison:
    """Compare the images as a mirror has them if one is configured, else as the registries do. Raises: errors of the registry."""
    old, new = (
        [_ImageAt(place, digest) for place in read_from(options.client.settings.mirrors, remote)]
        for remote, digest in (
            (RemoteRepository(change.old.registry, change.old.repository), old_digest),
            (RemoteRepository(change.new.registry, change.new.repository), new_digest),
        )
    )
    if len(old) > 1 or len(new) > 1:
        try:
            found = await _compare_at(old[0], new[0], transport, options)
            if found.contents.files is not None:
                return found
        except LedgerBroken:
            raise
        except BoltsealError:  # it is no mirror of these images, or can't be reached
            pass
    return await _compare_at(old[-1], new[-1], transport, options)


async def _compare_at(old_at: _ImageAt, new_at: _ImageAt, transport: Transport, options: RegistryOptions) -> Comparison:
    locations = [Location.parse(f"{at.place.registry}/{at.place.repository}@{at.digest}") for at in (old_at, new_at)]
    async with opened_sources(options.client, transport, *locations) as (old_source, new_source):
        new = await inspect(new_source, new_at.digest, None)
        old = await inspect(old_source, old_at.digest, None)
        if new.chosen and old.chosen and new.chosen != old.chosen and new.chosen in old.platforms:
            old = await inspect(old_source, old_at.digest, new.chosen)
        contents = contents_diff(await read_contents(old_source, old), await read_contents(new_source, new))
    return Comparison(
        platform=new.chosen or (str(new.config.platform) if new.config is not None else ""),
        cause=cause_of(old, new),
        contents=contents,
        sizes=(_size(old), _size(new)),
        platforms=_platforms(old, new),
        signatures=(_signatures(old), _signatures(new)),
        created="" if new.config is None else new.config.created,
    )


def cause_of(old: Inspected, new: Inspected) -> Cause:
    """Return why two images differ, by their labels and annotations."""
    (old_base, old_base_digest), (new_base, new_base_digest) = old.base, new.base
    labels_old, labels_new = _stated(old), _stated(new)
    old_revision, new_revision = labels_old.get(REVISION, ""), labels_new.get(REVISION, "")
    base = bool(old_base_digest and new_base_digest) and (old_base, old_base_digest) != (new_base, new_base_digest)
    own = bool(old_revision and new_revision) and old_revision != new_revision
    return Cause(
        _cause_text(
            base if old_base_digest and new_base_digest else None, own if old_revision and new_revision else None
        ),
        new_base if base else "",
        old_base_digest if base else "",
        new_base_digest if base else "",
        labels_new.get(SOURCE, ""),
        old_revision,
        new_revision,
    )


def _cause_text(base: bool | None, own: bool | None) -> str:
    """Return the cause in words. None: the labels of an image do not state its base, or its revision."""
    changed = " and ".join([*(["base"] if base else []), *(["own"] if own else [])])
    unknown = " and ".join([*(["base"] if base is None else []), *(["own"] if own is None else [])])
    if base is None and own is None:
        return "unknown: the labels state neither base nor revision"
    return "; ".join(filter(None, (changed or "none by the labels", f"{unknown} not stated" if unknown else "")))


async def _push(change: ImageChange, digest: Digest, transport: Transport, options: RegistryOptions) -> Push:
    reference, has_ledger = change.new, False
    name = (reference.repository, reference.tag or Tag("latest"))
    try:
        check = await followed(options, transport, reference.registry)
        has_ledger = check.head is not None
        push = await _push_by_ledger(name, reference.registry, digest, transport, options) if has_ledger else None
    except LedgerBroken:
        raise
    except BoltsealError as error:
        push = Push(reason=f"could not check: {error.message}")
    if push is not None and push.time_us:
        return push
    seen = await observed_since(transport, options, reference, digest, has_ledger=has_ledger)
    if seen is not None:
        proof = "proven by its log" if seen.proven else "not proven by its log"
        when = f"the mirror at {seen.mirror} has it since {time_z(seen.time_us)}, {proof}"
        return Push(reason=f"not known who pushed it, and when; {when}")
    return push or Push(reason=f"{reference.registry} keeps no ledger")


async def _push_by_ledger(
    name: tuple[Repository, Tag], registry: str, digest: Digest, transport: Transport, options: RegistryOptions
) -> Push:
    """Return the push of a tag by its registry's ledger. Raises: LedgerBroken, and errors of the registry."""
    names = {name: str(digest)}
    read = (await read_tags(transport, registry, names, lambda each: followed(options, transport, each)))[name]
    if not isinstance(read, ProvenHistory):
        return Push(reason=f"could not check: {read.message}")
    entries = [at for at in read.history.of(name[1]) if at.entry.digest == str(digest)]
    if not entries:
        return Push(reason=f"the ledger of {registry} has no entry of it")
    return Push(entries[0].entry.actor, entries[0].entry.time_us, entries[0].index in read.proven)


def _runs(change: ImageChange, options: RegistryOptions) -> tuple[str, ...]:
    """Return the engines and services of the last good releases on this machine that have the old image."""
    found = []
    for folder in known_folders(options.client):
        release = last_good(folder.all())
        if release is not None and change.old_digest is not None:
            found += [
                f"{release.engine or 'this machine'}: {release.project} {service.name}, release {release.number}"
                for service in release.services
                if service.digest == str(change.old_digest)
            ]
    return tuple(dict.fromkeys(found))


def _stated(image: Inspected) -> Mapping[str, str]:
    labels = {} if image.config is None else image.config.labels
    return {**labels, **image.manifest.annotations, **image.image.annotations}


def _size(image: Inspected) -> int:
    return sum(layer.size for layer in image.image.layers)


def _platforms(old: Inspected, new: Inspected) -> PlatformChanges:
    before, after = _by_platform(old), _by_platform(new)
    return PlatformChanges(
        tuple(sorted(after.keys() - before.keys())),
        tuple(sorted(before.keys() - after.keys())),
        tuple(sorted(name for name in before.keys() & after.keys() if before[name] != after[name])),
        tuple(sorted(name for name in before.keys() & after.keys() if before[name] == after[name])),
    )


def _by_platform(image: Inspected) -> Mapping[str, Digest]:
    if image.platforms:
        return image.platforms
    return {str(image.config.platform) if image.config is not None else "": image.digest}


def _signatures(image: Inspected) -> tuple[str, ...]:
    """Return the kinds of signatures that are attached, by referrer or by cosign's tag; they are not verified here."""
    kinds = [each.artifact_type or "" for each in image.referrers]
    signed = [kind for kind in kinds if any(word in kind for word in _SIGNATURES)]
    tags = [tag for tag in image.signatures if tag.endswith(".sig")]  # not its attestations and SBOMs
    return (*(kind for kind in signed if not any(word in kind for word in _NO_SIGNATURE)), *tags)


def _comparison_json(found: Comparison) -> dict[str, Any]:
    cause, platforms = found.cause, found.platforms
    return {
        "platform": found.platform,
        "cause": cause.what,
        "base": {"name": cause.base, "was": cause.base_was, "now": cause.base_now} if cause.base_now else None,
        "source": {
            "url": cause.source or None,
            "old": cause.old or None,
            "new": cause.new or None,
            "compare": cause.link,
        },
        "size": {"old": found.sizes[0], "new": found.sizes[1]},
        "platforms": {
            "added": list(platforms.added),
            "removed": list(platforms.removed),
            "changed": list(platforms.changed),
            "same": list(platforms.same),
        },
        "signatures": {"old": list(found.signatures[0]), "new": list(found.signatures[1])},
        "created": found.created or None,
        **found.contents.as_json(),
    }
