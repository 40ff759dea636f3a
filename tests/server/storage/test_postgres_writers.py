"""Two servers on one PostgreSQL database: no tag gets two digests, the ledger has no gap, and no quota is exceeded."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from boltseal.errors import Unavailable
from boltseal.ledger.entry import EntryKind, parse
from boltseal.policy.rules import parse_rules
from boltseal.server.registry.sequencer import start_ledger
from boltseal.server.storage.blobs.local_store import LocalBlobs
from boltseal.server.storage.coordination.generation import FileGeneration
from boltseal.server.storage.fsck import examine
from boltseal.server.storage.metadata import ledger_store, queries, usage
from boltseal.server.storage.metadata.migrate import GENERATION_NAME
from boltseal.server.storage.metadata.postgres import open_database
from boltseal.server.storage.metadata.protocol import Snapshot, UnitOfWork
from boltseal.server.storage.metadata_factory import open_metadata, open_snapshot, prepare_metadata
from boltseal.server.storage_settings import DatabaseUrl, StorageSettings
from tests.server.storage.postgres_racer import REPOSITORIES, TAGS

pytestmark = pytest.mark.real
ROOT = Path(__file__).parents[3]
QUOTA_BYTES = 6 * 1024


def test_two_servers_that_publish_the_same_tags(new_database: Callable[[], str], tmp_path: Path) -> None:
    """Of two processes that push other content to the same sealed tags, one wins each; ledger, usage and rows agree."""
    url, data = new_database(), tmp_path / "data"
    storage = StorageSettings(database=DatabaseUrl(url))
    prepare_metadata(data, storage)
    rules = parse_rules(()).canonical()
    with closing(open_metadata(data, storage, None)) as database:
        database.write_and_wait(lambda tx: start_ledger(tx, origin="registry.test", rules=rules, actor="boltseal"))

    def run(name: str) -> Any:
        argv = [sys.executable, "-m", "tests.server.storage.postgres_racer", url, str(data), name]
        return json.loads(
            subprocess.run(argv, cwd=ROOT, capture_output=True, check=True, timeout=120).stdout.splitlines()[-1]
        )

    with ThreadPoolExecutor(2) as pool:
        one, other = pool.map(run, ("a", "b"))

    def read(snapshot: Snapshot) -> tuple[list[Any], int, dict[str, object]]:
        lines = [tuple(each) for each in ledger_store.lines(snapshot)]
        return lines, usage.total_of(snapshot, "ci").size_bytes, dict(usage.wrong_totals(snapshot))

    with closing(open_metadata(data, storage, None)) as database:
        lines, used, wrong = database.read_and_wait(read)
    with closing(LocalBlobs(data)) as blobs:
        examined = examine(open_snapshot(data, storage), blobs.maintenance)
    created = [parse(line) for _, line in lines if parse(line).kind is EntryKind.TAG_CREATED]

    assert one["published"].keys() & other["published"].keys() == set()
    published = one["published"] | other["published"]
    assert {f"{each.repository}:{each.tag}": str(each.digest) for each in created} == published
    assert len(created) == len(published)
    assert [index for index, _ in lines] == list(range(len(lines)))
    assert 0 < used <= QUOTA_BYTES
    assert one["refused"] + other["refused"] > 0
    assert {*one["errors"], *other["errors"]} <= {"TagSealed"}
    assert len(published) < TAGS * REPOSITORIES
    assert wrong == {}
    assert not examined.findings


async def test_bytes_of_a_manifest_that_another_repository_begins_to_refer_to_stay(
    new_database: Callable[[], str], tmp_path: Path
) -> None:
    """While a server removes a manifest's last row, another one that adds the same bytes waits, and stores them again."""
    url, data = new_database(), tmp_path / "data"
    storage = StorageSettings(database=DatabaseUrl(url))
    prepare_metadata(data, storage)
    row = queries.ManifestRow(
        digest="sha256:1", canonical="sha256:1", media_type="m", size=3, subject=None, artifact_type=None,
        annotations=None, pushed_us=1, pushed_by="ci",
    )  # fmt: skip

    def put(repository: str, tx: UnitOfWork) -> int:
        number = queries.ensure_repository(tx, repository, None)
        queries.add_manifest(tx, number, row, b"raw", [])
        return number

    impatient = open_database(DatabaseUrl(url), FileGeneration.open(data / GENERATION_NAME), lock_wait_s=0.3)
    with closing(open_metadata(data, storage, None)) as one, closing(impatient) as other:
        first = await one.write(lambda tx: put("one", tx))
        begun: list[object] = []

        def remove(tx: UnitOfWork) -> None:
            queries.remove_manifest(tx, first, "sha256:1")
            with pytest.raises(Unavailable):  # the other server's push can't begin before this COMMIT
                begun.append(other.write_and_wait(lambda again: put("two", again), limited=False))

        await one.write(remove)
        await other.write(lambda tx: put("two", tx))
        found = await other.lookups.content.manifest("two", "sha256:1")

    assert begun == []
    assert found is not None
    assert found.raw == b"raw"
