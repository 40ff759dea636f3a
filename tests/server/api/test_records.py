"""Records of images over HTTP: written to the ledger, checked, listed, and without effect on tags."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import bcrypt
import httpx2
import pytest

from boltseal.ledger.entry import Entry, parse
from boltseal.ledger.history import check, contradiction
from boltseal.server.settings import Settings
from tests.images import digest_of, image, push
from tests.polling import until_signed
from tests.serving import Serving, serving_as

RECORDS = "/v2/shop/app/_boltseal/records"
FIRST, SECOND = image("one"), image("two")


@pytest.fixture
async def pushed(registry: Serving) -> httpx2.AsyncClient:
    """A repository with two images: `latest` moved from the first to the second, and 1.0.0 is the first."""
    await push(registry.client, "shop/app", "1.0.0", FIRST)
    await push(registry.client, "shop/app", "latest", FIRST)
    await push(registry.client, "shop/app", "latest", SECOND)
    return registry.client


async def record(client: httpx2.AsyncClient, **fields: Any) -> httpx2.Response:
    return await client.post(RECORDS, json={"kind": "built", "digest": FIRST.digest, **fields})


async def entries(client: httpx2.AsyncClient, path: str = RECORDS) -> list[tuple[int, Entry]]:
    answer = await client.get(path)

    assert answer.status_code == 200
    return [(one["index"], parse(one["line"].encode())) for one in answer.json()["entries"]]


async def test_a_record_is_an_entry_of_the_ledger(pushed: httpx2.AsyncClient) -> None:
    """A record is a ledger entry with the manifest's type and size, the sender as actor, and the tag's last change."""
    extra = {"base.name": "docker.io/library/node:16.13", "base.digest": f"sha256:{'b' * 64}"}
    answer = await record(pushed, tag="1.0.0", reason="nightly", extra=extra)
    await until_signed(pushed, answer.json()["index"] + 1)
    [(index, entry)] = await entries(pushed)

    assert answer.status_code == 201
    assert index == answer.json()["index"] == 5
    assert (entry.kind, entry.repository, entry.tag, entry.digest) == ("built", "shop/app", "1.0.0", FIRST.digest)
    assert (entry.type, entry.size) == (FIRST.media_type, len(FIRST.raw))
    assert (entry.actor, entry.reason, entry.extra) == ("anonymous", "nightly", extra)
    assert entry.previous == 2


async def test_a_record_changes_no_tag_and_breaks_no_chain(pushed: httpx2.AsyncClient, whole_store: None) -> None:
    """A record of a former image is allowed, and the next change of the tag refers to the last change."""
    for kind in ("built", "rebuild.requested", "released"):
        assert (await record(pushed, kind=kind, tag="latest")).status_code == 201
    await push(pushed, "shop/app", "latest", FIRST)
    await record(pushed, tag="latest", digest=SECOND.digest)
    await until_signed(pushed, 10)
    lines = (await pushed.get("/v2/shop/app/_boltseal/history")).json()["entries"]
    history = check("shop/app", ((one["index"], one["line"].encode()) for one in lines))

    assert history.problems == ()
    assert contradiction(history.of("latest"), FIRST.digest) is None
    assert history.at(2**60)["latest"].entry.digest == FIRST.digest
    assert history.tags_by_digest()[SECOND.digest] == ("latest",)
    assert (await pushed.head("/v2/shop/app/manifests/latest")).headers["docker-content-digest"] == FIRST.digest


async def test_the_tag_history_of_the_spec_has_no_records(pushed: httpx2.AsyncClient) -> None:
    """The spec's tag history has created and deleted events only, and no records."""
    await record(pushed, tag="1.0.0")
    answer = await pushed.get("/v2/shop/app/_oci/tag-history/1.0.0")

    assert len(answer.json()["manifests"]) == 1


async def test_records_are_paged(pushed: httpx2.AsyncClient) -> None:
    """Records are returned in pages, like the entries of a history."""
    for number in range(3):
        await record(pushed, reason=str(number))
    await until_signed(pushed, 8)
    first = await pushed.get(f"{RECORDS}?n=2")
    rest = await entries(pushed, first.links["next"]["url"])

    assert [parse(one["line"].encode()).reason for one in first.json()["entries"]] == ["0", "1"]
    assert [entry.reason for _, entry in rest] == ["2"]


BAD: list[tuple[dict[str, Any], int, str]] = [
    ({"kind": "tag.moved"}, 400, "expected built, rebuild.requested, released"),
    ({"kind": "nonsense"}, 400, "expected built, rebuild.requested, released"),
    ({"digest": digest_of(b"elsewhere")}, 404, "push it first"),
    ({"digest": "sha256:abc"}, 400, "a sha256 digest has 64"),
    ({"tag": "never"}, 404, "never resolved to"),
    ({"tag": "1.0.0", "digest": SECOND.digest}, 404, "never resolved to"),
    ({"tag": "../x"}, 400, "is not a tag"),
    ({"actor": "root"}, 400, "actor"),
    ({"extra": {"Key": "x"}}, 400, "has the key"),
    ({"extra": {"a": "line\nbreak"}}, 400, "control characters"),
    ({"reason": "\u202e"}, 400, "direction marks"),
    ({"reason": "x" * 501}, 400, "500 bytes"),
    ({"extra": {"a": "x" * 9000}}, 400, "8192"),
    ({"extra": {f"k{number}": "" for number in range(41)}}, 400, "40"),
    ({"extra": {"a": 1}}, 400, "cannot read the record"),
]


@pytest.mark.parametrize(("expected", "status", "words"), BAD)
async def test_an_invalid_record_is_refused_and_leaves_nothing(
    pushed: httpx2.AsyncClient, expected: dict[str, Any], status: int, words: str
) -> None:
    """An invalid record is refused with a one-line message, and nothing is stored."""
    answer = await record(pushed, **expected)
    await record(pushed)
    await until_signed(pushed, 6)

    assert answer.status_code == status
    assert words in answer.json()["errors"][0]["message"]
    assert len(await entries(pushed)) == 1


@pytest.mark.parametrize(
    "body", [b"", b"[]", b"{", b"\xff", b'{"kind":"built"}', b"x" * 70_000, b'{"x":' + b"[" * 60_000]
)
async def test_a_malformed_body_is_refused(pushed: httpx2.AsyncClient, body: bytes) -> None:
    """A body that is not a record is refused, whatever its content and length."""
    answer = await pushed.post(RECORDS, content=body, headers={"content-type": "application/json"})

    assert answer.status_code in (400, 413)


async def test_a_form_of_a_web_page_is_no_record(pushed: httpx2.AsyncClient) -> None:
    """A web form's content type is refused, since a browser sends JSON to another site only after a preflight."""
    answer = await pushed.post(RECORDS, content=b"{}", headers={"content-type": "text/plain"})

    assert answer.status_code == 400


async def test_an_unknown_image_gets_no_record(client: httpx2.AsyncClient) -> None:
    """A record for an unknown image is refused, and the list stays empty."""
    answer = await record(client)
    await until_signed(client, 2)

    assert answer.status_code == 404
    assert await entries(client) == []


async def test_a_record_needs_the_right_to_push(data: Path) -> None:
    """Writing a record needs the right to push, and reading needs the right to pull."""
    users = {"dev": b"d", "reader": b"r", "other": b"o"}
    lines = [f"{name}:{bcrypt.hashpw(word, bcrypt.gensalt(4)).decode()}\n" for name, word in users.items()]
    data.with_name("data.keys").joinpath("htpasswd").write_text("".join(lines))
    grants = [
        {"users": ["dev"], "repository": "shop/**", "actions": ["pull", "push"]},
        {"users": ["reader"], "repository": "shop/**", "actions": ["pull"]},
    ]
    settings = Settings.model_validate({"server": {"data": data}, "auth": {"grant": grants}})
    body = {"kind": "released", "digest": FIRST.digest}
    async with serving_as(settings) as registry:
        registry.client.auth = ("dev", "d")
        await push(registry.client, "shop/app", "1.0.0", FIRST)
        fields = {}
        for name, word in users.items():
            registry.client.auth = (name, word)
            written = await registry.client.post(RECORDS, json=body)
            fields[name] = (written.status_code, (await registry.client.get(RECORDS)).status_code)

    assert fields == {"dev": (201, 200), "reader": (403, 200), "other": (403, 403)}


async def test_a_read_only_registry_accepts_no_record(data: Path, registry: Serving) -> None:
    """A read-only registry refuses records, which are writes."""
    await push(registry.client, "shop/app", "1.0.0", FIRST)
    settings = Settings.model_validate({"server": {"data": data, "read_only": True}})
    async with serving_as(settings) as reading:
        answer = await record(reading.client)

    assert answer.status_code == 405
