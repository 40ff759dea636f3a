"""`boltseal copy`: images from one place to another, verified, without moving what need not be moved."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from boltseal.cli.answer import CommandOutput, Outcome, print_line, say
from boltseal.cli.options import JsonOption
from boltseal.cli.progress import Progress, in_words
from boltseal.cli.remote import (
    AnonymousOption,
    CaFileOption,
    NamesNothing,
    PlainHttpOption,
    RegistryOptions,
    StrictOption,
    ask,
    followed,
    opened,
)
from boltseal.errors import BoltsealError, ExitCode, exit_code

if TYPE_CHECKING:
    from collections.abc import Callable

    from boltseal.client.transport import Transport
    from boltseal.transfer.copy import CopiedImage, Copier
    from boltseal.transfer.locations import Location

_PLACES = "A reference, oci:DIR:TAG, docker-archive:FILE, or docker-daemon:REF."


def copy(
    src: Annotated[str, typer.Argument(metavar="SRC", show_default=False, help=_PLACES)],
    dst: Annotated[str, typer.Argument(metavar="DST", show_default=False, help=_PLACES)],
    all_tags: Annotated[bool, typer.Option("--all-tags", help="Every tag of SRC, under the same tags.")] = False,
    referrers: Annotated[bool, typer.Option("--referrers", help="Signatures and SBOMs of it too.")] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Make DST mean another image, if its registry allows.")
    ] = False,
    plain_http: PlainHttpOption = False,
    ca_file: CaFileOption = None,
    anonymous: AnonymousOption = False,
    strict: StrictOption = False,
    as_json: JsonOption = False,
) -> None:
    """Copy images between registries, layouts, archives and Docker.

    Within one registry nothing is moved but names: what is there is mounted. Everything is verified on its way. A copy
    that broke off goes on where it stopped when it is made again. A tag that means another image is not overwritten.
    """
    with CommandOutput("copy", as_json=as_json) as answer, Progress() as progress:
        source, target = _places(src, dst, all_tags=all_tags)

        reach = RegistryOptions(plain_http, ca_file, anonymous, strict)

        async def run(transport: Transport) -> Copier:
            from boltseal.transfer.copy import Copier

            if source.reference is not None:
                await followed(reach, transport, source.reference.registry)
            async with opened(transport, source, target, force=force) as (from_, to, within):
                copier = Copier(from_, to, within=within, force=force, referrers=referrers, progress=progress)
                names = [(name, name) for name in await from_.names()] if all_tags else [_names(source, target)]
                for name, target_name in names:
                    await _one(copier, name, target_name, alone=not all_tags, tell=_teller(answer, target))
            return copier

        registries = [place.reference.registry for place in (source, target) if place.reference is not None]
        counts = ask(reach, registries, run).counts
        if not as_json:
            say(
                f"sent {counts.sent} blobs ({in_words(counts.bytes_sent)}), mounted {counts.mounted}, "
                f"{counts.present} were there; {counts.manifests} manifests"
            )


async def _one(
    copier: Copier, name: str | None, target_name: str | None, *, alone: bool, tell: Callable[..., None]
) -> None:
    """Copy one image; of many, one that is refused does not keep the others from being copied."""
    try:
        tell(target_name, await copier.image(name, target_name), None)
    except BoltsealError as error:
        if alone:
            raise
        tell(target_name, None, error)


def _teller(answer: CommandOutput, target: Location) -> Callable[..., None]:
    def tell(name: str | None, copied: CopiedImage | None, error: BoltsealError | None) -> None:
        ref = _ref(target, name)
        if copied is None:
            differs = error is not None and exit_code(error) is ExitCode.DIFFERS
            if answer.outcome is not Outcome.DIFFERS:
                answer.outcome = Outcome.DIFFERS if differs else Outcome.UNKNOWN
            message = "" if error is None else error.message
            answer.add(ref=ref, status="refused" if differs else "failed", reason=message)
            if not answer.as_json:
                print_line(f"{ref}: {message}")
            return
        status = "copied" if copied.changed else "unchanged"
        answer.add(ref=ref, status=status, digest=str(copied.digest), referrers=copied.referrers)
        if not answer.as_json:
            print_line(f"{ref}@{copied.digest}" if "@" not in ref else ref)

    return tell


def _places(src: str, dst: str, *, all_tags: bool) -> tuple[Location, Location]:
    from boltseal.transfer.locations import Location, LocationKind

    source, target = Location.parse(src), Location.parse(dst)
    if target.reference is not None and target.reference.digest is not None:
        raise NamesNothing(f"a copy gets a tag, and its digest comes by itself; expected {target.reference.name}:TAG")
    if all_tags:
        for place in (source, target):
            if place.kind not in (LocationKind.REGISTRY, LocationKind.LAYOUT) or place.name is not None:
                raise NamesNothing(f"--all-tags copies whole repositories and layouts; {place.text} names one image")
    return source, target


def _names(source: Location, target: Location) -> tuple[str | None, str | None]:
    """The name at the source and the one at the target (None: none but its digest).

    The target's own, else the source's tag; else `latest`, as Docker adds it, where the source names nothing either.
    """
    from boltseal.oci.reference import Reference
    from boltseal.transfer.locations import LocationKind

    tag = source.name if source.name is not None and ":" not in source.name else None
    if source.reference is not None:
        tag = None if source.reference.tag is None else str(source.reference.tag)
    name = source.name
    if source.kind is LocationKind.DAEMON:
        name = None
    match target.kind:
        case LocationKind.REGISTRY | LocationKind.LAYOUT:
            # by digest alone it goes as a digest alone: nobody said that it shall be anybody's latest
            by_digest = tag is None and name is not None
            return name, target.name or tag or (None if by_digest else "latest")
        case LocationKind.DAEMON | LocationKind.ARCHIVE:
            reference = target.reference or (Reference.parse(target.name) if target.name else source.reference)
            if reference is None:
                return name, None
            return name, f"{reference.name}:{reference.tag or tag or 'latest'}"


def _ref(target: Location, name: str | None) -> str:
    from boltseal.transfer.locations import LocationKind

    match target.kind:
        case LocationKind.REGISTRY if target.reference is not None:
            return f"{target.reference.name}:{name}" if name is not None else target.reference.name
        case LocationKind.LAYOUT:
            return f"oci:{target.path}:{name}"
        case LocationKind.ARCHIVE:
            return f"docker-archive:{target.path}"
        case _:
            return target.text
