"""Output of `boltseal scrub`: a line for each image and container, and a line for each difference."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, Final

from boltseal.cli.output import print_line, say
from boltseal.cli.progress import size_text
from boltseal.commands.text import counted, printable
from boltseal.errors import quote
from boltseal.host.scrub.changing_containers import REMOVED
from boltseal.host.scrub.remedies import Remedy
from boltseal.host.scrub.report import BUILD_CACHE, ORPHANED, ScrubReport
from boltseal.host.scrub.rotation import ShareSummary
from boltseal.lockfile.format import time_text

STATUS_TEXT: Final = {
    "holds": "holds",
    "differs": "DIFFERS",
    "unknown": "could not check",
    "unchecked": "not checked",
    "gone": "gone",
}
_IN_SUMMARY: Final = {
    "holds": ("holds", "hold"),
    "differs": ("differs", "differ"),
    "unknown": ("could not be checked", "could not be checked"),
}
"""The words after one subject and after several."""
_SUBJECTS: Final = {"image": "image", "container": "container", BUILD_CACHE: "build cache"}
_LEFT_OUT: Final = {BUILD_CACHE: "build cache record", ORPHANED: "orphaned layer folder"}
MAX_REASONS: Final = 3
MAX_CHANGES: Final = 10


def fields(report: ScrubReport) -> dict[str, Any]:
    """Return a report for `--json`."""
    return asdict(report) | {"reason": _reason(report)}


def _reason(report: ScrubReport) -> str:
    if report.status == "differs":
        return counted(report.count, "difference")
    if report.status == "unknown":
        return "could not check: " + "; ".join(report.unknown[:MAX_REASONS])
    if report.status == "gone":
        return REMOVED
    if report.status == "unchecked":
        return f"not checked: {counted(report.unchecked_count, 'record')}: {'; '.join(report.unchecked)}"
    return _held_reason(report) + _unread_text(report)


def _held_reason(report: ScrubReport) -> str:
    if report.what == "container":
        changed = f"its own layer has {counted(len(report.changed), 'change')}"
        return f"{changed}; seen through process {report.running}" if report.running else changed
    return "; ".join(
        (f"{counted(report.layers, 'layer')}, {counted(report.entries, 'entry', 'entries')}", *report.notes)
    )


def _unread_text(report: ScrubReport) -> str:
    """Return what a run with --share did not read of a subject, to be appended."""
    if not report.unread:
        return ""
    what = "content" if report.what == "container" else f"content of {counted(report.unread, 'layer')}"
    return f", {what} not read in this run (--share)"


def share_text(share: ShareSummary) -> str:
    """Return a line about what a run with --share read."""
    status = "partial" if share.unread else "complete"
    return f"{status}: share 1/{share.shares}: {_share_reason(share)}"


def share_fields(share: ShareSummary) -> dict[str, Any]:
    """Return what a run with --share read, for `--json`."""
    return {
        "ref": f"1/{share.shares}",
        "status": "partial" if share.unread else "complete",
        "reason": _share_reason(share),
        "what": "share",
        "parts": share.parts,
        "unread": share.unread,
        "read_bytes": share.bytes,
        "unread_bytes": share.unread_bytes,
        "never_read": share.never,
        "oldest": time_text(share.oldest_s * 1_000_000),
    }


def _share_reason(share: ShareSummary) -> str:
    read = f"read {share.read} of {counted(share.parts, 'part')}, about {size_text(share.bytes)}"
    if not share.unread:
        return read
    left = f"not read in this run: {counted(share.unread, 'part')}, about {size_text(share.unread_bytes)}"
    if share.never:
        return f"{read}; {left} ({share.never} never yet)"
    return f"{read}; {left}, all since {time_text(share.oldest_s * 1_000_000)}"


def print_reports(reports: Sequence[ScrubReport], *, quick: bool) -> None:
    """Print all reports; the path of a store only where there are two of its kind."""
    roots = {(report.store, report.root) for report in reports}
    kinds = [store for store, _ in roots]
    for report in reports:
        if report.status != "unchecked":  # the summary has it
            _print(report, _line(report, quick=quick, with_root=kinds.count(report.store) > 1))
    if any(report.unchecked for report in reports):
        _print_line(_summary(reports))
    if sys.stderr.isatty() and any(report.level == "L0" and report.status == "holds" for report in reports):
        say("L0: compared with the store's own records only. To prove more: --expect, --lock, --receipt or --baseline.")


def _summary(reports: Sequence[ScrubReport]) -> str:
    """Return how many images and containers were checked, with what result, and what was left out."""
    parts = []
    for what, subject in _SUBJECTS.items():
        for status, (of_one, of_several) in _IN_SUMMARY.items():
            count = sum((report.what, report.status) == (what, status) for report in reports)
            if count:
                parts.append(f"{counted(count, subject)} {of_one if count == 1 else of_several}")
    left_out = []
    for what, subject in _LEFT_OUT.items():
        if records := sum(report.unchecked_count for report in reports if report.what == what):
            left_out.append(f"{counted(records, subject)} not checked")
    checked = [each for report in reports if report.status != "unchecked" for each in report.unchecked]
    left_out += [f"not checked: {each}" for each in dict.fromkeys(checked)]
    return "; ".join((", ".join(parts) or "nothing checked", *left_out))


def _print(report: ScrubReport, line: str) -> None:
    """Print the line of one report, and its details."""
    _print_line(line)
    if report.by and report.status == "holds":
        _print_line(f"  by {report.by}")
    for each in report.differences:
        _print_line(difference_line(asdict(each)))
    if report.count > len(report.differences):
        _print_line(f"  ... and {report.count - len(report.differences)} more")
    if report.status == "differs":
        for note in report.notes:
            _print_line(f"  {note}")
        for reason in report.unknown[:MAX_CHANGES]:
            _print_line(f"  could not check: {reason}")
    if report.remedy is not None:
        _print_remedy(report.remedy)
    for change in report.changed[:MAX_CHANGES]:
        by = "" if change.how == "mounted over" else " by the container"
        _print_line(f"  {change.how}{by}: {quote(change.path, 1000)[1:-1]}")
    if len(report.changed) > MAX_CHANGES:
        _print_line(f"  ... and {len(report.changed) - MAX_CHANGES} more; --json names them")


def _print_remedy(remedy: Remedy) -> None:
    """Print which containers run on an image that differs, and the steps that replace it."""
    for use in remedy.containers[:MAX_CHANGES]:
        since = f", since {use.since}" if use.since else ""
        state = f"runs on it: process {use.running}{since}" if use.running else "is on it, and does not run"
        _print_line(f"  container {quote(use.name, 200)[1:-1]} {state}")
    if len(remedy.containers) > MAX_CHANGES:
        _print_line(f"  ... and {len(remedy.containers) - MAX_CHANGES} more; --json names them")
    _print_line("  what to do:")
    for number, step in enumerate(remedy.steps, 1):
        _print_line(f"    {number}. {step.text}{':' if step.command else ''}")
        for command in step.command.splitlines()[:MAX_CHANGES]:
            _print_line(f"         {command}")


def _line(report: ScrubReport, *, quick: bool, with_root: bool) -> str:
    more = ", no content read (--quick)" if report.status == "holds" and quick else ""
    return status_line(fields(report), f"{report.store} {report.root if with_root else ''}".strip(), more)


def status_line(row: Mapping[str, Any], where: str, more: str = "") -> str:
    """Return the line of a result as `--json` has it. `where`: of which store or host; `more`: appended to the reason."""
    status = STATUS_TEXT.get(row["status"], row["status"])
    level = f" {row['level']}" if row["status"] == "holds" and row.get("level") else ""
    what = f"{row['what']} " if row.get("what") in ("container", "share") else ""
    id_ = f" {row['id']}" if row.get("what") == "image" and row.get("id") and row["id"] not in row["ref"] else ""
    reason = row.get("reason", "").removeprefix(f"{status}: ")
    place = f" ({where})" if where else ""
    return " ".join(f"{status}{level}: {what}{row['ref']}{id_}{place}: {reason}{more}".split())


def difference_line(row: Mapping[str, Any]) -> str:
    """Return the line of a difference as `--json` has it."""
    at = quote(row.get("path", ""), 1000)[1:-1] or ("." if row.get("layer") else "")  # the root of a layer, or no file
    layer = f"[layer {row['layer']}]" if row.get("layer") else ""
    place = " ".join(filter(None, (row["kind"], at, layer)))
    return f"  {place}: expected {row.get('expected', '')}; got {row.get('got', '')}"


def _print_line(line: str) -> None:
    """Print a line. Names of images, containers and files may be an attacker's: control characters are escaped."""
    print_line(printable(line))
