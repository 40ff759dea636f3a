"""Sessions of pages as all servers of a registry see them, on each metadata database, also where a write fails."""

from __future__ import annotations

import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from boltseal.errors import Unavailable
from boltseal.policy.person_claims import PersonClaims
from boltseal.server.auth.page_sessions import MAX_PER_OWNER, NewSession, PageSessions
from boltseal.server.auth.people import parse_people, person_row
from boltseal.server.auth.user_directory import AccountRows
from boltseal.server.page_settings import SessionTerms
from boltseal.server.storage import metadata_factory
from boltseal.server.storage.metadata import person_table, session_table
from boltseal.server.storage.metadata.protocol import Metadata, UnitOfWork
from boltseal.server.storage.user_key import UserKey
from boltseal.server.storage_settings import DatabaseUrl, StorageSettings
from tests.fakes.failing_database import FailingDatabase

ALICE = NewSession("alice", "login", "127.0.0.1", "password")
TERMS = SessionTerms(3_600_000_000, 600_000_000)


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.real)])
def servers(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Metadata, Metadata]]:
    """The database as two servers have opened it."""
    storage = StorageSettings()
    if request.param == "postgres":
        storage = StorageSettings(database=DatabaseUrl(request.getfixturevalue("new_database")()))
    metadata_factory.prepare_metadata(tmp_path / "data", storage)
    opened = [
        metadata_factory.open_metadata(tmp_path / "data", storage, lambda: time.time_ns() // 1000) for _ in range(2)
    ]
    yield opened[0], opened[1]
    for metadata in opened:
        metadata.close()


@pytest.fixture
def key(tmp_path: Path) -> UserKey:
    return UserKey(tmp_path / "keys")


def sessions(database: Metadata | FailingDatabase, key: UserKey) -> PageSessions:
    return PageSessions(AccountRows(database, key), TERMS)


def put_person(tx: UnitOfWork, key: UserKey, claims: PersonClaims) -> None:
    changed_us, _ = person_table.next_time_us(tx)
    person_table.put(tx, person_row(key, claims.user_name, claims, changed_us, may_create=True))


async def test_a_session_begins_and_ends_at_every_server(servers: tuple[Metadata, Metadata], key: UserKey) -> None:
    """Begun at one, found at the other; ended at the other, gone at the first, and no other session with it."""
    here, there = (sessions(each, key) for each in servers)
    cookie, other = await here.begin(ALICE), await here.begin(ALICE)
    found = await there.find(cookie)
    assert found is not None
    await there.end(found)

    assert found.owner == "alice"
    assert await here.find(cookie) is None
    assert await here.find(other) is not None
    assert await there.end_all("alice", "127.0.0.1") == 1
    assert await here.find(other) is None


@pytest.mark.parametrize("done", [False, True])
async def test_a_write_that_failed_is_repeated(servers: tuple[Metadata, Metadata], key: UserKey, done: bool) -> None:
    """Not done, or done and the answer lost: the next try of a login, a logout and a logout everywhere succeeds."""
    failing = FailingDatabase(servers[0])
    ours, theirs = sessions(failing, key), sessions(servers[1], key)
    failing.failures = [done]
    with pytest.raises(Unavailable):
        await ours.begin(ALICE)
    cookie, other = await ours.begin(ALICE), await ours.begin(ALICE)
    session = await ours.find(cookie)
    assert session is not None
    failing.failures = [done]
    with pytest.raises(Unavailable):
        await ours.end(session)
    await ours.end(session)
    failing.failures = [done]
    with pytest.raises(Unavailable):
        await ours.end_all("alice", "127.0.0.1")
    await ours.end_all("alice", "127.0.0.1")

    assert await theirs.find(cookie) is None
    assert await theirs.find(other) is None
    assert await theirs.of_owner("alice") == []


async def test_sessions_of_a_user_are_bounded(servers: tuple[Metadata, Metadata], key: UserKey) -> None:
    """The oldest ends with the login after the last that is allowed."""
    ours = sessions(servers[0], key)
    cookies = [await ours.begin(ALICE) for _ in range(MAX_PER_OWNER + 1)]

    assert await ours.find(cookies[0]) is None
    assert await ours.find(cookies[1]) is not None
    assert len(await ours.of_owner("alice")) == MAX_PER_OWNER


async def test_what_has_ended_is_forgotten(servers: tuple[Metadata, Metadata], key: UserKey) -> None:
    """A later login removes the rows of sessions and states that ended, and no others; a state is used once."""
    ours, long_ago = sessions(servers[0], key), 1_600_000_000_000_000

    def age(tx: UnitOfWork) -> tuple[bool, bool, bool]:
        tx.sql.plain("UPDATE page_session SET ends_us = ?", (long_ago,))
        used = partial(session_table.use_state, tx)
        return used("old", long_ago), used("new", tx.now_us + 1_000_000_000), used("new", tx.now_us + 1_000_000_000)

    old = await ours.begin(ALICE)
    used = await servers[0].write(age)
    new = await ours.begin(ALICE)
    again = await servers[0].write(
        lambda tx: [session_table.use_state(tx, each, tx.now_us + 1) for each in ("old", "new")]
    )

    assert used == (True, True, False)
    assert again == [True, False]
    assert await ours.find(old) is None
    assert len(servers[1].read_and_wait(partial(session_table.of_owner, owner="alice"))) == 1
    assert await ours.find(new) is not None


async def test_people_are_found_by_subject_and_trusted_by_their_code(
    servers: tuple[Metadata, Metadata], key: UserKey
) -> None:
    """The row of a person, its change and its removal are seen at the other server; with other groups it is no person."""
    claims = PersonClaims("https://idp", "s1", "alice@sso", "Alice", frozenset({"dev"}))
    versions = [await servers[1].lookups.tokens.token_version()]
    for group in ("dev", "ops"):
        changed = PersonClaims(claims.issuer, claims.subject, claims.user_name, "Alice", frozenset({group}))
        await servers[0].write(partial(put_person, key=key, claims=changed))
        versions.append(await servers[1].lookups.tokens.token_version())
    (row,) = await servers[1].lookups.tokens.people()
    forged = row._replace(member_of='["admins"]')
    by_subject = servers[1].read_and_wait(partial(person_table.find, issuer="https://idp", subject="s1"))
    removed = await servers[0].write(
        lambda tx: (person_table.remove(tx, "alice@sso"), person_table.remove(tx, "alice@sso"))
    )

    assert len(set(versions)) == 3
    assert by_subject == row
    assert parse_people([row], key)["alice@sso"].groups == {"ops"}
    assert parse_people([forged], key) == {}
    assert removed == (True, False)
    assert await servers[1].lookups.tokens.people() == []
