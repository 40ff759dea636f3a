"""Records about images in a registry's ledger: added and read."""

from __future__ import annotations

from collections.abc import AsyncIterator

import httpx2
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from boltseal.client.credentials import CredentialStore
from boltseal.client.errors import RemoteMismatch, RemoteNotFound, RemoteUnavailable
from boltseal.client.ledger_client import LedgerClient
from boltseal.client.ledger_records import (
    NoRecords,
    add_record,
    is_signed,
    list_entries,
    list_observations,
    list_records,
)
from boltseal.client.transport import Transport, TransportOptions
from boltseal.errors import Invalid
from boltseal.ledger.entry import Entry, EntryKind, encode
from boltseal.oci.digest import Digest
from boltseal.oci.reference import Reference, Repository
from tests.images import image, push
from tests.polling import until_signed
from tests.serving import Serving

HOST = "localhost:5000"
SHOP = Repository("shop/app")
IMAGE = image("one")
DIGEST = Digest.parse(IMAGE.digest)
REFERENCE = Reference.parse(f"{HOST}/shop/app:1.0.0")

LINE = encode(
    Entry(
        kind=EntryKind.TAG_MOVED,
        time_us=1_795_500_000_000_000,
        registry=HOST,
        repository="shop/app",
        tag="latest",
        digest=IMAGE.digest,
        type=IMAGE.media_type,
        size=1,
        was=image("two").digest,
        previous=0,
        salt="0" * 32,
    )
).decode()


def transport_to(app: object) -> Transport:
    inner = httpx2.ASGITransport(app=app)  # type: ignore[arg-type]  # two words for one kind of application
    return Transport(CredentialStore(()), TransportOptions(attempts=2), app=inner)


@pytest.fixture
async def transport(registry: Serving) -> AsyncIterator[Transport]:
    await push(registry.client, "shop/app", "1.0.0", IMAGE)
    made = transport_to(registry.app)
    yield made
    await made.aclose()


async def test_a_record_is_read_back(registry: Serving, transport: Transport) -> None:
    """A record is read with kind, tag, digest, reason and extra keys."""
    index = await add_record(transport, EntryKind.RELEASED, REFERENCE, DIGEST, {"host": "web1"}, reason="deploy 17")
    untagged = await add_record(transport, EntryKind.BUILT, Reference(HOST, SHOP), DIGEST, {})
    await until_signed(registry.client, untagged + 1)
    found = await list_records(transport, HOST, SHOP)

    assert [number for number, _ in found] == [index, untagged]
    assert (found[0][1].kind, found[0][1].tag, found[0][1].extra) == ("released", "1.0.0", {"host": "web1"})
    assert found[0][1].reason == "deploy 17"
    assert found[1][1].tag == ""


async def test_a_client_can_wait_until_its_record_is_signed(registry: Serving, transport: Transport) -> None:
    """A record is listed as soon as the wait for its signature is over; of each record the wait is its own."""
    indices = [await add_record(transport, EntryKind.BUILT, REFERENCE, DIGEST, {"inputs": name}) for name in "ab"]
    signed = [await is_signed(transport, HOST, SHOP, index) for index in reversed(indices)]
    found = await list_records(transport, HOST, SHOP)

    assert signed == [True, True]
    assert [each.entry_index for each in found] == indices


@pytest.mark.parametrize("listed", [[], [{"index": 9, "line": LINE}]], ids=["nothing", "a later entry"])
async def test_the_wait_for_a_signature_ends(listed: list[object]) -> None:
    """The wait for a record that a registry never lists ends after its time, and reports that it is not signed."""

    async def page(_: Request) -> Response:
        return JSONResponse({"size": 3, "entries": listed})

    transport = transport_to(Starlette(routes=[Route("/v2/{name:path}/_boltseal/records", page)]))
    signed = await is_signed(transport, HOST, SHOP, 3, timeout_s=0.3)
    await transport.aclose()

    assert not signed


async def test_entries_are_listed_by_their_kinds(registry: Serving, transport: Transport) -> None:
    """Records and moves are one list; a repository that is not mirrored has no observations."""
    for content in ("one", "two"):
        await push(registry.client, "shop/app", "latest", image(content))
    index = await add_record(transport, EntryKind.RELEASED, REFERENCE, DIGEST, {})
    await until_signed(registry.client, index + 1)
    kinds = {EntryKind.TAG_MOVED, EntryKind.RELEASED}
    found = await list_entries(transport, HOST, SHOP, kinds)

    assert [(str(one.entry.kind), one.entry.tag) for one in found] == [("tag.moved", "latest"), ("released", "1.0.0")]
    assert await list_observations(transport, HOST, SHOP, {EntryKind.OBSERVED}) == []


async def test_a_registry_that_lists_all_kinds_is_read_as_well() -> None:
    """An older registry that ignores the filter by kind is read too; entries of another repository are refused."""
    moved, created = LINE, LINE.replace("tag.moved", "tag.created")

    async def every(_: Request) -> Response:
        lines = [{"index": 1, "line": created}, {"index": 2, "line": moved}]
        return JSONResponse({"size": 3, "entries": lines})

    transport = transport_to(Starlette(routes=[Route("/v2/{name:path}/_boltseal/history", every)]))
    found = await list_entries(transport, HOST, SHOP, {EntryKind.TAG_MOVED})
    with pytest.raises(RemoteMismatch, match="entry 1 is not about shop/other"):
        await list_entries(transport, HOST, Repository("shop/other"), {EntryKind.TAG_MOVED})
    await transport.aclose()

    assert [(one.entry_index, one.entry.kind) for one in found] == [(2, "tag.moved")]


async def test_an_endless_list_is_not_read_to_its_end() -> None:
    """An endless list of pages from a hostile registry is read up to a limit."""
    asked = 0

    async def endless(request: Request) -> Response:
        nonlocal asked
        asked += 1
        after = int(request.query_params.get("after", "-1"))
        page = {"size": after + 4, "entries": [{"index": after + each, "line": LINE} for each in (1, 2, 3)]}
        return JSONResponse(page, headers={"link": '<?more>; rel="next"'})

    transport = transport_to(Starlette(routes=[Route("/v2/{name:path}/_boltseal/{what}", endless)]))
    client = LedgerClient(transport, HOST, max_listing_bytes=10 * len(LINE))
    for entries in (client.history(SHOP), client.observed(SHOP)):
        with pytest.raises(RemoteMismatch, match=f"has more than {10 * len(LINE)} bytes: not read"):
            _ = [index async for index, _ in entries]
    await transport.aclose()

    assert asked == 8


async def test_a_missing_image_is_reported(transport: Transport) -> None:
    """A record for a missing image has another error than a registry without records."""
    gone = Digest.of(b"gone")
    with pytest.raises(RemoteNotFound, match=f"has no {gone}: push it first") as raised:
        await add_record(transport, EntryKind.BUILT, REFERENCE, gone, {})

    assert not isinstance(raised.value, NoRecords)


async def test_a_refusal_carries_the_registrys_message(transport: Transport) -> None:
    """A refusal, for example of a too large record, has the registry's message."""
    with pytest.raises(Invalid, match="at most 8192"):
        await add_record(transport, EntryKind.BUILT, REFERENCE, DIGEST, {"a": "x" * 9000})


def answering(status: int, body: bytes, seen: list[str]) -> Transport:
    async def answer(request: Request) -> Response:
        seen.append(request.method)
        return Response(body, status_code=status)

    return transport_to(Starlette(routes=[Route("/{path:path}", answer, methods=["GET", "POST"])]))


@pytest.mark.parametrize("status", [404, 405])
async def test_another_registry_accepts_no_records(status: int) -> None:
    """A registry without the records API gives its own error, distinct from every other failure."""
    other = answering(status, b"", [])
    with pytest.raises(NoRecords, match="not a boltseal registry"):
        await add_record(other, EntryKind.BUILT, REFERENCE, DIGEST, {})
    await other.aclose()


async def test_a_record_is_sent_only_once() -> None:
    """A record is sent once without retries, because a lost answer could cause a second record."""
    seen: list[str] = []
    failing = answering(503, b"", seen)
    with pytest.raises(RemoteUnavailable):
        await add_record(failing, EntryKind.BUILT, REFERENCE, DIGEST, {})
    await failing.aclose()

    assert seen.count("POST") == 1


@pytest.mark.parametrize("body", [b"", b'{"index":"x"}', b"[]"])
async def test_a_malformed_answer_is_a_mismatch(body: bytes) -> None:
    """A malformed answer is a mismatch, since the entry's index is unknown."""
    lying = answering(201, body, [])
    with pytest.raises(RemoteMismatch):
        await add_record(lying, EntryKind.BUILT, REFERENCE, DIGEST, {})
    await lying.aclose()


@pytest.mark.parametrize(
    "body",
    [b'{"size":1,"entries":[{"index":0,"line":"{}"}]}', b'{"entries":[]}', b"nothing"],
)
async def test_malformed_records_are_a_mismatch(body: bytes) -> None:
    """Records that `ledger.entry` can't parse are a mismatch."""
    lying = answering(200, body, [])
    with pytest.raises(RemoteMismatch):
        await list_records(lying, HOST, SHOP)
    await lying.aclose()


async def test_a_registry_without_records_raises_no_records() -> None:
    """Only a registry without the records API raises NoRecords."""
    other = answering(404, b"", [])
    with pytest.raises(NoRecords):
        await list_records(other, HOST, SHOP)
    await other.aclose()


async def test_entries_of_another_kind_are_no_records(registry: Serving, transport: Transport) -> None:
    """A registry can't present a push entry as a build record."""
    await until_signed(registry.client, 3)
    lines = (await registry.client.get("/v2/shop/app/_boltseal/history")).content
    lying = answering(200, lines, [])
    with pytest.raises(RemoteMismatch, match="is not a record"):
        await list_records(lying, HOST, SHOP)
    await lying.aclose()
