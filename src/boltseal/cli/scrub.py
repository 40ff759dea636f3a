"""`boltseal scrub`: is what lies on this host's disk still what was pulled?"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from boltseal.cli.answer import Answer, Outcome, counted, print_line
from boltseal.cli.options import JsonOption
from boltseal.cli.progress import Progress, in_words
from boltseal.errors import Invalid, Unavailable, quote

if TYPE_CHECKING:
    from boltseal.oci.digest import Digest
    from boltseal.scrub.report import Report
    from boltseal.scrub.trust import Expectation

MAX_RECEIPTS: Final = 1000


class ScrubUsage(Invalid):
    """What was asked can't be meant."""


class NothingToScrub(Unavailable):
    """There is no store to look at."""


class EvidenceUnreadable(Unavailable):
    """A receipt, or documents, that can't be read."""


def scrub(
    images: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[IMAGE]...", show_default=False, help="Names or IDs; name@sha256:... says what it must be. All."
        ),
    ] = None,
    root: Annotated[
        list[Path] | None,
        typer.Option(
            "--root",
            metavar="PATH",
            show_default=False,
            readable=False,  # what can't be read could not be checked: no matter of usage
            help="A store, a mounted disk, a layout or an archive, in place of this host's stores.",
        ),
    ] = None,
    expect: Annotated[
        str | None,
        typer.Option(
            "--expect", metavar="DIGEST", show_default=False, help="What the one IMAGE must be: ID or digest."
        ),
    ] = None,
    lock: Annotated[
        Path | None,
        typer.Option("--lock", metavar="FILE", show_default=False, help="A boltseal.lock: what its tags must be here."),
    ] = None,
    receipt: Annotated[
        list[Path] | None,
        typer.Option("--receipt", metavar="FILE", show_default=False, help="A ledger's receipt for what a tag means."),
    ] = None,
    key: Annotated[
        str | None,
        typer.Option("--key", metavar="VKEY", show_default=False, help="The key of the ledger that gave the receipts."),
    ] = None,
    documents: Annotated[
        list[Path] | None,
        typer.Option(
            "--documents",
            metavar="PATH",
            show_default=False,
            help="A layout or archive with manifests that a store does not keep; FILE.oci beside a receipt is found.",
        ),
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Metadata, stack and attributes only; no content.")] = False,
    from_disk: Annotated[
        bool, typer.Option("--from-disk", help="Drop what is read from the page cache, so that the disk is read.")
    ] = False,
    bytes_per_second: Annotated[
        str, typer.Option("--bytes-per-second", metavar="N", show_default=False, help="Read no faster, e.g. 50M.")
    ] = "",
    nice: Annotated[bool, typer.Option("--nice", help="Give way to everything else (CPU and disk).")] = False,
    as_json: JsonOption = False,
) -> None:
    """Read what the engines of this host keep, and compare it with what it must be. Changes nothing, asks no daemon.

    Each image is proven from its digest down to every file: L0 it holds together, L1 it is what you expect, L2 it is what
    a ledger's receipt says. Exit code 0: all of it holds; 1: something differs; 3: something could not be checked.
    """  # fmt: skip
    with Answer("scrub", as_json=as_json) as answer:
        from boltseal.config import home_folder
        from boltseal.scrub.find import store_at, usual_stores
        from boltseal.scrub.layers import Manner
        from boltseal.scrub.report import outcome
        from boltseal.scrub.scrub import Wanted
        from boltseal.scrub.scrub import scrub as scrubbed
        from boltseal.scrub.work import Pace

        named = tuple(images or ())
        wanted = Wanted(
            images=named,
            expected=_expected(named, expect),
            receipts=_receipts(receipt or (), key),
            locks=_locks(lock),
            documents=_documents([*(documents or ()), *_beside(receipt or ())]),
            manner=Manner(quick=quick, from_disk=from_disk),
            pace=Pace(bytes_per_second=_rate(bytes_per_second)),
        )
        if nice:
            _give_way()
        stores = [store for path in root for store in store_at(path)] if root else usual_stores([home_folder()])
        if not stores:
            raise NothingToScrub("no engine has a store on this host where one is usual; name it with --root")
        began_s = time.monotonic()
        with Progress() as progress:

            def tell(read: int, done: int, total: int) -> None:
                rate = int(read / max(time.monotonic() - began_s, 0.001))
                progress(f"read {in_words(read)}, {in_words(rate)}/s, layers", done, total)

            reports = scrubbed(stores, wanted, tell)
        answer.outcome = Outcome(outcome(reports))
        for report in reports:
            answer.add(**_fields(report))
            if not as_json:
                _print(report, quick=quick)


def _expected(named: Sequence[str], expect: str | None) -> dict[str, Expectation]:
    """What each typed name must be, by a digest in it or by --expect."""
    from boltseal.oci.digest import Digest
    from boltseal.scrub.trust import Expectation, Level

    found: dict[str, Expectation] = {}
    for typed in named:
        if "@" in typed:
            digest = Digest.parse(typed.rpartition("@")[2])
            found[typed] = Expectation(digest, Level.L1, "the digest that was typed", of_manifest=True)
        elif len(typed.removeprefix("sha256:")) == 64 and not set(typed.removeprefix("sha256:")) - set(
            "0123456789abcdef"
        ):
            digest = Digest("sha256", typed.removeprefix("sha256:"))
            found[typed] = Expectation(digest, Level.L1, "the ID that was typed")
    if expect is not None:
        if len(named) != 1:
            raise ScrubUsage(f"--expect says what one IMAGE must be; got {len(named)} images")
        digest = Digest.parse(expect if ":" in expect else f"sha256:{expect}")
        found[named[0]] = Expectation(digest, Level.L1, "--expect")
    return found


def _receipts(files: Sequence[Path], key: str | None) -> tuple[Expectation, ...]:
    from boltseal.ledger.note import VerifierKey
    from boltseal.ledger.proof import MAX_RECEIPT_BYTES
    from boltseal.scrub.trust import expectation_of_receipt

    if not files:
        return ()
    if key is None:
        raise ScrubUsage("a receipt proves nothing without the key of its ledger: give --key, as you got it elsewhere")
    if len(files) > MAX_RECEIPTS:
        raise ScrubUsage(f"{len(files)} receipts; at most {MAX_RECEIPTS} are read")
    trusted = VerifierKey.parse(key)
    found = []
    for file in files:
        try:
            with file.open("rb") as opened:
                raw = opened.read(MAX_RECEIPT_BYTES + 1)
        except OSError as error:
            raise EvidenceUnreadable(f"receipt {file} can't be read: {error.strerror}") from error
        found.append(expectation_of_receipt(raw, trusted))
    return tuple(found)


def _locks(file: Path | None) -> tuple[Expectation, ...]:
    from boltseal.scrub.trust import expectations_of_lock

    if file is None:
        return ()
    try:
        raw = file.read_bytes()
    except OSError as error:
        raise EvidenceUnreadable(f"lock {file} can't be read: {error.strerror}") from error
    return tuple(expectations_of_lock(raw))


def _beside(receipts: Sequence[Path]) -> list[Path]:
    """The documents that lie beside receipts."""
    return [beside for file in receipts if (beside := file.with_name(f"{file.name}.oci")).exists()]


def _documents(paths: Sequence[Path]) -> dict[Digest, bytes]:
    from boltseal.scrub.archives import documents_in

    return {digest: raw for path in paths for digest, raw in documents_in(path).items()}


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

    from boltseal.runtimes.priority import idle_disk

    os.nice(19)
    idle_disk()


def _fields(report: Report) -> dict[str, Any]:
    fields = asdict(report)
    fields["reason"] = _reason(report)
    return fields


def _reason(report: Report) -> str:
    if report.status == "differs":
        return counted(report.count, "difference")
    if report.status == "unknown":
        return "could not check: " + "; ".join(report.unknown[:3])
    if report.what == "container":
        changed = f"its own layer has {counted(len(report.changed), 'change')}"
        return f"{changed}; seen through process {report.running}" if report.running else changed
    return f"{counted(report.layers, 'layer')}, {counted(report.entries, 'entry').replace('entrys', 'entries')}"


def _print(report: Report, *, quick: bool) -> None:
    word = {"holds": "holds", "differs": "DIFFERS", "unknown": "could not check"}[report.status]
    if report.status == "holds" and report.level is not None:
        word += f" {report.level}"
    where = f"{report.store} {report.root}".strip()
    lies = f" ({where})" if where else ""
    ref = f"container {report.ref}" if report.what == "container" else report.ref
    details = [report.id[:19]] if report.what == "image" and report.id and not report.ref.startswith("sha256:") else []
    said = "; ".join(report.unknown[:3]) if report.status == "unknown" else _reason(report)
    if report.status == "holds" and quick:
        said += ", no content read (--quick)"
    print_line(" ".join(f"{word}: {' '.join((ref, *details))}{lies}: {said}".split()))
    for each in report.differences:
        at = quote(each.path, 1000)[1:-1] or "."
        layer = f" [layer {each.layer[7:19]}]" if each.layer else ""
        print_line(f"  {each.kind} {at}{layer}: expected {each.expected}; got {each.got}")
    if report.count > len(report.differences):
        print_line(f"  ... and {report.count - len(report.differences)} more")
    if report.status == "differs":
        for reason in report.unknown[:10]:
            print_line(f"  could not check: {reason}")
    for change in report.changed[:10]:
        print_line(f"  {change.how} by the container: {quote(change.path, 1000)[1:-1]}")
    if len(report.changed) > 10:
        print_line(f"  ... and {len(report.changed) - 10} more; --json names them")
