"""Addresses of the object store that pulls are redirected to, attacked over HTTP: who gets one, and what it opens.

`ci` may pull and push `shop/**`, `boss` delete there as well, `other` has every right in `other/**`.
"""

from __future__ import annotations

import re
from urllib.parse import parse_qs, urlsplit

import httpx2
import obstore
import pytest

from tests.images import Blob
from tests.shared_servers import SharedServers, append, begin, finish, push_blob, refused

pytestmark = pytest.mark.real

MOST_S = 60


def large(words: str) -> Blob:
    """Return a blob that is pulled from the object store."""
    return Blob(words.encode() + bytes(300_000))


def address_of(servers: SharedServers, blob: Blob, *, second: bool = False) -> str:
    """Push a blob to shop/app, and return the address that its pull is redirected to."""
    with servers.client() as client:
        push_blob(client, "shop/app", blob)
    with servers.client(second=second) as client:
        answer = client.get(f"/v2/shop/app/blobs/{blob.digest}")
    assert answer.status_code == 307, answer.text
    location: str = answer.headers["location"]
    return location


def fetch(method: str, address: str, **request: object) -> httpx2.Response:
    """Send a request to the object store, without a login."""
    with httpx2.Client(trust_env=False, timeout=60.0) as client:
        return client.request(method, address, **request)  # type: ignore[arg-type]  # a test's own options


def test_both_servers_give_out_an_address_for_a_minute(servers: SharedServers) -> None:
    """The address opens exactly the blob, works without a login, and ends after a minute; no cache may keep it."""
    blob = large("for a minute")
    address = address_of(servers, blob, second=True)
    with servers.client() as client:
        answer = client.get(f"/v2/shop/app/blobs/{blob.digest}")
    fetched = fetch("GET", address)

    assert answer.headers["cache-control"] == "no-store"
    assert fetched.content == blob.data
    assert fetched.headers["content-type"] == "application/octet-stream"
    assert int(parse_qs(urlsplit(address).query)["X-Amz-Expires"][0]) <= MOST_S


@pytest.mark.parametrize("headers", [{}, {"range": "bytes=0-9"}, {"if-none-match": "*"}], ids=["plain", "range", "304"])
def test_without_the_right_to_pull_there_is_no_address(servers: SharedServers, headers: dict[str, str]) -> None:
    """A client without a login, and a user of another team, get the refusal of a blob that does not exist."""
    blob, absent = large("no right"), large("never pushed")
    address_of(servers, blob)
    with servers.client(None) as anonymous, servers.client("other") as other:
        answers = [
            client.get(f"/v2/shop/app/blobs/{each.digest}", headers=headers)
            for client in (anonymous, other)
            for each in (blob, absent)
        ]

    assert [each.status_code for each in answers] == [401, 401, 403, 403]
    assert [each.text for each in answers[::2]] == [each.text for each in answers[1::2]]
    assert not any("location" in each.headers for each in answers)


def test_a_blob_of_another_repository_has_no_address(servers: SharedServers) -> None:
    """In a repository that does not have the blob it is unknown, also for a user who may pull it elsewhere."""
    blob = large("of another repository")
    address_of(servers, blob)
    with servers.client("other") as other, servers.client("ci") as ci:
        answers = [other.get(f"/v2/other/app/blobs/{blob.digest}"), ci.get(f"/v2/shop/two/blobs/{blob.digest}")]

    assert [refused(each) for each in answers] == [(404, "BLOB_UNKNOWN")] * 2
    assert not any("location" in each.headers for each in answers)


def test_a_deleted_blob_has_no_address_at_any_server(servers: SharedServers) -> None:
    """When the deletion is acknowledged, neither server gives out an address any more, also if it did a moment ago."""
    blob = large("deleted")
    for second in (False, True):
        address_of(servers, blob, second=second)
    with servers.client("boss") as boss, servers.client(second=True) as two:
        deleted = boss.delete(f"/v2/shop/app/blobs/{blob.digest}")
        answers = [client.get(f"/v2/shop/app/blobs/{blob.digest}") for client in (two, boss)]

    assert deleted.status_code == 202
    assert [refused(each) for each in answers] == [(404, "BLOB_UNKNOWN")] * 2


def test_head_is_answered_by_the_registry(servers: SharedServers) -> None:
    """HEAD gets the size and no address, because the object store refuses another method than the signed one."""
    blob = large("head")
    address = address_of(servers, blob)
    with servers.client() as client:
        answer = client.head(f"/v2/shop/app/blobs/{blob.digest}")

    assert (answer.status_code, answer.headers["content-length"]) == (200, str(len(blob.data)))
    assert "location" not in answer.headers
    assert fetch("HEAD", address).status_code == 403


def test_a_range_of_a_redirected_blob_is_that_range(servers: SharedServers) -> None:
    """A client that follows the redirect with its Range gets these bytes, also if it continues a pull."""
    blob = large("a range")
    address = address_of(servers, blob)
    with servers.client() as client:
        redirected = client.get(f"/v2/shop/app/blobs/{blob.digest}", headers={"range": "bytes=2-9"})
    part = fetch("GET", redirected.headers["location"], headers={"range": "bytes=2-9"})
    rest = fetch("GET", address, headers={"range": f"bytes={len(blob.data) - 5}-"})

    assert (part.status_code, part.content) == (206, blob.data[2:10])
    assert (rest.status_code, rest.content) == (206, blob.data[-5:])


@pytest.mark.parametrize("method", ["PUT", "DELETE", "POST"])
def test_an_address_changes_nothing(servers: SharedServers, method: str) -> None:
    """With the address of a pull an object is neither replaced nor deleted."""
    blob = large(f"changed by {method}")
    address = address_of(servers, blob)
    answer = fetch(method, address, content=b"other bytes")

    assert answer.status_code in (400, 403, 405)
    assert fetch("GET", address).content == blob.data


def test_an_address_opens_no_other_object(servers: SharedServers) -> None:
    """Another key, another prefix, a longer life and the list of the bucket are refused: each is part of the signature."""
    address, other = address_of(servers, large("mine")), address_of(servers, large("not mine"))
    mine, target = urlsplit(address), urlsplit(other)
    longer = re.sub(r"X-Amz-Expires=\d+", "X-Amz-Expires=86400", mine.query)
    forged = [
        mine._replace(path=target.path),
        mine._replace(path=mine.path.rpartition("/")[0] + "/"),
        mine._replace(path="/".join(mine.path.split("/")[:2])),
        mine._replace(query=longer),
    ]

    assert mine.path != target.path
    assert {fetch("GET", each.geturl()).status_code for each in forged} == {403}


def test_without_an_address_the_bucket_is_closed(servers: SharedServers) -> None:
    """The key of an object is no secret that opens it: without a signature the object and the list of keys are refused."""
    bare = urlsplit(address_of(servers, large("without an address")))._replace(query="")
    bucket = bare._replace(path="/".join(bare.path.split("/")[:2]), query="list-type=2")

    assert {fetch("GET", each.geturl()).status_code for each in (bare, bucket)} == {403}


def test_a_key_does_not_say_what_it_holds(servers: SharedServers) -> None:
    """Keys of bytes are random: neither digest nor repository is in one, and the same blob gets another at each push."""
    blob = large("random key")
    first, second = (urlsplit(address_of(servers, blob)).path for _ in range(2))

    assert first != second
    assert all(re.fullmatch(r".*/blobs/[0-9a-f]{32}", path) for path in (first, second))


def test_a_blob_of_several_objects_is_sent_by_the_registry(servers: SharedServers) -> None:
    """A blob that a client sent in chunks has no single address, so its bytes and ranges come from the registry."""
    blob = large("several objects")
    with servers.client() as one, servers.client(second=True) as two:
        session = begin(one)
        append(one, session, blob.data[:200_000])
        assert finish(two, session, blob.digest, blob.data[200_000:]).status_code == 201
        whole = one.get(f"/v2/shop/app/blobs/{blob.digest}")
        part = two.get(f"/v2/shop/app/blobs/{blob.digest}", headers={"range": "bytes=199990-200009"})

    assert (whole.status_code, whole.content) == (200, blob.data)
    assert (part.status_code, part.content) == (206, blob.data[199_990:200_010])


def test_a_lost_object_is_not_an_error_with_its_address(servers: SharedServers) -> None:
    """When the bytes are gone, HEAD says so, and no answer of the registry names a key, the bucket or its server."""
    blob = large("lost")
    key = urlsplit(address_of(servers, blob)).path.split("/", 3)[3]
    obstore.delete(servers.objects.store(servers.prefix), key)
    with servers.client() as client:
        head = client.head(f"/v2/shop/app/blobs/{blob.digest}")

    assert head.status_code == 404
    assert servers.prefix not in str(head.headers)


def test_no_address_is_in_a_log_a_metric_or_an_error(servers: SharedServers) -> None:
    """Neither the log, at level debug, nor the metrics have a signature, an access key or the address of an object."""
    blob = large("not logged")
    address = address_of(servers, blob)
    query = parse_qs(urlsplit(address).query)
    with servers.client() as client:
        metrics = client.get("/metrics").text
        damaged = client.get(f"/v2/shop/app/blobs/{blob.digest[:-1]}!").text
    shown = servers.logged() + metrics + damaged

    assert blob.digest in servers.logged()
    assert not [secret for secret in ("X-Amz", query["X-Amz-Signature"][0], urlsplit(address).path) if secret in shown]
