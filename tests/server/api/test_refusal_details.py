"""The `detail` of error responses: the facts of a refusal, and those hidden from a caller without the right to pull."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import datetime
from pathlib import Path
from typing import Any

import bcrypt
import httpx2
import msgspec
import pytest

from boltseal.client.errors import RemoteDenied, RemoteNotFound, RemoteRefused, from_status
from boltseal.policy.refusals import RefusalReason
from boltseal.server.api.errors import ErrorBody
from boltseal.server.commands.users import put_user
from boltseal.server.settings import Settings
from boltseal.server.storage.metadata.migrate import prepare_data
from tests.images import Blob, Document, artifact, image, push, push_blob, start_upload
from tests.logins import as_user
from tests.serving import Clock, Serving, serving, serving_as

ONE, TWO = image("one"), image("two")
APPEND = [{"repository": "**", "tag": "log-*", "mode": "append-only"}]
USERS = ("ci", "pusher", "deleter", "boss")
GRANTS = [
    {"users": ["ci", "boss"], "actions": ["pull", "push"]},
    {"users": ["boss"], "actions": ["delete"]},
    {"users": ["pusher"], "actions": ["push"]},
    {"users": ["deleter"], "actions": ["delete"]},
]


def detail_of(answer: httpx2.Response, status: int) -> dict[str, Any]:
    """Return the detail of an error response, which must be as the published type says."""
    assert answer.status_code == status, answer.text
    msgspec.json.decode(answer.content, type=ErrorBody, strict=True)
    (error,) = answer.json()["errors"]
    assert set(error) == {"code", "message", "detail"}
    found: dict[str, Any] = error["detail"]
    return found


async def put_only(
    client: httpx2.AsyncClient,
    repository: str,
    reference: str,
    document: Document,
    headers: dict[str, str] | None = None,
) -> httpx2.Response:
    """Push a manifest whose blobs are there."""
    more = {"content-type": document.media_type, **(headers or {})}
    return await client.put(f"/v2/{repository}/manifests/{reference}", content=document.raw, headers=more)


async def test_a_push_to_a_sealed_tag_names_the_sealed_digest_and_a_free_tag(client: httpx2.AsyncClient) -> None:
    """The detail of a refused push has every fact of the message, so that no program parses the message."""
    await push(client, "shop/app", "1.4.2", ONE)
    refused = await push(client, "shop/app", "1.4.2", TWO)
    detail = detail_of(refused, 409)
    since = datetime.fromisoformat(detail.pop("since"))

    assert detail == {
        "reason": "sealed",
        "tag": "1.4.2",
        "digest": ONE.digest,
        "pushed": TWO.digest,
        "by": "anonymous",
        "free": ["1.4.3"],
        "rule": "no rule matches; by default a tag is sealed and kept for ever",
    }
    assert since.date().isoformat() in refused.json()["errors"][0]["message"]


async def test_a_taken_next_version_is_not_proposed(client: httpx2.AsyncClient) -> None:
    """The proposed tag is free, and one query finds it however many versions follow."""
    for tag in ("1.4.2", "1.4.3"):
        await push(client, "shop/app", tag, ONE)
    taken = detail_of(await push(client, "shop/app", "1.4.2", TWO), 409)
    free = detail_of(await push(client, "shop/app", "1.4.3", TWO), 409)["free"]
    published = await push(client, "shop/app", free[0], TWO)

    assert "free" not in taken
    assert published.status_code == 201


async def test_a_push_with_several_tags_names_the_one_that_is_refused(client: httpx2.AsyncClient) -> None:
    """A push with several tags is refused as a whole, and `tag` is the sealed one."""
    await push(client, "shop/app", "1.4.2", ONE)
    for blob in TWO.blobs:
        await push_blob(client, "shop/app", blob)
    refused = await put_only(client, "shop/app", f"{TWO.digest}?tag=9.9.9&tag=1.4.2", TWO)

    assert detail_of(refused, 409)["tag"] == "1.4.2"


async def test_a_push_to_a_tombstone_says_which_digest_may_return(data: Path) -> None:
    """The detail has the only digest that may return, and the time of the deletion as `since`."""
    rules = [{"repository": "**", "tag": "*", "mode": "sealed", "keep": "deletable"}]
    async with serving(data, rules) as registry:
        await push(registry.client, "shop/app", "1.4.2", ONE)
        await registry.client.delete("/v2/shop/app/manifests/1.4.2")
        detail = detail_of(await push(registry.client, "shop/app", "1.4.2", TWO), 409)

    assert (detail["reason"], detail["digest"], detail["pushed"]) == ("tombstone", ONE.digest, TWO.digest)
    assert detail["free"] == ["1.4.3"]
    assert detail["rule"].startswith("rule 1 (")


async def test_a_push_to_an_append_only_tag_says_what_it_must_contain(data: Path) -> None:
    """The detail's `digest` is what the append-only tag resolves to."""
    async with serving(data, APPEND) as registry:
        await push(registry.client, "shop/app", "log-1", ONE)
        detail = detail_of(await push(registry.client, "shop/app", "log-1", TWO), 409)

    assert {key: detail[key] for key in ("reason", "tag", "digest", "pushed")} == {
        "reason": "not-extended",
        "tag": "log-1",
        "digest": ONE.digest,
        "pushed": TWO.digest,
    }


@pytest.mark.parametrize("what", ["tag", "manifest", "config", "child"])
async def test_a_refused_delete_names_the_tag_whose_seal_protects(client: httpx2.AsyncClient, what: str) -> None:
    """A refused delete by tag, by digest or of a part of the image names the sealed tag."""
    await push(client, "shop/app", "1.4.2", ONE)
    paths = {
        "tag": "manifests/1.4.2",
        "manifest": f"manifests/{ONE.digest}",
        "config": f"blobs/{ONE.config.digest}",
        "child": f"blobs/{ONE.layers[0].digest}",
    }
    refused = await client.delete(f"/v2/shop/app/{paths[what]}")
    detail = detail_of(refused, 405)

    assert (detail["reason"], detail["tag"]) == ("protected", "1.4.2")
    assert detail["digest"] == {"config": ONE.config.digest, "child": ONE.layers[0].digest}.get(what, ONE.digest)
    assert ("by" in detail) == (what == "tag")


async def test_a_refused_delete_of_a_referrer_names_the_sealed_tag(data: Path) -> None:
    """After 24 hours its pusher may not delete a signature of a sealed image."""
    clock = Clock(1_700_000_000_000_000)
    sbom = artifact("application/vnd.example.sbom.v1", subject=ONE)
    async with serving(data, clock=clock) as registry:
        await push(registry.client, "shop/app", "1.4.2", ONE)
        await push(registry.client, "shop/app", sbom.digest, sbom)
        clock.advance(hours=25)
        detail = detail_of(await registry.client.delete(f"/v2/shop/app/manifests/{sbom.digest}"), 405)

    assert detail == {"reason": "protected", "tag": "1.4.2", "digest": sbom.digest}


async def test_a_failed_precondition_says_what_the_tag_resolves_to(client: httpx2.AsyncClient) -> None:
    """A client that compares and swaps gets the digest to compare with next."""
    await push(client, "shop/app", "1.4.2", ONE)
    refused = await put_only(client, "shop/app", "1.4.2", ONE, {"if-none-match": "*"})
    absent = await put_only(client, "shop/app", "9.9.9", ONE, {"if-match": f'"{ONE.digest}"'})

    assert detail_of(refused, 412) == {"reason": "precondition", "digest": ONE.digest}
    assert detail_of(absent, 412) == {"reason": "precondition"}


async def test_an_incomplete_manifest_says_what_is_missing(client: httpx2.AsyncClient) -> None:
    """A refused incomplete manifest names the first missing digest, which the client can push next."""
    refused = await put_only(client, "shop/app", "1.4.2", ONE)
    detail = detail_of(refused, 400)

    assert (detail["reason"], detail["pushed"]) == ("incomplete", ONE.digest)
    assert detail["digest"] in {blob.digest for blob in ONE.blobs}


async def test_errors_without_facts_have_their_reason(client: httpx2.AsyncClient) -> None:
    """Each error without facts has its own reason, even where errors share a status or a code."""
    answers = {
        "not-found": (404, await client.get("/v2/shop/app/manifests/9.9.9")),
        "route": (404, await client.get("/v2/shop/app/nothing")),
        "digest": (400, await client.get("/v2/shop/app/blobs/sha256:00")),
        "method": (405, await client.patch("/v2/shop/app/manifests/1.4.2")),
        "invalid": (400, await client.get("/v2/shop/app/tags/list?n=x")),
    }

    assert {name: detail_of(answer, status) for name, (status, answer) in answers.items()} == {
        name: {"reason": name} for name in answers
    }


@pytest.fixture
async def guarded(data: Path) -> AsyncIterator[Serving]:
    """A registry in which `pusher` may push, `deleter` may delete, neither may pull, and `ci` has a small quota."""
    prepare_data(data)
    auth = {"grant": GRANTS, "quota": [{"users": ["ci"], "max_bytes": 5000}], "max_uploads_per_user": 1}
    settings = Settings.model_validate({"server": {"data": data}, "auth": auth})
    for name in USERS:
        put_user(settings, name, bcrypt.hashpw(f"pw-{name}".encode(), bcrypt.gensalt(4)))
    async with serving_as(settings) as running:
        running.client.headers.update(as_user("boss"))
        await push(running.client, "shop/app", "1.4.2", ONE)
        del running.client.headers["authorization"]
        yield running


def disclosed_by(answer: httpx2.Response) -> set[str]:
    """Return which facts of the repository are anywhere in a response."""
    text = answer.text + str(answer.headers)
    facts = {"digest": ONE.digest, "short digest": ONE.digest[:19], "user": "boss", "next tag": "1.4.3"}
    return {name for name, fact in facts.items() if fact in text}


async def test_a_caller_who_may_push_and_not_pull_learns_no_digest_or_user(guarded: Serving) -> None:
    """Detail and message state only that the tag is sealed and the digest that was pushed."""
    client = guarded.client
    client.headers.update(as_user("pusher"))
    for blob in TWO.blobs:
        await client.post("/v2/shop/app/blobs/uploads/", params={"digest": blob.digest}, content=blob.data)
    sealed = await put_only(client, "shop/app", "1.4.2", TWO)
    condition = await put_only(client, "shop/app", "1.4.2", TWO, {"if-match": f'"{TWO.digest}"'})
    client.headers.update(as_user("ci"))
    readable = await put_only(client, "shop/app", "1.4.2", TWO)

    assert detail_of(sealed, 409) == {"reason": "sealed", "pushed": TWO.digest}
    assert detail_of(condition, 412) == {"reason": "precondition"}
    assert disclosed_by(sealed) | disclosed_by(condition) == set()
    assert disclosed_by(readable) == {"digest", "short digest", "user", "next tag"}


async def test_a_caller_who_may_delete_and_not_pull_learns_no_tag(guarded: Serving) -> None:
    """A refused delete does not name the tag that protects the digest."""
    client = guarded.client
    client.headers.update(as_user("deleter"))
    by_digest = await client.delete(f"/v2/shop/app/manifests/{ONE.digest}")
    by_blob = await client.delete(f"/v2/shop/app/blobs/{ONE.config.digest}")

    for answer in (by_digest, by_blob):
        assert detail_of(answer, 405) == {"reason": "protected"}
        assert "1.4.2" not in answer.text


async def test_a_missing_right_a_wrong_login_and_a_quota_have_different_reasons(guarded: Serving) -> None:
    """Refusals that share the codes DENIED and UNAUTHORIZED or the status 429 differ in their reason."""
    client = guarded.client
    anonymous = await client.get("/v2/shop/app/tags/list")
    wrong = await client.get("/v2/shop/app/tags/list", auth=httpx2.BasicAuth("ci", "nope"))
    denied = await client.get("/v2/shop/app/tags/list", headers=as_user("pusher"))
    client.headers.update(as_user("ci"))
    large = Blob(b"x" * 6000)
    quota = await client.post("/v2/shop/app/blobs/uploads/", params={"digest": large.digest}, content=large.data)
    await start_upload(client, "shop/app")
    uploads = await client.post("/v2/shop/app/blobs/uploads/")

    assert detail_of(anonymous, 401) == {"reason": "login-required"}
    assert detail_of(wrong, 401) == {"reason": "login-invalid"}
    assert detail_of(denied, 403) == {"reason": "denied"}
    assert detail_of(quota, 403) == {"reason": "quota"}
    assert detail_of(uploads, 429) == {"reason": "quota"}


async def test_our_client_has_the_detail_of_a_refusal(client: httpx2.AsyncClient) -> None:
    """Commands read the facts of a refusal from its detail, and never from its message."""
    await push(client, "shop/app", "1.4.2", ONE)
    answer = await push(client, "shop/app", "1.4.2", TWO)
    error = from_status("localhost:5000", "manifest 1.4.2", 409, answer.content, retry_after_s=None)
    denied = from_status("localhost:5000", "it", 403, b'{"errors":[{"detail":{"reason":"quota"}}]}', retry_after_s=None)
    foreign = from_status("harbor", "manifest", 412, b'{"errors":[{"code":"PRECONDITION"}]}', retry_after_s=None)
    junk = from_status("harbor", "manifest", 409, b"<html>", retry_after_s=None)
    missing = from_status("localhost:5000", "it", 404, b"", retry_after_s=None)

    assert isinstance(error, RemoteRefused)
    assert error.detail is not None
    assert error.detail.reason is RefusalReason.SEALED
    assert [str(tag) for tag in error.detail.free] == ["1.4.3"]
    assert isinstance(denied, RemoteDenied)
    assert denied.detail is not None
    assert isinstance(foreign, RemoteRefused)
    assert isinstance(junk, RemoteRefused)
    assert (foreign.detail, junk.detail) == (None, None)
    assert isinstance(missing, RemoteNotFound)
