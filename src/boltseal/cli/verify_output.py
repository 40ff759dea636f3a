"""Output of `boltseal verify`: findings as text, as annotations of GitHub Actions, and for `--json`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from boltseal.cli.output import CommandOutput, print_finding, print_line, say
from boltseal.cli.project_output import ShownReasons, report_ignored
from boltseal.commands.outcome import Outcome
from boltseal.commands.text import clean, counted
from boltseal.commands.verify import VerifyReport
from boltseal.lockfile.compare import Weight
from boltseal.lockfile.document import LOCK_NAME
from boltseal.lockfile.format import time_text
from boltseal.project.image_references import ScanProblem
from boltseal.project.tag_moves import TagMove
from boltseal.project.verify import VerifyResult, VerifyStatus


def print_verified(output: CommandOutput, report: VerifyReport, *, github: bool) -> None:
    """Print what does not hold. `github`: as annotations of GitHub Actions."""
    output.outcome = report.outcome
    if output.as_json:
        for result in report.results:
            output.add(**_fields(result))
    else:
        _print_results(report.results, github=github)
    for problem in report.opened.problems:
        _print_problem(output, problem, "unreadable", Weight.UNKNOWN, github=github)
    for note in report.opened.notes:
        _print_problem(output, note, "template", report.note_weight, github=github)
    for each in report.opened.unknown:
        _print_problem(output, each, "not-understood", report.note_weight, github=github)
    report_ignored(output, report.opened, weight=Weight.HOLDS)
    numbers = [f"{number} {status}" for status, number in sorted(Counter(one.status for one in report.results).items())]
    numbers += [
        f"{len(each)} {word}"
        for each, word in (
            (report.opened.problems, "unreadable"),
            (report.opened.notes, "template"),
            (report.opened.unknown, "not understood"),
            ((*report.opened.ignored, *report.opened.ignored_problems), "ignored"),
        )
        if each
    ]
    if report.results or numbers:
        noted = report.outcome is Outcome.HOLDS and any(one.weight is Weight.NOTE for one in report.results)
        end = "; only notes, nothing differs" if noted else ""
        say(f"{counted(len(report.results), 'reference')}{': ' if numbers else ''}{', '.join(numbers)}{end}")
    if report.note_weight is Weight.DIFFERS and any(one.status is VerifyStatus.NOT_PINNED for one in report.results):
        say(f"--strict needs each digest in its file: `boltseal pin --write` writes those of {LOCK_NAME}")


def _print_results(results: Sequence[VerifyResult], *, github: bool) -> None:
    shown = ShownReasons()
    for result in results:
        image_ref = result.image_ref
        if github and result.reason:
            print_line(_annotation(result))
        elif result.reason and result.weight != "holds":
            place = f"{image_ref.path}:{image_ref.line}"
            reason = shown.text(result.reason, place) if result.weight is Weight.UNKNOWN else result.reason
            print_finding(clean(f"{place}: {image_ref.written}: {result.status}: {reason}"))


def _fields(result: VerifyResult) -> dict[str, Any]:
    image_ref = result.image_ref
    return {
        "ref": image_ref.written if image_ref.resolved is None else str(image_ref.resolved),
        "status": result.status,
        "reason": result.reason,
        "weight": result.weight,
        "file": image_ref.path,
        "line": image_ref.line,
        "at": image_ref.where,
        "written": image_ref.written,
        "expected": None if result.expected is None else str(result.expected),
        "resolves_to": None if result.actual is None else str(result.actual),
        "locked_at": None if result.image is None else time_text(result.image.first_seen_us),
        "platforms": None if result.change is None else asdict(result.change),
        **_move_fields(result.move),
    }


def _move_fields(move: TagMove | None) -> dict[str, Any]:
    if move is None:
        return dict.fromkeys(("sealed", "sealed_by", "moved_at", "left_at", "moved_by", "entry"))
    return {
        "sealed": move.sealed,
        "sealed_by": move.source,
        "moved_at": None if move.moved_us is None else time_text(move.moved_us),
        "left_at": None if move.left_us is None else time_text(move.left_us),
        "moved_by": move.by or None,
        "entry": move.entry,
    }


def _print_problem(output: CommandOutput, problem: ScanProblem, status: str, weight: Weight, *, github: bool) -> None:
    output.add(ref="", status=status, reason=problem.message, weight=weight, file=problem.path, line=problem.line)
    if output.as_json:
        return
    level = "warning" if weight == "note" else "error"
    if github:
        print_line(_workflow_command(level, problem.path, problem.line, problem.message))
    else:
        print_finding(clean(str(problem)))


def _annotation(result: VerifyResult) -> str:
    level = {Weight.HOLDS: "notice", Weight.NOTE: "warning"}.get(result.weight, "error")
    image_ref = result.image_ref
    return _workflow_command(
        level, image_ref.path, image_ref.line, f"{image_ref.written}: {result.status}: {result.reason}"
    )


def _workflow_command(level: str, path: str, line: int, message: str) -> str:
    """Return an annotation as a workflow command of GitHub Actions, which shows it beside the line."""
    properties = f"file={_property(path)}" + (f",line={line}" if line else "")
    return f"::{level} {properties}::{escape_message(message)}"


def escape_message(text: str) -> str:
    """Escape the message of a workflow command, and control characters for the terminal."""
    text = text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)


def _property(text: str) -> str:
    return escape_message(text).replace(":", "%3A").replace(",", "%2C")
