"""The one type of options with a duration: `90s`, `15m`, `6h`, `7d`."""

from __future__ import annotations

from typing import Any, Final

import typer

from boltseal.policy.durations import Duration, DurationInvalid

METAVAR: Final = "DURATION"


def duration_option(
    flag: str, help_text: str, *, at_least: str = "0s", at_most: str = "36500d", show_default: bool = False
) -> Any:
    """Declare an option with a duration, for `Annotated[Duration, ...]`."""
    low, high = Duration.parse(at_least), Duration.parse(at_most)

    def parse(value: str | Duration) -> Duration:
        try:
            found = value if isinstance(value, Duration) else Duration.parse(value)
        except DurationInvalid as error:
            raise typer.BadParameter(error.message) from error
        if found < low:
            raise typer.BadParameter(f"{found} is too short; expected at least {low}")
        if found > high:
            raise typer.BadParameter(f"{found} is too long; expected at most {high}")
        return found

    return typer.Option(flag, metavar=METAVAR, parser=parse, show_default=show_default, help=help_text)
