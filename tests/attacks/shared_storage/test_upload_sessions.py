"""Upload sessions on PostgreSQL and an object store, attacked over HTTP through two servers.

`ci` and `boss` may push to `shop/**`, `other` to `other/**`.
"""

from __future__ import annotations

import socket
import uuid
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import httpx2
import pytest

from tests.images import Blob, with_digest
from tests.logins import as_user
from tests.polling import wait_until
from tests.shared_servers import SharedServers, append, begin, finish, offset, refused

pytestmark = pytest.mark.real

UNKNOWN = (404, "BLOB_UPLOAD_UNKNOWN")
METHODS = ["GET", "PATCH", "PUT", "DELETE"]
ROUNDS = 5


def reach(client: httpx2.Client, method: str, session: str, blob: Blob) -> httpx2.Response:
    """Send one request of a session: its state, a chunk, its end, or its cancellation."""
    url = with_digest(session, blob.digest) if method == "PUT" else session
    return client.request(method, url, content=blob.data if method in ("PATCH", "PUT") else None)


@pytest.mark.parametrize("second", [False, True], ids=["same server", "other server"])
@pytest.mark.parametrize("method", METHODS)
def test_another_user_does_not_reach_a_session(servers: SharedServers, method: str, second: bool) -> None:
    """On either server a session of another user is unknown, and stays as its user left it."""
    blob = Blob(f"of ci {method} {second}".encode())
    with servers.client("ci") as ci, servers.client("boss", second=second) as boss:
        session = begin(ci)
        append(ci, session, blob.data[:5])
        answer = reach(boss, method, session, blob)
        left = offset(ci, session)
        finished = finish(ci, session, blob.digest, blob.data[5:])

    assert refused(answer) == UNKNOWN
    assert left == 5
    assert finished.status_code == 201


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("repository", ["shop/two", "other/app"])
def test_a_session_is_unknown_in_another_repository(servers: SharedServers, method: str, repository: str) -> None:
    """The ID of a session opens nothing in another repository, for its own user and for one who may push there."""
    blob = Blob(f"elsewhere {method} {repository}".encode())
    with servers.client("ci") as ci, servers.client("other" if repository == "other/app" else "ci") as client:
        session = begin(ci)
        append(ci, session, blob.data[:5])
        answer = reach(client, method, session.replace("shop/app", repository), blob)
        left = offset(ci, session)

    assert refused(answer) == UNKNOWN
    assert left == 5


@pytest.mark.parametrize("method", METHODS)
def test_without_a_login_or_the_right_to_push_a_session_is_not_reached(servers: SharedServers, method: str) -> None:
    """The right is checked before the session: the refusal is the same for one that does not exist."""
    blob = Blob(f"without right {method}".encode())
    with servers.client("ci") as ci, servers.client(None) as anonymous, servers.client("other") as other:
        session = begin(ci)
        absent = f"{session.rpartition('/')[0]}/{uuid.uuid4().hex}"
        answers = [reach(each, method, path, blob) for each in (anonymous, other) for path in (session, absent)]
        left = offset(ci, session)

    assert [each.status_code for each in answers] == [401, 401, 403, 403]
    assert [each.text for each in answers[::2]] == [each.text for each in answers[1::2]]
    assert left == 0


def test_a_session_continues_at_another_server(servers: SharedServers) -> None:
    """Chunks go to both servers in turn; both know the offset, refuse a wrong digest, and accept the right one."""
    blob, wrong = Blob(b"0123456789" * 5), Blob(b"another")
    with servers.client() as one, servers.client(second=True) as two:
        session = begin(one)
        for start, client in ((0, one), (10, two), (20, one), (30, two)):
            assert append(client, session, blob.data[start : start + 10], start).status_code == 202
        offsets = offset(one, session), offset(two, session)
        mismatches = [refused(finish(client, session, wrong.digest, blob.data[40:])) for client in (one, two)]
        kept = offset(one, session)
        finished = finish(one, session, blob.digest, blob.data[40:])
        read = [client.get(f"/v2/shop/app/blobs/{blob.digest}").content for client in (one, two)]
        ended = [refused(client.get(session)) for client in (one, two)]

    assert offsets == (40, 40)
    assert mismatches == [(400, "DIGEST_INVALID")] * 2
    assert kept == 40
    assert finished.status_code == 201
    assert read == [blob.data, blob.data]
    assert ended == [UNKNOWN, UNKNOWN]


def test_the_hash_of_one_server_is_not_that_of_the_session(servers: SharedServers) -> None:
    """A server that hashed the first chunk only does not accept its digest as that of the session."""
    first, all_of_it = Blob(b"first chunk"), Blob(b"first chunk, and another one")
    with servers.client() as one, servers.client(second=True) as two:
        session = begin(one)
        append(one, session, first.data)
        append(two, session, all_of_it.data[len(first.data) :])
        forged = finish(one, session, first.digest)
        finished = finish(one, session, all_of_it.digest)
        read = two.get(f"/v2/shop/app/blobs/{all_of_it.digest}").content

    assert refused(forged) == (400, "DIGEST_INVALID")
    assert finished.status_code == 201
    assert read == all_of_it.data


@pytest.mark.parametrize("start", [0, 3, 5, 11, 1000], ids=["replayed", "overlap", "inside", "gap", "far"])
def test_a_chunk_that_does_not_continue_the_session_changes_nothing(servers: SharedServers, start: int) -> None:
    """A replayed, overlapping or distant Content-Range gets 416 with the offset, on both servers and also at the end."""
    blob = Blob(b"0123456789")
    with servers.client() as one, servers.client(second=True) as two:
        session = begin(one)
        append(one, session, blob.data)
        answers = [append(client, session, b"xxxxxxxxxx", start) for client in (one, two)]
        ranged = {"content-range": f"{start}-{start + 9}"}
        answers.append(two.put(with_digest(session, blob.digest), content=b"x" * 10, headers=ranged))
        finished = finish(two, session, blob.digest)

    assert [each.status_code for each in answers] == [416] * 3
    assert {each.headers["range"] for each in answers} == {"0-9"}
    assert finished.status_code == 201


def test_a_body_that_breaks_off_leaves_the_offset(servers: SharedServers) -> None:
    """After a PATCH that broke off the other server continues at the offset of the last answered one."""
    blob = Blob(b"answered, and the rest")
    with servers.client() as one, servers.client(second=True) as two:
        session = begin(one)
        append(one, session, blob.data[:8])
        host, _, port = servers.first.address.rpartition(":")
        head = f"PATCH {session} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n"
        with socket.create_connection((host, int(port))) as torn:
            login = as_user("ci")["authorization"]
            torn.sendall(f"{head}Authorization: {login}\r\n\r\nnot answered".encode())
        wait_until(lambda: append(two, session, b"x", 0).status_code == 416, "the session is free again", 30.0)
        left = offset(two, session)
        finished = finish(two, session, blob.digest, blob.data[8:])

    assert left == 8
    assert finished.status_code == 201


def together(*calls: object) -> list[httpx2.Response]:
    """Send requests at the same time, each in a thread, and return their answers."""
    ready = Barrier(len(calls))

    def call(each: object) -> httpx2.Response:
        ready.wait()
        assert callable(each)
        answer = each()
        assert isinstance(answer, httpx2.Response)
        return answer

    with ThreadPoolExecutor(len(calls)) as pool:
        return list(pool.map(call, calls))


def test_of_chunks_for_one_place_exactly_one_is_appended(servers: SharedServers) -> None:
    """Of four different chunks that are sent at once to both servers for the same offset one is acknowledged, and is there."""
    with servers.client() as one, servers.client(second=True) as two:
        for round_ in range(ROUNDS):
            session = begin(one)
            chunks = [f"round {round_} chunk {number}".encode() for number in range(4)]
            answers = together(
                *(
                    lambda client=client, chunk=chunk, session=session: append(client, session, chunk, 0)
                    for client, chunk in zip((one, two, one, two), chunks, strict=True)
                )
            )
            [won] = [at for at, each in enumerate(answers) if each.status_code == 202]
            finished = finish(two, session, Blob(chunks[won]).digest)

            assert {each.status_code for each in answers} <= {202, 416, 503}
            assert finished.status_code == 201


def test_a_session_is_committed_once(servers: SharedServers) -> None:
    """Of two commits at once, one with a wrong digest or both right, at most one is acknowledged, and the blob is whole."""
    with servers.client() as one, servers.client(second=True) as two:
        for round_ in range(ROUNDS):
            blob, wrong = Blob(f"committed {round_}".encode()), Blob(f"not sent {round_}".encode())
            session = begin(one)
            append(one, session, blob.data)
            digests = (blob.digest, blob.digest) if round_ % 2 else (wrong.digest, blob.digest)
            answers = together(
                lambda session=session, digests=digests: finish(one, session, digests[0]),
                lambda session=session, digests=digests: finish(two, session, digests[1]),
            )
            codes = [each.status_code for each in answers]
            read = [client.get(f"/v2/shop/app/blobs/{blob.digest}") for client in (one, two)]
            absent = one.get(f"/v2/shop/app/blobs/{wrong.digest}").status_code

            assert codes.count(201) == 1 or (codes.count(503) == 1 and not round_ % 2), codes
            assert set(codes) <= {201, 400, 404, 503}
            assert absent == 404
            if 201 in codes:
                assert [each.content for each in read] == [blob.data, blob.data]


def test_a_session_is_cancelled_or_committed(servers: SharedServers) -> None:
    """Of a cancellation and a commit at once exactly one takes effect; the blob is there, and whole, if and only if it was the commit."""
    with servers.client() as one, servers.client(second=True) as two:
        for round_ in range(ROUNDS * 2):
            blob = Blob(f"cancelled or committed {round_}".encode())
            session = begin(one)
            append(one, session, blob.data)
            cancelled, finished = together(
                lambda session=session: one.delete(session),
                lambda session=session, blob=blob: finish(two, session, blob.digest),
            )
            read = one.get(f"/v2/shop/app/blobs/{blob.digest}")
            codes = (cancelled.status_code, finished.status_code)

            assert codes in {(204, 404), (404, 201)}, codes
            assert read.status_code == (200 if codes == (404, 201) else 404)
            assert refused(two.get(session)) == UNKNOWN
