"""Clients that race for tags at several servers of one registry: one order of the requests explains all answers, at every server."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from functools import partial

import httpx2
import pytest

from tests.images import Document, image, index, meaning, push_parts, put
from tests.server.replicas.linear_checker import Kind, Operation, TagState
from tests.server.replicas.racing import CLIENTS, SERVERS, Racing, details
from tests.server.replicas.tag_operations import TagClient
from tests.soak.scale import IS_FULL

pytestmark = [pytest.mark.real, pytest.mark.slow]

FIRST_PUSH_ROUNDS = 200 if IS_FULL else 15
ROUNDS = 200 if IS_FULL else 3
PARTS_ROUNDS = 200 if IS_FULL else 8
DELETE_ROUNDS = 200 if IS_FULL else 10
VERSIONS = 3
"""Of a tag in each round of conditional puts."""
PER_CLIENT = 3
"""Operations that a client sends one after the other in a round."""


async def test_of_concurrent_first_pushes_of_one_tag_exactly_one_is_accepted(racers: Racing) -> None:
    """In each round every client pushes an image of its own under the same new tag: one gets 201, all others 409."""
    repository = "races/first"
    images = await racers.pushed_parts(repository, "first", CLIENTS)
    for number in range(FIRST_PUSH_ROUNDS):
        tag = f"1.{number}"
        answers = await racers.put_each(repository, tag, images)
        accepted = [document for document, answer in answers if answer.status_code == 201]
        refused = [answer for _, answer in answers if answer.status_code != 201]
        racers.check(f"answers for {tag}", statuses(answers), {201: 1, 409: CLIENTS - 1})
        racers.check(f"reasons for {tag}", {each["reason"] for each in details(refused)}, {"sealed"})
        racers.check(f"entries of {tag}", racers.kinds(repository, tag), ["tag.created"])
        await racers.check_tag(repository, tag, accepted[0] if accepted else None)

    assert racers.wrong == []
    assert await racers.findings() == []


async def test_of_conditional_puts_one_makes_each_version(racers: Racing) -> None:
    """Of clients that create a tag, or replace what they read, one wins; the others get 412, and none of their manifests is visible."""
    repository = "races/conditional"
    for number in range(ROUNDS):
        tag = f"floating-{number}"
        headers = {"If-None-Match": "*"}
        for version in range(VERSIONS):
            images = await racers.pushed_parts(repository, f"{number} {version}", CLIENTS)
            answers = await racers.put_each(repository, tag, images, headers)
            won = [document for document, answer in answers if answer.status_code == 201]
            lost = {document: answer for document, answer in answers if answer.status_code == 412}
            found = await racers.each(lost, lambda client, each: meaning(client, repository, each.digest))
            racers.check(f"answers for {tag}", statuses(answers), {201: 1, 412: CLIENTS - 1})
            racers.check(f"reasons for {tag}", {each["reason"] for each in details(lost.values())}, {"precondition"})
            racers.check(f"refused manifests of {tag}", {digest for _, digest in found}, {None})
            racers.check(f"entries of {tag}", len(racers.kinds(repository, tag)), version + 1)
            await racers.check_tag(repository, tag, won[0] if won else None)
            headers = {"If-Match": f'"{won[0].digest if won else images[0].digest}"'}

    assert racers.wrong == []
    assert await racers.findings() == []


@pytest.mark.parametrize("kind", ["floating", "deletable"])
async def test_deletes_and_pushes_of_one_tag_have_an_order(racers: Racing, kind: str) -> None:
    """Deletes, pushes and gets of a mutable tag, and of a sealed one that may be deleted, are explained by one order."""
    repository = f"races/{kind}"
    images = await racers.pushed_parts(repository, "of a tag", 4)

    def step(asking: TagClient, each: int) -> Awaitable[Operation]:
        match (asking.number + each) % 4:
            case 0:
                return asking.delete()
            case 1:
                return asking.get()
            case _:
                return asking.put(images[asking.number % len(images)])

    for number in range(ROUNDS):
        tag = f"{kind}-{number}"
        history = await operations(racers, repository, tag, step)
        await check_end(racers, repository, tag, history, images, TagState(seals=kind == "deletable"))

    assert racers.wrong == []
    assert await racers.findings() == []


async def test_a_deleted_tag_is_unknown_at_every_server_once_the_delete_is_answered(racers: Racing) -> None:
    """Each server has a sealed tag in its cache and is asked for it while one of them deletes it; no later answer has it.

    Until the delete is answered some servers still have the tag and others no longer do; a server that no longer has it stays so.
    """
    repository = "races/cached"
    [document] = await racers.pushed_parts(repository, "cached", 1)
    readers, others = racers.one_of_each, racers.clients[SERVERS:]

    async def read(asking: TagClient, answered: asyncio.Event) -> list[Operation]:
        done = []
        while not answered.is_set():
            done.append(await asking.get())
        return done

    async def delete(asking: TagClient, answered: asyncio.Event) -> list[Operation]:
        done = [await asking.delete()]
        answered.set()
        return done + await asyncio.gather(*(TagClient(each, repository, asking.tag).get() for each in others))

    for number in range(DELETE_ROUNDS):
        tag, answered = f"deletable-{number}", asyncio.Event()
        await put(racers.clients[0], repository, tag, document)
        await asyncio.gather(*(meaning(client, repository, tag) for client in others))
        deleter = TagClient(racers.dice.choice(others), repository, tag)
        done = await asyncio.gather(
            delete(deleter, answered), *(read(TagClient(client, repository, tag), answered) for client in readers)
        )
        [deleted, *afterwards], *by_server = [[each.answer for each in operations] for operations in done]
        racers.check(f"delete of {tag}", [deleted], [202])
        racers.check(f"reads of {tag} after its delete", set(afterwards), {None})
        for number_of_server, answers in enumerate(by_server):
            had = [answer for answer in answers if answer is not None]
            racers.check(f"{tag} at server {number_of_server}", set(had) - {document.digest}, set())
            racers.check(
                f"{tag} at server {number_of_server}, in order", answers, had + [None] * (len(answers) - len(had))
            )
        await racers.check_tag(repository, tag, None)

    assert racers.wrong == []
    assert await racers.findings() == []


async def test_deletes_of_a_manifest_and_pushes_of_it_have_an_order(racers: Racing) -> None:
    """Where an image is deleted by digest and pushed under a tag, both are there with their blobs at the end, or neither."""
    repository = "races/manifest"

    def step(asking: TagClient, each: int, document: Document) -> Awaitable[Operation]:
        match (asking.number + each) % 4:
            case 0:
                return asking.put(document)
            case 1:
                return asking.delete_manifest(document.digest)
            case 2:
                return asking.get()
            case _:
                return asking.get_manifest(document.digest)

    for number in range(ROUNDS):
        tag = f"floating-{number}"
        [document] = await racers.pushed_parts(repository, f"round {number}", 1)
        history = await operations(racers, repository, tag, partial(step, document=document))
        by_tag, by_digest = [await racers.resolved(repository, each) for each in (tag, document.digest)]
        racers.check(f"{document.digest} and its tag", by_digest, by_tag)
        await check_end(racers, repository, tag, history, [document], TagState())

    assert racers.wrong == []
    assert await racers.findings() == []


async def test_a_sealed_tag_has_all_its_parts_whatever_is_deleted_meanwhile(racers: Racing) -> None:
    """Of the pushes of an index and the deletes of its image and of a layer, one kind wins, and is refused afterwards or refuses."""
    repository = "races/parts"
    for number in range(PARTS_ROUNDS):
        tag = f"1.{number}"
        child = image(f"child {number}")
        whole = index(child, annotations={"round": str(number)})
        await push_parts(racers.clients[0], repository, whole)
        targets = {"manifest": f"manifests/{child.digest}", "layer": f"blobs/{child.layers[0].digest}"}
        methods = ["HEAD", "DELETE"] if number % 2 else ["DELETE"]  # clients that look first let the pushes get ahead
        requests = {what: [(method, path) for method in methods] for what, path in targets.items()}
        asked = ["put"] * (CLIENTS // 2) + list(targets) * (CLIENTS // 4)

        async def ask(
            client: httpx2.AsyncClient, what: str, tag: str, whole: Document, requests: dict[str, list[tuple[str, str]]]
        ) -> int:
            if what == "put":
                return (await put(client, repository, tag, whole)).status_code
            answers = [await client.request(method, f"/v2/{repository}/{path}") for method, path in requests[what]]
            return answers[-1].status_code

        answers = await racers.each(asked, partial(ask, tag=tag, whole=whole, requests=requests))
        found = {what: {status for each, status in answers if each == what} for what in ("put", *targets)}
        published = 201 in found["put"]
        if published:
            racers.check(f"answers for {tag}", found, {"put": {201}, "manifest": {405}, "layer": {405}})
        else:
            racers.check(f"pushes of {tag}", found["put"], {400})
            racers.check(f"deletes of {tag}", found["manifest"] | found["layer"] <= {202, 404}, True)
        await racers.check_tag(repository, tag, whole if published else None)
        if published:
            right = Counter({True: SERVERS * len(child.blobs)})
            racers.check(f"blobs of {tag}", await racers.blob_answers(repository, child), right)
            racers.check(f"child of {tag}", await racers.resolved(repository, child.digest), {child.digest})

    assert racers.wrong == []
    assert await racers.findings() == []


async def test_a_tag_that_is_sealed_amid_moves_never_resolves_to_another_digest(racers: Racing) -> None:
    """After a seal is answered every get has its digest, and each move is refused as sealed, with the digest in the detail."""
    repository = "races/seal"
    images = await racers.pushed_parts(repository, "moves", 4)

    def step(asking: TagClient, each: int) -> Awaitable[Operation]:
        if asking.number < 2 and each == 1:
            return asking.seal_by_api()
        return asking.put(images[(asking.number + each) % 4]) if (asking.number + each) % 3 else asking.get()

    for number in range(ROUNDS):
        tag = f"floating-{number}"
        await put(racers.clients[0], repository, tag, images[0])
        history = await operations(racers, repository, tag, step)
        sealed = await meaning(racers.clients[0], repository, tag)
        answered = min(each.end for each in history if each.kind is Kind.SEAL)
        later = {each.answer for each in history if each.kind is Kind.GET and each.start > answered}
        seals = {each.answer for each in history if each.kind is Kind.SEAL}
        moves = await racers.put_each(repository, tag, [each for each in images if each.digest != sealed])
        refused = details(answer for _, answer in moves if answer.status_code == 409)
        racers.check(f"seals of {tag}", seals, {200})
        racers.check(f"gets after the seal of {tag}", later | {sealed}, {sealed})
        racers.check(f"moves of {tag}", statuses(moves), {409: len(images) - 1})
        racers.check(
            f"details of {tag}",
            {(each["reason"], each["tag"], each["digest"]) for each in refused},
            {("sealed", tag, sealed)},
        )
        racers.check(f"entries of {tag}", racers.kinds(repository, tag).count("tag.sealed"), 1)
        racers.check(f"last entry of {tag}", racers.kinds(repository, tag)[-1], "tag.sealed")
        await check_end(racers, repository, tag, history, images, TagState(images[0].digest))

    assert racers.wrong == []
    assert await racers.findings() == []


async def operations(
    racers: Racing, repository: str, tag: str, step: Callable[[TagClient, int], Awaitable[Operation]]
) -> list[Operation]:
    """Let all clients work on a tag at the same time, each with some operations one after the other. `step`: begins one."""

    async def work(client: httpx2.AsyncClient, number: int) -> list[Operation]:
        asking = TagClient(client, repository, tag, number)
        return [await step(asking, each) for each in range(PER_CLIENT)]

    return [operation for _, done in await racers.each(range(CLIENTS), work) for operation in done]


def statuses(answers: list[tuple[Document, httpx2.Response]]) -> Counter[int]:
    """Count the statuses of answers."""
    return Counter(answer.status_code for _, answer in answers)


async def check_end(
    racers: Racing, repository: str, tag: str, history: list[Operation], images: list[Document], initial: TagState
) -> None:
    """Check a round on one tag: all servers agree at its end, and one order explains the answers and what they serve now."""
    history += await asyncio.gather(*(TagClient(client, repository, tag).get() for client in racers.one_of_each))
    racers.check_history(f"{repository}:{tag}", history, initial)
    served = history[-1].answer
    await racers.check_tag(repository, tag, next((each for each in images if each.digest == served), None))
