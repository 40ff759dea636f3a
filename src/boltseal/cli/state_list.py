"""What the commands share that list the state of a registry to its operators: the option, the JSON results and the table."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, TypeVar

import typer

from boltseal.cli.output import CommandOutput
from boltseal.cli.table import print_table
from boltseal.commands.text import clean

T = TypeVar("T")

OperatorServerOption = Annotated[
    str,
    typer.Option("--server", metavar="HOST", show_default=False, help="The registry; it needs an operator's login."),
]


def print_state(
    output: CommandOutput,
    items: Sequence[T],
    fields: Callable[[T], Mapping[str, Any]],
    columns: Mapping[str, Callable[[T], str]],
    empty: str,
) -> None:
    """Print what a registry reported: a result for each item, and without `--json` a table.

    `fields`: of the result. `columns`: the cell of an item by the name of its column. `empty`: says on stderr that there are no items.
    """
    for each in items:
        output.add(**fields(each))
    if not items:
        output.say(empty)
    elif not output.as_json:
        print_table(tuple(columns), [[clean(cell(each)) for cell in columns.values()] for each in items])
