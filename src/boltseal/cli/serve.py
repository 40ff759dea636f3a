"""`boltseal serve`: run the registry server."""

from __future__ import annotations

import shlex
import shutil
import sys
from functools import partial
from pathlib import Path

from boltseal import __version__
from boltseal.cli.options import ConfigOption, DataOption
from boltseal.cli.output import say
from boltseal.cli.serve_options import (
    AllowAnonymousOption,
    BehindProxyOption,
    ListenOption,
    LogLevelOption,
    PublicUrlOption,
    ReadOnlyOption,
    TlsCertOption,
    TlsKeyOption,
    WorkersOption,
)
from boltseal.cli.server_options import settings_of
from boltseal.errors import Invalid
from boltseal.server import logs, supervisor
from boltseal.server.commands.users import list_users
from boltseal.server.settings import Settings, exposure_refusal
from boltseal.server.single_server import only_server
from boltseal.server.storage.certificate import check_certificate
from boltseal.server.store_factory import prepare


def serve(
    config: ConfigOption = None,
    data: DataOption = None,
    listen: ListenOption = None,
    public_url: PublicUrlOption = None,
    workers: WorkersOption = None,
    allow_anonymous: AllowAnonymousOption = None,
    behind_proxy: BehindProxyOption = None,
    tls_cert: TlsCertOption = None,
    tls_key: TlsKeyOption = None,
    read_only: ReadOnlyOption = None,
    log_level: LogLevelOption = None,
) -> None:
    """Run the registry server until SIGTERM or Ctrl-C. SIGHUP reloads its configuration.

    Flags override the environment (BOLTSEAL_SERVER__LISTEN), which overrides the configuration file. The server refuses
    to start with unsafe or unusable settings, and prints the reason in one line.
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
    users = list_users(settings)
    refused = exposure_refusal(settings.server, authenticated=bool(users) or settings.auth.configured)
    if refused is not None:
        raise Invalid(refused)
    check_certificate(settings.server.tls_cert, settings.server.tls_key)
    supervisor.refuse_taken_port(settings.server.address)
    as_json = logs.wants_json(settings.server.log_format)
    logs.configure(settings.server.log_level, as_json=as_json)
    with only_server(settings.server.data):
        if settings.storage.in_objects:
            supervisor.in_own_process(lambda: prepare(settings))
        else:
            prepare(settings)
        supervisor.serve(
            settings,
            read,
            as_json=as_json,
            listening=lambda: _greet(
                settings,
                login=bool(users) or settings.auth.configured,
                config=_option("--config", config),
                data=_option("--data", data),
            ),
        )


def _greet(settings: Settings, *, login: bool, config: str, data: str) -> None:
    """Print how to use the server. `login`: anonymous clients may not push. `config`, `data`: options of this command."""
    server = settings.server
    host = _reference_host(settings)
    scheme = "https" if server.tls_cert else "http"
    url = server.public_url or f"{scheme}://{host}"
    name = f"{host}/shop/app:1.4.2"
    say(f"boltseal {__version__} listens on {scheme}://{server.address}, {places(settings)}")
    if login:
        say(f"  user   {_program()} admin user add NAME{config}{data}")
        say(f"  login  docker login {host}")
    say(f"  push   docker tag IMAGE {name}")
    say(f"         docker push {name}")
    say(f"  pull   docker pull {name}")
    user = "-u USER " if login else ""
    say(f"  see    curl {user}-sI {url}/v2/shop/app/manifests/1.4.2")
    say("         # what a tag resolves to: its docker-content-digest")
    say(f"         {_program()} admin rules test shop/app 1.4.2{config}")
    say("         # whether a tag is sealed, and by which rule")
    if host.startswith(("localhost:", "127.")) and server.tls_cert is None:
        say("  TLS    docker needs none on localhost; podman, buildah: --tls-verify=false;")
        say("         skopeo copy: --dest-tls-verify=false; oras: --plain-http")
    say("  stop   Ctrl-C")


def places(settings: Settings) -> str:
    """Return where the server keeps what it stores."""
    storage, data = settings.storage, settings.server.data.absolute()
    if storage.database is None and storage.blobs is None:
        return f"its data is in {data}"
    return (
        f"its metadata is in {storage.database or data}, its blobs are in {storage.blobs or data}, its keys in "
        f"{settings.keys.absolute()}"
    )


def _option(name: str, path: Path | None) -> str:
    """Return an option as other commands need it to find the same server's files; empty where it was not given."""
    return "" if path is None else f" {name} {shlex.quote(str(path))}"


def _program() -> str:
    """Return the words that start this program: a path where it was started by one that is not on PATH."""
    started = Path(sys.argv[0])
    if started.name != "boltseal":
        return f"{Path(sys.executable).name} -m boltseal"
    installed = shutil.which("boltseal")
    return "boltseal" if installed is not None and Path(installed).samefile(started) else str(started)


def _reference_host(settings: Settings) -> str:
    """Return host and port as in references to images here."""
    if settings.server.public_url is not None:
        return settings.server.public_url.partition("://")[2]
    address = settings.server.address
    if address.any_interface or address.host in ("127.0.0.1", "::1"):
        return f"localhost:{address.port}"
    return str(address)
