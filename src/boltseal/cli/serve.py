"""`boltseal serve`: the registry. Refuses to start where it would be unsafe or could not do its work, in one line."""

from __future__ import annotations

import shutil
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from boltseal import __version__
from boltseal.cli.answer import say
from boltseal.cli.options import ConfigOption, DataOption, settings_of
from boltseal.errors import Invalid

if TYPE_CHECKING:
    from boltseal.server.settings import Settings


class ListenRefused(Invalid):
    """The address can be reached by others, and nobody said that this is meant."""


def serve(
    config: ConfigOption = None,
    data: DataOption = None,
    listen: Annotated[
        str | None,
        typer.Option("--listen", metavar="HOST:PORT", show_default=False, help="Default: 127.0.0.1:5000."),
    ] = None,
    public_url: Annotated[
        str | None,
        typer.Option("--public-url", metavar="URL", show_default=False, help="How clients reach this server."),
    ] = None,
    workers: Annotated[
        int | None, typer.Option("--workers", metavar="N", show_default=False, help="Processes. Default: 1.")
    ] = None,
    allow_anonymous: Annotated[
        bool | None, typer.Option("--allow-anonymous", show_default=False, help="Anybody may pull and push.")
    ] = None,
    behind_proxy: Annotated[
        bool | None,
        typer.Option("--behind-proxy", show_default=False, help="A proxy in front does TLS and lets people in."),
    ] = None,
    tls_cert: Annotated[
        Path | None,
        typer.Option("--tls-cert", metavar="FILE", show_default=False, help="Certificate and its chain, PEM."),
    ] = None,
    tls_key: Annotated[
        Path | None, typer.Option("--tls-key", metavar="FILE", show_default=False, help="Its private key, PEM.")
    ] = None,
    read_only: Annotated[
        bool | None, typer.Option("--read-only", show_default=False, help="Pulls only; nothing is changed.")
    ] = None,
    log_level: Annotated[
        str | None,
        typer.Option("--log-level", metavar="LEVEL", show_default=False, help="debug, info, warning or error."),
    ] = None,
) -> None:
    """Serve the registry until SIGTERM or Ctrl-C. SIGHUP makes it read its configuration again.

    Flags win over the environment (BOLTSEAL_SERVER__LISTEN), that over the configuration file.
    """
    read = partial(
        settings_of,
        config,
        data=data,
        listen=listen,
        public_url=public_url,
        workers=workers,
        allow_anonymous=allow_anonymous,
        behind_proxy=behind_proxy,
        tls_cert=tls_cert,
        tls_key=tls_key,
        read_only=read_only,
        log_level=log_level,
    )
    settings = read()

    from boltseal.server import logs, supervisor
    from boltseal.server.settings import exposure_refusal
    from boltseal.server.storage.certificate import check_certificate
    from boltseal.server.storage.users import UserFile

    users = UserFile(settings.htpasswd).current().hashes
    refused = exposure_refusal(settings.server, authenticated=bool(users) or settings.auth.configured)
    if refused is not None:
        raise ListenRefused(refused)
    check_certificate(settings.server.tls_cert, settings.server.tls_key)
    supervisor.refuse_taken_port(settings.server.address)
    as_json = logs.wants_json(settings.server.log_format)
    logs.configure(settings.server.log_level, as_json=as_json)

    from boltseal.server.store_factory import prepare

    prepare(settings)
    supervisor.serve(settings, read, as_json=as_json, listening=lambda: _greet(settings))


def _greet(settings: Settings) -> None:
    """What a person needs next."""
    server = settings.server
    where = _reached_by(settings)
    scheme = "https" if server.tls_cert else "http"
    url = server.public_url or f"{scheme}://{where}"
    name = f"{where}/shop/app:1.4.2"
    say(f"boltseal {__version__} listens on {scheme}://{server.address}, its data is in {server.data.absolute()}")
    say(f"  push   docker tag IMAGE {name}")
    say(f"         docker push {name}")
    say(f"  pull   docker pull {name}")
    say(f"  see    curl -sI {url}/v2/shop/app/manifests/1.4.2")
    say("         what a tag means: its docker-content-digest")
    say(f"         {_program()} rules test shop/app 1.4.2")
    say("         whether a tag is sealed, and by which rule")
    if where.startswith(("localhost:", "127.")) and server.tls_cert is None:
        say("  TLS    docker needs none on localhost; podman, buildah and skopeo want")
        say("         --tls-verify=false, oras wants --plain-http")
    say("  stop   Ctrl-C")


def _program() -> str:
    """What a person types to get this program: its path where it was started by one that is not on PATH."""
    started = Path(sys.argv[0])
    if started.name != "boltseal":
        return f"{Path(sys.executable).name} -m boltseal"
    found = shutil.which("boltseal")
    return "boltseal" if found is not None and Path(found).samefile(started) else str(started)


def _reached_by(settings: Settings) -> str:
    """Host and port as they stand in a reference to an image here."""
    if settings.server.public_url is not None:
        return settings.server.public_url.partition("://")[2]
    address = settings.server.address
    if address.any_interface or address.host in ("127.0.0.1", "::1"):
        return f"localhost:{address.port}"
    return str(address)
