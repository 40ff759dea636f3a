"""The admission webhook over HTTPS: `boltseal admission`.

    POST /mutate      AdmissionReview, for a MutatingWebhookConfiguration
    POST /validate    AdmissionReview, for a ValidatingWebhookConfiguration
    GET  /healthz     200 while the process answers

The API server adds `?timeout=10s`; the answer comes before that. A request that is no review gets 400 or 413, and an unexpected
error 500: the cluster then does what `failurePolicy` says. A review that is too large is refused like any object that can't be judged. One worker process serves; it is replaced when the certificate's
files have changed, which is checked every ten seconds.
"""

from __future__ import annotations

import asyncio
import os
import re
import signal
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import parse_qs

import structlog
from granian.constants import HTTPModes, Interfaces, Loops, SSLProtocols
from granian.http import HTTP1Settings
from granian.log import LogLevels
from granian.server import MPServer
from stamina.instrumentation import set_on_retry_hooks
from starlette.types import Receive, Scope, Send

from boltseal.commands.admission import ANSWERS_WITHIN_S, AdmissionWebhook
from boltseal.commands.admission_images import AdmissionImages, AdmissionTerms
from boltseal.commands.registry_access import RegistryOptions
from boltseal.deploy.kube.admission_review import BEGINNING_BYTES, MAX_REVIEW_BYTES
from boltseal.errors import BoltsealError, Invalid, TooLarge, Unavailable
from boltseal.server import logs
from boltseal.server.api.errors import status_of
from boltseal.server.listen_address import ListenAddress
from boltseal.server.storage.certificate import check_certificate

BODY_WITHIN_S: Final = 10.0
SMALL_BYTES: Final = 64 * 1024
LARGE_BYTES: Final = 96 * 1024 * 1024
MAX_RECEIVED_BYTES: Final = 64 * 1024 * 1024
"""A review that is too large is received up to this size and not kept, so that the API server reads the answer."""
LOOK_EVERY_S: Final = 10.0
"""How often the files of the certificate are read."""
SHARE_OF_TIMEOUT: Final = 0.8
"""The rest of the API server's time-out is for the network."""
MIN_ANSWER_S: Final = 0.5
MAX_CONNECTIONS: Final = 256
HEADER_TIMEOUT_MS: Final = 10_000
_is_timeout = re.compile(r"([0-9]{1,3})s", re.ASCII).fullmatch

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class AdmissionServer:
    """Where the webhook listens, and its certificate."""

    address: ListenAddress
    certificate: Path
    key: Path


class ReviewTooLarge(TooLarge):
    """A review that is not kept in memory. `beginning`: its first bytes. `why`: in words that follow "its review"."""

    def __init__(self, beginning: bytes, why: str) -> None:
        super().__init__(f"the review {why}")
        self.beginning = beginning
        self.why = why


class _Bodies:
    """Reads the bodies of reviews. What each has over SMALL_BYTES shares LARGE_BYTES of memory, so that a crowd can't exhaust it."""

    def __init__(self) -> None:
        self._large_bytes = 0

    @asynccontextmanager
    async def reading(self, receive: Receive) -> AsyncIterator[bytes]:
        """Have a body in memory for the time of the block.

        Raises: ReviewTooLarge, after all of it was received; Invalid: the client left, or is too slow.
        """
        body = bytearray()
        try:
            await self._read(receive, body)
            yield bytes(body)
        finally:
            self._large_bytes -= max(0, len(body) - SMALL_BYTES)

    async def _read(self, receive: Receive, body: bytearray) -> None:
        received, why = 0, ""
        try:
            async with asyncio.timeout(BODY_WITHIN_S):
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise Invalid("the body ended too early")
                    piece, more = message.get("body", b""), message.get("more_body", False)
                    received += len(piece)
                    if received > MAX_REVIEW_BYTES:
                        why = f"has more than {MAX_REVIEW_BYTES} bytes"
                    elif not why and not self._fits(len(body), len(piece)):
                        why = "is large, and other large ones are being read now; try again"
                    self._keep(body, piece[:BEGINNING_BYTES] if why else piece)
                    if why:
                        self._drop(body)
                    if received > MAX_RECEIVED_BYTES or (why and not more):
                        raise ReviewTooLarge(bytes(body), why)
                    if not more:
                        return
        except TimeoutError as error:
            raise Invalid(f"the body did not arrive within {BODY_WITHIN_S:g} seconds") from error

    def _fits(self, before: int, added: int) -> bool:
        return before + added <= SMALL_BYTES or self._large_bytes + added <= LARGE_BYTES

    def _keep(self, body: bytearray, piece: bytes) -> None:
        before = max(0, len(body) - SMALL_BYTES)
        body += piece
        self._large_bytes += max(0, len(body) - SMALL_BYTES) - before

    def _drop(self, body: bytearray) -> None:
        self._large_bytes -= max(0, len(body) - SMALL_BYTES)
        del body[BEGINNING_BYTES:]


class AdmissionApp:
    """The ASGI application of the webhook."""

    def __init__(self, webhook: AdmissionWebhook) -> None:
        self._webhook = webhook
        self._bodies = _Bodies()
        self._answers: dict[str, Callable[[bytes, float], Awaitable[bytes]]] = {
            "/mutate": webhook.mutate,
            "/validate": webhook.validate,
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        status, body = await self._respond(scope, receive)
        kind = b"application/json" if body.startswith(b"{") else b"text/plain; charset=utf-8"
        headers = [(b"content-type", kind), (b"content-length", b"%d" % len(body)), (b"cache-control", b"no-store")]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else body})

    async def _respond(self, scope: Scope, receive: Receive) -> tuple[int, bytes]:
        path, method = scope["path"], scope["method"]
        if path == "/healthz" and method in ("GET", "HEAD"):
            return 200, b"ok\n"
        answer = self._answers.get(path)
        if answer is None:
            return 404, b"not found; the paths are /mutate, /validate and /healthz\n"
        if method != "POST":
            return 405, b"use POST\n"
        try:
            async with self._bodies.reading(receive) as raw:
                return 200, await answer(raw, _within_s(scope))
        except ReviewTooLarge as error:
            refused = self._webhook.refuse_too_large(error.beginning, error.why)
            return (200, refused) if refused is not None else (413, f"{error.message}\n".encode())
        except BoltsealError as error:
            _log.warning("review not answered", path=path, reason=error.message)
            return status_of(type(error)), f"{error.message}\n".encode()
        except Exception:  # noqa: BLE001 - the outermost layer: any defect becomes a 500
            _log.exception("internal error", path=path)
            return 500, b"internal error; the log of the webhook has the cause\n"


def _within_s(scope: Scope) -> float:
    """Return how long the answer may take, in seconds, by the time-out in the query."""
    given = parse_qs(scope.get("query_string", b"").decode("latin-1")).get("timeout", [""])[0]
    match = _is_timeout(given)
    return (
        ANSWERS_WITHIN_S
        if match is None
        else min(ANSWERS_WITHIN_S, max(MIN_ANSWER_S, int(match[1]) * SHARE_OF_TIMEOUT))
    )


def serve(
    server: AdmissionServer,
    options: RegistryOptions,
    terms: AdmissionTerms,
    listening: Callable[[], None],
    *,
    as_json: bool,
) -> None:
    """Serve until SIGTERM or SIGINT. `listening`: called once the worker process was started.

    Raises:
        Invalid: the certificate can't be used.
        Unavailable: the worker process could not be started, or ended.
    """
    served = check_certificate(server.certificate, server.key)
    granian = MPServer(
        "boltseal",
        address=server.address.host,
        port=server.address.port,
        interface=Interfaces.ASGINL,
        workers=1,
        loop=Loops.uvloop,
        http=HTTPModes.http1,
        websockets=False,
        backlog=MAX_CONNECTIONS,
        backpressure=MAX_CONNECTIONS,
        http1_settings=HTTP1Settings(header_read_timeout=HEADER_TIMEOUT_MS),
        ssl_cert=server.certificate,
        ssl_key=server.key,
        ssl_protocol_min=SSLProtocols.tls12,
        log_level=LogLevels.warning,
        log_dictconfig=logs.dict_config("info", as_json=as_json),
        workers_kill_timeout=5,
    )

    def app() -> AdmissionApp:
        set_on_retry_hooks([])  # stamina's own would log to stdout
        images = AdmissionImages(options, terms, time.monotonic)
        return AdmissionApp(
            AdmissionWebhook(images, lambda subject, image, why: _log.warning(why, object=subject, image=image))
        )

    def started() -> None:
        threading.Thread(target=_renew, args=(server, served), name="boltseal-certificate", daemon=True).start()
        listening()

    granian.on_startup(started)
    try:
        granian.serve(target_loader=app, wrap_loader=False)
    except SystemExit as stopped:
        if stopped.code:
            raise Unavailable("the webhook stopped: its worker process ended; see the log for the reason") from stopped


def _renew(server: AdmissionServer, served: bytes) -> None:
    """Have the worker replaced when the files of the certificate have changed and can be used."""
    while True:
        time.sleep(LOOK_EVERY_S)
        try:
            found = check_certificate(server.certificate, server.key)
        except Invalid as error:
            _log.error("cannot reload the certificate", reason=error.message)
            continue
        if found != served:
            served = found
            _log.info("certificate reloaded")
            os.kill(os.getpid(), signal.SIGHUP)
