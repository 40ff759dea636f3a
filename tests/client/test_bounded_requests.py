"""Repositories are asked several at once, and their answers come in the order of the questions."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager
from pathlib import Path

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from boltseal.client.bounded_requests import AT_ONCE, ask_each, list_tags
from boltseal.client.credentials import CredentialStore
from boltseal.client.registry_client import RegistryClient
from boltseal.client.transport import Transport, TransportOptions
from boltseal.errors import Invalid, Unavailable
from boltseal.oci.reference import Reference, Repository
from boltseal.server.api.in_process import InProcessHttp

REPOSITORIES = [f"shop/app{number}" for number in range(20)]


class Meeting:
    """Lets questions wait until `expected` of them are asked at once; the last ones wait for nothing."""

    def __init__(self, expected: int, total: int) -> None:
        self.most = 0
        self._now = self._arrived = 0
        self._expected = expected
        self._total = total
        self._enough = asyncio.Event()

    async def attend(self) -> None:
        self._now += 1
        self._arrived += 1
        self.most = max(self.most, self._now)
        if self._now == self._expected or self._arrived == self._total:
            self._enough.set()
        await self._enough.wait()
        self._now -= 1


class Registry:
    """A registry of REPOSITORIES with two pages of tags each. `gone`: answers 404; `broken`: answers 500."""

    def __init__(self, *, gone: str = "", broken: str = "") -> None:
        self.meeting = Meeting(AT_ONCE, len(REPOSITORIES))
        self._gone = gone
        self._broken = broken

    async def tags(self, request: Request) -> Response:
        name = request.path_params["name"]
        if "last" in request.query_params:
            return JSONResponse({"tags": ["3"]})
        await self.meeting.attend()
        if name == self._gone:
            return JSONResponse({"errors": [{"code": "NAME_UNKNOWN"}]}, 404)
        if name == self._broken:
            return Response(status_code=400)
        link = {"link": f'</v2/{name}/tags/list?n=1000&last=2>; rel="next"'}
        return JSONResponse({"tags": ["1", "2"]}, headers=link)

    @asynccontextmanager
    async def client(self) -> AsyncIterator[RegistryClient]:
        app = Starlette(routes=[Route("/v2/{name:path}/tags/list", self.tags)])
        transport = Transport(CredentialStore([Path("/nowhere")]), TransportOptions(), app=InProcessHttp(app))
        try:
            yield RegistryClient(transport, "registry.test")
        finally:
            await transport.aclose()


async def named(names: Sequence[str]) -> AsyncIterator[Repository]:
    """Yield repositories, as a catalog does."""
    for name in names:
        yield Repository(name)


def expected(*, without: str = "") -> list[Reference]:
    """Return all tags in the order of the repositories."""
    return [Reference.parse(f"registry.test/{name}:{tag}") for name in REPOSITORIES if name != without for tag in "123"]


async def test_answers_have_the_order_of_the_questions() -> None:
    """A bounded number of questions is asked at once, each once, and the answers have the order of the questions."""
    meeting = Meeting(3, 10)

    async def ask(number: int) -> int:
        await meeting.attend()
        return -number

    found = await asyncio.wait_for(ask_each([*range(10, 0, -1), 5, 6], ask, 3), 30)

    assert list(found.items()) == [(number, -number) for number in range(10, 0, -1)]
    assert meeting.most == 3


async def test_an_error_ends_the_other_questions() -> None:
    """The first error is raised, and questions that wait are ended."""
    started, ended = list[int](), list[int]()

    async def ask(number: int) -> None:
        if number == 1:
            raise Unavailable("no")
        started.append(number)
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(number)

    with pytest.raises(Unavailable, match="no"):
        await asyncio.wait_for(ask_each([0, 1, 2, 3], ask, 2), 30)

    assert ended == started
    assert 3 not in started


async def test_tags_of_several_repositories_are_read_at_once() -> None:
    """The lists of AT_ONCE repositories are read at once, and yielded in the order of the repositories, over all pages."""
    registry = Registry()
    async with registry.client() as client, aclosing(list_tags(client, named(REPOSITORIES))) as found:
        listed = await asyncio.wait_for(_all(found), 30)

    assert listed == expected()
    assert registry.meeting.most == AT_ONCE


async def test_a_repository_that_is_gone_is_left_out() -> None:
    """A repository that was deleted after it was listed is left out."""
    async with Registry(gone="shop/app3").client() as client, aclosing(list_tags(client, named(REPOSITORIES))) as found:
        listed = await asyncio.wait_for(_all(found), 30)

    assert listed == expected(without="shop/app3")


async def test_an_error_is_raised_after_the_tags_before_it() -> None:
    """Tags of the repositories before one that can't be listed are yielded, then its error is raised."""
    listed: list[Reference] = []

    async def read(found: AsyncIterator[Reference]) -> None:
        async for reference in found:
            listed.append(reference)  # noqa: PERF401 - a comprehension would lose what came before the error

    async with (
        Registry(broken="shop/app3").client() as client,
        aclosing(list_tags(client, named(REPOSITORIES))) as found,
    ):
        with pytest.raises(Invalid, match="does not accept tags of shop/app3"):
            await asyncio.wait_for(read(found), 30)

    assert listed == expected()[:9]


async def test_a_reader_that_stops_ends_the_requests() -> None:
    """A caller that needs no more tags leaves no request behind."""
    async with Registry().client() as client:
        async with aclosing(list_tags(client, named(REPOSITORIES))) as found:
            first = await asyncio.wait_for(anext(found), 30)
        left = [task for task in asyncio.all_tasks() if "_read_first" in str(task.get_coro())]

    assert first == expected()[0]
    assert left == []


async def _all(references: AsyncIterator[Reference]) -> list[Reference]:
    return [each async for each in references]
