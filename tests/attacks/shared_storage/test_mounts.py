"""Mounts of blobs from repositories that the caller may not read, over HTTP and through two servers.

`ci` may pull and push `shop/**`, `other` has every right in `other/**`.
"""

from __future__ import annotations

import pytest

from tests.images import Blob
from tests.shared_servers import SharedServers, push_blob, refused

pytestmark = pytest.mark.real


@pytest.mark.parametrize("source", ["&from=shop/app", "", "&from=other/app"], ids=["named", "anywhere", "own"])
def test_a_blob_of_a_hidden_repository_is_not_mounted(servers: SharedServers, source: str) -> None:
    """The answer to a mount of a hidden blob is that to a mount of a missing one: an upload session, and no blob."""
    hidden, absent = Blob(f"hidden {source}".encode()), Blob(f"absent {source}".encode())
    with servers.client("ci") as ci:
        push_blob(ci, "shop/app", hidden)
    with servers.client("other", second=True) as other:
        answers = [other.post(f"/v2/other/app/blobs/uploads/?mount={blob.digest}{source}") for blob in (hidden, absent)]
        read = other.get(f"/v2/other/app/blobs/{hidden.digest}")

    assert [each.status_code for each in answers] == [202, 202]
    assert sorted(answers[0].headers) == sorted(answers[1].headers)
    assert refused(read) == (404, "BLOB_UNKNOWN")


def test_a_user_mounts_a_blob_of_an_own_repository_through_another_server(servers: SharedServers) -> None:
    """A user mounts from an own repository through the other server, and gets the blob there at once."""
    blob = Blob(b"mounted")
    with servers.client("ci") as one, servers.client("ci", second=True) as two:
        push_blob(one, "shop/app", blob)
        mounted = two.post(f"/v2/shop/two/blobs/uploads/?mount={blob.digest}&from=shop/app")
        read = one.get(f"/v2/shop/two/blobs/{blob.digest}")

    assert mounted.status_code == 201
    assert read.content == blob.data


def test_a_deleted_blob_is_not_mounted(servers: SharedServers) -> None:
    """When the only repository with a blob has deleted it, no server mounts it any more."""
    blob = Blob(b"deleted before the mount")
    with servers.client("boss") as boss, servers.client("ci", second=True) as two:
        push_blob(boss, "shop/app", blob)
        deleted = boss.delete(f"/v2/shop/app/blobs/{blob.digest}")
        mounted = two.post(f"/v2/shop/two/blobs/uploads/?mount={blob.digest}&from=shop/app")
        anywhere = two.post(f"/v2/shop/two/blobs/uploads/?mount={blob.digest}")
        read = two.get(f"/v2/shop/two/blobs/{blob.digest}")

    assert deleted.status_code == 202
    assert (mounted.status_code, anywhere.status_code) == (202, 202)
    assert refused(read) == (404, "BLOB_UNKNOWN")


def test_a_digest_of_a_hidden_blob_cannot_be_pushed_without_its_bytes(servers: SharedServers) -> None:
    """A digest that another repository has is not taken for one's own: without its bytes a push of it is refused."""
    blob = Blob(b"only its digest is known")
    with servers.client("ci") as ci, servers.client("other") as other:
        push_blob(ci, "shop/app", blob)
        guessed = other.post("/v2/other/app/blobs/uploads/", params={"digest": blob.digest}, content=b"")
        read = other.get(f"/v2/other/app/blobs/{blob.digest}")

    assert refused(guessed) == (400, "DIGEST_INVALID")
    assert refused(read) == (404, "BLOB_UNKNOWN")
