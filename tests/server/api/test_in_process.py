"""Requests to an application in this process: what it gets, and what comes back."""

from __future__ import annotations

import httpx2
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, StreamingResponse
from starlette.routing import Route

from boltseal.server.api.in_process import InProcessHttp


async def echo(request: Request) -> PlainTextResponse:
    body = (await request.body()).decode()
    text = f"{request.method} {request.url.path} {request.url.query} {request.headers['host']} {body}"
    return PlainTextResponse(text, 418, {"x-name": "value"})


async def pieces(_: Request) -> StreamingResponse:
    return StreamingResponse(iter([b"a", b"b", b"c"]))


async def broken(_: Request) -> PlainTextResponse:
    raise RuntimeError("a defect")


@pytest.fixture
def client() -> httpx2.AsyncClient:
    """A client of an application without a socket."""
    methods = ["GET", "HEAD", "POST"]
    routes = [Route("/echo/{rest:path}", echo, methods=methods), Route("/pieces", pieces), Route("/broken", broken)]
    return httpx2.AsyncClient(transport=InProcessHttp(Starlette(routes=routes)), base_url="http://reg.test:5000")


async def test_a_request_arrives_whole(client: httpx2.AsyncClient) -> None:
    """Method, path, query, host and body reach the application, and status, headers and body come back."""
    answer = await client.post("/echo/a%20b", params={"n": "1"}, content=b"body")

    assert (answer.status_code, answer.headers["x-name"]) == (418, "value")
    assert answer.text == "POST /echo/a b n=1 reg.test:5000 body"


async def test_the_answer_to_a_head_request_has_no_body(client: httpx2.AsyncClient) -> None:
    """A HEAD request has the headers of the GET request, and an empty body."""
    answer = await client.head("/echo/a")

    assert (answer.status_code, answer.content) == (418, b"")
    assert int(answer.headers["content-length"]) > 0


async def test_a_streamed_answer_is_whole(client: httpx2.AsyncClient) -> None:
    """An answer in several pieces comes back as one body."""
    assert (await client.get("/pieces")).content == b"abc"


async def test_a_defect_of_the_application_is_raised(client: httpx2.AsyncClient) -> None:
    """An error of the application reaches the caller, as with the transport of httpx2."""
    with pytest.raises(RuntimeError, match="a defect"):
        await client.get("/broken")
