"""`boltseal health`: which server it asks, and which answers count as healthy."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from starlette.requests import Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response

from boltseal.commands.health import (
    DEFAULT_LISTEN,
    TIMEOUT_S,
    Health,
    HealthTarget,
    ask_health,
    named_server,
    own_server,
)
from boltseal.config import ConfigInvalid
from boltseal.errors import Invalid, Unavailable
from boltseal.server.configuration import load
from boltseal.server.settings import ServerSettings
from tests import servers
from tests.authority import authority
from tests.cli import program
from tests.fakes.listening import answering, listening
from tests.ports import free_port
from tests.servers import Server
from tests.serving import Clock, serving

NOW_US = 1_800_000_000_000_000


@pytest.fixture(autouse=True)
def _no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("BOLTSEAL_CONFIG", "BOLTSEAL_SERVER__LISTEN", "BOLTSEAL_SERVER__TLS_CERT"):
        monkeypatch.delenv(name, raising=False)


async def answer_of(answer: Callable[[Request], Awaitable[Response]], *, ready: bool = False) -> Health:
    """Return the health result for a server that runs this function."""
    with socket.create_server(("127.0.0.1", 0)) as bound:
        url = f"http://127.0.0.1:{bound.getsockname()[1]}"
        async with listening(answering(answer), bound):
            return await asyncio.to_thread(ask_health, named_server(url), ready=ready)


@pytest.mark.parametrize(
    ("file", "variables", "url"),
    [
        ("", {}, f"http://{DEFAULT_LISTEN}"),
        ("[ledger]\n", {}, f"http://{DEFAULT_LISTEN}"),
        ('[server]\nlisten = "127.0.0.1:5001"\n', {}, "http://127.0.0.1:5001"),
        ('[server]\nlisten = "127.0.0.1:5001"\n', {"BOLTSEAL_SERVER__LISTEN": "0.0.0.0:80"}, "http://127.0.0.1:80"),
        ("", {"boltseal_server__listen": "[::]:80"}, "http://[::1]:80"),
        ("", {"BOLTSEAL_SERVER__LISTEN": "[::1]:80"}, "http://[::1]:80"),
        ("", {"BOLTSEAL_SERVER__LISTEN": "192.0.2.1:80"}, "http://192.0.2.1:80"),
        ('[server]\ntls_cert = "a"\ntls_key = "b"\n', {}, f"https://{DEFAULT_LISTEN}"),
        ("", {"BOLTSEAL_SERVER__TLS_CERT": "a", "BOLTSEAL_SERVER__TLS_KEY": "b"}, f"https://{DEFAULT_LISTEN}"),
    ],
)
def test_the_address_is_the_one_on_which_the_server_listens(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: str, variables: dict[str, str], url: str
) -> None:
    """`health` derives address, port and TLS from file and environment exactly as the server does."""
    config = tmp_path / "boltseal.toml"
    config.write_text(file, encoding="utf-8")
    monkeypatch.setenv("BOLTSEAL_CONFIG", str(config))
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    server = load().server
    found = own_server(None)

    assert found == HealthTarget(url, verify=False)
    assert found.url.rpartition(":")[2] == str(server.address.port)
    assert found.url.startswith("https:") == (server.tls_cert is not None)
    assert server.address.any_interface or str(server.address) in found.url


def test_the_default_address_is_the_servers(tmp_path: Path) -> None:
    """Without file and variables, `health` and the server use the same address."""
    assert ServerSettings.model_fields["listen"].default == DEFAULT_LISTEN
    assert own_server(None, default_file=tmp_path / "none") == HealthTarget(f"http://{DEFAULT_LISTEN}", verify=False)


@pytest.mark.parametrize("text", [None, "[server", "\xff"])
def test_an_unreadable_file_is_an_error(tmp_path: Path, text: str | None) -> None:
    """An unreadable settings file is an error, because the default address could be another server."""
    config = tmp_path / "boltseal.toml"
    if text is not None:
        config.write_bytes(text.encode("latin-1"))

    with pytest.raises(ConfigInvalid, match=r"boltseal\.toml"):
        own_server(config)


@pytest.mark.parametrize("url", ["localhost:5000", "http://", "ftp://h", "http://h/v2", "http://h:0", "http://u@h", ""])
def test_an_invalid_server_url_is_an_error(url: str) -> None:
    """The URL needs scheme and host, and may have nothing else but a port."""
    with pytest.raises(Invalid, match="expected scheme, host and port"):
        named_server(url)


async def test_a_server_that_is_not_ready_gives_its_reasons(tmp_path: Path) -> None:
    """A server whose clock is behind its ledger is healthy but not ready, with the reason."""
    clock = Clock(NOW_US)
    with socket.create_server(("127.0.0.1", 0)) as bound:
        url = f"http://127.0.0.1:{bound.getsockname()[1]}"
        async with serving(tmp_path / "data", clock=clock) as registry, listening(registry.app, bound):
            before = await asyncio.to_thread(ask_health, named_server(url), ready=True)
            clock.advance(hours=-1)
            health = await asyncio.to_thread(ask_health, named_server(url), ready=False)
            ready = await asyncio.to_thread(program.run, "health", "--ready", "--url", url)
            as_json = await asyncio.to_thread(program.run, "health", "--ready", "--url", url, "--json")

    assert (before.healthy, health.healthy) == (True, True)
    assert (ready.code, ready.err) == (1, "")
    assert ready.out.startswith(f"not ready: {url}/readyz; the clock ")
    assert ready.out.count("\n") == 1
    assert as_json.json["outcome"] == "differs"
    assert as_json.json["results"][0]["status"] == "not ready"


@pytest.mark.parametrize("ready", [False, True])
@pytest.mark.parametrize("body", ["ok", "<html>ok</html>", "", "{}", "[]", '{"ready": "true"}', '{"ready": false}'])
async def test_the_answer_of_another_server_is_not_healthy(body: str, ready: bool) -> None:
    """Status 200 from another kind of server is not healthy."""

    async def page(_: Request) -> Response:
        return PlainTextResponse(body)

    with pytest.raises(Unavailable, match="the answer 200 is not one of a boltseal server"):
        await answer_of(page, ready=ready)


def test_a_password_in_the_url_is_not_printed() -> None:
    """A password in a wrong URL is not printed, since logs may be read by others."""
    done = program.run("health", "--url", "http://ci:sesame@registry.example.com")

    assert done.code == 2
    assert "sesame" not in done.out + done.err


async def test_an_answer_nested_too_deeply_is_not_one_of_a_registry() -> None:
    """JSON nested too deeply, for which Python raises RecursionError, is not a registry's answer."""

    async def page(_: Request) -> Response:
        return PlainTextResponse("[" * 60_000)

    with pytest.raises(Unavailable, match="the answer 200 is not one of a boltseal server"):
        await answer_of(page, ready=True)


@pytest.mark.parametrize("form", [(), ("--json",)])
async def test_reasons_of_a_false_registry_are_printed_safely(form: tuple[str, ...]) -> None:
    """Control characters and lone surrogates in a server's reasons are escaped."""

    async def page(_: Request) -> Response:
        return PlainTextResponse('{"ready": false, "reasons": ["\\ud800 \\u001b[31m", 1, null]}', status_code=503)

    with socket.create_server(("127.0.0.1", 0)) as bound:
        url = f"http://127.0.0.1:{bound.getsockname()[1]}"
        async with listening(answering(page), bound):
            done = await asyncio.to_thread(program.run, "health", "--ready", "--url", url, *form)

    assert (done.code, done.err) == (1, "")
    assert "\x1b" not in done.out


async def test_a_redirect_is_not_followed() -> None:
    """A redirect is not followed, because another server must not answer for this one."""

    async def elsewhere(request: Request) -> Response:
        return PlainTextResponse("ok\n") if request.url.path == "/ok" else RedirectResponse("/ok")

    with pytest.raises(Unavailable, match="the answer 307 is not one of a boltseal server"):
        await answer_of(elsewhere)


@pytest.mark.slow
def test_an_answer_that_never_ends_is_cut_off() -> None:
    """A server that sends one byte per second ends the check at the time limit: exit code 3."""
    stop = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as bound:

        def drip() -> None:
            connection = bound.accept()[0]
            with connection:
                connection.sendall(b"HTTP/1.1 200 OK\r\nX: ")
                while not stop.wait(1.0):
                    connection.sendall(b"a")

        server = threading.Thread(target=drip)
        server.start()
        begun = time.monotonic()
        try:
            done = program.run("health", "--url", f"http://127.0.0.1:{bound.getsockname()[1]}")
        finally:
            stop.set()
            server.join()

    assert (done.code, done.out) == (3, "")
    assert done.err.endswith("no answer within 5 s\n")
    assert time.monotonic() - begun < TIMEOUT_S + 10


@pytest.mark.slow
def test_a_running_server_is_healthy_and_ready(server: Server) -> None:
    """A running server is one line with the URL, exit code 0; a stopped one is one line with the cause, exit code 3."""
    own = {"BOLTSEAL_SERVER__LISTEN": server.address}
    healthy = program.run("health", environment=own)
    ready = program.run("health", "--ready", "--url", server.url)
    gone = program.run("health", "--url", f"http://127.0.0.1:{free_port()}")

    assert (healthy.code, healthy.out, healthy.err) == (0, f"healthy: {server.url}/healthz\n", "")
    assert (ready.code, ready.out, ready.err) == (0, f"ready: {server.url}/readyz\n", "")
    assert (gone.code, gone.out, gone.err.count("\n")) == (3, "", 1)
    assert "connection refused" in gone.err


@pytest.mark.slow
def test_a_named_server_with_tls_is_verified_and_this_machines_is_not(tmp_path: Path) -> None:
    """A named server's certificate is verified; this machine's is not, because it has the public name."""
    signed = authority(tmp_path)
    tls = {"BOLTSEAL_SERVER__TLS_CERT": str(signed.cert), "BOLTSEAL_SERVER__TLS_KEY": str(signed.key)}
    with servers.boltseal(tmp_path / "data", settings=tls) as server:
        url = f"https://{server.address}"
        own = program.run("health", environment=tls | {"BOLTSEAL_SERVER__LISTEN": server.address})
        known = program.run("health", "--url", url, "--ca-file", signed.ca)
        unknown = program.run("health", "--url", url)
        other_name = program.run("health", "--url", url.replace("127.0.0.1", "127.0.0.2"), "--ca-file", signed.ca)
        plain = program.run("health", "--url", f"http://{server.address}")
    key = program.run("health", "--url", url, "--ca-file", signed.key)
    missing = program.run("health", "--url", url, "--ca-file", tmp_path / "none")

    assert (own.code, known.code) == (0, 0)
    assert (unknown.code, other_name.code, plain.code) == (3, 3, 3)
    assert "its certificate is not valid: unable to get local issuer certificate; pass --ca-file" in unknown.err
    assert (key.code, missing.code) == (2, 2)
    assert "not a certificate in PEM" in key.err
    assert "no such file or folder" in missing.err


def test_an_authority_without_a_url_is_an_error(tmp_path: Path) -> None:
    """--ca-file without a URL is an error, because this machine's certificate is not verified."""
    (tmp_path / "ca.pem").touch()
    done = program.call("health", "--ca-file", tmp_path / "ca.pem")

    assert done.code == 2
    assert "--ca-file verifies the certificate of --url" in done.err
