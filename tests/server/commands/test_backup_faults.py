"""Each request of a backup fails twice: not done, and done with the answer lost. Then only a repeated backup is complete."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from boltseal.errors import BoltsealError
from boltseal.server.commands.backups import make_backup, restore_backup
from boltseal.server.settings import Settings
from tests.object_faults import Fault, faulty, on
from tests.server.commands.moving import NOW_US, push_all, quiet, through
from tests.server.storage.breaking_proxy import breaking_proxy
from tests.storage_servers import ObjectServer, Postgres

pytestmark = [
    pytest.mark.slow,
    pytest.mark.files_only("backups of PostgreSQL and an object store, on servers of its own"),
]
STRIDE = 5
"""Of so many messages to PostgreSQL one is broken: a backup has about a hundred."""


def manifest(folder: Path) -> bytes:
    """Return the list of a complete backup, nothing if it is not complete."""
    return (folder / "backup.json").read_bytes() if (folder / "backup.json").exists() else b""


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_backup_whose_connection_to_postgresql_breaks_is_not_complete(
    place: Callable[[str], Settings], tmp_path: Path, postgres_server: Postgres, when: str
) -> None:
    """Wherever the connection breaks, one line says so, and the folder is no backup until a repeated one has ended."""
    old, copy, errors, number = place("old"), tmp_path / "copy", list[str](), 0
    asyncio.run(push_all(old, "1.0.0"))
    with breaking_proxy(postgres_server.port) as proxy:
        proxy.statement = proxy.complete = b""
        settings = through(old, database=proxy.port)
        while proxy.breaks is None:
            before = manifest(copy)
            proxy.breaks, proxy.passes = when, number
            try:
                make_backup(settings, copy, NOW_US, quiet, with_objects=True)
            except BoltsealError as error:
                errors.append(error.message)

                assert manifest(copy) in (b"", before)  # without the database nothing of a former backup is touched
            number += STRIDE
        proxy.breaks = None
        make_backup(settings, copy, NOW_US, quiet, with_objects=True)

    assert len(errors) >= 5
    assert not any("\n" in error for error in errors)
    assert not restore_backup(place("new"), copy, quiet).examined.findings


@pytest.mark.parametrize("fault", [Fault.REFUSED, Fault.TORN, Fault.LOST, Fault.CUT])
def test_a_backup_that_can_not_read_a_blob_is_not_complete(
    place: Callable[[str], Settings], tmp_path: Path, object_server: ObjectServer, fault: Fault
) -> None:
    """The S3 server refuses to read, or its answers are lost or cut: one line says so, and a repeated backup is whole."""
    old, copy = place("old"), tmp_path / "copy"
    asyncio.run(push_all(old, "1.0.0"))
    with faulty(object_server) as proxy:
        settings = through(old, objects=proxy.endpoint)
        proxy.plan = on("GET", "/blobs/", fault)
        with pytest.raises(BoltsealError, match=r"^[^\n]+$"):
            make_backup(settings, copy, NOW_US, quiet, with_objects=True)
        failed, was_complete = len(proxy.failed), (copy / "backup.json").exists()
    make_backup(old, copy, NOW_US, quiet, with_objects=True)

    assert failed
    assert not was_complete
    assert not restore_backup(place("new"), copy, quiet).examined.findings
