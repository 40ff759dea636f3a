"""Makes a small data folder with every kind of content, in the layout of this version of boltseal, to be kept for ever.

    PYTHONPATH=src:. python -m tests.server.storage.layouts.make NUMBER

writes `NUMBER/`, named after the newest revision of the database: `format`, the database as SQL text, the blobs. It is
run once, before the revision that comes after it is written; what it wrote is never written again.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import sqlite3
import sys
import tempfile
from contextlib import closing
from pathlib import Path
from typing import Final

from boltseal.oci.digest import Digest
from boltseal.oci.reference import Repository, Tag
from boltseal.policy.rules import parse_rules
from boltseal.server.auth.actor import Actor
from boltseal.server.registry import build_registry
from boltseal.server.registry.models import UNCONDITIONAL
from boltseal.server.registry.sequencer import start_ledger
from boltseal.server.storage.blobs.local_store import LocalBlobs
from boltseal.server.storage.metadata.migrate import DATABASE_NAME, GENERATION_NAME, prepare_data
from boltseal.server.storage.metadata.sqlite import open_database
from tests.bare_registry import INDEX, OCI, SHOP, BareRegistry, Clock

HERE: Final = Path(__file__).parent
CI, BOSS = Actor("ci"), Actor("boss", admin=True)


async def fill(shop: BareRegistry) -> None:
    """Fill the folder with sealed, mutable, deleted and signed content, children, referrers, both algorithms, two
    repositories."""
    one, two = await shop.image("one"), await shop.image("two")
    await shop.push(one, "1.4.2", "latest", actor=CI)
    shop.clock.now_us += 1_000_000
    await shop.push(two, "1.4.3", "latest", actor=CI)
    await shop.push(two, Digest.of(two, "sha512"), actor=CI)
    entries = [{"mediaType": OCI, "digest": str(Digest.of(each)), "size": len(each)} for each in (one, two)]
    index = json.dumps({"schemaVersion": 2, "mediaType": INDEX, "manifests": entries}).encode()
    await shop.push(index, "2.0.0", media_type=INDEX, actor=BOSS)
    subject = {"mediaType": OCI, "digest": str(Digest.of(one)), "size": len(one)}
    await shop.push(await shop.image("sbom", subject=subject, annotations={"a": "b"}), "sbom", actor=CI)
    await shop.push(await shop.image("signature"), f"sha256-{Digest.of(one).hex}.sig", actor=CI)
    gone = await shop.image("gone")
    await shop.push(gone, "0.9.0", actor=CI)
    await shop.registry.seals.unseal(SHOP, Tag("0.9.0"), BOSS, "never released")
    await shop.registry.deletes.tag(SHOP, Tag("0.9.0"), UNCONDITIONAL, BOSS)
    other = Repository("other/app")
    await shop.push(await shop.image("one", other), "main", repository=other)


def make(target: Path) -> None:
    """Write the folder."""
    with tempfile.TemporaryDirectory() as scratch:
        data, clock, rules = Path(scratch) / "data", Clock(), parse_rules(())
        prepare_data(data)
        database = open_database(data / DATABASE_NAME, data / GENERATION_NAME, clock)
        blobs = LocalBlobs(data)
        database.write_and_wait(
            lambda tx: start_ledger(tx, origin="registry.test", rules=rules.canonical(), actor="boltseal")
        )
        asyncio.run(fill(BareRegistry(build_registry(database, blobs, rules), database, blobs, clock)))
        database.close()
        blobs.close()
        target.mkdir()
        with closing(sqlite3.connect(data / DATABASE_NAME)) as connection:
            (target / "boltseal.sql").write_text("\n".join(connection.iterdump()) + "\n", encoding="utf-8")
        shutil.copytree(data / "blobs", target / "blobs")
        shutil.copy(data / "format", target / "format")


def unpack(layout: Path, data: Path) -> None:
    """Create a data folder from a stored layout."""
    data.mkdir(parents=True)
    for name in ("uploads", "ledger"):
        (data / name).mkdir()
    shutil.copytree(layout / "blobs", data / "blobs")
    shutil.copy(layout / "format", data / "format")
    with closing(sqlite3.connect(data / DATABASE_NAME)) as connection:
        connection.executescript((layout / "boltseal.sql").read_text(encoding="utf-8"))


if __name__ == "__main__":
    make(HERE / sys.argv[1])
