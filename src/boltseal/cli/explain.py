"""`boltseal explain`: what the parts of a reference are, what Docker adds by itself, and where the image lives.

Asks nobody: the whole answer is in the text of the reference, so it works offline and for images that do not exist.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Final, NamedTuple

import typer

from boltseal.cli.answer import CommandOutput, print_line
from boltseal.cli.options import JsonOption
from boltseal.oci.reference import Reference

if TYPE_CHECKING:
    from boltseal.oci.reference import Reference

_FIRST_COLUMN: Final = 12
_WIDTH: Final = 80
_LOCALLY: Final = (
    "Docker keeps images below /var/lib/docker (names in image/*/repositories.json), or in containerd's store below "
    "/var/lib/containerd; Podman below /var/lib/containers/storage, without root below ~/.local/share/containers/"
    "storage. There the name is only a label on an image ID: `docker tag` adds one, and a pull of the same tag moves it."
)


class Part(NamedTuple):
    """One thing to know about a reference: its name, its value ("" where there is none), and a sentence about it."""

    name: str
    value: str
    meaning: str


def explain(
    ref: Annotated[
        str, typer.Argument(metavar="REF", show_default=False, help="Anything that docker pull takes: ubuntu")
    ],
    as_json: JsonOption = False,
) -> None:
    """Say what the parts of an image name are.

    Registry, repository, tag, digest, what Docker adds by itself, where the image lives. Asks nobody.
    """
    with CommandOutput("explain", as_json=as_json) as answer:
        reference = Reference.parse(ref)
        parts = explained(ref, reference)
        answer.add(
            ref=str(reference),
            status="complete" if ref == str(reference) else "completed",
            typed=ref,
            short=reference.familiar(),
            **{part.name: {"value": part.value or None, "meaning": part.meaning} for part in parts},
        )
        if not as_json:
            for number, part in enumerate(parts):
                if number:
                    print_line("")
                _print(part)


def explained(typed: str, reference: Reference) -> tuple[Part, ...]:
    """Everything that is to be said about a reference, in the order in which it is read."""
    return (
        Part("reference", _whole(reference), _added(typed, reference)),
        Part("registry", reference.registry, _registry(reference)),
        Part("repository", reference.repository, _repository(reference)),
        Part("tag", _tag_name(reference), _tag(reference)),
        Part("digest", "" if reference.digest is None else str(reference.digest), _digest(reference)),
        Part("remotely", _address(reference), _remotely(reference)),
        Part("locally", "", _LOCALLY),
    )


def _print(part: Part) -> None:
    import textwrap

    head = f"{part.name}:".ljust(_FIRST_COLUMN)
    print_line(f"{head}{part.value or 'none' if part.name != 'locally' else 'on each host'}")
    indent = " " * _FIRST_COLUMN
    lines = textwrap.wrap(part.meaning, _WIDTH, initial_indent=indent, subsequent_indent=indent, break_on_hyphens=False)
    for line in lines:
        print_line(line)


def _whole(reference: Reference) -> str:
    return str(reference) if reference.digest or reference.tag else f"{reference}:latest"


def _tag_name(reference: Reference) -> str:
    return str(reference.tag or ("" if reference.digest else "latest"))


def _added(typed: str, reference: Reference) -> str:
    added = []
    if not typed.startswith(f"{reference.registry}/"):
        added.append(f"the registry {reference.registry}, because what stands before the first / is no host")
    if reference.repository.startswith("library/") and "library/" not in typed:
        added.append("library/, the place of Docker Hub's official images")
    if reference.tag is None and reference.digest is None:
        added.append("the tag latest")
    if not added:
        return "The whole name: nothing is added to it."
    return f"The whole name of what was typed: {typed}. Docker adds by itself {'; and '.join(added)}."


def _registry(reference: Reference) -> str:
    from boltseal.client.hosts import api_host, is_loopback
    from boltseal.oci.reference import HUB

    said = "The server that keeps images and hands them out. "
    if reference.registry == HUB:
        return said + f"This one is Docker Hub; its API is at {api_host(HUB)}."
    if is_loopback(reference.registry):
        return said + "This one runs on this machine, and may be talked to without TLS."
    return said + "It is written out because it is not Docker Hub; clients talk to it over TLS."


def _repository(reference: Reference) -> str:
    from boltseal.oci.reference import HUB

    said = "All images of one name in that registry, told apart by tags and digests; what one pushes to and grants on."
    parts = reference.repository.split("/")
    if reference.registry == HUB:
        owner = "library, the official images" if parts[0] == "library" else f"{parts[0]}, a user or organisation"
        return f"{said} On Docker Hub it has exactly two parts, so that names are nobody's twice: the owner ({owner}) and the image ({parts[-1]})."
    if len(parts) == 1:
        return f"{said} One part is enough in a registry of one's own; two parts, owner/image, are Docker Hub's rule."
    return f"{said} {len(parts)} parts: {'/'.join(parts[:-1])} says whose it is, {parts[-1]} which image; only Docker Hub wants exactly two."


def _tag(reference: Reference) -> str:
    if reference.tag is None and reference.digest is not None:
        return "No tag: the digest alone says which image it is."
    said = "A word for one image of the repository. "
    if reference.digest is not None:
        return said + "Beside a digest it is only read by people: the digest decides."
    if _tag_name(reference) == "latest":
        return said + "latest is only what is taken when no tag is given: it need not be the newest, and it moves."
    return said + "Most registries let it be moved to another image at any time; boltseal does not, once it is sealed."


def _digest(reference: Reference) -> str:
    said = "The image's own name: the hash of its manifest, which names the hashes of its config and its layers. "
    if reference.digest is None:
        return said + f"`boltseal digest {reference.familiar()}` asks for the one that the tag means now."
    return said + "It can never mean another image; whoever pulls by it checks it."


def _address(reference: Reference) -> str:
    from boltseal.client.hosts import api_host, is_loopback

    named = reference.digest or _tag_name(reference)
    scheme = "http" if is_loopback(reference.registry) else "https"
    return f"{scheme}://{api_host(reference.registry)}/v2/{reference.repository}/manifests/{named}"


def _remotely(reference: Reference) -> str:
    from boltseal.oci.reference import HUB

    said = "The manifest; it names the config and the layers, which lie beside it under /blobs/DIGEST."
    if reference.registry != HUB:
        return said
    name = reference.repository
    page = f"_/{name.removeprefix('library/')}" if name.startswith("library/") else f"r/{name}"
    return f"{said} The page for people is https://hub.docker.com/{page}."
