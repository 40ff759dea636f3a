"""`boltseal receipt`: the proof that a tag meant an image, to be kept and checked by anybody, offline and for ever."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
import typer.core

from boltseal.cli.answer import CommandOutput, Outcome, clean, counted, print_line, say
from boltseal.cli.options import JsonOption
from boltseal.cli.remote import (
    AnonymousOption,
    CaFileOption,
    NamesNothing,
    PlainHttpOption,
    RegistryOptions,
    RemoteRefArgument,
    StrictOption,
    ask,
    followed,
    remote_reference,
)
from boltseal.errors import BoltsealError, Invalid, NotFound

if TYPE_CHECKING:
    from boltseal.client.ledger_trust import LedgerCheck
    from boltseal.client.transport import Transport
    from boltseal.ledger.note import VerifierKey
    from boltseal.ledger.proof import VerifiedReceipt
    from boltseal.oci.reference import Reference

_WRITES = "of"


class _Group(typer.core.TyperGroup):
    """`receipt REF` writes one; only `receipt verify` is a verb below it."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        known = {*self.commands, "--help", "-h"}
        return super().parse_args(ctx, args if not args or args[0] in known else [_WRITES, *args])


receipt = typer.Typer(
    cls=_Group,
    help="Write the proof that a tag means what it means (REF -o FILE), or verify one, offline.",
    no_args_is_help=True,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


class NoEntry(NotFound):
    """The ledger has no entry by which the tag means what it means now."""


class FileUnreadable(Invalid):
    """A file that was named and can't be read."""


@receipt.command(
    _WRITES, hidden=True, epilog="Example: boltseal receipt of localhost:5000/shop/app:1.4.2 -o app.tlog-proof"
)
def write(
    ref: RemoteRefArgument,
    output: Annotated[Path, typer.Option("-o", "--output", metavar="FILE", show_default=False, help="Where to.")],
    plain_http: PlainHttpOption = False,
    ca_file: CaFileOption = None,
    anonymous: AnonymousOption = False,
    strict: StrictOption = False,
    as_json: JsonOption = False,
) -> None:
    """Write the proof that a tag means what it means now to FILE, and its manifests and configs beside it, to FILE.oci."""
    with CommandOutput("receipt", as_json=as_json) as answer:
        from boltseal.transfer import manifest_bundle

        reference = remote_reference(ref)
        if reference.tag is None:
            raise NamesNothing(f"a receipt is of a tag, such as {reference.name}:1.4.2")
        reach = RegistryOptions(plain_http, ca_file, anonymous, strict)
        found = ask(reach, [reference.registry], lambda transport: _fetch(reach, transport, reference))
        entry, beside = found.opened.entry, output.with_name(f"{output.name}.oci")
        name = f"{reference.name}:{reference.tag}"
        manifest_bundle.replace_bytes(output, found.raw)
        manifest_bundle.write(beside, found.papers, found.digest, entry.type, name)
        answer.add(status="written", file=str(output), beside=str(beside), **_fields(found.opened))
        if not as_json:
            print_line(f"{output}, {beside}: {_sentence(found.opened)}")
            if not found.followed.given:
                say("this was checked by no key that you were given; whoever verifies it needs one, from the keeper")


class _Fetched:
    """A receipt that was fetched and holds, and what lies beside it."""

    def __init__(self, raw: bytes, opened: VerifiedReceipt, followed: LedgerCheck) -> None:
        from boltseal.oci.digest import Digest

        self.raw = raw
        self.opened = opened
        self.followed = followed
        self.digest = Digest.parse(opened.entry.digest)
        self.papers: dict[Digest, bytes] = {}


async def _fetch(reach: RegistryOptions, transport: Transport, reference: Reference) -> _Fetched:
    from boltseal.client.receipts import fetch_receipt
    from boltseal.transfer import manifest_bundle
    from boltseal.transfer.remote import RepositoryLocation

    if reference.tag is None:
        raise AssertionError("asked for a tag")
    raw, opened, found = await fetch_receipt(
        transport,
        reference.registry,
        reference.repository,
        reference.tag,
        lambda registry: followed(reach, transport, registry),
    )
    fetched = _Fetched(raw, opened, found)
    if reference.digest is not None and reference.digest != fetched.digest:
        raise NoEntry(f"{reference.name}:{reference.tag} means {fetched.digest}, and not {reference.digest}")
    place = RepositoryLocation(transport, reference.registry, reference.repository)
    fetched.papers = await manifest_bundle.collect(place, fetched.digest)
    return fetched


@receipt.command("verify", epilog="Example: boltseal receipt verify app.tlog-proof --key localhost:5000+0e5e4e2f+AX...")
def verify(
    file: Annotated[Path, typer.Argument(metavar="FILE", show_default=False, help="A receipt (C2SP tlog-proof).")],
    key: Annotated[
        str,
        typer.Option(
            "--key", metavar="KEY", show_default=False, help="The ledger's key, as its keeper gave it to you."
        ),
    ],
    witness: Annotated[
        list[str] | None,
        typer.Option(
            "--witness", metavar="KEY", show_default=False, help="A witness who must have seen it; repeat it."
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Verify a receipt, offline.

    What lies beside it in FILE.oci is checked too, if it is there: the digests from the manifest down to the configs.

    Exit code 1: it does not hold.
    """
    with CommandOutput("receipt-verify", as_json=as_json) as answer:
        from boltseal.ledger.note import VerifierKey
        from boltseal.ledger.proof import MAX_RECEIPT_BYTES

        keys = VerifierKey.parse(key), [VerifierKey.parse(one) for one in witness or []]
        try:
            with file.open("rb") as opened:
                raw = opened.read(MAX_RECEIPT_BYTES + 1)
        except OSError as error:
            raise FileUnreadable(f"{file} can't be read: {error.strerror}") from error
        reason = _verify(answer, raw, file.with_name(f"{file.name}.oci"), *keys)
        if reason:
            answer.outcome = Outcome.DIFFERS
            answer.add(ref=str(file), status="broken", reason=reason)
            say(f"boltseal: {file} does not hold: {reason}")


def _verify(answer: CommandOutput, raw: bytes, beside: Path, key: VerifierKey, witnesses: list[VerifierKey]) -> str:
    """Why it does not hold, "" where it does."""
    from boltseal.ledger.proof import open_receipt
    from boltseal.oci.digest import Digest
    from boltseal.transfer import manifest_bundle

    try:
        opened = open_receipt(raw, key, witnesses)
        missing = {one.name for one in witnesses} - {one.witness for one in opened.signed.cosignatures}
        if missing:
            return f"{', '.join(sorted(missing))} did not cosign it"
        there = beside.exists() and bool(opened.entry.digest)
        checked = manifest_bundle.check(beside, Digest.parse(opened.entry.digest)) if there else None
    except BoltsealError as error:
        return error.message
    fields = (
        {}
        if checked is None
        else {"manifests": checked.manifests, "configs": checked.configs, "layers": checked.layers}
    )
    answer.add(status="holds", **_fields(opened), **fields)
    if not answer.as_json:
        print_line(_sentence(opened))
        for one in opened.signed.cosignatures:
            say(f"seen by the witness {clean(one.witness)}")
        if checked is not None:
            lacks = f"; {len(checked.missing)} that it names are not in it" if checked.missing else ""
            held = f"{counted(checked.manifests, 'manifest')}, {counted(checked.configs, 'config')}"
            say(f"{beside}: {held}, as their digests say{lacks}")
    return ""


def _fields(opened: VerifiedReceipt) -> dict[str, Any]:
    from boltseal.ledger.entry import format_time

    entry, head = opened.entry, opened.signed.checkpoint
    return {
        "ref": f"{entry.repository}:{entry.tag}" if entry.tag else entry.repository,
        "reason": entry.reason,
        "event": entry.kind.removeprefix("tag."),
        "digest": entry.digest or None,
        "time": format_time(entry.time_us),
        "by": entry.actor,
        "mode": entry.extra.get("mode"),
        "ledger": head.origin,
        "index": opened.index,
        "size": head.size,
        "witnesses": [one.witness for one in opened.signed.cosignatures],
    }


def _sentence(opened: VerifiedReceipt) -> str:
    told = _fields(opened)
    mode = f", {told['mode']}" if told["mode"] else ""
    means = f" as {told['digest']}" if told["digest"] else ""
    return clean(
        f"{told['ref']} was {told['event']}{means} at {told['time']} by {told['by'] or 'nobody'}{mode}: entry "
        f"{told['index']} of the ledger {told['ledger']}"
    )
