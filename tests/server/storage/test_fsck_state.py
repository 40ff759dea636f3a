"""fsck of the running server's state: unusable rows are reported, and others are no finding."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from boltseal.events import QuotaLow, cloud_event
from boltseal.notify.outbox import LogCursor, Posting
from boltseal.policy.token_scope import DEFAULT_TERMS, parse_scope
from boltseal.server.auth.actor import Actor
from boltseal.server.auth.api_token_fields import OwnerKind
from boltseal.server.auth.api_tokens import TokenRequest, add_token
from boltseal.server.auth.failed_logins import FailedLogins
from boltseal.server.storage.blobs.protocol import UploadKey
from boltseal.server.storage.fsck import examine
from boltseal.server.storage.metadata import account_table, outbox_table, unreferenced
from boltseal.server.storage.metadata.migrate import DATABASE_NAME
from boltseal.server.storage.metadata.protocol import UnitOfWork
from boltseal.server.storage.metadata.sqlite import open_snapshot
from boltseal.server.storage.user_key import UserKey
from tests.bare_registry import SHOP, BareRegistry

EVENT = cloud_event(QuotaLow("docker.io", 3, 100, 21600), id_="1", source="urn:x", time_us=1)


@pytest.fixture
def findings(shop: BareRegistry, tmp_path: Path) -> Callable[[], list[str]]:
    """The findings of fsck in this test's store, while it is open."""
    path = tmp_path / "data" / DATABASE_NAME
    return lambda: [
        f"{each.what}: {each.problem}" for each in examine(open_snapshot(path), shop.blobs.maintenance).findings
    ]


@pytest.fixture
def by_hand(tmp_path: Path) -> Callable[..., None]:
    """Change the database directly, without the registry."""

    def execute(sql: str, *values: object) -> None:
        with closing(sqlite3.connect(tmp_path / "data" / DATABASE_NAME)) as connection, connection:
            assert connection.execute(sql, values).rowcount > 0

    return execute


async def waiting_event(shop: BareRegistry) -> None:
    """Store an undelivered event, and set the cursor to the ledger's end."""

    def job(tx: UnitOfWork) -> None:
        outbox_table.put(tx, [Posting("1", 1, EVENT, ("ops",))], 10)
        outbox_table.set_cursor(tx, LogCursor("ledger", 2))

    await shop.database.write(job)


@pytest.mark.parametrize(
    ("sql", "finding"),
    [
        ("UPDATE outbox SET body = x'00'", "event 1 for ops: it can't be delivered"),
        ("UPDATE outbox SET event_id = '2'", "event 2 for ops: its document has the id 1"),
        ("UPDATE outbox SET tries = -1", "event 1 for ops: a time or its number of tries is negative"),
        ("UPDATE outbox_cursor SET position = 9", "events of ledger: entries up to 9 became events, but it has 2"),
        ("UPDATE outbox_cursor SET name = 'x'", "events of x: entries up to 2 became events, but it has 0"),
    ],
)
async def test_an_event_that_can_not_be_delivered_is_a_finding(
    shop: BareRegistry, findings: Callable[[], list[str]], by_hand: Callable[..., None], sql: str, finding: str
) -> None:
    """An undelivered event that can't be delivered, or only under two ids, is a finding; a waiting one is not."""
    await waiting_event(shop)
    before = findings()
    by_hand(sql)
    (after,) = findings()

    assert before == []
    assert after.startswith(finding)


@pytest.mark.parametrize(
    ("sql", "finding"),
    [
        ("UPDATE upload_session SET id = '../x'", "upload ../x: no request can continue it"),
        ("UPDATE upload_session SET repository = 'A'", "no request can continue it"),
        ("UPDATE upload_session SET owner = ''", "it has no owner"),
        ("UPDATE upload_session SET expires_us = 1", "it expires before it began"),
    ],
)
async def test_an_upload_that_can_not_be_continued_is_a_finding(
    shop: BareRegistry, findings: Callable[[], list[str]], by_hand: Callable[..., None], sql: str, finding: str
) -> None:
    """An upload row that was changed in the database is a finding; an open upload is none, with its bytes or without."""
    upload = await shop.registry.uploads.start(SHOP)
    with_bytes = findings()
    await shop.blobs.uploads.cancel_upload(UploadKey(SHOP, upload))
    without = findings()
    by_hand(sql)
    (after,) = findings()

    assert with_bytes == without == []
    assert finding in after


async def test_changed_failed_logins_are_a_finding(
    shop: BareRegistry, findings: Callable[[], list[str]], by_hand: Callable[..., None]
) -> None:
    """Failed logins with a negative number, which would give an address more tries, are a finding."""
    await FailedLogins(shop.database, shop.clock).note("192.0.2.1")
    before = findings()
    by_hand("UPDATE failed_login SET failures = -100")

    assert before == []
    assert findings() == ["failed logins of 192.0.2.1: their number or time is negative"]


async def test_an_invalid_user_row_is_a_finding(
    shop: BareRegistry, tmp_path: Path, findings: Callable[[], list[str]], by_hand: Callable[..., None]
) -> None:
    """An invalid user row, which refuses every login, is a finding that does not show the hash."""
    await shop.database.write(
        lambda tx: account_table.put(tx, "ci", UserKey(tmp_path).encrypt("ci", b"$2b$04$" + b"a" * 53))
    )
    before = findings()
    by_hand("UPDATE account SET encrypted_hash = 'secret'")

    assert before == []
    assert findings() == ['users: user "ci" has no encrypted password hash']


async def test_an_invalid_token_row_is_a_finding(
    shop: BareRegistry, tmp_path: Path, findings: Callable[[], list[str]], by_hand: Callable[..., None]
) -> None:
    """A token whose stored code can't be one is a finding; it could not be used."""
    asked = TokenRequest("robot", parse_scope(["**"], ["pull"]))
    made = await shop.database.write(
        lambda tx: add_token(tx, UserKey(tmp_path), asked, OwnerKind.SERVICE, DEFAULT_TERMS, Actor("boss"))
    )
    before = findings()
    by_hand("UPDATE api_token SET mac = 'secret'")

    assert before == []
    assert findings() == [f"API token {made.row.id}: it can't be used: its code, its kind or its times are invalid"]


async def test_an_unfinished_purge_without_a_digest_is_a_finding(
    shop: BareRegistry, findings: Callable[[], list[str]], by_hand: Callable[..., None]
) -> None:
    """An unfinished purge without a digest can't be completed and is a finding; an ordinary one is none."""
    await shop.database.write(lambda tx: unreferenced.note_purged(tx, [f"sha256:{'a' * 64}"]))
    before = findings()
    by_hand("UPDATE purged_blob SET digest = 'sha256:x'")

    assert before == []
    assert findings()[0].startswith("purged blob sha256:x: its bytes can't be deleted")
