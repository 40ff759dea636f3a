"""What the verbs on a build share: the Dockerfile, its arguments, and the digests of what it builds on."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from boltseal.cli.onproject import whom_to_ask
from boltseal.commands.registry_access import RegistryOptions, ask, followed
from boltseal.errors import Invalid, Unavailable, quote

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from boltseal.build.dockerfile_bases import Dockerfile
    from boltseal.client.registry_client import Resolved
    from boltseal.client.transport import Transport
    from boltseal.errors import BoltsealError
    from boltseal.oci.digest import Digest
    from boltseal.oci.reference import Reference
    from boltseal.project.image_references import ImageReference

ContextArgument = Annotated[
    Path, typer.Argument(metavar="[DIR]", show_default=False, help="The folder that is built. Default: this one.")
]
FileOption = Annotated[
    Path | None, typer.Option("--file", metavar="FILE", show_default=False, help="Default: Dockerfile in DIR.")
]
BuildArgOption = Annotated[
    list[str] | None,
    typer.Option("--build-arg", metavar="NAME=VALUE", show_default=False, help="As given to the build."),
]
TargetOption = Annotated[
    str | None,
    typer.Option("--target", metavar="STAGE", show_default=False, help="The stage that is built, if not the last."),
]


class BuildArgInvalid(Invalid):
    """A --build-arg that is no NAME=VALUE."""


class BaseUnknown(Unavailable):
    """An image that a build stands on, and that can't be told by digest."""


def parse_build_args(given: Sequence[str]) -> dict[str, str]:
    """The build arguments by name; the last of one name counts, as for docker. BuildArgInvalid."""
    found = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise BuildArgInvalid(
                f"--build-arg {quote(text)}: expected NAME=VALUE; a value of the environment is not taken"
            )
        found[name] = value
    return found


def dockerfile_of(context: Path, file: Path | None, build_args: Sequence[str], target: str | None) -> Dockerfile:
    """The Dockerfile of a build. DockerfileInvalid, BuildArgInvalid."""
    from boltseal.build.dockerfile_bases import DockerfileInvalid, read

    path = file or context / "Dockerfile"
    if not path.is_file():
        raise DockerfileInvalid(f"{path}: there is no such Dockerfile; name it with --file")
    return read(path.parent, Path(path.name), parse_build_args(build_args), target)


def digests_of(
    sites: Sequence[ImageReference], context: Path, reach: RegistryOptions, allow: Sequence[str]
) -> dict[ImageReference, Digest]:
    """What each image means: its pin, else what boltseal.lock of the folder says, else what its tag means now.

    BaseUnknown where one can't be told: a guess would name two builds alike that are not.
    """
    from boltseal.lockfile.document import Lock, lock_key
    from boltseal.project.lock_file import read_lock

    lock = read_lock(context) or Lock()
    found: dict[ImageReference, Digest] = {}
    open_: dict[ImageReference, Reference] = {}
    for site in sites:
        if site.resolved is None:
            raise BaseUnknown(f"{site.path}:{site.line}: {quote(site.written)} can't be told: {site.why}")
        locked = lock.find(site.resolved)
        digest = site.pinned or (None if locked is None else locked.digest)
        if digest is None:
            open_[site] = lock_key(site.resolved)
        else:
            found[site] = digest
    meanings = _ask(set(open_.values()), reach, allow) if open_ else {}
    for site, key in open_.items():
        meaning = meanings[key]
        if not hasattr(meaning, "digest"):
            raise BaseUnknown(f"{site.path}:{site.line}: {key.familiar()} can't be told: {meaning}")
        found[site] = meaning.digest
    return found


def _ask(
    references: set[Reference], reach: RegistryOptions, allow: Sequence[str]
) -> dict[Reference, Resolved | BoltsealError]:
    allowed = whom_to_ask(reach, allow)

    async def run(transport: Transport) -> dict[Reference, Resolved | BoltsealError]:
        from boltseal.project.resolve import Resolver

        resolver = Resolver(transport, allowed, watch=lambda registry: followed(reach, transport, registry))
        return await resolver.meanings(references)

    return ask(reach, {reference.registry for reference in references}, run)


def hash_of(
    dockerfile: Dockerfile,
    digests: Mapping[ImageReference, Digest],
    context: Path,
    file: Path | None,
    build_args: Sequence[str],
    target: str | None,
    platform: str | None,
    more: Sequence[str] = (),
) -> str:
    """The hash of everything that a build reads; `more`: further words for the builder. IgnoreInvalid, ContextUnreadable."""
    import shlex

    from boltseal.build.dockerignore import parse_ignore
    from boltseal.build.input_hash import Inputs, input_hash

    arguments = parse_build_args(build_args)
    if more:
        arguments["--"] = shlex.join(more)  # no argument of a build has such a name
    inputs = Inputs(
        dockerfile.raw,
        arguments,
        [(site.written, digest) for site, digest in digests.items()],
        target,
        platform,
    )
    return input_hash(inputs, context, parse_ignore(ignore_text(context, file or context / "Dockerfile")))


def ignore_file(context: Path, file: Path) -> Path | None:
    """The Dockerfile's own ignore file, else the context's, as BuildKit looks for them; None where there is none."""
    for path in (file.with_name(f"{file.name}.dockerignore"), context / ".dockerignore"):
        if path.is_file():
            return path
    return None


def ignore_text(context: Path, file: Path) -> str:
    """What it says; "" where there is none. IgnoreInvalid."""
    from boltseal.build.dockerignore import IgnoreInvalid

    path = ignore_file(context, file)
    if path is None:
        return ""
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise IgnoreInvalid(f"{path} can't be read: {error}") from error
