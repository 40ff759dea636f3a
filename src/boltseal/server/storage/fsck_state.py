"""The step of `fsck` that checks the server's own state in the database.

These are waiting events, upload sessions, failed logins, users, API tokens, unfinished purges, and blobs that could not be deleted. No
tag depends on these rows. A database of data format 4 lacks the tables, which is not reported.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from sqlalchemy import Table, inspect, select

from boltseal.errors import BoltsealError, Invalid
from boltseal.events import parse_cloud_event
from boltseal.notify.outbox import WaitingEvent
from boltseal.oci.digest import Digest
from boltseal.oci.reference import Repository
from boltseal.server.storage.blobs.protocol import UploadId
from boltseal.server.storage.findings import FindingCollector
from boltseal.server.storage.metadata import (
    account_table,
    api_token_table,
    blob_reviews,
    ledger_store,
    outbox_table,
    unreferenced,
    upload_table,
)
from boltseal.server.storage.metadata.access_schema import api_token
from boltseal.server.storage.metadata.gc_schema import blob_review
from boltseal.server.storage.metadata.protocol import LEDGER, OBSERVATIONS, Snapshot
from boltseal.server.storage.metadata.schema import account, failed_login, outbox, purged_blob, upload_session
from boltseal.server.storage.users import account_problem

_CODE: Final = re.compile(r"[0-9a-f]{64}")


def state(snapshot: Snapshot, findings: FindingCollector) -> None:
    """Check the rows of each table."""
    if _has(snapshot, outbox):
        _outbox(snapshot, findings)
    if _has(snapshot, upload_session):
        _uploads(snapshot, findings)
    if _has(snapshot, failed_login):
        _failed_logins(snapshot, findings)
    if _has(snapshot, purged_blob):
        _purged(snapshot, findings)
    if _has(snapshot, blob_review, blob_review.c.problem.name):
        for each in blob_reviews.failed(snapshot):
            findings.unknown(f"blob {each.digest}", f"garbage collection failed to delete its bytes: {each.problem}")
    if _has(snapshot, account):
        for problem in filter(None, map(account_problem, account_table.all_accounts(snapshot))):
            findings.differs("users", problem)
    if _has(snapshot, api_token):
        _api_tokens(snapshot, findings)


def _has(snapshot: Snapshot, table: Table, column: str = "") -> bool:
    """Return whether the database has a table, and in it a column."""
    found = inspect(snapshot.sql.connection)
    if not found.has_table(table.name):
        return False
    return not column or column in {each["name"] for each in found.get_columns(table.name)}


def _purged(snapshot: Snapshot, findings: FindingCollector) -> None:
    for text in unreferenced.purged(snapshot):
        try:
            Digest.parse(text)
        except Invalid as error:
            findings.differs(f"purged blob {text}", f"its bytes can't be deleted: {error.message}")


def _outbox(snapshot: Snapshot, findings: FindingCollector) -> None:
    for row in outbox_table.all_events(snapshot):
        for problem in _event_problems(row):
            findings.differs(f"event {row.event_id} for {row.receiver}", problem)
    sizes = {log.name: ledger_store.head(snapshot, log) for log in (LEDGER, OBSERVATIONS)}
    for name, position in outbox_table.cursors(snapshot).items():
        head = sizes.get(name)
        size = 0 if head is None else head.size
        if name not in sizes or not 0 <= position <= size:
            findings.differs(f"events of {name}", f"entries up to {position} became events, but it has {size}")


def _event_problems(row: WaitingEvent) -> Iterator[str]:
    try:
        event = parse_cloud_event(row.body)
    except Invalid as error:
        yield f"it can't be delivered: {error.message}"
        return
    if event.id != row.event_id:
        yield f"its document has the id {event.id}"
    if row.tries < 0 or row.at_us < 0 or row.next_us < 0:
        yield "a time or its number of tries is negative"


def _uploads(snapshot: Snapshot, findings: FindingCollector) -> None:
    """Check each row by itself. A row without bytes is no fault: a power cut leaves it, and garbage collection removes it."""
    for row in upload_table.all_uploads(snapshot):
        try:
            UploadId(row.id)
            Repository(row.repository)
        except BoltsealError as error:
            findings.differs(f"upload {row.id}", f"no request can continue it: {error.message}")
        if not row.owner:
            findings.differs(f"upload {row.id}", "it has no owner")
        if row.expires_us < row.begun_us:
            findings.differs(f"upload {row.id}", "it expires before it began")


def _api_tokens(snapshot: Snapshot, findings: FindingCollector) -> None:
    """Check the form of each row. Whether its code is right shows only when the token is used."""
    for row in api_token_table.every(snapshot):
        if not _CODE.fullmatch(row.mac) or row.kind not in ("person", "service") or row.expires_us <= row.created_us:
            findings.differs(f"API token {row.id}", "it can't be used: its code, its kind or its times are invalid")


def _failed_logins(snapshot: Snapshot, findings: FindingCollector) -> None:
    wrong = select(failed_login.c.address).where((failed_login.c.failures < 1) | (failed_login.c.last_us < 0))
    for address in snapshot.sql.connection.execute(wrong).scalars():
        findings.differs(f"failed logins of {address}", "their number or time is negative")
