"""A lease decides who works, and every effect is fenced: a process that lost its lease while it was stopped changes nothing."""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest
from psycopg.sql import SQL, Identifier

from boltseal.server.settings import Settings
from boltseal.server.storage.coordination.interprocess_lock import LockUnusable
from boltseal.server.storage.coordination.postgres_leases import PostgresLeases
from boltseal.server.storage.ledger_key import SIGNING_WAIT_S
from boltseal.server.store_factory import prepare
from tests.polling import wait_until
from tests.server.replicas.stopped_holder import DONE, LOST, WORK, holder

pytestmark = pytest.mark.real

_OF_COORDINATION = frozenset({"lease", "generation", "write_mark", "replica"})


@pytest.fixture
def settings(tmp_path: Path, new_database: Callable[[], str]) -> Settings:
    """The settings of a registry on PostgreSQL and files, which has begun. The mark is outside the folder of keys."""
    mark = {"single_replica": True, "url": f"file://{tmp_path}/ledger.mark"}
    storage = {"database": new_database(), "mark": mark}
    found = Settings.model_validate({"server": {"data": tmp_path / "data"}, "storage": storage})
    prepare(found)
    return found


def address(settings: Settings) -> str:
    assert settings.storage.database is not None
    return settings.storage.database.with_password


def rows(settings: Settings) -> dict[str, list[str]]:
    """Return the rows of all tables but those of the coordination."""
    with psycopg.connect(address(settings)) as connection:
        names = [name for (name,) in connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")]
        return {
            name: sorted(
                text for (text,) in connection.execute(SQL("SELECT t::text FROM {} t").format(Identifier(name)))
            )
            for name in names
            if name not in _OF_COORDINATION
        }


def take_lease(settings: Settings, name: str) -> int:
    """End the session of the holder, as the server does after a while without a sign of life, and take its lease. Return the epoch."""
    leases = PostgresLeases(address(settings))
    epochs: list[int] = []

    def taken() -> bool:
        with contextlib.suppress(LockUnusable):
            lease = leases.acquire(name)
            epochs.extend([] if lease is None else [lease.epoch])
        return bool(epochs)

    with psycopg.connect(address(settings), autocommit=True) as connection:
        connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND "
            "application_name = 'boltseal-coordination'"
        )
    wait_until(taken, "another process has the lease", 10)
    leases.close()
    return epochs[0]


def test_a_signer_that_was_stopped_after_the_mark_leaves_what_another_one_has_stored(
    settings: Settings, tmp_path: Path
) -> None:
    """A signer that is stopped between mark and tree changes nothing later, since another server has stored what was signed."""
    with holder(settings, "sign", "Integrator._step") as first:
        first.wait_stopped()
        unsigned = rows(settings)
        shutil.copytree(settings.keys, tmp_path / "copy")
        server = settings.server.model_copy(update={"data": tmp_path / "data2", "keys": tmp_path / "copy"})
        with holder(settings.model_copy(update={"server": server}), "sign", None) as second:
            stored = second.result()
        found = rows(settings)
        result = first.go_on()
        after = rows(settings)

    assert stored == DONE
    assert found != unsigned
    assert result == LOST
    assert after == found


def test_a_signer_that_is_stopped_keeps_no_other_from_signing(settings: Settings, tmp_path: Path) -> None:
    """Of two servers with one folder of keys, the second signs a few seconds later if the first is stopped with the lock."""
    with holder(settings, "sign", "Integrator._step") as first:
        first.wait_stopped()
        server = settings.server.model_copy(update={"data": tmp_path / "data2", "keys": settings.keys})
        began_s = time.monotonic()
        with holder(settings.model_copy(update={"server": server}), "sign", None) as second:
            stored = second.result()
        seconds = time.monotonic() - began_s
        found = rows(settings)
        result = first.go_on()
        after = rows(settings)

    assert stored == DONE
    assert result == LOST
    assert after == found
    assert seconds < 4 * SIGNING_WAIT_S


@pytest.mark.parametrize(
    ("work", "before"),
    [
        ("expire events", "expire_events"),
        ("collect garbage", "_unused_rows"),
        ("correct totals", "correct_totals"),
        ("deliver events", "DatabaseDeliveries.delivered"),
        ("read the log", "DatabaseOutbox.put"),
        ("request a rebuild", "RebuildScheduler._confirm"),
        ("record a rebuild", "RebuildRows.append"),
    ],
)
def test_a_holder_that_was_stopped_and_lost_its_lease_changes_nothing(
    settings: Settings, work: str, before: str
) -> None:
    """A process that is stopped right before a write, and continued when another one has the lease, writes nothing."""
    with holder(settings, work, before) as first:
        first.wait_stopped()
        epoch = take_lease(settings, WORK[work].lease)
        found = rows(settings)
        result = first.go_on()
        after = rows(settings)
    with holder(settings, work, None) as second:
        again = second.result()
    done = rows(settings)

    assert epoch > 1
    assert result == LOST
    assert after == found
    assert again == DONE
    assert done != found or work == "request a rebuild"
