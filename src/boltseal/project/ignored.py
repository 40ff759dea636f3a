"""Image references that a project leaves out, each with a reason: `[[lock.ignore]]` of `.boltseal.toml`. Pure.

An ignored reference is not resolved, locked, pinned or verified, but every command reports it. `exclude` skips whole files
without a report.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from fnmatch import fnmatchcase
from typing import Any, Final, NamedTuple

from boltseal.errors import Invalid, quote
from boltseal.oci.reference import Reference
from boltseal.project.image_references import ImageReference, ScanProblem

_KEYS: Final = ("reference", "file", "reason")


class IgnoreRule(NamedTuple):
    """What to ignore: globs of a reference and of a file, "" for any; `*` also matches `/`. `reason`: for the report."""

    reference: str
    file: str
    reason: str

    def matches(self, image_ref: ImageReference) -> bool:
        """Return whether it ignores a reference: as written, or complete, or as Docker shortens it; without its digest."""
        return self.matches_file(image_ref.path) and (
            not self.reference or any(fnmatchcase(name, self.reference) for name in _names(image_ref))
        )

    def matches_problem(self, problem: ScanProblem) -> bool:
        """Return whether it ignores what could not be read or understood: by its file, or also by the value there."""
        return self.matches_file(problem.path) and (
            not self.reference or any(fnmatchcase(name, self.reference) for name in _value_names(problem.value))
        )

    def matches_file(self, path: str) -> bool:
        """Return whether its file is this one, or a folder above it."""
        glob = self.file.rstrip("/")
        return not glob or fnmatchcase(path, glob) or fnmatchcase(path, f"{glob}/*")


class IgnoredReference(NamedTuple):
    """A reference that is left out, and why."""

    image_ref: ImageReference
    reason: str


def parse_ignore(tables: Sequence[Any]) -> tuple[IgnoreRule, ...]:
    """Parse the `[[lock.ignore]]` tables. Raises: Invalid."""
    rules = []
    for number, table in enumerate(tables, 1):
        where = f"[[lock.ignore]] {number}"
        if not isinstance(table, dict):
            raise Invalid(f"{where} is {quote(str(table))}; expected a table")
        unknown = set(table) - set(_KEYS)
        if unknown:
            raise Invalid(f"{where}: unknown key {quote(min(unknown))}; known keys: {', '.join(_KEYS)}")
        for key, value in table.items():
            if not isinstance(value, str) or not value.strip():
                raise Invalid(f"{where}: {key} is {quote(str(value))}; expected a text")
        if "reason" not in table:
            raise Invalid(f"{where} has no reason; expected why the reference is left out")
        if len(table) == 1:
            raise Invalid(f"{where} has neither a reference nor a file; expected one of them, or both")
        rules.append(IgnoreRule(table.get("reference", ""), table.get("file", ""), table["reason"]))
    return tuple(rules)


def ignored_by(image_ref: ImageReference, rules: Sequence[IgnoreRule]) -> str | None:
    """Return the reason for which a reference is left out, or None."""
    return next((rule.reason for rule in rules if rule.matches(image_ref)), None)


def problem_ignored_by(problem: ScanProblem, rules: Sequence[IgnoreRule]) -> str | None:
    """Return the reason for which a problem is left out, or None. A rule with a reference leaves out only such a value."""
    return next((rule.reason for rule in rules if rule.matches_problem(problem)), None)


def _names(image_ref: ImageReference) -> Iterator[str]:
    yield image_ref.written
    if image_ref.unpinned is not None:
        tagged = image_ref.unpinned.complete
        yield from (str(tagged), tagged.familiar())


def _value_names(value: str) -> Iterator[str]:
    if not value:
        return
    yield value
    with suppress(Invalid):
        tagged = replace(Reference.parse(value), digest=None).complete
        yield from (str(tagged), tagged.familiar())
