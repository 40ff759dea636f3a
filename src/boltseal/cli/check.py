"""`boltseal check`: may this be published under this tag, or is the name taken? One HEAD, at any registry."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer

from boltseal.cli.answer import CommandOutput, Outcome, print_line
from boltseal.cli.options import JsonOption
from boltseal.cli.remote import (
    AnonymousOption,
    CaFileOption,
    NamesNothing,
    PlainHttpOption,
    RegistryOptions,
    RemoteRefArgument,
    StrictOption,
    ask_followed,
    remote_reference,
)

if TYPE_CHECKING:
    from boltseal.client.transport import Transport
    from boltseal.oci.digest import Digest
    from boltseal.oci.reference import Reference


class _Found(NamedTuple):
    """What stands under a name: `status` is free, same, taken, or deleted (a tombstone); `digest` as text."""

    status: str
    digest: str | None


def check(
    ref: RemoteRefArgument,
    digest: Annotated[
        str | None,
        typer.Option("--digest", metavar="DIGEST", show_default=False, help="What is to be published there."),
    ] = None,
    plain_http: PlainHttpOption = False,
    ca_file: CaFileOption = None,
    anonymous: AnonymousOption = False,
    strict: StrictOption = False,
    as_json: JsonOption = False,
) -> None:
    """Say whether a tag may be published.

    It may where it is free, or means what is to be published already (--digest).

    Exit code 0: it may; 1: it means something else, or meant it and its name is bound; 3: could not be checked.
    """
    with CommandOutput("check", as_json=as_json) as answer:
        reference, wanted = _asked(ref, digest)
        found = ask_followed(
            RegistryOptions(plain_http, ca_file, anonymous, strict),
            [reference.registry],
            lambda transport: _look(transport, reference),
        )
        same = wanted is not None and found.digest == str(wanted)
        status = "same" if same else found.status
        if status not in ("free", "same"):
            answer.outcome = Outcome.DIFFERS
        reason = _in_words(status, found)
        answer.add(ref=str(reference), status=status, reason=reason, digest=found.digest)
        if not as_json:
            print_line(f"{reference}: {reason}")


def _asked(ref: str, digest: str | None) -> tuple[Reference, Digest | None]:
    from dataclasses import replace

    from boltseal.oci.digest import Digest

    reference = remote_reference(ref)
    if reference.tag is None:
        raise NamesNothing(f"a name to publish under has a tag, such as {reference.name}:1.4.2")
    if digest is not None and reference.digest is not None:
        raise NamesNothing("the digest is given twice: in the reference, and by --digest")
    wanted = Digest.parse(digest) if digest is not None else reference.digest
    return replace(reference, digest=None), wanted


async def _look(transport: Transport, reference: Reference) -> _Found:
    from boltseal.client.errors import RemoteNotFound
    from boltseal.client.registry_client import RegistryClient

    tag = reference.tag
    if tag is None:
        raise AssertionError("asked for a tag")
    try:
        resolved = await RegistryClient(transport, reference.registry).resolve(reference.repository, tag)
    except RemoteNotFound as missing:
        return _Found("free", None) if missing.bound is None else _Found("deleted", missing.bound)
    return _Found("taken", str(resolved.digest))


def _in_words(status: str, found: _Found) -> str:
    match status:
        case "free":
            return "free: it may be published"
        case "same":
            return f"may be published: it is {found.digest} already, or was and can be again"
        case "deleted":
            return f"not free: it was deleted, and its name can come back only as {found.digest}"
        case _:
            return f"taken: it means {found.digest}"
