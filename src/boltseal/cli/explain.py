"""`boltseal explain`: what the parts of a reference are, what Docker adds to it, and where the image is stored."""

from __future__ import annotations

import textwrap
from typing import Annotated, Final

import typer

from boltseal.cli.options import JsonOption
from boltseal.cli.output import WIDTH, CommandOutput, print_line
from boltseal.commands.explain import Part, explain_reference
from boltseal.oci.reference import Reference

_FIRST_COLUMN: Final = 12


def explain(
    ref: Annotated[
        str, typer.Argument(metavar="IMAGE", show_default=False, help="A reference as docker pull takes it: ubuntu")
    ],
    as_json: JsonOption = False,
) -> None:
    """Explain the parts of an image reference.

    Shows registry, repository, tag and digest, what Docker adds to the reference, and where the image is stored.
    Contacts no registry.
    """
    with CommandOutput("explain", as_json=as_json) as output:
        reference = Reference.parse(ref)
        parts = explain_reference(ref, reference)
        output.add(
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


def _print(part: Part) -> None:
    head = f"{part.name}:".ljust(_FIRST_COLUMN)
    print_line(f"{head}{part.value or 'none' if part.name != 'locally' else 'on each host'}")
    indent = " " * _FIRST_COLUMN
    for line in textwrap.wrap(
        part.meaning, WIDTH, initial_indent=indent, subsequent_indent=indent, break_on_hyphens=False
    ):
        print_line(line)
