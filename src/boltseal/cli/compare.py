"""`boltseal compare`: are two images the same, wherever they lie, and if not, what differs and why."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Final

import typer

from boltseal.cli.answer import CommandOutput, Outcome, print_line
from boltseal.cli.options import JsonOption
from boltseal.cli.remote import (
    AnonymousOption,
    CaFileOption,
    PlainHttpOption,
    RegistryOptions,
    StrictOption,
    ask_followed,
    in_daemon,
    opened_sources,
)

if TYPE_CHECKING:
    from boltseal.client.transport import Transport
    from boltseal.transfer.compare import Side

_PLACES: Final = "A reference, oci:DIR:TAG, docker-archive:FILE, or docker-daemon:REF."
_WORDS: Final = {
    "same-manifest": "the same image, to the byte",
    "same-config": "the same image (the same ID and the same files), wrapped differently",
    "same-files": "not the same image: the same files, and another config",
    "different": "not the same image",
}


def compare(
    a: Annotated[str, typer.Argument(metavar="A", show_default=False, help=_PLACES)],
    b: Annotated[str, typer.Argument(metavar="B", show_default=False, help=_PLACES)],
    plain_http: PlainHttpOption = False,
    ca_file: CaFileOption = None,
    anonymous: AnonymousOption = False,
    strict: StrictOption = False,
    as_json: JsonOption = False,
) -> None:
    """Say whether two images are the same, and what differs.

    Exit code 0: the same manifest, or the same config and so the same image ID and files (the wrapping may differ: layers
    compressed again, other media types). 1: another image.
    """
    with CommandOutput("compare", as_json=as_json) as answer:
        from boltseal.transfer.compare import compare as compared
        from boltseal.transfer.compare import read_side
        from boltseal.transfer.locations import Location

        places = Location.parse(a), Location.parse(b)

        async def read(transport: Transport) -> list[Side]:
            async with opened_sources(transport, *places) as sources:
                return [
                    await read_side(source, await source.resolve(in_daemon(place)))
                    for source, place in zip(sources, places, strict=True)
                ]

        registries = [place.reference.registry for place in places if place.reference is not None]
        sides = ask_followed(RegistryOptions(plain_http, ca_file, anonymous, strict), registries, read)
        found = compared(*sides)
        same = found.sameness in ("same-manifest", "same-config")
        answer.outcome = Outcome.HOLDS if same else Outcome.DIFFERS
        verdict = _WORDS[found.sameness]
        answer.add(
            ref=a,
            other=b,
            status=found.sameness,
            reason="; ".join((verdict, *found.reasons)),
            reasons=found.reasons,
            digests=[str(side.digest) for side in sides],
        )
        if not as_json:
            print_line(verdict)
            for reason in found.reasons:
                print_line(f"  {reason}")
            for letter, side in zip("AB", sides, strict=True):
                print_line(f"  {letter}: {side.digest}")
