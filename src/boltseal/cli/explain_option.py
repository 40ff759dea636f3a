"""The option `--explain` of `update` and `lock`, and its output."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import typer

from boltseal.cli.explanation_text import ExplainFormat, as_markdown, as_text
from boltseal.cli.output import CommandOutput
from boltseal.commands.explained_changes import Explanation

ExplainOption = Annotated[
    ExplainFormat | None,
    typer.Option(
        "--explain",
        show_default=False,
        help="Explain each change: as text, as Markdown for a pull request, or as JSON.",
    ),
]


def print_explanations(
    output: CommandOutput, explanations: Sequence[Explanation], form: ExplainFormat, now_us: int
) -> None:
    """Print explained changes on stdout; as JSON they are in the results of the command."""
    if form is ExplainFormat.JSON:
        return
    lines = as_text(explanations, now_us) if form is ExplainFormat.TEXT else as_markdown(explanations, now_us)
    for line in lines or ["No image changes."]:
        output.print(line)
