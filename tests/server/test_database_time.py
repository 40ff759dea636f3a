"""With PostgreSQL the time of entries, leases and expiry is the database's, also where a server has a clock of its own.

The databases of these tests have a clock that is ahead: a function that their search path finds before PostgreSQL's.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import bcrypt
import httpx2
import psycopg
import pytest

from boltseal.ledger.entry import Entry, parse
from boltseal.server.auth.tokens import Tokens
from boltseal.server.settings import Settings
from boltseal.server.storage.coordination.factory import open_generation
from boltseal.server.storage.key_file import KeyFile
from boltseal.server.storage.metadata import ledger_store, upload_table
from boltseal.server.storage.metadata.postgres import open_database
from boltseal.server.storage.metadata.protocol import Snapshot
from boltseal.server.storage_settings import DatabaseUrl, StorageSettings
from boltseal.server.store_factory import now_us, open_store
from tests.images import image, push
from tests.logins import AUTH, claims, login, token
from tests.serving import serving_as

AHEAD_S = 3600
NEAR_US = 600 * 1_000_000
"""How far times of a test may be apart on a busy machine; much less than the clock of the database is ahead."""
CLOCK = b"""
CREATE SCHEMA ahead;
CREATE FUNCTION ahead.clock_timestamp() RETURNS timestamptz VOLATILE LANGUAGE sql
    AS $$ SELECT pg_catalog.clock_timestamp() + interval '3600 seconds' $$;
"""


@pytest.fixture
def ahead(new_database: Callable[[], str]) -> str:
    """The address of a database whose clock is an hour ahead of this machine's."""
    address = new_database()
    with psycopg.connect(address, autocommit=True) as connection:
        connection.execute(CLOCK)
        name = address.rpartition("/")[2]
        connection.execute(f'ALTER DATABASE "{name}" SET search_path = ahead, public, pg_catalog'.encode())
    return address


def is_ahead(time_us: int) -> bool:
    """Return whether a time is that of the database, and not that of this machine."""
    return abs(time_us - now_us() - AHEAD_S * 1_000_000) < NEAR_US


def test_the_time_of_a_store_is_that_of_its_database(ahead: str) -> None:
    """The time beside transactions is that of transactions, from the first moment on; a clock that was given replaces both."""
    url = DatabaseUrl(ahead)
    storage = StorageSettings(database=url)
    with closing(open_database(url, open_generation(storage, 0.0, None))) as database:
        before = database.now_us()
        inside = database.write_and_wait(lambda tx: tx.now_us)
        after = database.now_us()
    with closing(open_database(url, open_generation(storage, 0.0, None), lambda: 7)) as database:
        given = database.write_and_wait(lambda tx: tx.now_us), database.now_us()

    assert is_ahead(before)
    assert before <= inside + 1_000_000
    assert inside <= after + 1_000_000
    assert given == (7, 7)


async def test_a_server_takes_the_time_of_its_database(ahead: str, tmp_path: Path) -> None:
    """Entries, sessions, tokens and failed logins have the database's time, and readiness states how far the clocks differ."""
    settings = Settings.model_validate(
        {
            "server": {"data": tmp_path / "data"},
            "auth": AUTH,
            "storage": {"database": ahead, "mark": {"single_replica": True}},
        }
    )
    settings.keys.mkdir(exist_ok=True)
    settings.htpasswd.write_text(f"ci:{bcrypt.hashpw(b'pw-ci', bcrypt.gensalt(4)).decode()}\n")
    async with serving_as(settings) as registry:
        ready = await registry.client.get("/readyz")
        issued = claims(await token(registry, "ci", "repository:shop/app:pull,push"))
        wrong = await registry.client.get("/v2/", auth=login("ci", "wrong"))
        registry.client.auth = login("ci")
        await push(registry.client, "shop/app", "1.0.0", image("one"))
        await registry.client.post("/v2/shop/app/blobs/uploads/")
        registry.client.auth = httpx2.Auth()
        with open_store(settings) as store:
            entries = store.database.read_and_wait(_entries)
            [session] = store.database.read_and_wait(upload_table.all_uploads)
        with psycopg.connect(ahead) as connection:
            failures = connection.execute("SELECT last_us FROM failed_login").fetchall()

    assert ready.status_code == 503
    assert f"differs from the database's by -{AHEAD_S} seconds" in ready.text
    assert wrong.status_code == 401
    assert is_ahead(issued["iat"] * 1_000_000)
    assert len(entries) == 3
    assert all(is_ahead(each.time_us) for each in entries)
    assert is_ahead(session.begun_us)
    assert [is_ahead(last_us) for (last_us,) in failures] == [True]


def test_the_rest_of_a_token_is_by_the_clock_that_it_was_issued_by(tmp_path: Path) -> None:
    """How long a verified token may be remembered is by the database's time as well, and never negative."""
    tokens = Tokens(KeyFile(tmp_path / "token.json"), "boltseal", lambda: 5_000_000)

    assert (tokens.left_s(7), tokens.left_s(3)) == (2.0, 0.0)


def _entries(snapshot: Snapshot) -> list[Entry]:
    return [parse(line) for _, line in ledger_store.lines(snapshot)]
