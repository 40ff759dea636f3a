"""The client context that use cases get from this process."""

from __future__ import annotations

from boltseal.cli.clock import clock_us
from boltseal.cli.output import say, talk, trace
from boltseal.commands.client_context import ClientContext
from boltseal.commands.text import clean
from boltseal.config import client_paths, engines_folder, state_folder


def client_context() -> ClientContext:
    """Return this process's user files and clock; notices go to stderr, and with -v a line for each request."""
    return ClientContext(
        client_paths(),
        state_folder(),
        clock_us,
        _notice,
        trace if talk().verbose else None,
        talk().proofs.append,
        engines_folder(),
    )


def _notice(line: str) -> None:
    """Print a notice. It may have text of a registry, an engine or a project: control characters are escaped."""
    say(clean(line))
