"""`boltseal ledger receipt`: write, attach, find or verify a proof of what a tag resolves to."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Final

import typer

from boltseal.cli.command_group import HelpCommand, HelpGroup
from boltseal.cli.options import JsonOption
from boltseal.cli.output import CommandOutput, say
from boltseal.cli.remote import (
    RemoteRefArgument,
    takes_registry_options,
)
from boltseal.commands.ledger_receipt import bundle_of, verify_receipt, write_receipt
from boltseal.commands.receipt_referrers import attach_receipt, find_receipt
from boltseal.commands.registry_access import RegistryOptions
from boltseal.commands.text import clean, counted
from boltseal.ledger.entry import MODE_SEALED, format_time
from boltseal.ledger.note import VerifierKey
from boltseal.ledger.proof import VerifiedReceipt
from boltseal.oci.reference import Reference
from boltseal.policy.pipeline_claims import pipeline_text, shown_pipeline
from boltseal.transfer.manifest_bundle import replace_bytes

_WRITE: Final = "write"

KeyOption = Annotated[
    str, typer.Option("--key", metavar="KEY", show_default=False, help="The ledger's key, from its operator.")
]
WitnessOption = Annotated[
    list[str] | None,
    typer.Option("--witness", metavar="KEY", show_default=False, help="Require a witness's cosignature; repeatable."),
]
AboutOption = Annotated[
    str | None,
    typer.Option(
        "--about",
        metavar="IMAGE",
        show_default=False,
        help="The image, as its own registry names it, that the receipt has to be about; with a digest, also that digest.",
    ),
]


class _Group(HelpGroup):
    """Runs the subcommand `write` for `ledger receipt IMAGE` too."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        known = {*self.commands, "--help", "-h"}
        return super().parse_args(ctx, args if not args or args[0] in known else [_WRITE, *args])


ledger_receipt = typer.Typer(
    cls=_Group,
    help="Write a proof of what a tag resolves to (IMAGE -o FILE), attach it to the image, or find and verify one.",
    no_args_is_help=True,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@ledger_receipt.command(
    _WRITE,
    cls=HelpCommand,
    epilog="Example: boltseal ledger receipt write localhost:5000/shop/app:1.4.2 -o app.tlog-proof",
)
@takes_registry_options
def write(
    ref: RemoteRefArgument,
    target: Annotated[Path, typer.Option("-o", "--output", metavar="FILE", show_default=False, help="File to write.")],
    *,
    in_toto: Annotated[
        bool,
        typer.Option(
            "--in-toto", help="Write a statement that other tools (cosign) verify too, instead of a C2SP tlog-proof."
        ),
    ] = False,
    access: RegistryOptions,
    as_json: JsonOption = False,
) -> None:
    """Write the receipt of what a tag resolves to now to FILE, and its manifests and configs to FILE.oci."""
    with CommandOutput("ledger-receipt", as_json=as_json) as output:
        done = write_receipt(Reference.parse(ref), target, access, statement=in_toto)
        output.add(status="written", file=str(target), beside=str(done.bundle), **_fields(done.receipt))
        output.print(f"{target}, {done.bundle}: {_sentence(done.receipt)}")
        if not done.key_pinned:
            output.say("no pinned key verified this; to verify it, get the key from the registry's operator")


@ledger_receipt.command(
    "attach",
    cls=HelpCommand,
    epilog="Example: boltseal ledger receipt attach localhost:5000/shop/app:1.4.2",
)
@takes_registry_options
def attach(
    ref: RemoteRefArgument,
    *,
    witness: WitnessOption = None,
    access: RegistryOptions,
    as_json: JsonOption = False,
) -> None:
    """Attach the receipt of what a tag resolves to now to the image, as a referrer.

    `boltseal copy` carries it along to other registries. cosign verifies it with the registry's attestation key.
    """
    with CommandOutput("ledger-receipt-attach", as_json=as_json) as output:
        done = attach_receipt(Reference.parse(ref), _keys(witness), access)
        status = "attached" if done.added else "unchanged"
        output.add(status=status, referrer=str(done.referrer), **_fields(done.receipt))
        there = "attached" if done.added else "is attached already"
        output.print(f"{done.referrer} {there}: {_sentence(done.receipt)}")
        _say_more(output, done.receipt)


@ledger_receipt.command(
    "find",
    cls=HelpCommand,
    epilog="Example: boltseal ledger receipt find docker.io/acme/app:1.4.2 --about registry.example.com/shop/app:1.4.2 "
    '--key "$(cat ledger.pub)"',
)
@takes_registry_options
def find(
    ref: RemoteRefArgument,
    key: KeyOption,
    *,
    expected: AboutOption = None,
    witness: WitnessOption = None,
    target: Annotated[
        Path | None, typer.Option("-o", "--output", metavar="FILE", show_default=False, help="File to write.")
    ] = None,
    access: RegistryOptions,
    as_json: JsonOption = False,
) -> None:
    """Find the receipt attached to an image in any registry, and verify that it proves the tag.

    Exit code 1: no receipt there proves it.
    """
    with CommandOutput("ledger-receipt-find", as_json=as_json) as output:
        search = find_receipt(Reference.parse(ref), VerifierKey.parse(key), _keys(witness), _expected(expected), access)
        output.outcome = search.outcome
        for reason in search.refused:
            output.say(f"not counted: {clean(reason)}")
        if search.found is None:
            reason = f"no receipt attached to {search.digest} proves the tag"
            output.add(ref=ref, status="missing", reason=reason, digest=str(search.digest))
            say(f"boltseal: {ref}: {reason}")
            return
        found = search.found
        if target is not None:
            replace_bytes(target, found.raw)
        receipt = found.verified.receipt
        output.add(
            status="holds",
            referrer=str(found.referrer),
            attestation_key=found.verified.key.fingerprint,
            **_fields(receipt),
            **({} if target is None else {"file": str(target)}),
        )
        output.print(_sentence(receipt))
        _say_more(output, receipt)


@ledger_receipt.command(
    "verify",
    cls=HelpCommand,
    epilog='Example: boltseal ledger receipt verify app.tlog-proof --key "$(cat ledger.pub)"',
)
def verify(
    file: Annotated[
        Path,
        typer.Argument(metavar="FILE", show_default=False, help="A receipt: a C2SP tlog-proof, or a statement."),
    ],
    key: KeyOption,
    expected: AboutOption = None,
    witness: WitnessOption = None,
    as_json: JsonOption = False,
) -> None:
    """Verify a receipt, offline.

    The documents in FILE.oci are verified too, if the file exists: the digests from the manifest down to the configs.

    Exit code 1: the receipt is invalid.
    """
    with CommandOutput("ledger-receipt-verify", as_json=as_json) as output:
        check = verify_receipt(file, VerifierKey.parse(key), _keys(witness), _expected(expected))
        output.outcome = check.outcome
        if check.receipt is None:
            output.add(ref=str(file), status="broken", reason=check.reason)
            say(f"boltseal: {file} is invalid: {check.reason}")
            return
        documents = check.bundle
        counts = {}
        if documents is not None:
            counts = {
                "manifests": documents.manifests,
                "configs": documents.configs,
                "layers": documents.layers,
            }
        signed_by = {} if check.signed_by is None else {"attestation_key": check.signed_by.fingerprint}
        output.add(status="holds", **_fields(check.receipt), **signed_by, **counts)
        output.print(_sentence(check.receipt))
        _say_more(output, check.receipt)
        if documents is not None:
            missing = f"; {len(documents.missing)} of its documents are not in it" if documents.missing else ""
            found = f"{counted(documents.manifests, 'manifest')}, {counted(documents.configs, 'config')}"
            output.say(f"{bundle_of(file)}: {found}, digests verified{missing}")


def _keys(texts: list[str] | None) -> list[VerifierKey]:
    return [VerifierKey.parse(each) for each in texts or []]


def _expected(text: str | None) -> Reference | None:
    return None if text is None else Reference.parse(text)


def _say_more(output: CommandOutput, receipt: VerifiedReceipt) -> None:
    for each in receipt.signed.cosignatures:
        output.say(f"cosigned by the witness {clean(each.witness)}")
    if receipt.entry.tag and receipt.entry.extra.get("mode") != MODE_SEALED:
        output.say("the tag was not sealed by this entry: it may resolve to another image since")


def _fields(receipt: VerifiedReceipt) -> dict[str, Any]:
    entry, head = receipt.entry, receipt.signed.checkpoint
    return {
        "ref": f"{entry.repository}:{entry.tag}" if entry.tag else entry.repository,
        "reason": entry.reason,
        "event": entry.kind.removeprefix("tag."),
        "digest": entry.digest or None,
        "time": format_time(entry.time_us),
        "by": entry.actor,
        "mode": entry.extra.get("mode"),
        **({"pipeline": pipeline} if (pipeline := shown_pipeline(entry.extra)) else {}),
        "ledger": head.origin,
        "index": receipt.index,
        "size": head.size,
        "witnesses": [each.witness for each in receipt.signed.cosignatures],
    }


def _sentence(receipt: VerifiedReceipt) -> str:
    fields = _fields(receipt)
    mode = f", {fields['mode']}" if fields["mode"] else ""
    digest = f" as {fields['digest']}" if fields["digest"] else ""
    by = pipeline_text(receipt.entry.extra) or fields["by"] or "anonymous"
    return clean(
        f"{fields['ref']} was {fields['event']}{digest} at {fields['time']} by {by}{mode}: entry "
        f"{fields['index']} of the ledger {fields['ledger']}"
    )
