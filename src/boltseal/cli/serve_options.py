"""Options of `boltseal serve`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

ListenOption = Annotated[
    str | None,
    typer.Option("--listen", metavar="HOST:PORT", show_default=False, help="Default: 127.0.0.1:5000."),
]
PublicUrlOption = Annotated[
    str | None,
    typer.Option("--public-url", metavar="URL", show_default=False, help="How clients reach this server."),
]
WorkersOption = Annotated[
    int | None,
    typer.Option("--workers", metavar="NUMBER", show_default=False, help="Worker processes. Default: 1."),
]
AllowAnonymousOption = Annotated[
    bool | None, typer.Option("--allow-anonymous", show_default=False, help="Allow pull and push without a login.")
]
BehindProxyOption = Annotated[
    bool | None,
    typer.Option("--behind-proxy", show_default=False, help="A proxy in front terminates TLS and authenticates."),
]
TlsCertOption = Annotated[
    Path | None,
    typer.Option("--tls-cert", metavar="FILE", show_default=False, help="TLS certificate and its chain, PEM."),
]
TlsKeyOption = Annotated[
    Path | None,
    typer.Option("--tls-key", metavar="FILE", show_default=False, help="Private key of --tls-cert, PEM."),
]
ReadOnlyOption = Annotated[
    bool | None, typer.Option("--read-only", show_default=False, help="Allow pulls only; change nothing.")
]
LogLevelOption = Annotated[
    str | None,
    typer.Option("--log-level", metavar="LEVEL", show_default=False, help="debug, info, warning or error."),
]
