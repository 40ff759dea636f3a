"""Memory for uploads: few writers buffer much, many buffer little, and slow clients do not block others."""

from __future__ import annotations

import asyncio

import pytest

from boltseal.server.storage.upload_admission import FAST_CHUNK_BYTES, FREE_BYTES, MemoryBudget, UploadAdmission
from tests.virtual_time import in_virtual_time

MEBIBYTE = 1024 * 1024


def test_the_budget_shrinks_batches_with_more_writers() -> None:
    """One writer may buffer a mebibyte, a thousand share the budget, and beyond it nothing is buffered."""
    budget = MemoryBudget(32 * MEBIBYTE)
    budget.writers = 1
    alone = budget.is_due(MEBIBYTE - 1000, 1000), budget.is_due(MEBIBYTE - 999, 1000)
    budget.writers = 1000
    among_many = budget.is_due(30_000, 3000), budget.is_due(30_000, 4000)
    budget.held_bytes = budget.total_bytes

    assert alone == (False, True)
    assert among_many == (False, True)
    assert budget.is_due(1, 1)


async def enter(admission: UploadAdmission, who: object, chunk_bytes: int = FAST_CHUNK_BYTES) -> None:
    """Have a client send a chunk and ask for admission."""
    admission.arrived(who, chunk_bytes)
    await admission.admit(who, FREE_BYTES + 1)


@in_virtual_time
async def test_a_small_upload_never_waits() -> None:
    """An upload that is complete with its first read never waits."""
    admission = UploadAdmission(0)
    async with asyncio.timeout(1):
        admission.arrived("small", FREE_BYTES)
        await admission.admit("small", FREE_BYTES)


@in_virtual_time
async def test_one_upload_is_always_admitted() -> None:
    """However small the memory, one upload at a time is admitted."""
    admission = MemoryBudget(1).admission
    async with asyncio.timeout(1):
        for number in range(3):
            await enter(admission, number)
            admission.leave(number)


@in_virtual_time
async def test_as_many_fast_uploads_as_fit_are_admitted() -> None:
    """As many fast uploads as chunks fit are admitted, the others in order, each to its end."""
    admission = UploadAdmission(2 * FAST_CHUNK_BYTES, stall_s=10, patience_s=10)
    inside = most = 0
    order: list[int] = []

    async def upload(number: int) -> None:
        nonlocal inside, most
        await enter(admission, number)
        order.append(number)
        inside += 1
        most = max(most, inside)
        for _ in range(3):
            await asyncio.sleep(0)
            await enter(admission, number)
        inside -= 1
        admission.leave(number)

    async with asyncio.timeout(2):
        await asyncio.gather(*(upload(number) for number in range(30)))

    assert most == 2
    assert order == list(range(30))


@in_virtual_time
async def test_stalled_clients_have_no_weight() -> None:
    """A client that sends nothing for a while has weight 0, although its upload stays open."""
    admission = UploadAdmission(2 * FAST_CHUNK_BYTES, stall_s=0.01, patience_s=60)
    async with asyncio.timeout(3):
        for number in range(12):
            await enter(admission, number)


@in_virtual_time
async def test_slow_clients_have_small_weights() -> None:
    """Clients with small chunks have small weights, so that many are admitted together."""
    admission = UploadAdmission(2 * FAST_CHUNK_BYTES, stall_s=0.01, patience_s=60)
    slow = 0

    async def upload(number: int) -> None:
        nonlocal slow
        await enter(admission, number, 1000)
        slow += 1
        while slow < 12:
            await asyncio.sleep(0.001)  # a client that sends small chunks
            await enter(admission, number, 1000)

    async with asyncio.timeout(3):
        await asyncio.gather(*(upload(number) for number in range(12)))


@in_virtual_time
async def test_fast_clients_keep_their_weight() -> None:
    """A client that keeps sending large chunks keeps its weight."""
    admission = UploadAdmission(FAST_CHUNK_BYTES, stall_s=0.4, patience_s=60)
    await enter(admission, "fast")
    other = asyncio.create_task(enter(admission, "other"))
    for _ in range(30):
        await asyncio.sleep(0.02)  # a client that sends 50 chunks per second
        await enter(admission, "fast")
    waited = not other.done()
    admission.leave("fast")
    async with asyncio.timeout(1):
        await other

    assert waited


@in_virtual_time
async def test_a_client_that_waits_for_the_disk_is_not_stalled() -> None:
    """While a chunk is being written to a slow disk, its client does not count as stalled."""
    admission = UploadAdmission(FAST_CHUNK_BYTES, stall_s=0.01, patience_s=60)
    await enter(admission, "fast")
    admission.arrived("fast", FAST_CHUNK_BYTES)
    other = asyncio.create_task(enter(admission, "other"))
    await asyncio.sleep(0.06)  # six times the time after which a client would count as stalled
    waited = not other.done()
    await admission.admit("fast", 2 * FAST_CHUNK_BYTES)
    async with asyncio.timeout(1):
        await other

    assert waited


@in_virtual_time
async def test_no_upload_waits_for_ever() -> None:
    """If no upload ends, another one is admitted from time to time."""
    admission = UploadAdmission(FAST_CHUNK_BYTES, stall_s=0.01, patience_s=0.05)
    await enter(admission, "fast")
    waiting = [asyncio.create_task(enter(admission, number)) for number in range(3)]
    async with asyncio.timeout(3):
        while not all(task.done() for task in waiting):
            await asyncio.sleep(0.001)  # a client that keeps sending
            await enter(admission, "fast")


@in_virtual_time
async def test_a_cancelled_wait_frees_its_place() -> None:
    """A cancelled wait frees its place, whether it was admitted already or not."""
    admission = UploadAdmission(FAST_CHUNK_BYTES, stall_s=10, patience_s=60)
    await enter(admission, "first")
    cancelled = asyncio.create_task(enter(admission, "cancelled"))
    await asyncio.sleep(0)
    waiting = asyncio.create_task(enter(admission, "waiting"))
    await asyncio.sleep(0)
    admission.leave("first")
    cancelled.cancel()
    with pytest.raises(asyncio.CancelledError):
        await cancelled
    async with asyncio.timeout(1):
        await waiting
