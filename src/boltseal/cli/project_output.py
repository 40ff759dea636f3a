"""Output that the commands on a project have in common."""

from __future__ import annotations

from typing import Final

from boltseal.cli.output import CommandOutput, say_finding
from boltseal.commands.project_images import OpenedProject
from boltseal.commands.text import clean
from boltseal.errors import MAX_PATH, quote

IGNORED: Final = "ignored"
"""The status of what the project's settings leave out."""
UNUSED_RULE: Final = "unused-rule"
"""The status of a `[[lock.ignore]]` that matches nothing: a notice, also with --strict, because no image is affected."""
MAX_PATHS: Final = 3
"""How many paths the message names when no image reference was found in them."""


class ShownReasons:
    """The reasons that were printed: a registry that fails does so for all of its images, and one sentence is enough."""

    def __init__(self) -> None:
        self._first: dict[str, str] = {}

    def text(self, reason: str, place: str) -> str:
        """Return a reason, or the place for which it was printed already, if that is shorter."""
        first = self._first.setdefault(reason, place)
        again = f"the same reason as {first}"
        return again if first != place and len(again) < len(reason) else reason


def report_empty(output: CommandOutput, opened: OpenedProject) -> str:
    """Report that no image reference was found; return the message."""
    root = opened.root.absolute()
    where = ", ".join(quote(str(root / path), MAX_PATH) for path in opened.paths[:MAX_PATHS]) or quote(
        str(root), MAX_PATH
    )
    more = len(opened.paths) - MAX_PATHS
    where += f" and {more} more" if more > 0 else ""
    return output.nothing_to_check(
        f"found 0 image references in {where}", "check PATH, --project and `exclude` in .boltseal.toml"
    )


def report_unread(output: CommandOutput, opened: OpenedProject) -> None:
    """Report unreadable files, templates that are not evaluated, values that are not understood, and what is ignored."""
    for status, problems in (
        ("unreadable", opened.problems),
        ("template", opened.notes),
        ("not-understood", opened.unknown),
    ):
        for problem in problems:
            output.add(ref="", status=status, reason=problem.message, file=problem.path, line=problem.line)
            say_finding(clean(f"boltseal: {problem}"))
    report_ignored(output, opened)


def report_ignored(output: CommandOutput, opened: OpenedProject, **more: str) -> None:
    """Report what the project's settings ignore, as a notice. `more`: further fields for `--json`."""
    for image_ref, reason in opened.ignored:
        ref = image_ref.written if image_ref.resolved is None else str(image_ref.resolved)
        output.add(ref=ref, status=IGNORED, reason=reason, file=image_ref.path, line=image_ref.line, **more)
        output.say(clean(f"{image_ref.path}:{image_ref.line}: {image_ref.written}: ignored: {reason}"))
    for rule in opened.unused_rules:
        named = " and ".join(
            f"{key} = {quote(text)}" for key, text in (("reference", rule.reference), ("file", rule.file)) if text
        )
        reason = f"[[lock.ignore]] with {named} matches no reference; remove it from .boltseal.toml"
        output.add(ref=rule.reference, status=UNUSED_RULE, reason=reason, file=rule.file, line=0, **more)
        output.say(f"boltseal: {reason}")
    for problem, reason in opened.ignored_problems:
        output.add(ref="", status=IGNORED, reason=reason, file=problem.path, line=problem.line, **more)
        output.say(clean(f"{problem.path}:{problem.line}: ignored: {reason}"))
