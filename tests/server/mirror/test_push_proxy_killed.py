"""The push proxy, killed (SIGKILL) between its steps: what upstream has is published, what it lacks leaves nothing."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import httpx2
import pytest

from boltseal.ledger.entry import parse
from boltseal.server.store_factory import examine_store
from tests.fakes.upstream import Asked, FakeUpstream
from tests.images import Document, digest_of, image
from tests.polling import wait_until
from tests.server.mirror.mirrors import NAME, mirror_settings
from tests.server.mirror.observed import rows
from tests.servers import Server, boltseal

APP = f"{NAME}/team/app"
PUT = "PUT /v2/team/app/manifests/1.4.2"
HEAD = "HEAD /v2/team/app/manifests/1.4.2"

pytestmark = pytest.mark.slow


@pytest.fixture
def upstream() -> Iterator[FakeUpstream]:
    """An upstream that accepts pushes, in a thread of its own."""
    with FakeUpstream(takes=True).listening_in_thread() as fake:
        yield fake


@contextlib.contextmanager
def gate(data: Path, upstream: FakeUpstream) -> Iterator[Server]:
    config = f'[[upstream]]\nname = "{NAME}"\nurl = "http://{upstream.authority}"\npush = true\nfresh = "0s"\n'
    with boltseal(data, config=config) as server:
        yield server


def push_parts(server: Server, document: Document) -> None:
    for blob in document.blobs:
        answer = httpx2.post(
            f"{server.url}/v2/{APP}/blobs/uploads/",
            params={"digest": blob.digest},
            content=blob.data,
            headers={"content-type": "application/octet-stream"},
            trust_env=False,
        )
        assert answer.status_code == 201


def put(server: Server, document: Document, tag: str = "1.4.2") -> httpx2.Response:
    return httpx2.put(
        f"{server.url}/v2/{APP}/manifests/{tag}",
        content=document.raw,
        headers={"content-type": document.media_type},
        trust_env=False,
        timeout=30.0,
    )


def kill(server: Server) -> None:
    """Kill the server and its workers at once, as a power cut does."""
    os.killpg(server.pid, signal.SIGKILL)


def killed_at(upstream: FakeUpstream, where: dict[str, Any], key: str, server: Server) -> threading.Event:
    """Kill the server when it sends upstream this request, which is not answered."""
    done = threading.Event()

    async def die(_: Asked, writer: asyncio.StreamWriter) -> None:
        kill(server)
        done.set()
        await asyncio.sleep(0.2)  # no answer before the server has ended
        writer.close()

    where[key] = die
    return done


def state(data: Path) -> tuple[list[tuple[Any, ...]], list[tuple[str, str]]]:
    """Return the reservations, and the ledger's entries about tags."""
    lines = [parse(row[0]) for row in rows(data, "SELECT line FROM entry WHERE tag != '' ORDER BY idx")]
    return rows(data, "SELECT tag, digest FROM reservation"), [(str(one.kind), one.digest) for one in lines]


def whole(data: Path, upstream: FakeUpstream) -> None:
    settings = mirror_settings(data, {"name": NAME, "url": f"http://{upstream.authority}", "push": True})
    assert examine_store(settings, lambda *_: None).findings == ()


def tags_upstream(upstream: FakeUpstream) -> dict[str, str]:
    held = upstream.manifests.get("team/app", {})
    return {tag: digest_of(raw) for tag, (_, raw) in held.items() if ":" not in tag}


def test_killed_between_reservation_and_upstreams_put(tmp_path: Path, upstream: FakeUpstream) -> None:
    """Killed before upstream's PUT: the reservation ends, nothing was served, and another image may have the tag."""
    data, app, other = tmp_path / "data", image("app"), image("other")
    with gate(data, upstream) as server:
        push_parts(server, app)
        push_parts(server, other)
        done = killed_at(upstream, upstream.answers, HEAD, server)  # the first request after the reservation
        with pytest.raises(httpx2.TransportError):
            put(server, app)
        done.wait(10)
    left = state(data)
    upstream.answers.clear()
    with gate(data, upstream) as server:
        wait_until(lambda: state(data)[0] == [], "no tag is reserved")
        served = httpx2.get(f"{server.url}/v2/{APP}/manifests/1.4.2", trust_env=False)
        answer = put(server, other)

    assert left == ([("1.4.2", app.digest)], [])
    assert served.status_code == 404
    assert answer.status_code == 201
    assert state(data) == ([], [("tag.created", other.digest)])
    assert tags_upstream(upstream) == {"1.4.2": other.digest}
    whole(data, upstream)


def test_killed_between_upstreams_put_and_the_local_commit(tmp_path: Path, upstream: FakeUpstream) -> None:
    """Killed after upstream's PUT: a HEAD at the restart finds it, and tag and entry are written as pushed."""
    data, app, other = tmp_path / "data", image("app"), image("other")
    with gate(data, upstream) as server:
        push_parts(server, app)
        push_parts(server, other)
        done = killed_at(upstream, upstream.after, PUT, server)
        with pytest.raises(httpx2.TransportError):
            put(server, app)
        done.wait(10)
    left = state(data)
    upstream.after.clear()
    with gate(data, upstream) as server:
        wait_until(lambda: state(data)[0] == [], "no tag is reserved")
        settled = state(data)
        again, refused = put(server, app), put(server, other)

    assert left == ([("1.4.2", app.digest)], [])
    assert settled == ([], [("tag.created", app.digest)])
    assert (again.status_code, refused.status_code) == (201, 409)
    assert tags_upstream(upstream) == {"1.4.2": app.digest}
    whole(data, upstream)


def test_killed_between_the_local_commit_and_the_answer(tmp_path: Path, upstream: FakeUpstream) -> None:
    """Killed after the local commit: the same push again gives the same entry."""
    data, app = tmp_path / "data", image("app")
    with gate(data, upstream) as server:
        push_parts(server, app)
        stop = threading.Event()

        def watch() -> None:
            while not stop.is_set():
                if state(data)[1]:
                    kill(server)
                    return
                time.sleep(0.001)  # shorter than a poll: between the commit and the answer

        watching = threading.Thread(target=watch)
        watching.start()
        with contextlib.suppress(httpx2.TransportError):  # the answer may arrive before the kill
            put(server, app)
        watching.join(10)
        stop.set()
    with gate(data, upstream) as server:
        again = put(server, app)

    assert (again.status_code, again.headers["boltseal-ledger-index"]) == (201, "2")
    assert state(data) == ([], [("tag.created", app.digest)])
    assert upstream.counted[PUT] == 1
    whole(data, upstream)


def _counted(upstream: FakeUpstream, enough: int) -> bool:
    return upstream.counted.total() > enough


def test_killed_at_any_moment_under_many_pushes(tmp_path: Path, upstream: FakeUpstream) -> None:
    """After kills at random moments, each 201 is true, and upstream and the ledger agree about every tag."""
    data, rounds, pushes = tmp_path / "data", 2, 12
    done: dict[str, str] = {}
    for number in range(rounds):
        app = image(f"{number}")
        with gate(data, upstream) as server:
            wait_until(lambda: state(data)[0] == [], "no tag is reserved")
            push_parts(server, app)

            def attempt(tag: str, server: Server = server, app: Document = app) -> None:
                with contextlib.suppress(httpx2.TransportError):
                    if put(server, app, tag).status_code == 201:
                        done[tag] = app.digest

            threads = [threading.Thread(target=attempt, args=(f"{number}.0.{n}",)) for n in range(pushes)]
            enough = upstream.counted.total() + 5 + number * 9
            for thread in threads:
                thread.start()
            wait_until(partial(_counted, upstream, enough), "the upstream was asked")
            kill(server)
            for thread in threads:
                thread.join()
    with gate(data, upstream) as server:
        wait_until(lambda: state(data)[0] == [], "no tag is reserved")
        served = {tag: httpx2.head(f"{server.url}/v2/{APP}/manifests/{tag}", trust_env=False) for tag in done}
    lines = [parse(row[0]) for row in rows(data, "SELECT line FROM entry WHERE tag != ''")]

    assert {one.tag: one.digest for one in lines} == tags_upstream(upstream)
    assert done.items() <= tags_upstream(upstream).items()
    assert {tag: answer.headers["docker-content-digest"] for tag, answer in served.items()} == done
    whole(data, upstream)
