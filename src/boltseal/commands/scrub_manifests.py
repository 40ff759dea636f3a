"""Fetches manifests that a store does not keep, by their digests, so that an expected digest proves an image there.

Docker's own store has none. The bytes are compared with the digest, so the answer of any registry is as good as another's.
A store may be hostile: of the registries in its names only those that the user allows are contacted, without a tag.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Final

from boltseal.client.errors import RemoteNotFound, RemoteUnavailable
from boltseal.client.registry_client import RegistryClient
from boltseal.client.transport import Transport
from boltseal.commands.registry_access import RegistryOptions, ask
from boltseal.errors import BoltsealError
from boltseal.host.pull import MAX_CHILDREN
from boltseal.host.scrub.missing_manifests import FetchedManifests
from boltseal.host.scrub.plans import ImagePlan
from boltseal.host.scrub.trust import Expectation, local_reference
from boltseal.lockfile.container_check import is_changed_mark
from boltseal.oci.digest import Digest
from boltseal.oci.mediatype import MANIFEST_TYPES
from boltseal.oci.reference import Reference

MAX_REPOSITORIES: Final = 5


class ManifestFetcher:
    """Fetches the manifests of images. `typed`: the images in the arguments, whose registries the user has named."""

    def __init__(self, options: RegistryOptions, typed: Sequence[str], allowed: Callable[[str], bool]) -> None:
        self._options = options
        self._allowed = allowed
        found = [local_reference(each) for each in typed]
        self._named = frozenset(each.registry for each in found if each is not None)
        self._unreachable: dict[str, str] = {}
        """Registries that did not answer, with the reason: each further image would wait for the time-out again."""

    def __call__(self, image: ImagePlan, expected: Expectation) -> FetchedManifests:
        """Fetch from the repositories that the expectation and the image's names name, until one has the digest."""
        candidates = list(dict.fromkeys(_repositories(image, expected)))
        places = [each for each in candidates if each.registry in self._named or self._allowed(each.registry)]
        if not candidates:
            return FetchedManifests()
        if not places:
            registries = ", ".join(sorted({each.registry for each in candidates}))
            return FetchedManifests(reason=f"{registries} is not contacted without --allow")

        async def call(transport: Transport) -> FetchedManifests:
            reasons: list[str] = []
            for place in places[:MAX_REPOSITORIES]:
                if place.registry in self._unreachable:
                    reasons.append(self._unreachable[place.registry])
                    continue
                try:
                    return await _fetch(RegistryClient(transport, place.registry), place, image, expected.digest)
                except RemoteUnavailable as error:
                    self._unreachable[place.registry] = error.message
                    reasons.append(error.message)
                except BoltsealError as error:
                    reasons.append(error.message)
            return FetchedManifests(reason="; ".join(reasons))

        return ask(self._options, {each.registry for each in places}, call)


def _repositories(image: ImagePlan, expected: Expectation) -> Iterable[Reference]:
    """Yield the repositories that may have the manifest, the likeliest first."""
    if expected.registry is not None and expected.repository is not None:
        yield Reference(expected.registry, expected.repository)
    for name in sorted(image.names, key=lambda each: not each.endswith(f"@{expected.digest}")):
        found = local_reference(name)
        if found is None or is_changed_mark(found):
            continue
        if found.digest is None or found.digest == expected.digest:
            yield Reference(found.registry, found.repository)


async def _fetch(client: RegistryClient, place: Reference, image: ImagePlan, digest: Digest) -> FetchedManifests:
    """Fetch a manifest, and those of an index until one has the image's config. Raises: BoltsealError."""
    manifest = await client.manifest(place.repository, digest)
    documents = {digest: manifest.raw}
    images = [child for child in manifest.manifests if child.media_type in MANIFEST_TYPES]
    missing = f"the index has more than {MAX_CHILDREN} images" if len(images) > MAX_CHILDREN else ""
    for each in images[:MAX_CHILDREN]:
        try:
            child = await client.manifest(place.repository, each.digest)
        except RemoteNotFound as error:  # an index may be sparse
            missing = error.message
            continue
        documents[each.digest] = child.raw
        if child.config is not None and child.config.digest in (image.config, *image.copy_of):
            return FetchedManifests(documents)
    return FetchedManifests(documents, missing)
