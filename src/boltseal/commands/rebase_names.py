"""Name the result of a rebase: a given tag, or the next revision of the image's own (`policy.tag_revisions`)."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

from boltseal.client.registry_client import RegistryClient
from boltseal.client.transport import Transport
from boltseal.oci.reference import Reference, Tag
from boltseal.policy.tag_revisions import DOT, may_be_revision, newest_revision, revised
from boltseal.project.bases.rebuild_tags import RebuildTags


class ResultName(NamedTuple):
    """A name for the result; None for a dry run without a tag. `revision_of`: the sealed tag that it is a revision of.

    `is_proposed`: whether the result may get this name; else it only has it if it was pushed before.
    """

    reference: Reference | None
    revision_of: Tag | None = None
    is_proposed: bool = True


async def result_names(
    transport: Transport, image: Reference, tag: Tag | None, separator: str | None
) -> list[ResultName]:
    """Return the names that a result may have, in the order in which they are tried; the last one is the proposed one.

    `tag`: the user's; `separator`: of revisions, None unless the tag is to be one. A repeated rebase finds its result under
    the newest revision. Raises: RevisionInvalid, Unavailable, and remote errors.
    """
    if separator is not None and image.tag is not None:
        tags = await _tags(transport, image)
        newest = newest_revision(image.tag, tags, separator)
        proposed = await RebuildTags(transport).revision(image.registry, image.repository, image.tag, separator)
        root = revised(image.tag, tags | {image.tag}, separator).root
        earlier = [ResultName(_named(image, newest), root, is_proposed=False)] if newest != image.tag else []
        return [*earlier, ResultName(_named(image, proposed), root)]
    if tag is None:
        return [ResultName(None)]
    if not may_be_revision(tag, DOT):
        return [ResultName(_named(image, tag))]
    found = revised(tag, await _tags(transport, image), DOT)
    return [ResultName(_named(image, tag), found.root if found.number else None)]


async def _tags(transport: Transport, image: Reference) -> frozenset[Tag]:
    client = RegistryClient(transport, image.registry)
    return frozenset([tag async for tag in client.tags(image.repository)])


def _named(image: Reference, tag: Tag) -> Reference:
    return replace(image, tag=tag, digest=None)
