"""The ledger over HTTP: the tlog-tiles endpoints, access rights, and receipts."""

from __future__ import annotations

import hashlib
from pathlib import Path

import bcrypt
import httpx2
import pytest

from boltseal.ledger.checkpoint import open_checkpoint
from boltseal.ledger.entry import EntryKind, parse
from boltseal.ledger.merkle import leaf_hash
from boltseal.ledger.proof import open_receipt
from boltseal.ledger.tiles import Tiles, edge, parse_bundle
from boltseal.server.settings import Settings
from boltseal.server.storage.ledger_key import LedgerKeys
from tests.images import image, push
from tests.logins import as_user
from tests.polling import until_signed
from tests.serving import Serving, ledger_key, serving_as

AUTH = {
    "anonymous_pull": ["open/**"],
    "grant": [
        {"users": ["dev"], "repository": "shop/**", "actions": ["pull", "push"]},
        {"users": ["auditor"], "repository": "**", "actions": ["ledger"]},
    ],
}


async def test_the_checkpoint_is_over_the_tiles_and_the_entries(registry: Serving) -> None:
    """Checkpoint, hash tiles and entry bundles are consistent with each other."""
    client = registry.client
    for n in range(3):
        await push(client, "shop/app", f"1.0.{n}", image(f"{n}"))
    await until_signed(client, 5)
    head = open_checkpoint((await client.get("/ledger/checkpoint")).content, ledger_key(registry.data)).checkpoint
    tiles = {tile: (await client.get(f"/ledger/{tile.path()}")).content for tile in edge(head.size)}
    bundle = await client.get(f"/ledger/tile/entries/000.p/{head.size}")
    lines = parse_bundle(bundle.content, head.size)

    assert Tiles(head.size, tiles).root() == head.root
    assert b"".join(map(leaf_hash, lines)) == tiles[edge(head.size)[0]]
    assert [str(parse(line).kind) for line in lines] == ["log.started", "rules.changed", *["tag.created"] * 3]


async def test_a_narrower_tile_is_the_beginning_of_a_wider_one(registry: Serving) -> None:
    """A partial tile is served for every signed size, and is the beginning of the wider one."""
    await push(registry.client, "shop/app", "1.0.0", image("one"))
    await until_signed(registry.client, 2)
    wide = await registry.client.get("/ledger/tile/0/000.p/2")
    narrow = await registry.client.get("/ledger/tile/0/000.p/1")

    assert wide.content[:32] == narrow.content
    assert wide.headers["cache-control"] == "no-store"


@pytest.mark.parametrize(
    "path", ["tile/0/000", "tile/0/000.p/200", "tile/1/000.p/1", "tile/entries/001.p/1", "receipt/99"]
)
async def test_unsigned_entries_are_not_served(registry: Serving, path: str) -> None:
    """Nothing beyond the newest checkpoint is served."""
    answer = await registry.client.get(f"/ledger/{path}")

    assert answer.status_code == 404


@pytest.mark.parametrize("path", ["", "tile/0/0", "tile/0/000.p/0", "receipt/-1", "receipt/x"])
async def test_other_paths_are_not_found(registry: Serving, path: str) -> None:
    """Each resource of the ledger has exactly one path."""
    assert (await registry.client.get(f"/ledger/{path}")).status_code == 404


async def test_the_ledger_is_read_only(registry: Serving) -> None:
    """The ledger allows only GET and HEAD."""
    assert (await registry.client.post("/ledger/checkpoint")).status_code == 405


async def test_a_push_answers_with_the_index_of_its_receipt(registry: Serving) -> None:
    """A push's answer has the index of its entry, whose receipt proves it with the public key alone."""
    one = image("one")
    answer = await push(registry.client, "shop/app", "1.0.0", one)
    await until_signed(registry.client, int(answer.headers["boltseal-ledger-index"]) + 1)
    receipt = await registry.client.get(f"/ledger/receipt/{answer.headers['boltseal-ledger-index']}")
    opened = open_receipt(receipt.content, ledger_key(registry.data))

    assert opened.entry.kind is EntryKind.TAG_CREATED
    assert (opened.entry.repository, opened.entry.tag, opened.entry.digest) == ("shop/app", "1.0.0", one.digest)


@pytest.fixture
def settings(data: Path) -> Settings:
    keys = data.with_name("data.keys")
    lines = [f"{who}:{bcrypt.hashpw(f'pw-{who}'.encode(), bcrypt.gensalt(4)).decode()}\n" for who in ("dev", "auditor")]
    (keys / "htpasswd").write_text("".join(lines))
    return Settings.model_validate({"server": {"data": data}, "auth": AUTH})


@pytest.mark.parametrize(
    ("path", "anonymous", "dev", "auditor"),
    [
        ("checkpoint", 200, 200, 200),  # with anonymous pull on some repository, anonymous clients are accepted
        ("tile/0/000.p/1", 200, 200, 200),
        ("tile/entries/000.p/1", 401, 403, 200),
        ("rotations", 200, 200, 200),
        ("receipt/0", 401, 403, 200),
        ("receipt/2", 401, 200, 403),
    ],
)
async def test_entries_need_their_own_right(
    settings: Settings, path: str, anonymous: int, dev: int, auditor: int
) -> None:
    """Entry bundles need the right `ledger`, and a receipt needs the right to pull from its repository."""
    async with serving_as(settings) as registry:
        await push(httpx_with(registry, "dev"), "shop/app", "1.0.0", image("one"))
        await until_signed(httpx_with(registry, "dev"), 3)
        asked = [
            (await registry.client.get(f"/ledger/{path}", headers=headers)).status_code
            for headers in ({}, as_user("dev"), as_user("auditor"))
        ]

    assert asked == [anonymous, dev, auditor]


def httpx_with(registry: Serving, user: str) -> httpx2.AsyncClient:
    """Return a client with a login."""
    registry.client.headers.clear()
    return httpx2.AsyncClient(
        transport=httpx2.ASGITransport(app=registry.app), base_url="http://localhost:5000", headers=as_user(user)
    )


async def test_a_token_does_not_give_access_to_entries(settings: Settings) -> None:
    """Tokens have rights on repositories only, so that entries of the ledger need Basic authentication."""
    async with serving_as(settings) as registry:
        token = (await registry.client.get("/token", headers=as_user("auditor"))).json()["token"]
        answer = await registry.client.get("/ledger/tile/entries/000.p/1", headers={"authorization": f"Bearer {token}"})

    assert answer.status_code == 401
    assert answer.headers["www-authenticate"].startswith("Basic ")


async def test_hash_tiles_do_not_reveal_a_private_name(registry: Serving) -> None:
    """A guessed name, digest and time can't be confirmed by a hash tile, because each entry has 16 bytes of salt."""
    answer = await push(registry.client, "secret/plan", "1.0.0", image("plan"))
    index = int(answer.headers["boltseal-ledger-index"])
    await until_signed(registry.client, index + 1)
    tile = (await registry.client.get(f"/ledger/tile/0/000.p/{index + 1}")).content
    raw = parse_bundle((await registry.client.get(f"/ledger/tile/entries/000.p/{index + 1}")).content, index + 1)[index]
    entry = parse(raw)
    guess = raw.replace(entry.salt.encode(), b"0" * 32)

    assert tile[-32:] == hashlib.sha256(b"\x00" + raw).digest()
    assert leaf_hash(guess) not in [tile[at : at + 32] for at in range(0, len(tile), 32)]
    assert len(bytes.fromhex(entry.salt)) == 16


async def test_the_history_of_a_repository_has_its_entries(registry: Serving) -> None:
    """A repository's entries are returned byte for byte, in pages, optionally of one tag."""
    client = registry.client
    for n in range(3):
        await push(client, "shop/app", f"1.0.{n}", image(f"{n}"))
    await push(client, "shop/other", "1.0.0", image("other"))
    await until_signed(client, 6)
    url, found = "/v2/shop/app/_boltseal/history?n=2", list[dict[str, object]]()
    while url:
        answer = await client.get(url)
        found += answer.json()["entries"]
        url = answer.links["next"]["url"] if "next" in answer.links else ""
    of_tag = (await client.get("/v2/shop/app/_boltseal/history/1.0.1")).json()["entries"]

    assert [parse(str(one["line"]).encode()).tag for one in found] == ["1.0.0", "1.0.1", "1.0.2"]
    assert of_tag == [found[1]]


async def test_the_history_of_a_repository_is_filtered_by_kinds(registry: Serving) -> None:
    """The history is filtered by kinds and paged, and an unknown kind is refused."""
    client = registry.client
    for content in ("one", "two", "three"):
        await push(client, "shop/app", "latest", image(content))
    await push(client, "shop/app", "1.0.0", image("three"))
    await client.delete("/v2/shop/app/manifests/latest")
    await until_signed(client, 7)
    url, found = "/v2/shop/app/_boltseal/history?n=1&kinds=tag.moved,tag.deleted", list[str]()
    while url:
        answer = await client.get(url)
        found += [parse(str(one["line"]).encode()).kind for one in answer.json()["entries"]]
        url = answer.links["next"]["url"] if "next" in answer.links else ""
    unknown = await client.get("/v2/shop/app/_boltseal/history?kinds=tag.moved,tag.melted")

    assert found == ["tag.moved", "tag.moved", "tag.deleted"]
    assert unknown.status_code == 400
    assert "comma-separated list of entry kinds" in unknown.text


async def test_the_observations_are_served_beside_the_ledger(tmp_path: Path) -> None:
    """The observation log has the ledger's endpoints under its own name and key."""
    settings = Settings.model_validate(
        {"server": {"data": tmp_path / "data"}, "upstream": [{"name": "docker.io", "url": "http://127.0.0.1:9"}]}
    )
    async with serving_as(settings) as registry:
        note = (await registry.client.get("/ledger/observations/checkpoint")).content
        bundle = await registry.client.get("/ledger/observations/tile/entries/000.p/1")
        receipt = await registry.client.get("/ledger/observations/receipt/0")
        ledgers = await registry.client.get("/ledger/receipt/0")
        nothing = await registry.client.get("/ledger/observations/tile/entries/000.p/2")
    key = LedgerKeys(tmp_path / "data.keys", name="observations").key()
    assert key is not None
    (line,) = parse_bundle(bundle.content, 1)

    assert open_checkpoint(note, key.verifier).checkpoint.origin == "localhost:5000/observations"
    assert parse(line).kind is EntryKind.LOG_STARTED
    assert open_receipt(receipt.content, key.verifier).entry.kind is EntryKind.LOG_STARTED
    assert ledgers.content != receipt.content
    assert nothing.status_code == 404


async def test_a_registry_without_upstreams_has_no_observations(registry: Serving) -> None:
    """A registry without upstreams has no observation log."""
    assert (await registry.client.get("/ledger/observations/checkpoint")).status_code == 404
