"""`python -m bench.ledger`: the cost of the ledger, and the time until it proves an entry.

    moves      tag moves a second, durable, with 1, 16 and 64 pushers: without entries, with them, with entries and signing
    receipt    from the answer to a push until its receipt can be had, over HTTP, from a server of its own
    million    over a ledger of a million entries: a receipt for any of them, and all of fsck

Variants alternate within each round, and a figure is the median of the rounds.
"""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import random
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import httpx2

from boltseal.ledger.entry import Entry, EntryKind, encode
from boltseal.oci.digest import Digest
from boltseal.oci.reference import Repository, Tag
from boltseal.policy.rules import parse_rules
from boltseal.server.auth.actor import ANONYMOUS
from boltseal.server.registry.integrator import Integrator
from boltseal.server.registry.manifests import Manifests
from boltseal.server.registry.models import EntryResult, ManifestUpload, TagChange
from boltseal.server.registry.receipts import receipt_of
from boltseal.server.registry.refusals import RefusalLog
from boltseal.server.registry.signer import Signer
from boltseal.server.registry.tag_writer import TagWriter
from boltseal.server.settings import Settings
from boltseal.server.storage.blobs.local_store import LocalBlobs
from boltseal.server.storage.fsck import examine
from boltseal.server.storage.ledger_key import LedgerKeys
from boltseal.server.storage.metadata import ledger_store, ledger_tree, tag_table
from boltseal.server.storage.metadata.migrate import DATABASE_NAME, GENERATION_NAME
from boltseal.server.storage.metadata.protocol import Metadata, UnitOfWork
from boltseal.server.storage.metadata.sqlite import open_database, open_snapshot
from boltseal.server.storage.metadata.tag_row import TagRow
from boltseal.server.store_factory import open_store, prepare
from tests import images
from tests.servers import boltseal

MILLION: Final = 1_000_000
WHERE: Final = Repository("shop/app")
FLOATING: Final = ({"repository": "**", "tag": "*", "mode": "floating"},)


class SilentTagWriter(TagWriter):
    """A tag writer without the ledger: the cost of a move itself."""

    def _record(
        self,
        tx: UnitOfWork,
        change: TagChange,
        new: TagRow,
        kind: EntryKind,
        extra: dict[str, str],
        *,
        decided_by: str | None = None,
    ) -> EntryResult:
        row = dataclasses.replace(new, entry_index=0, changed_us=tx.now_us, changed_by=change.actor.name)
        write = tag_table.add if change.row is None else tag_table.change
        write(tx, change.repository.id, change.tag, row)
        return EntryResult(0, changed=True)


def main() -> int:
    """Run the measures that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("only", nargs="*", choices=["moves", "receipt", "million", []], help="default: all")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--entries", type=int, default=MILLION)
    asked = parser.parse_args()
    wanted = asked.only or ["moves", "receipt", "million"]
    folder = Path(tempfile.mkdtemp(prefix="bench-ledger-", dir="."))
    try:
        if "moves" in wanted:
            moves(folder, asked.rounds, asked.seconds)
        if "receipt" in wanted:
            asyncio.run(push_to_receipt(folder))
        if "million" in wanted:
            million(folder, asked.entries)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return 0


def moves(folder: Path, rounds: int, seconds: float) -> None:
    """Print tag moves per second."""
    variants: dict[str, tuple[type[TagWriter], bool]] = {
        "without entries": (SilentTagWriter, False),
        "with entries": (TagWriter, False),
        "with entries, signed": (TagWriter, True),
    }
    for pushers in (1, 16, 64):
        rates: dict[str, list[tuple[float, float]]] = {name: [] for name in variants}
        for number in range(rounds):
            for name, (writer_class, signed) in variants.items():
                place = folder / f"{pushers}-{number}-{len(rates[name])}-{writer_class.__name__}-{signed}"
                rates[name].append(asyncio.run(_moves(place, writer_class, pushers, seconds, signed=signed)))
        clock_rate = {name: statistics.median(rate for rate, _ in of) for name, of in rates.items()}
        cpu = {name: statistics.median(us for _, us in of) for name, of in rates.items()}
        for name in variants:
            less, more = 1 - clock_rate[name] / clock_rate["without entries"], cpu[name] / cpu["without entries"] - 1
            print(
                f"{pushers:3} pushers, {name:21} {clock_rate[name]:8.0f} moves/s ({less:+6.1%} less), "
                f"{cpu[name]:6.0f} us of CPU each ({more:+6.1%})"
            )


async def _moves(
    folder: Path, writer_class: type[TagWriter], pushers: int, seconds: float, *, signed: bool
) -> tuple[float, float]:
    settings = Settings.model_validate({"server": {"data": folder / "data"}, "rule": list(FLOATING)})
    prepare(settings)
    data = settings.server.data
    database = open_database(data / DATABASE_NAME, data / GENERATION_NAME, lambda: time.time_ns() // 1000)
    rules = parse_rules(FLOATING)
    manifests = Manifests(database, writer_class(rules), RefusalLog(rules))
    signer = Signer(Integrator(database, LedgerKeys(settings.keys)), database)
    if signed:
        signer.start()
    pair = [images.index(annotations={"n": str(n)}) for n in range(2)]
    for one in pair:
        await _put(manifests, Digest.parse(one.digest), one)
    counted = 0
    until = time.perf_counter() + seconds

    async def push(tag: Tag) -> None:
        nonlocal counted
        turn = 0
        while time.perf_counter() < until:
            await _put(manifests, tag, pair[turn % 2])
            turn += 1
            counted += 1

    started, worked = time.perf_counter(), time.process_time()
    await asyncio.gather(*(push(Tag(f"t{n}")) for n in range(pushers)))
    took = time.perf_counter() - started
    if signed:
        signer.close()
    worked = time.process_time() - worked
    database.close()
    return counted / took, worked / counted * 1e6


async def _put(manifests: Manifests, reference: Tag | Digest, document: images.Document) -> None:
    await manifests.put(ManifestUpload(WHERE, reference, document.raw, document.media_type, ANONYMOUS))


async def push_to_receipt(folder: Path, pushes: int = 300) -> None:
    """Print the time from the answer to a push until its receipt exists."""
    waits = []
    with boltseal(folder / "receipts") as server:
        async with httpx2.AsyncClient(base_url=server.url) as client:
            for number in range(pushes):
                answer = await images.push(client, "shop/app", f"1.0.{number}", images.image(f"{number}"))
                index = answer.headers["boltseal-ledger-index"]
                since = time.perf_counter()
                while (await client.get(f"/ledger/receipt/{index}")).status_code != 200:  # noqa: ASYNC110 - it is another process's event
                    await asyncio.sleep(0.001)
                waits.append(time.perf_counter() - since)
                await asyncio.sleep(0.013)
    print(
        f"push to receipt, {pushes} pushes: p50 {_ms(waits, 50)} ms, p99 {_ms(waits, 99)} ms, most {max(waits) * 1000:.1f} ms"
    )


def million(folder: Path, entries: int) -> None:
    """Print the cost of a receipt, and of fsck, for a ledger of a million entries."""
    settings = Settings.model_validate({"server": {"data": folder / "million" / "data"}})
    prepare(settings)
    with open_store(settings) as store:
        _fill(store.database, entries)
        started = time.perf_counter()
        store.integrator.integrate()
        print(f"first signing of {entries:,} entries: {entries / (time.perf_counter() - started):,.0f} entries/s")
        head = store.database.read_and_wait(ledger_tree.head)
        if head is None:
            raise RuntimeError("not signed")
        dice = random.Random(1)  # noqa: S311 - a choice of places, no secret
        waits = []
        for _ in range(500):
            at = dice.randrange(head.size)
            started = time.perf_counter()
            store.database.read_and_wait(_receipt(at, head))
            waits.append(time.perf_counter() - started)
        print(f"a receipt of any of {head.size:,} entries: p50 {_ms(waits, 50)} ms, p99 {_ms(waits, 99)} ms")
    blobs = LocalBlobs(settings.server.data)
    started = time.perf_counter()
    found = examine(
        open_snapshot(settings.server.data / DATABASE_NAME), blobs.maintenance, keys=LedgerKeys(settings.keys)
    )
    took = time.perf_counter() - started
    blobs.close()
    print(
        f"fsck over {found.counts.entries:,} entries: {found.counts.entries / took:,.0f} entries/s, {len(found.findings)} findings"
    )


def _receipt(at: int, head: ledger_tree.SignedHead) -> Callable[..., bytes]:
    return lambda held: receipt_of(held, at, head.size, head.note)


def _fill(database: Metadata, entries: int) -> None:
    """Write entries as a registry writes them, without the tags: ten for each name, which moves."""
    last: dict[int, int] = {}
    digest = f"sha256:{'a' * 64}"

    def batch(start: int, end: int) -> Callable[[UnitOfWork], None]:
        def job(tx: UnitOfWork) -> None:
            head = ledger_store.head(tx)
            if head is None:
                raise RuntimeError("no ledger")
            for index in range(start, end):
                tx.appended.add("ledger")
                time_us = head.last_time_us + index + 1
                line = encode(
                    Entry(
                        kind=EntryKind.BUILT,
                        time_us=time_us,
                        registry=head.origin,
                        repository="shop/app",
                        tag=f"t{index % 100_000}",
                        digest=digest,
                        type="application/vnd.oci.image.manifest.v1+json",
                        size=1234,
                        previous=last.get(index % 100_000, -1),
                        actor="ci",
                        salt=f"{index:032x}",
                    )
                )
                last[index % 100_000] = head.size + index - start
                ledger_store.append(
                    tx,
                    head.size + index - start,
                    time_us=time_us,
                    kind=EntryKind.BUILT,
                    repository="shop/app",
                    tag=f"t{index % 100_000}",
                    line=line,
                )

        return job

    for start in range(0, entries, 20_000):
        database.write_and_wait(batch(start, min(start + 20_000, entries)))
        print(f"\r{start:,} entries", end="", file=sys.stderr, flush=True)
    print("\r", end="", file=sys.stderr)


def _ms(values: Sequence[float], percentile: int) -> str:
    return f"{sorted(values)[min(len(values) * percentile // 100, len(values) - 1)] * 1000:.1f}"


if __name__ == "__main__":
    sys.exit(main())
