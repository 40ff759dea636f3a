"""`boltseal explain`: the parts of an image reference, what Docker adds to it, and where the image is stored.

Contacts no registry: the text of the reference is enough, so it works offline and for images that do not exist.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from boltseal.client.hosts import api_host, is_loopback
from boltseal.oci.reference import HUB, HUB_ALIAS, Reference

_LOCALLY: Final = (
    "Docker keeps images below /var/lib/docker (names in image/*/repositories.json), or in containerd's store below "
    "/var/lib/containerd; Podman below /var/lib/containers/storage, without root below ~/.local/share/containers/"
    "storage. There the name is only a label on an image ID: `docker tag` adds one, and a pull of the same tag moves it."
)


class Part(NamedTuple):
    """A part of a reference: its name, its value ("" where there is none), and an explanation."""

    name: str
    value: str
    meaning: str


def explain_reference(typed: str, reference: Reference) -> tuple[Part, ...]:
    """Return the parts of a reference in reading order. `typed`: its text as the user gave it."""
    return (
        Part("reference", _complete(reference), _added(typed, reference)),
        Part("registry", reference.registry, _registry(reference)),
        Part("repository", reference.repository, _repository(reference)),
        Part("tag", _tag_name(reference), _tag(reference)),
        Part("digest", "" if reference.digest is None else str(reference.digest), _digest(reference)),
        Part("remotely", _address(reference), _remotely(reference)),
        Part("locally", "", _LOCALLY),
    )


def _complete(reference: Reference) -> str:
    return str(reference) if reference.digest or reference.tag else f"{reference}:latest"


def _tag_name(reference: Reference) -> str:
    return str(reference.tag or ("" if reference.digest else "latest"))


def _added(typed: str, reference: Reference) -> str:
    added = []
    alias = f" {HUB_ALIAS} is an alias of Docker Hub, {HUB}." if typed.startswith(f"{HUB_ALIAS}/") else ""
    if not alias and not typed.startswith(f"{reference.registry}/"):
        added.append(f"the registry {reference.registry}, because the part before the first / is not a host")
    if reference.repository.startswith("library/") and "library/" not in typed:
        added.append("library/, the namespace of Docker Hub's official images")
    if reference.tag is None and reference.digest is None:
        added.append("the tag latest")
    if not added and not alias:
        return "The complete reference: nothing is added to it."
    adds = f" Docker adds {'; and '.join(added)}." if added else ""
    return f"The complete reference of {typed}.{alias}{adds}"


def _registry(reference: Reference) -> str:
    text = "The server that stores and serves images. "
    if reference.registry == HUB:
        return text + f"This one is Docker Hub; its API is at {api_host(HUB)}."
    if is_loopback(reference.registry):
        return text + "This one runs on this machine, and may be used without TLS."
    return text + "It must be written out because it is not Docker Hub; clients connect to it with TLS."


def _repository(reference: Reference) -> str:
    text = "All images of one name in that registry, distinguished by tags and digests. Pushes and access rights are per repository."
    parts = reference.repository.split("/")
    if reference.registry == HUB:
        owner = "library, the official images" if parts[0] == "library" else f"{parts[0]}, a user or organisation"
        return f"{text} On Docker Hub it has exactly two parts: the owner ({owner}) and the image ({parts[-1]})."
    if len(parts) == 1:
        return f"{text} One part is enough in a private registry; two parts, owner/image, are Docker Hub's rule."
    return f"{text} {len(parts)} parts: {'/'.join(parts[:-1])} is the owner, {parts[-1]} the image; only Docker Hub requires exactly two."


def _tag(reference: Reference) -> str:
    if reference.tag is None and reference.digest is not None:
        return "No tag: the digest alone selects the image."
    text = "A name for one image of the repository. "
    if reference.digest is not None:
        return text + "Beside a digest it is only informative: the digest decides."
    if _tag_name(reference) == "latest":
        return text + "latest is the default where no tag is given: it need not be the newest, and it can move."
    return text + "Most registries let it be moved to another image at any time; boltseal does not, once it is sealed."


def _digest(reference: Reference) -> str:
    text = "The hash of the image's manifest, which contains the hashes of its config and its layers. "
    if reference.digest is None:
        return text + f"`boltseal digest {reference.familiar()}` shows the one that the tag resolves to now."
    return text + "It can never refer to another image; clients that pull by it check it."


def _address(reference: Reference) -> str:
    named = reference.digest or _tag_name(reference)
    scheme = "http" if is_loopback(reference.registry) else "https"
    return f"{scheme}://{api_host(reference.registry)}/v2/{reference.repository}/manifests/{named}"


def _remotely(reference: Reference) -> str:
    text = "The manifest; the config and the layers that it lists are beside it under /blobs/DIGEST."
    if reference.registry != HUB:
        return text
    name = reference.repository
    page = f"_/{name.removeprefix('library/')}" if name.startswith("library/") else f"r/{name}"
    return f"{text} Its web page is https://hub.docker.com/{page}."
