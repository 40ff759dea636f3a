"""Concurrent pushes: a sealed tag gets one digest, and every 201 is durable."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path

import httpx2
import pytest

from tests.images import Document, error_of, image, index, meaning, push, push_parts, put, signature, signature_tag
from tests.serving import serving

RACERS = 16


async def race(clients: list[httpx2.AsyncClient], tag: str, documents: list[Document]) -> list[httpx2.Response]:
    """PUT each document under one tag at the same time, spread over the clients; all parts are stored already."""
    for document in documents:
        await push_parts(clients[0], "shop/app", document)
    return await asyncio.gather(
        *(put(clients[number % len(clients)], "shop/app", tag, document) for number, document in enumerate(documents))
    )


async def test_racing_first_pushes_have_one_winner(client: httpx2.AsyncClient) -> None:
    """Of concurrent first pushes with different digests one gets 201, the others 409, and pulls return the winner."""
    documents = [image(f"racer {number}") for number in range(RACERS)]

    answers = await race([client], "1.4.2", documents)
    winners = [document for document, answer in zip(documents, answers, strict=True) if answer.status_code == 201]

    assert sorted(answer.status_code for answer in answers) == [201] + [409] * (RACERS - 1)
    assert await meaning(client, "shop/app", "1.4.2") == winners[0].digest


async def test_racing_first_pushes_on_two_servers_of_one_store_have_one_winner(data: Path) -> None:
    """Two applications on one store, as with several workers, accept one of the concurrent first pushes."""
    documents = [image(f"racer {number}") for number in range(RACERS)]
    async with AsyncExitStack() as stack:
        clients = [(await stack.enter_async_context(serving(data))).client for _ in range(2)]
        answers = await race(clients, "1.4.2", documents)
        seen = {await meaning(client, "shop/app", "1.4.2") for client in clients}
    winners = [document for document, answer in zip(documents, answers, strict=True) if answer.status_code == 201]

    assert sorted(answer.status_code for answer in answers) == [201] + [409] * (RACERS - 1)
    assert seen == {winners[0].digest}


async def test_racing_pushes_of_the_same_image_all_succeed(client: httpx2.AsyncClient) -> None:
    """Ten concurrent pushes of one image all get 201, with one ledger entry."""
    answers = await race([client], "1.4.2", [image("same")] * 10)

    assert [answer.status_code for answer in answers] == [201] * 10
    assert len({answer.headers["Boltseal-Ledger-Index"] for answer in answers}) == 1


async def test_racing_refusals_name_the_winner(client: httpx2.AsyncClient) -> None:
    """Each refusal of a concurrent push names the sealed digest."""
    documents = [image(f"racer {number}") for number in range(RACERS)]
    answers = await race([client], "1.4.2", documents)
    winner = await meaning(client, "shop/app", "1.4.2")
    messages = [error_of(answer)[1] for answer in answers if answer.status_code == 409]

    assert winner is not None
    assert all(f"is sealed at {winner[:19]}" in message for message in messages)


async def test_racing_losers_leave_nothing(client: httpx2.AsyncClient) -> None:
    """The manifests of refused concurrent pushes are not stored."""
    documents = [image(f"racer {number}") for number in range(RACERS)]
    answers = await race([client], "1.4.2", documents)
    losers = [document for document, answer in zip(documents, answers, strict=True) if answer.status_code == 409]

    assert [await meaning(client, "shop/app", loser.digest) for loser in losers] == [None] * (RACERS - 1)


async def test_racing_sets_of_tags_do_not_mix(client: httpx2.AsyncClient) -> None:
    """Of two concurrent pushes of the same tags in opposite order, one gets all tags and the other none."""
    one, two = image("one"), image("two")
    tags = [f"1.4.{number}" for number in range(8)]
    await push_parts(client, "shop/app", one)
    await push_parts(client, "shop/app", two)
    answers = await asyncio.gather(
        put(client, "shop/app", one.digest, one, tags=tags),
        put(client, "shop/app", two.digest, two, tags=list(reversed(tags))),
    )
    resolutions = {await meaning(client, "shop/app", tag) for tag in tags}

    assert sorted(answer.status_code for answer in answers) == [201, 409]
    assert len(resolutions) == 1


async def test_racing_moves_of_a_floating_tag_are_all_recorded(client: httpx2.AsyncClient) -> None:
    """Concurrent moves of a mutable tag all succeed: entries have no gaps, and the last one is the tag's digest."""
    documents = [image(f"racer {number}") for number in range(RACERS)]
    answers = await race([client], "latest", documents)
    entries = [int(answer.headers["Boltseal-Ledger-Index"]) for answer in answers]
    last = documents[entries.index(max(entries))]

    assert [answer.status_code for answer in answers] == [201] * RACERS
    assert sorted(entries) == list(range(min(entries), min(entries) + RACERS))
    assert await meaning(client, "shop/app", "latest") == last.digest


async def test_compare_and_swap_has_one_winner_each_round(client: httpx2.AsyncClient) -> None:
    """Of concurrent moves with `If-Match` on one digest, one succeeds and the others get 412."""
    base = image("base")
    await push(client, "shop/app", "latest", base)
    documents = [image(f"racer {number}") for number in range(RACERS)]
    for document in documents:
        await push_parts(client, "shop/app", document)
    headers = {"If-Match": f'"{base.digest}"'}
    answers = await asyncio.gather(
        *(put(client, "shop/app", "latest", document, headers=headers) for document in documents)
    )

    assert sorted(answer.status_code for answer in answers) == [201] + [412] * (RACERS - 1)


async def test_racing_signatures_lose_none(client: httpx2.AsyncClient) -> None:
    """Of two signers who start from the same signature tag, one is refused and none overwrites the other."""
    signed = image("signed")
    base = signature(signed, "alice")
    await push(client, "shop/app", signature_tag(signed), base)
    answers = await race(
        [client], signature_tag(signed), [signature(signed, "alice", "bob"), signature(signed, "alice", "carol")]
    )

    assert sorted(answer.status_code for answer in answers) == [201, 409]


@pytest.mark.parametrize("reference", ["blob", "child"])
async def test_a_delete_that_races_with_the_seal_never_breaks_it(client: httpx2.AsyncClient, reference: str) -> None:
    """When a part is deleted while its image is being sealed, either the delete or the push is refused."""
    for round_number in range(8):
        child = image(f"child {round_number}")
        parent = index(child)
        await push_parts(client, "shop/app", parent)
        path = f"manifests/{child.digest}" if reference == "child" else f"blobs/{child.layers[0].digest}"
        deletion, publication = await asyncio.gather(
            client.delete(f"/v2/shop/app/{path}"), put(client, "shop/app", f"1.{round_number}.0", parent)
        )
        there = (await client.head(f"/v2/shop/app/{path}")).status_code == 200

        assert (deletion.status_code, publication.status_code) in {(405, 201), (202, 400)}
        assert there == (publication.status_code == 201)
