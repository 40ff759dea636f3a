"""What changed in the bases of outdated images, as text for a terminal and as Markdown.

Paths, names and versions come from images. As text they are on one line without control characters; in Markdown they stand
in code spans, where no link, mention, HTML or table can be made of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

from boltseal.cli.explanation_text import code_span
from boltseal.cli.output import print_wrapped
from boltseal.commands.base_change import ExplainedBase, PackageInImage, PartList
from boltseal.commands.explained_bases import ExplainedImage
from boltseal.commands.outdated import OutdatedReport
from boltseal.commands.text import clean, counted
from boltseal.policy.base_change_reach import PartState, Reach
from boltseal.project.bases.base_report import BaseReport

MAX_LISTED: Final = 10
"""How many packages and files are listed as text for each image; all are counted."""
MAX_MARKDOWN_LISTED: Final = 100
_ANSWERS: Final = {Reach.REACHES: "yes", Reach.DOES_NOT: "no", Reach.UNKNOWN: "could not check"}
"""Whether the change of the base reaches the image."""
_STATES: Final = {
    PartState.FORMER: "as before",
    PartState.UNKNOWN: "not comparable",
    PartState.REPLACED: "replaced",
    PartState.GONE: "not in the image",
    PartState.NEW: "as in the new base",
}


def explained_of(report: BaseReport, run: OutdatedReport) -> dict[str, ExplainedBase]:
    """Return what is explained of an image, by platform."""
    reference = report.wanted.reference
    found = {each.platform: run.explained.get(ExplainedImage(reference, each.platform)) for each in report.verdicts}
    return {platform: each for platform, each in found.items() if each is not None}


def print_explained(explained: Mapping[str, ExplainedBase]) -> None:
    """Print below an image what changed in its base."""
    for platform, each in explained.items():
        if len(explained) > 1:
            print_wrapped("platform  ", clean(platform), indent=13)
        for label, values in _facts(each, MAX_LISTED):
            for number, value in enumerate(values):
                print_wrapped(f"{label if number == 0 else '':<10}", clean(value), indent=13)


def markdown_lines(run: OutdatedReport) -> Iterator[str]:
    """Yield a table of all images, and a section for each outdated one."""
    yield from ("| image | result |", "|---|---|")
    for report in run.reports:
        yield f"| {code_span(report.wanted.name)} | {report.verdict.status} |"
    for name, reason in run.left_out:
        yield f"| {code_span(name)} | cannot tell: {code_span(reason)} |"
    for report in run.reports:
        for platform, each in explained_of(report, run).items():
            yield from ("", f"### {code_span(report.wanted.name)} ({code_span(platform)})", "", "| | |", "|---|---|")
            yield f"| why | {code_span(report.verdict.reason)} |"
            if each.move is not None:
                yield f"| base | {code_span(str(each.move.base))} |"
                yield f"| was | {code_span(str(each.move.was))} |"
                yield f"| now | {code_span(str(each.move.now))} |"
            for label, values in _facts(each, 0):
                yield f"| {label} | {'<br>'.join(map(code_span, values))} |"
            yield from _details(each)


def _details(each: ExplainedBase) -> Iterator[str]:
    """Yield folded lists of packages, and of files that are as before."""
    rows = each.packages.packages
    if rows:
        yield from ("", f"<details><summary>{counted(each.packages.total, 'package')}</summary>", "")
        yield from ("| package | was | now | image | |", "|---|---|---|---|---|")
        for change, own, state in rows[:MAX_MARKDOWN_LISTED]:
            cells = map(code_span, (change.name, change.was, change.now, own))
            yield f"| {' | '.join(cells)} | {_STATES[state]} |"
        yield from ("", *_more(each.packages.total, MAX_MARKDOWN_LISTED), "</details>")
    former = each.files.former
    if former:
        number = each.files.counts[PartState.FORMER]
        yield from ("", f"<details><summary>{counted(number, 'file')} as before</summary>", "")
        yield from (f"- {code_span(path)}" for path in former[:MAX_MARKDOWN_LISTED])
        yield from ("", *_more(number, MAX_MARKDOWN_LISTED), "</details>")


def _facts(each: ExplainedBase, most: int) -> Iterator[tuple[str, list[str]]]:
    """Yield the facts by label; each has one or more values. `most`: how many packages and files are listed."""
    yield "reaches", [f"{_ANSWERS[each.reach]}: {each.reason}"]
    if each.move is None or not (each.packages.reason or each.files.reason or each.settings or _is_compared(each)):
        return
    yield "packages", _packages(each.packages, most)
    yield "files", _files(each.files, most)
    if each.settings:
        yield "settings", [f"{change.what}: {_STATES[state]}" for change, _, state in each.settings]


def _is_compared(each: ExplainedBase) -> bool:
    return bool(each.packages.counts or each.files.counts or each.packages.origin)


def _packages(packages: PartList, most: int) -> list[str]:
    if packages.reason:
        return [f"could not check: {packages.reason}"]
    lines = [f"{_counts(packages)} ({packages.origin})", *map(_package, packages.packages[:most])]
    return [*lines, *(_more(packages.total, most) if most else ())]


def _package(row: PackageInImage) -> str:
    change, own, state = row
    kind = f" ({change.kind})" if change.kind else ""
    versions = f"{change.was or 'none'} -> {change.now or 'none'}"
    return f"{change.name} {versions}{kind}, here {own or 'none'}: {_STATES[state]}"


def _files(files: PartList, most: int) -> list[str]:
    if files.reason:
        return [f"could not check: {files.reason}"]
    lines = [_counts(files)]
    if files.copies:
        lines.append(f"as before are also {counted(files.copies, 'copy', 'copies')} under other paths")
    number = files.counts.get(PartState.FORMER, 0)
    lines += files.former[:most]
    return [*lines, *(_more(number, most) if most else ())]


def _counts(parts: PartList) -> str:
    numbers = dict(parts.counts)
    if parts.copies:
        numbers[PartState.FORMER] -= parts.copies
    listed = ", ".join(f"{numbers[state]} {words}" for state, words in _STATES.items() if numbers.get(state))
    return f"{parts.total} changed{f': {listed}' if listed else ''}"


def _more(number: int, most: int) -> list[str]:
    return [f"and {number - most} more"] if number > most else []
