"""The outermost layer of every HTTP endpoint: request IDs, error responses, access log and metrics.

An error for the client becomes its response. An unexpected exception becomes a 500 that has only the request ID, under
which the log has the traceback. Subclasses produce the responses.

A body that ends too early is a 400 that closes the connection. The server reports malformed chunks and a closed connection
alike, and does not pass on the bytes that it refused. Without a response it would send a 500 of its own.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from time import perf_counter
from typing import Final

import structlog
from starlette.types import Receive, Scope, Send

from boltseal.errors import BoltsealError, ErrorCode
from boltseal.server.api.access_log import RequestLog
from boltseal.server.api.errors import BodyIncomplete, ClientGone
from boltseal.server.api.refusal_reasons import reason_of
from boltseal.server.api.request import DEFAULT_LIMITS, BodyLimits, Request
from boltseal.server.api.responses import REVEALING, Headers, Response, failure, refusal

READS: Final = frozenset({"GET", "HEAD"})

_log = structlog.get_logger(__name__)


class HttpApplication(ABC):
    """An ASGI application for HTTP requests, not for lifespan events. `limits`: how slowly bodies may arrive."""

    def __init__(self, observer: RequestLog, limits: BodyLimits = DEFAULT_LIMITS) -> None:
        self._observer = observer
        self._limits = limits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        started = perf_counter()
        request = Request(scope, receive, self._observer.next_id(), self._limits)
        try:
            response = await self._respond(request)
        except BoltsealError as error:
            response = self._refusal(request, error)
        except ClientGone:
            response = self._incomplete(request)
        except Exception:  # noqa: BLE001 - the outermost layer: any defect becomes a 500
            response = _internal_error(request)
        response.headers = (*response.headers, (b"x-request-id", request.id.encode("ascii")))
        if request.caller.api_token is not None and request.caller.api_token.warning:
            # As the distribution specification has it ("Warnings"): clients show these to people.
            warning = f'299 - "{request.caller.api_token.warning}"'.encode("ascii", "replace")
            response.headers = (*response.headers, (b"warning", warning))
        try:
            await response.send(scope, receive, send)
            if scope["method"] not in READS:
                await request.drain_body()
        except OSError:
            pass  # the server reports in this way that the client has left
        except Exception:  # noqa: BLE001 - the headers are sent: only closing the connection is left
            _log.exception("response aborted", method=request.method, path=path_text(scope))
        # A body with a Content-Length has no framing that could be malformed, so its client has left.
        left = bool(request.fault) and not request.is_chunked
        self._observer.note(request, None if left else response, started)

    @abstractmethod
    async def _respond(self, request: Request) -> Response:
        """Return the response to a request. Raises: BoltsealError, ClientGone."""

    @abstractmethod
    def _error_headers(self, request: Request, error: BoltsealError) -> Headers:
        """Return further headers of an error response, such as a challenge."""

    def _incomplete(self, request: Request) -> Response:
        """Return the response to a body that ended too early, and note the fault for the access log."""
        framing = "its chunks are malformed, or the connection was closed" if request.is_chunked else "it is too short"
        request.fault = f"the body ended after {request.received_bytes} bytes: {framing} ({request.framing})"
        error = BodyIncomplete(f"{request.fault}; send the request again")
        if request.is_chunked:
            self._observer.totals.refusal(reason_of(type(error)))
        return refusal(error, ((b"connection", b"close"),))

    def _may_pull(self, _: Request) -> bool:
        """Return whether the sender may read what an error says of the repository."""
        return True

    def _refusal(self, request: Request, error: BoltsealError) -> Response:
        """Return the response of an error, and log it if the server is the cause."""
        self._observer.totals.refusal(reason_of(type(error)))
        may_pull = not isinstance(error, REVEALING) or self._may_pull(request)
        response = refusal(error, self._error_headers(request, error), may_pull=may_pull)
        if response.status >= 500:
            fields = {"method": request.method, "path": path_text(request.scope)}
            _log.warning("request failed", **fields, status=response.status, reason=error.message)
            _log.debug("request failed, traceback", **fields, exc_info=error)
        return response


def raw_path(scope: Scope) -> bytes:
    """Return the path as sent. If the server gives only the decoded path, every escape is refused later."""
    raw: bytes | None = scope.get("raw_path")
    return scope["path"].encode() if raw is None else raw


def path_text(scope: Scope) -> str:
    """Return the path for a log line or message."""
    return raw_path(scope).decode("ascii", "backslashreplace")


def _internal_error(request: Request) -> Response:
    """Return the 500 of an unexpected exception, and log it. Call it only while the exception is handled."""
    _log.exception("internal error", request_id=request.id, method=request.method, path=path_text(request.scope))
    message = f"internal error; the log of the registry has the cause under {request.id}"
    return failure(500, ErrorCode.UNSUPPORTED, message)
