"""The ASGI application: a defect is a 500 with only a request ID, and a broken body breaks the connection."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import AsyncIterator
from dataclasses import fields
from typing import Any, cast

import pytest
import structlog
from starlette.types import Message, Receive, Scope, Send

from boltseal.errors import Full, Unavailable
from boltseal.oci.digest import Digest
from boltseal.oci.reference import Repository
from boltseal.server.api.distribution import DistributionApi
from boltseal.server.api.settings import ApiSettings
from boltseal.server.registry import Registry
from boltseal.server.registry.models import BlobAnswer
from tests.anonymous_access import anonymous_auth
from tests.asgi import Answer, send
from tests.images import digest_of


@pytest.fixture(autouse=True)
def _log_as_it_comes() -> None:
    """Use structlog's default configuration (stdout), which other tests of this process change."""
    structlog.reset_defaults()


BLOB = f"/v2/shop/app/blobs/{digest_of(b'')}"
INSIDE = "row 7 of table logins"


class Failing:
    """Reads that raise `error`: immediately, or after the first chunk of a blob of `size` bytes."""

    def __init__(self, error: BaseException, size: int | None = None) -> None:
        self._error = error
        self._size = size

    async def blob(self, _: Repository, digest: Digest) -> BlobAnswer:
        if self._size is None:
            raise self._error
        return BlobAnswer(digest, self._size, None)

    async def redirect_url(self, _: Digest) -> str | None:
        return None

    async def read_blob(self, _: Digest, start: int, length: int) -> AsyncIterator[bytes]:
        yield bytes(length // 2)
        raise self._error


def api(pulls: Failing) -> DistributionApi:
    """Return an API whose registry has only these reads."""
    parts = cast("Any", (pulls, *[None] * (len(fields(Registry)) - 1)))
    return DistributionApi(Registry(*parts), ApiSettings(), anonymous_auth())


async def asked(error: BaseException) -> Answer:
    return await send(api(Failing(error)), "GET", BLOB)


async def test_a_defect_is_a_500_without_its_reason() -> None:
    """After a defect the client gets the request ID, and nothing about the cause."""
    answer = await asked(RuntimeError(INSIDE))

    assert answer.status == 500
    assert INSIDE not in answer.body.decode() + str(answer.headers)
    assert re.search(rb"under [0-9a-f]{10}-[0-9a-f]+\"", answer.body)
    assert answer.headers["x-request-id"].encode() in answer.body


async def test_the_log_has_the_cause_under_the_request_id(capsys: pytest.CaptureFixture[str]) -> None:
    """The log has a defect's traceback under the request ID."""
    answer = await asked(RuntimeError("disk on fire"))
    logged = capsys.readouterr()

    assert answer.headers["x-request-id"] in logged.out + logged.err
    assert "disk on fire" in logged.out + logged.err


@pytest.mark.parametrize(
    ("error", "status"), [(Unavailable("the store does not answer"), 503), (Full("no space"), 507)]
)
async def test_an_error_of_the_server_is_returned_and_logged(
    error: Exception, status: int, capsys: pytest.CaptureFixture[str]
) -> None:
    """For an error of the server, the client gets the message, and the log has it too."""
    answer = await asked(error)
    logged = capsys.readouterr()

    assert answer.status == status
    assert str(error) in answer.body.decode()
    assert str(error) in logged.out + logged.err


async def test_an_expected_error_is_logged_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    """An expected error such as a full disk is logged in one line, with the traceback only at level debug."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.INFO))
    try:
        await asked(Full("no space"))
    finally:
        structlog.reset_defaults()

    assert "Traceback" not in capsys.readouterr().out


async def test_a_blob_that_breaks_in_the_middle_breaks_the_connection() -> None:
    """When a blob breaks after its headers were sent, the connection breaks, so that its body does not end normally."""
    messages: list[Message] = []

    async def receive() -> Message:
        await asyncio.Event().wait()
        raise AssertionError

    async def take(message: Message) -> None:
        messages.append(message)

    scope: Scope = {
        "type": "http",
        "method": "GET",
        "path": BLOB,
        "raw_path": BLOB.encode(),
        "query_string": b"",
        "headers": [],
    }
    await api(Failing(RuntimeError("rot"), size=10_000_000))(scope, receive, take)

    assert messages[0]["status"] == 200
    assert messages[-1]["more_body"] is True


async def test_a_disconnect_reported_by_the_server_is_not_logged(capsys: pytest.CaptureFixture[str]) -> None:
    """An OSError that some servers raise at a disconnect is not logged as a defect."""

    async def receive() -> Message:
        return {"type": "http.disconnect"}

    async def gone(_: Message) -> None:
        raise OSError

    scope: Scope = {
        "type": "http",
        "method": "GET",
        "path": "/v2/",
        "raw_path": b"/v2/",
        "query_string": b"",
        "headers": [],
    }
    await api(Failing(RuntimeError()))(scope, receive, gone)

    assert capsys.readouterr().out == ""


async def test_a_request_that_is_cancelled_stays_cancelled() -> None:
    """A cancelled request ends, so that a shutdown does not wait for responses that no client receives."""
    with pytest.raises(asyncio.CancelledError):
        await asked(asyncio.CancelledError())


async def test_a_server_without_raw_paths_can_be_served() -> None:
    """Without the optional `raw_path` of ASGI, the decoded path is used, and escapes in it are still refused."""

    async def without(scope: Scope, receive: Receive, send_: Send) -> None:
        del scope["raw_path"]
        await api(Failing(Unavailable("reached")))(scope, receive, send_)

    assert (await send(without, "GET", BLOB)).status == 503
    assert (await send(without, "GET", "/v2/shop%2525/tags/list")).status == 400


@pytest.mark.parametrize("framing", [("transfer-encoding", "chunked"), ("content-length", "300")])
async def test_a_body_that_ends_too_early_is_400(framing: tuple[str, str]) -> None:
    """A body without its end gets a response of the registry's own, which quotes how the client announced the body."""
    answer = await send(
        api(Failing(Full(INSIDE))), "PUT", "/v2/shop/app/manifests/1.0", headers=[framing], body=b"{", dies=True
    )

    assert answer.status == 400
    assert answer.headers["connection"] == "close"
    assert "after 1 bytes: " in answer.body.decode()
    assert f'({framing[0]} \\"{framing[1]}\\")' in answer.body.decode()
