"""Ask a registry server whether it responds (`/healthz`) or can serve requests (`/readyz`): one GET.

Rules kept:

- Without a URL the server is the one of this machine: its address and whether it uses TLS come from the settings that the
  server reads (file, then environment), but only these two, so that the client needs no library of the server. Its
  certificate is not verified, since it names the public host and not the loopback address; the request has no secret.
- With a URL the certificate is verified, by `ca_file` as well if given.
- Only the answer of a boltseal server counts: another server's 200 is "could not check".
- `TIMEOUT_S` limits the whole request, name resolution and slow answers included. No proxy is used, no redirect followed.

A container engine runs this several times a minute, so it uses the standard library: loading httpx2 takes longer.
"""

from __future__ import annotations

import http.client
import json
import socket
import ssl
import threading
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from boltseal.config import SERVER_CONFIG_FILE, ConfigInvalid, environment
from boltseal.errors import Invalid, Unavailable, quote

TIMEOUT_S: Final = 5.0
MAX_BODY_BYTES: Final = 64 * 1024
DEFAULT_LISTEN: Final = "127.0.0.1:5000"
"""The default of `[server] listen`; tests/commands/test_health.py compares it with the server's settings."""

_LOOPBACK: Final = {"0.0.0.0": "127.0.0.1", "[::]": "[::1]"}  # noqa: S104 - the keys are addresses to replace, nothing listens here


@dataclass(frozen=True, slots=True)
class HealthTarget:
    """A server to ask. `url`: scheme, host and port. `verify`: check the certificate of an https server."""

    url: str
    verify: bool = True


@dataclass(frozen=True, slots=True)
class Health:
    """The answer of a server. `reasons`: why it is not ready; `warnings`: what an operator should look at."""

    url: str
    healthy: bool
    reasons: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


def own_server(config: Path | None, *, default_file: Path = SERVER_CONFIG_FILE) -> HealthTarget:
    """Return the server of this machine, by the settings that `boltseal serve` reads. Raises: ConfigInvalid."""
    variables = {name.upper(): value for name, value in environment().items()}
    named = config or (Path(variables["BOLTSEAL_CONFIG"]) if variables.get("BOLTSEAL_CONFIG") else None)
    file = named or default_file
    settings = _server_table(file) if named is not None or file.exists() else {}
    listen = variables.get("BOLTSEAL_SERVER__LISTEN", settings.get("listen", DEFAULT_LISTEN))
    certificate = variables.get("BOLTSEAL_SERVER__TLS_CERT", settings.get("tls_cert"))
    host, _, port = str(listen).rpartition(":")
    scheme = "http" if certificate is None else "https"
    return HealthTarget(_checked(f"{scheme}://{_LOOPBACK.get(host, host)}:{port}", "[server] listen"), verify=False)


def named_server(url: str) -> HealthTarget:
    """Return the server at a URL. Raises: Invalid: it is not a URL of a server."""
    return HealthTarget(_checked(url, "--url"))


def ask_health(target: HealthTarget, *, ready: bool, ca_file: Path | None = None) -> Health:
    """Ask a server for its health, or with `ready` whether it can serve.

    Raises:
        Invalid: `ca_file` is not readable or no certificate.
        Unavailable: no answer within TIMEOUT_S, or not the answer of a boltseal server.
    """
    url = target.url + ("/readyz" if ready else "/healthz")
    context = _tls(target, ca_file)
    answers: list[tuple[int, bytes] | Exception] = []

    def ask() -> None:
        try:
            answers.append(_get(url, context))
        except (OSError, http.client.HTTPException, UnicodeError) as error:
            answers.append(error)

    # the thread bounds the whole request; a timeout of the socket bounds only each of its reads
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(TIMEOUT_S)
    answer = answers[0] if answers else TimeoutError()
    if isinstance(answer, Exception):
        raise Unavailable(f"could not check {url}: {_cause(answer)}") from answer
    return _health(url, *answer, ready=ready)


def _server_table(file: Path) -> dict[str, Any]:
    try:
        table = tomllib.loads(file.read_text(encoding="utf-8")).get("server", {})
    except OSError as error:
        raise ConfigInvalid(f"cannot read the configuration {file}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:  # neither UTF-8 nor TOML, or nested too deeply
        raise ConfigInvalid(f"{file}: not TOML: {error}") from error
    return table if isinstance(table, dict) else {}


def _checked(url: str, origin: str) -> str:
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and parts.hostname and (parts.port is None or parts.port > 0)
    except ValueError:
        usable = False
    if "@" in url:
        raise Invalid(
            f"{origin}: a URL with a user name (not shown) is not the URL of a server; expected scheme, host and port, such as "
            "http://127.0.0.1:5000"
        )
    if not usable or parts.path.strip("/") or parts.query or parts.fragment:
        raise Invalid(
            f"{origin}: {quote(url)} is not the URL of a server; expected scheme, host and port, such as "
            "http://127.0.0.1:5000"
        )
    return f"{parts.scheme}://{parts.netloc}"


def _tls(target: HealthTarget, ca_file: Path | None) -> ssl.SSLContext | None:
    if not target.url.startswith("https:"):
        return None
    context = ssl.create_default_context()
    if not target.verify:
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    elif ca_file is not None:
        try:
            context.load_verify_locations(ca_file)
        except OSError as error:  # ssl.SSLError is one
            cause = "not a certificate in PEM" if isinstance(error, ssl.SSLError) else error.strerror
            raise Invalid(f"--ca-file {ca_file}: {cause}") from error
    return context


def _get(url: str, tls: ssl.SSLContext | None) -> tuple[int, bytes]:
    parts = urlsplit(url)
    host = parts.hostname or ""
    connection = (
        http.client.HTTPConnection(host, parts.port, timeout=TIMEOUT_S)
        if tls is None
        else http.client.HTTPSConnection(host, parts.port, timeout=TIMEOUT_S, context=tls)
    )
    try:
        connection.request("GET", parts.path, headers={"User-Agent": "boltseal-health"})
        response = connection.getresponse()
        return response.status, response.read(MAX_BODY_BYTES)
    finally:
        connection.close()


def _health(url: str, status: int, body: bytes, *, ready: bool) -> Health:
    other = Unavailable(f"could not check {url}: the answer {status} is not one of a boltseal server; check the URL")
    if not ready:
        if (status, body) != (200, b"ok\n"):
            raise other
        return Health(url, healthy=True)
    try:
        answer = json.loads(body)
    except (ValueError, RecursionError):
        raise other from None
    if not isinstance(answer, dict) or (status, answer.get("ready")) not in ((200, True), (503, False)):
        raise other
    return Health(url, answer["ready"], _texts(answer.get("reasons")), _texts(answer.get("warnings")))


def _texts(value: object) -> tuple[str, ...]:
    return tuple(each for each in value if isinstance(each, str)) if isinstance(value, list) else ()


def _cause(error: Exception) -> str:
    match error:
        case TimeoutError():
            return f"no answer within {TIMEOUT_S:g} s"
        case ConnectionRefusedError():
            return "connection refused; start the server, or pass its address with --url"
        case ssl.SSLCertVerificationError():
            return f"its certificate is not valid: {error.verify_message}; pass --ca-file, or the URL that it names"
        case ssl.SSLError():
            return "it does not speak TLS; use http:// in the URL"
        case socket.gaierror():
            return "the host name cannot be resolved"
        case http.client.HTTPException():
            return "the answer is not HTTP; does the server use TLS?"
        case OSError():
            return error.strerror or type(error).__name__
        case _:
            return "the host name is not valid"
