"""Revisions of sealed tags for `build` and `tag new`: the next free tag, and which fix of the base a rebuild carries.

The fix is known from the build before: its `built` entry in the ledger, else its annotations or labels.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from boltseal.client.errors import RemoteNotFound
from boltseal.client.history import Follow, prove_entry
from boltseal.client.ledger_records import NoRecords, list_records
from boltseal.client.registry_client import RegistryClient
from boltseal.client.transport import Transport
from boltseal.commands.registry_access import RegistryOptions, ask_followed, followed
from boltseal.errors import BoltsealError, Invalid
from boltseal.ledger.entry import EntryKind
from boltseal.ledger.follow import LedgerBroken
from boltseal.oci.digest import Digest
from boltseal.oci.reference import Reference, Tag
from boltseal.policy.tag_revisions import may_be_revision, revised
from boltseal.project.bases.base_claims import (
    BaseClaim,
    claim_from_annotations,
    claim_from_entries,
    claim_from_labels,
)
from boltseal.project.bases.image_facts import BASE_WAS, REVISION_OF, NotAnImage, NotRead, config_of, read_facts
from boltseal.project.bases.index_children import images_of_index
from boltseal.project.bases.rebuild_tags import RebuildTags


@dataclass(frozen=True, slots=True)
class Rebuilt:
    """What a tag is a rebuild of, and the base's change that it carries.

    `root`: the first build's tag. `base`: the base's tag. `was`, `now`: its digest for the build before, and for this one;
    `was` is None if that is unknown, and the two are equal if the base did not change.
    """

    root: Tag
    base: Reference | None = None
    was: Digest | None = None
    now: Digest | None = None

    @property
    def carries_fix(self) -> bool:
        """Return whether the base changed since the build before."""
        return self.was is not None and self.was != self.now

    @property
    def labels(self) -> dict[str, str]:
        """The labels of the rebuild, beside those of its base."""
        return {REVISION_OF: str(self.root), **({BASE_WAS: str(self.was)} if self.carries_fix else {})}

    @property
    def extra(self) -> Mapping[str, str]:
        """The keys in its `built` entry, beside those of its base."""
        return {"revision.of": str(self.root), **({"base.was": str(self.was)} if self.carries_fix else {})}

    @property
    def text(self) -> str:
        """A sentence about the revision."""
        fix = f", with {self.base} {self.was} -> {self.now}" if self.carries_fix else ""
        return f"a revision of {self.root}{fix}"


def next_free_revision(repository: Reference, tag: str | None, separator: str, options: RegistryOptions) -> Tag:
    """Return the next free revision of a tag.

    Raises: Invalid: there was never such a tag; RevisionInvalid, Unavailable, LedgerBroken.
    """
    if tag is None:
        raise Invalid("--scheme revision needs the tag that is built again: --of 1.4.2")
    of = Tag(tag)

    async def look(transport: Transport) -> Tag:
        try:
            await RegistryClient(transport, repository.registry).resolve(repository.repository, of)
        except RemoteNotFound as missing:
            if missing.bound is None:  # a deleted sealed tag stays reserved, so it was built once
                raise Invalid(
                    f"{repository.name} has no tag {of} to build again; choose one of `boltseal tags {repository.name}`, "
                    f"or push a first build by --tag {of}"
                ) from missing
        return await RebuildTags(transport).revision(repository.registry, repository.repository, of, separator)

    return ask_followed(options, [repository.registry], look)


def rebuilt_tag(
    image: Reference, base: tuple[Reference, Digest] | None, separator: str, options: RegistryOptions
) -> Rebuilt | None:
    """Return what the tag of a new image is a revision of, None for a first build. `base`: what it is built on.

    Raises: RemoteUnavailable, LedgerBroken.
    """
    tag = image.tag
    if tag is None or not may_be_revision(tag, separator):
        return None

    async def look(transport: Transport) -> Rebuilt | None:
        try:
            tags = frozenset([each async for each in RegistryClient(transport, image.registry).tags(image.repository)])
        except RemoteNotFound:
            return None
        root, number = revised(tag, tags, separator)
        if number == 0:
            return None
        before = [(found.number, each) for each in tags if (found := revised(each, tags, separator)).root == root]
        former = replace(image, tag=max(pair for pair in before if pair[0] < number)[1])
        claim = await _former_base(transport, former, lambda registry: followed(options, transport, registry))
        if claim is None or claim.base is None or base is None:
            return Rebuilt(root)
        reference, now = base[0].by_tag, base[1]
        if claim.base != reference and not await _is_other_revision(transport, claim.base, reference, separator):
            return Rebuilt(root)
        return Rebuilt(root, reference, claim.digest, now)

    return ask_followed(options, [image.registry], look)


async def _is_other_revision(transport: Transport, former: Reference, base: Reference, separator: str) -> bool:
    """Return whether two bases are builds of one tag: a sealed base is rebuilt as a revision, which has a tag of its own."""
    if former.name != base.name or former.tag is None or base.tag is None:
        return False
    client = RegistryClient(transport, base.registry)
    try:
        tags = frozenset([each async for each in client.tags(base.repository)])
    except LedgerBroken:
        raise
    except BoltsealError:  # the base itself was read; the list of its tags is only for what is recorded
        return False
    return revised(former.tag, tags, separator).root == revised(base.tag, tags, separator).root


async def _former_base(transport: Transport, image: Reference, follow: Follow) -> BaseClaim | None:
    """Return the recorded base of an image. An image that can't be read has none.

    Raises: Mismatch: the record of its build is not in the signed ledger; LedgerBroken.
    """
    client = RegistryClient(transport, image.registry)
    if image.tag is None:
        return None
    try:
        digest = (await client.resolve(image.repository, image.tag)).digest
        try:
            listed = await list_records(transport, image.registry, image.repository)
        except NoRecords:
            listed = []
        built = [each for each in listed if each.entry.kind is EntryKind.BUILT and each.entry.digest == str(digest)]
        claim = claim_from_entries([each.entry for each in built], digest)
        if claim is not None:
            await prove_entry(transport, image.registry, built[-1].entry_index, built[-1].entry, follow)
            return claim
        manifest = await client.manifest(image.repository, digest)
        stated = claim_from_annotations(manifest.annotations)
        for child in images_of_index(manifest)[:1] if manifest.is_index else ():
            digest, manifest = child.digest, await client.manifest(image.repository, child.digest)
            stated = stated or claim_from_annotations(manifest.annotations)
        config, size = config_of(manifest, digest)
        raw = b"".join([piece async for piece in client.blob(image.repository, config, size)])
        return stated or claim_from_labels(read_facts(manifest, digest, raw))
    except (RemoteNotFound, NotAnImage, NotRead):
        return None
