"""`boltseal health`: check whether a registry server responds or is ready."""

from __future__ import annotations

from typing import Annotated

import typer

from boltseal.cli.options import CaFileOption, ConfigOption, JsonOption
from boltseal.cli.output import CommandOutput
from boltseal.commands.health import Health, ask_health, named_server, own_server
from boltseal.commands.outcome import Outcome
from boltseal.commands.text import clean
from boltseal.errors import Invalid


def health(
    url: Annotated[
        str | None,
        typer.Option(
            "--url", metavar="URL", show_default=False, help="The server. Default: this machine's, by its settings."
        ),
    ] = None,
    ready: Annotated[
        bool, typer.Option("--ready", help="Check that it can serve requests, not only that it responds.")
    ] = False,
    config: ConfigOption = None,
    ca_file: CaFileOption = None,
    as_json: JsonOption = False,
) -> None:
    """Check whether a registry server responds, or with --ready whether it can serve requests.

    Exit codes: 0 it does, 1 it is not ready, 3 no answer. Without --url the address and TLS come from the server's settings
    (BOLTSEAL_SERVER__LISTEN, or the configuration file), and the certificate is not verified.
    """
    with CommandOutput("health", as_json=as_json) as output:
        if url is None and ca_file is not None:
            raise Invalid("--ca-file verifies the certificate of --url; give both or neither")
        found = ask_health(own_server(config) if url is None else named_server(url), ready=ready, ca_file=ca_file)
        status = ("ready" if ready else "healthy") if found.healthy else "not ready"
        output.add(ref=found.url, status=status, reason="; ".join(found.reasons), warnings=found.warnings)
        output.print(_line(status, found))
        if not found.healthy:
            output.outcome = Outcome.DIFFERS


def _line(status: str, found: Health) -> str:
    notes = [*found.reasons, *(f"warning: {each}" for each in found.warnings)]
    return clean("; ".join([f"{status}: {found.url}", *notes]))
