"""Sessions of pipelines as all servers of a registry see them, on each metadata database, also where a write fails."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from boltseal.errors import Unauthenticated, Unavailable
from boltseal.policy.pipeline_rules import parse_issuers
from boltseal.server.auth.issuer_keys import IssuerKeys
from boltseal.server.auth.pipeline_logins import PipelineLogins
from boltseal.server.storage import metadata_factory
from boltseal.server.storage.metadata import pipeline_table
from boltseal.server.storage.metadata.pipeline_table import PipelineRefreshRow, PipelineSessionRow
from boltseal.server.storage.metadata.protocol import Metadata, Snapshot
from boltseal.server.storage_settings import DatabaseUrl, StorageSettings
from tests.fakes.failing_database import FailingDatabase
from tests.fakes.issuer import Issuer, running_issuer


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
def issuer() -> Iterator[Issuer]:
    with running_issuer() as running:
        yield running


def logins(issuer: Issuer, database: Metadata | FailingDatabase) -> PipelineLogins:
    terms = parse_issuers([issuer.table()])[0]
    return PipelineLogins([IssuerKeys(terms)], database, lambda: time.time_ns() // 1000)


def number(snapshot: Snapshot) -> int:
    row = snapshot.sql.plain("SELECT count(*) FROM pipeline_session").fetchone()
    return int(row[0]) if row else -1


async def test_two_servers_that_see_a_token_at_once_open_one_session(
    servers: tuple[Metadata, Metadata], issuer: Issuer
) -> None:
    """Whichever writes first: both have the same session."""
    both = [logins(issuer, database) for database in servers]
    tokens = [issuer.token() for _ in range(8)]
    found = await asyncio.gather(*(each.by_id_token(text) for text in tokens for each in both))

    assert len({session.id for session in found}) == len(tokens)
    assert servers[0].read_and_wait(number) == len(tokens)


async def test_two_servers_do_not_accept_one_identifier_with_two_claims(
    servers: tuple[Metadata, Metadata], issuer: Issuer
) -> None:
    """Of two tokens with one `jti`, used at once at two servers, one is refused."""
    tokens = [issuer.token(jti="same"), issuer.token(jti="same", run_id="1")]
    both = [logins(issuer, database) for database in servers]
    found = await asyncio.gather(
        *(each.by_id_token(text) for each, text in zip(both, tokens, strict=True)), return_exceptions=True
    )

    assert sum(isinstance(each, Unauthenticated) for each in found) == 1


@pytest.mark.parametrize("done", [False, True])
async def test_a_login_whose_write_failed_is_repeated(
    servers: tuple[Metadata, Metadata], issuer: Issuer, done: bool
) -> None:
    """Not written, or written and the answer lost: the client's next try has one session, and a refresh token of its own."""
    failing = FailingDatabase(servers[0])
    ours, text = logins(issuer, failing), issuer.token()
    failing.failures = [done]
    with pytest.raises(Unavailable):
        await ours.by_id_token(text)
    session = await ours.by_id_token(text)
    failing.failures = [done]
    with pytest.raises(Unavailable):
        await ours.issue_refresh_token(session)
    refresh = await ours.issue_refresh_token(session)

    assert servers[1].read_and_wait(number) == 1
    assert refresh is not None
    assert (await logins(issuer, servers[1]).by_refresh_token(refresh)).id == session.id


async def test_what_has_ended_is_forgotten(servers: tuple[Metadata, Metadata]) -> None:
    """A later login removes sessions and refresh tokens that ended long ago, and no others."""

    def row(id_: str, ends_us: int) -> PipelineSessionRow:
        return PipelineSessionRow(id_, "https://ci", "{}", "x", 1, ends_us)

    metadata = servers[0]
    for each in (row("old", 10), row("long", 10), row("new", 500)):
        await metadata.write(partial(pipeline_table.open_session, row=each, forget_before_us=0))
    refresh = [PipelineRefreshRow("a", "long", 500), PipelineRefreshRow("b", "old", 20)]
    for token in refresh:
        await metadata.write(partial(pipeline_table.add_refresh, row=token, most=1))
    over = await metadata.write(lambda tx: pipeline_table.add_refresh(tx, refresh[0], most=1))
    await metadata.write(lambda tx: pipeline_table.open_session(tx, row("last", 900), forget_before_us=100))
    found = {
        id_: metadata.read_and_wait(partial(pipeline_table.find, id_=id_)) for id_ in ("old", "long", "new", "last")
    }

    assert over is False
    assert {id_ for id_, each in found.items() if each is not None} == {"long", "new", "last"}
    assert servers[1].read_and_wait(lambda tx: pipeline_table.find_refresh(tx, "a")) == refresh[0]
    assert servers[1].read_and_wait(lambda tx: pipeline_table.find_refresh(tx, "b")) is None
