"""`boltseal scrub`: is what lies on this host's disk still what was pulled?"""

from __future__ import annotations

import gc
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from boltseal.cli import evidence
from boltseal.cli.answer import CommandOutput, Outcome
from boltseal.cli.options import AllowEmptyOption, JsonOption
from boltseal.cli.progress import Progress, in_words
from boltseal.cli.scrubbed import fields, print_reports
from boltseal.errors import Invalid, quote

if TYPE_CHECKING:
    from boltseal.host.scrub.report import ScrubReport
    from boltseal.host.scrub.scrub import ScrubRequest

ImagesArgument = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="IMAGE", show_default=False, help="Names or IDs; name@sha256:... says what it must be. All."
    ),
]
RootOption = Annotated[
    list[Path] | None,
    typer.Option(
        "--root",
        metavar="PATH",
        show_default=False,
        readable=False,  # what can't be read could not be checked: no matter of usage
        help="A store, a mounted disk, a layout or an archive, in place of this host's stores.",
    ),
]
ExpectOption = Annotated[
    str | None,
    typer.Option("--expect", metavar="DIGEST", show_default=False, help="What the one IMAGE must be: ID or digest."),
]
LockOption = Annotated[
    Path | None,
    typer.Option(
        "--lock",
        metavar="FILE",
        show_default=False,
        help="What its tags must be here. [default: boltseal.lock in this folder, if it is there]",
    ),
]
NoLockOption = Annotated[bool, typer.Option("--no-lock", help="Do not go by the boltseal.lock in this folder.")]
ReceiptOption = Annotated[
    list[Path] | None,
    typer.Option("--receipt", metavar="FILE", show_default=False, help="A ledger's receipt for what a tag means."),
]
KeyOption = Annotated[
    str | None,
    typer.Option("--key", metavar="VKEY", show_default=False, help="The key of the ledger that gave the receipts."),
]
DocumentsOption = Annotated[
    list[Path] | None,
    typer.Option(
        "--documents",
        metavar="PATH",
        show_default=False,
        help="A layout or archive with manifests that a store does not keep; FILE.oci beside a receipt is found.",
    ),
]
QuickOption = Annotated[bool, typer.Option("--quick", help="Metadata, stack and attributes only; no content.")]
FromDiskOption = Annotated[
    bool, typer.Option("--from-disk", help="Drop what is read from the page cache, so that the disk is read.")
]
RateOption = Annotated[
    str, typer.Option("--bytes-per-second", metavar="N", show_default=False, help="Read no faster, e.g. 50M.")
]
NiceOption = Annotated[bool, typer.Option("--nice", help="Give way to everything else (CPU and disk).")]


class ScrubUsage(Invalid):
    """What was asked can't be meant."""


def scrub(
    images: ImagesArgument = None,
    root: RootOption = None,
    expect: ExpectOption = None,
    lock: LockOption = None,
    no_lock: NoLockOption = False,
    receipt: ReceiptOption = None,
    key: KeyOption = None,
    documents: DocumentsOption = None,
    quick: QuickOption = False,
    from_disk: FromDiskOption = False,
    bytes_per_second: RateOption = "",
    nice: NiceOption = False,
    allow_empty: AllowEmptyOption = False,
    as_json: JsonOption = False,
) -> None:
    """Read what the engines of this host keep, and compare it with what it must be. Changes nothing, asks no daemon.

    Each image is proven from its digest down to every file: L0 it holds together, L1 it is what you expect, L2 it is what
    a ledger's receipt says. Exit code 0: all of it holds; 1: something differs; 3: something could not be checked, or
    there was no image.
    """  # fmt: skip
    with CommandOutput("scrub", as_json=as_json) as answer:
        from boltseal.host.scrub.layer_check import CheckMode
        from boltseal.host.scrub.report import outcome
        from boltseal.host.scrub.scrub import ScrubRequest
        from boltseal.host.scrub.workers import WorkRate

        named = tuple(images or ())
        wanted = ScrubRequest(
            images=named,
            expected=evidence.typed(named, expect),
            receipts=evidence.receipts(receipt or (), key),
            locks=evidence.lock(lock, ignored=no_lock),
            documents=evidence.documents(documents or (), receipt or ()),
            check_mode=CheckMode(quick=quick, from_disk=from_disk),
            pace=WorkRate(bytes_per_second=_rate(bytes_per_second)),
        )
        if nice:
            _give_way()
        reports = _checked(root or [], wanted)
        gc.freeze()  # nothing here makes circles, and at its end Python would look for them among all modules
        answer.outcome = Outcome(outcome(reports))
        for report in reports:
            answer.add(**fields(report))
        if not as_json:
            print_reports(reports, quick=quick)
        if not reports and not allow_empty:
            _tell_empty(answer, root or [])


def _checked(roots: list[Path], wanted: ScrubRequest) -> list[ScrubReport]:
    """The check itself, with its progress. NoStoreFound."""
    from boltseal.config import home_folders
    from boltseal.host.scrub.find_stores import store_at, usual_stores
    from boltseal.host.scrub.scrub import scrub as scrubbed

    stores = [store for path in roots for store in store_at(path)] if roots else usual_stores(home_folders())
    began_s = time.monotonic()
    with Progress() as progress:

        def tell(read: int, done: int, total: int) -> None:
            rate = int(read / max(time.monotonic() - began_s, 0.001))
            progress(f"read {in_words(read)}, {in_words(rate)}/s, layers", done, total)

        return scrubbed(stores, wanted, tell)


def _tell_empty(answer: CommandOutput, roots: list[Path]) -> None:
    where = ", ".join(quote(str(root)) for root in roots) or "the usual stores of this host's engines"
    answer.nothing_to_check(f"found 0 images in {where}", "check --root" if roots else "name a store with --root")


def _rate(text: str) -> int:
    units = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9}
    number, unit = text.rstrip("KMG"), text[len(text.rstrip("KMG")) :]
    if not text:
        return 0
    if not number.isascii() or not number.isdigit() or unit not in units or int(number) == 0:
        raise ScrubUsage(f"--bytes-per-second is {quote(text)}; expected a number such as 50M, 500K or 1000000")
    return int(number) * units[unit]


def _give_way() -> None:
    """The lowest priority for the CPU, and "idle" for the disk; processes that we start inherit both."""
    import os

    from boltseal.engines.priority import idle_disk

    os.nice(19)
    idle_disk()
