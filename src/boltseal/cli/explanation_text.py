"""Explained changes as text for a terminal and as Markdown for a pull request.

Labels, paths, names and reasons come from images and registries. As text they are on one line without control characters;
in Markdown they stand in code spans, where no link, mention, HTML or table can be made of them.
"""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Iterator, Sequence
from enum import StrEnum
from typing import Final

from boltseal.cli.output import terminal_columns
from boltseal.cli.progress import size_text
from boltseal.commands.contents_diff import ContentsDiff, package_rows
from boltseal.commands.explained_changes import Comparison, Explanation, PlatformChanges, Push, time_z
from boltseal.commands.text import clean, counted
from boltseal.lockfile.document import SECOND_US
from boltseal.policy.durations import format_duration
from boltseal.transfer.packages.package_list import PackageChange

MAX_LISTED: Final = 100
"""How many packages and how many files are listed; all are counted, and `--explain json` has them."""
MAX_TEXT_LISTED: Final = 20
_COLUMN: Final = 12
_HOUR_US: Final = 3600 * SECOND_US


class ExplainFormat(StrEnum):
    """The form of explained changes."""

    TEXT = "text"
    MARKDOWN = "md"
    JSON = "json"


def as_text(explanations: Sequence[Explanation], now_us: int) -> list[str]:
    """Return the lines of explained changes, in the columns of the terminal."""
    lines: list[str] = []
    for each in explanations:
        lines += [*([""] if lines else []), clean(_title(each))]
        for name, values in _facts(each, now_us, MAX_TEXT_LISTED):
            for number, value in enumerate(values):
                first = f"  {name if number == 0 else '':<{_COLUMN}}"
                width = max(terminal_columns(), 60)
                lines += textwrap.wrap(
                    clean(value),
                    width,
                    initial_indent=first,
                    subsequent_indent=" " * len(first),
                    break_long_words=False,
                    break_on_hyphens=False,
                ) or [first]
    return lines


def as_markdown(explanations: Sequence[Explanation], now_us: int) -> list[str]:
    """Return the lines of explained changes as GitHub-flavoured Markdown."""
    lines: list[str] = []
    for each in explanations:
        change = each.change
        lines += [*([""] if lines else []), f"### {code_span(_places(each))}: {code_span(change.new.name)}", ""]
        lines += ["| | |", "|---|---|"]
        for name, values in _facts(each, now_us, 0):
            link = each.comparison.cause.link if each.comparison is not None and name == "source" else None
            cells = [f"<{value}>" if value == link else code_span(value) for value in values]
            lines.append(f"| {name} | {'<br>'.join(cells)} |")
        if each.comparison is not None:
            lines += _details(each.comparison)
    return lines


def contents_lines(diff: ContentsDiff) -> list[str]:
    """Return the differences of two images' packages and files as lines, whole."""
    lines = []
    for name, values in (("packages", _packages(diff, sys.maxsize)), ("files", _files(diff, sys.maxsize))):
        lines += [clean(f"  {name if number == 0 else '':<{_COLUMN}}{value}") for number, value in enumerate(values)]
    return lines


def _title(each: Explanation) -> str:
    change = each.change
    return f"{_places(each)}: {change.new.name}"


def _places(each: Explanation) -> str:
    return ", ".join(each.change.places[:5]) or each.change.new.familiar()


def _facts(each: Explanation, now_us: int, most: int) -> Iterator[tuple[str, list[str]]]:
    """Yield the facts by name; each has one or more values. `most`: how many packages and files are listed."""
    change, found = each.change, each.comparison
    old_tag, new_tag = change.old.tag or "latest", change.new.tag or "latest"
    yield "tag", [f"{old_tag} -> {new_tag}" if old_tag != new_tag else str(new_tag)]
    yield "old", ["nothing" if change.old_digest is None else str(change.old_digest)]
    yield "new", ["not resolved" if change.new_digest is None else str(change.new_digest)]
    yield "pushed", [_pushed(each.push)]
    if found is None:
        yield "contents", [each.reason]
    else:
        yield from _compared(found, most)
    if each.known_since_us is not None:
        age = max(0, now_us - each.known_since_us)
        ago = format_duration(age - age % _HOUR_US if age >= _HOUR_US else age)
        created = f"; created {found.created}, by the image itself" if found is not None and found.created else ""
        yield "known", [f"for {ago}, since {time_z(each.known_since_us)}{created}"]
    yield "runs on", list(each.runs) or ["no host, by the releases on this machine"]


def _compared(found: Comparison, most: int) -> Iterator[tuple[str, list[str]]]:
    cause = found.cause
    yield "cause", [cause.what]
    if cause.base:
        yield "base", [cause.base]
        yield "base was", [cause.base_was]
        yield "base now", [cause.base_now]
    if cause.link is not None:
        yield "source", [cause.link]
    elif cause.old or cause.new or cause.source:
        between = f"{cause.old or 'unknown'} -> {cause.new or 'unknown'}" if cause.old != cause.new else cause.new
        yield "source", [f"{cause.source or 'no source stated'}, revision {between}"]
    else:
        yield "source", ["not stated"]
    yield "packages", _packages(found.contents, most)
    yield "files", _files(found.contents, most)
    old, new = found.sizes
    yield (
        "size",
        [f"{size_text(old)} -> {size_text(new)}, compressed" + (f" ({found.platform})" if found.platform else "")],
    )
    yield "platforms", [_platforms(found.platforms)]
    before, after = found.signatures
    yield "signatures", [f"{len(before)} -> {len(after)}, not verified here", *dict.fromkeys(after)]


def _packages(contents: ContentsDiff, most: int) -> list[str]:
    diff = contents.packages
    if diff is None:
        return [f"could not check: {contents.packages_reason}"]
    rows = package_rows(diff)
    counts = _counts(len(diff.changed), len(diff.added), len(diff.removed))
    return [f"{counts} ({contents.origin})", *(_package(*row) for row in rows[:most]), *_more(len(rows), most)]


def _package(what: str, change: PackageChange) -> str:
    kind = f" ({change.kind})" if change.kind else ""
    if what == "changed":
        return f"{change.name} {change.was} -> {change.now}{kind}"
    return f"{'+' if what == 'added' else '-'} {change.name} {change.now or change.was}{kind}"


def _files(contents: ContentsDiff, most: int) -> list[str]:
    files = contents.files
    if files is None:
        return [f"could not check: {contents.files_reason}"]
    listed = [*(f"/{path}" for path in files.changed), *(f"+ /{path}" for path in files.added)]
    listed += [f"- /{path}" for path in files.removed]
    counts = _counts(len(files.changed), len(files.added), len(files.removed))
    return [counts, *listed[:most], *_more(len(listed), most)]


def _counts(changed: int, added: int, removed: int) -> str:
    numbers = ((changed, "changed"), (added, "added"), (removed, "removed"))
    return ", ".join(f"{number} {what}" for number, what in numbers if number) or "none changed"


def _more(number: int, most: int) -> list[str]:
    return [f"and {number - most} more"] if most and number > most else []


def _platforms(found: PlatformChanges) -> str:
    parts = [
        f"{', '.join(names)} {what}"
        for names, what in (
            (found.changed, "changed"),
            (found.added, "added"),
            (found.removed, "removed"),
            (found.same, "unchanged"),
        )
        if names
    ]
    return "; ".join(parts) or "none"


def _pushed(push: Push) -> str:
    if not push.time_us:
        return push.reason
    proof = "proven by the ledger" if push.proven else "not proven by the ledger"
    return f"{time_z(push.time_us)} by {push.actor or 'an anonymous client'}, {proof}"


def _details(found: Comparison) -> Iterator[str]:
    """Yield folded lists of packages and files."""
    diff, files = found.contents.packages, found.contents.files
    if diff is not None and not diff.empty:
        rows = package_rows(diff)
        yield from (
            "",
            f"<details><summary>{counted(len(rows), 'package')}</summary>",
            "",
            "| package | was | now |",
            "|---|---|---|",
        )
        for _, change in rows[:MAX_LISTED]:
            yield f"| {code_span(change.name)} | {code_span(change.was)} | {code_span(change.now)} |"
        yield from ("", *_more(len(rows), MAX_LISTED), "</details>")
    if files is not None and files.total:
        yield from ("", f"<details><summary>{counted(files.total, 'file')}</summary>", "")
        listed = [*(("changed", path) for path in files.changed), *(("added", path) for path in files.added)]
        listed += [("removed", path) for path in files.removed]
        yield from (f"- {what} {code_span(f'/{path}')}" for what, path in listed[:MAX_LISTED])
        yield from ("", *_more(len(listed), MAX_LISTED), "</details>")


def code_span(text: str) -> str:
    """Return external text as a code span in which it stays text, also in a cell of a table."""
    shown = clean(text).replace("`", "'").replace("|", "\N{BROKEN BAR}")  # an escaped bar ends a cell after a backslash
    return f"`{shown}`" if shown.strip() else ""
