"""The outermost shell of everything that answers: the distribution API, and what stands beside it.

An error that is meant for a person becomes its answer; a client that left ends the matter quietly; anything unforeseen
is a 500 that says a number, under which the log has the traceback, and nothing else. Each request has its number, its
line in the access log and its share of the sums. What is answered is the business of whoever fills the shell.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from time import perf_counter
from typing import TYPE_CHECKING, Final

import structlog

from boltseal.errors import BoltsealError, ErrorCode
from boltseal.server.api.errors import ClientGone
from boltseal.server.api.request import DEFAULT_LIMITS, BodyLimits, Request
from boltseal.server.api.responses import Headers, Response, failure, refusal

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send

    from boltseal.server.api.access_log import RequestLog

READS: Final = frozenset({"GET", "HEAD"})

_log = structlog.get_logger(__name__)


class HttpApplication(ABC):
    """An ASGI application for requests alone, not for lifespan events. `limits`: how slowly bodies may come."""

    def __init__(self, observer: RequestLog, limits: BodyLimits = DEFAULT_LIMITS) -> None:
        self._observer = observer
        self._limits = limits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves one request."""
        started = perf_counter()
        call = Request(scope, receive, self._observer.next_id(), self._limits)
        try:
            answer = await self._answer(call)
        except BoltsealError as error:
            answer = self._refusal(call, error)
        except ClientGone:
            self._observer.note(call, None, started)
            return
        except Exception:  # noqa: BLE001 - the outermost shell: nothing unforeseen leaves as it is
            answer = _defect(call)
        answer.headers = (*answer.headers, (b"x-request-id", call.id.encode("ascii")))
        try:
            await answer.send(scope, receive, send)
            if scope["method"] not in READS:
                await call.take_leave()
        except OSError:
            pass  # how a server says that the client has left
        except Exception:  # noqa: BLE001 - headers are out: all that is left to say is a connection that breaks
            _log.exception("answer broken off", method=call.method, path=shown(scope))
        self._observer.note(call, answer, started)

    @abstractmethod
    async def _answer(self, call: Request) -> Response:
        """The answer to a request. BoltsealError, ClientGone."""

    @abstractmethod
    def _extra(self, call: Request, error: BoltsealError) -> Headers:
        """What a refusal has in its headers besides what its error brings along: a challenge, say."""

    def _refusal(self, call: Request, error: BoltsealError) -> Response:
        """The answer that an error is."""
        self._observer.totals.refusal(type(error).__name__)
        answer = refusal(error, self._extra(call, error))
        if answer.status >= 500:
            at = {"method": call.method, "path": shown(call.scope)}
            _log.warning("could not serve", **at, status=answer.status, reason=error.message)
            _log.debug("could not serve, where", **at, exc_info=error)
        return answer


def raw_path(scope: Scope) -> bytes:
    """The path as it was sent. A server that does not tell gives it decoded, and then every escape is refused."""
    raw: bytes | None = scope.get("raw_path")
    return scope["path"].encode() if raw is None else raw


def shown(scope: Scope) -> str:
    """The path for a log or a message."""
    return raw_path(scope).decode("ascii", "backslashreplace")


def _defect(call: Request) -> Response:
    """The answer to a request that found a defect of ours. Called where the exception is being handled."""
    _log.exception("defect", request_id=call.id, method=call.method, path=shown(call.scope))
    message = f"this registry failed on the request; its log has the reason under {call.id}"
    return failure(500, ErrorCode.UNSUPPORTED, message)
