"""Keeps two registries from one prefix of a bucket: an object names the registry that deletes objects there.

    PREFIX/owner         JSON: {"format": 1, "registry": "<32 hex>", "signing": {"<log>": {"origin": "<name>", "size": <entries>,
                         "root": "<64 hex>"}}}, created once by a conditional write. `signing`: the checkpoint of each log that was
                         signed last, or was about to be; absent before the first
    PREFIX/owner.probe   written by each start, move and restore, to find out whether the S3 server honours conditional writes

The ID is random and is in the database too. The two are compared at a start, before objects are deleted, with each signature of
a log, and otherwise at most `COMPARED_FOR_S` after the last time, while a server runs. A move and a restore replace the object in
their last step (`take_over`), a rebuild before its first (`begin_rebuild`). A bucket without the object gets it if the prefix is
empty, or has an object that a row of this database names.

A registry states each checkpoint in the object by a conditional write, before it writes tiles or signs (`state`). So a server that
lost the bucket can't sign: its write fails, however long it was paused after a comparison. The new owner keeps the former one's
statements, and signs no checkpoint that contradicts them. So two registries never sign two histories of one ledger.

A prefix inside another registry's prefix is safe as well: no key of one registry has the form of the other's keys, because all
keys of boltseal have a fixed number of parts, and their last parts differ (`object_comparison.KEYS`).

Trusted: accounts that can write the bucket.
"""

from __future__ import annotations

import json
import math
import re
import threading
import time
import uuid
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from typing import Final

import structlog

from boltseal.errors import Invalid, Unavailable
from boltseal.ledger.checkpoint import Checkpoint
from boltseal.server.storage.metadata import bucket_rows
from boltseal.server.storage.metadata.bucket_rows import OwnerRow
from boltseal.server.storage.metadata.protocol import Metadata, Snapshot, UnitOfWork
from boltseal.server.storage.object_client import Limits, ObjectChanged, ObjectClient, ObjectUse, SmallObject
from boltseal.server.storage.object_failures import Failure, FailureKind

KEY: Final = "owner"
PROBE: Final = "owner.probe"
FORMAT: Final = 1
_OF_A_START: Final = frozenset({KEY, PROBE, "health"})
_MOST_BYTES: Final = 4096
_LOOKED_AT: Final = 8
COMPARED_FOR_S: Final = 20.0
"""How long a running server that signs nothing relies on its last comparison with the owner object."""
_TRIES: Final = 5
"""How often a statement or a take-over begins again because servers of the registry wrote their statements meanwhile."""
_is_id = re.compile(r"[0-9a-f]{32}").fullmatch

_log = structlog.get_logger(__name__)


class BucketTaken(Invalid):
    """The prefix belongs to another registry, or may do so."""


class BucketUnfit(Invalid):
    """The S3 server does not do what a registry needs."""


class RebuildUnfinished(Invalid):
    """The database has a part of what the bucket has."""


class OwnerUnreachable(Unavailable):
    """The owner object can't be read or written now."""


class StatedOtherwise(Unavailable):
    """The owner object states another checkpoint of this log (`stated`), so this one must not be signed."""

    def __init__(self, stated: Checkpoint, message: str) -> None:
        super().__init__(message)
        self.stated = stated


class BucketOwner:
    """The owner object of one registry's prefix. `shown`: the address of the prefix. Every method blocks."""

    def __init__(self, database: Metadata, client: ObjectClient, shown: str) -> None:
        self._database = database
        self._client = client
        self._shown = shown
        self._compared_s = -math.inf
        """When `confirm` found that the bucket is this registry's (monotonic)."""
        self.lost: str | None = None
        """Why nothing may be written: another registry has the bucket, as of the last comparison; None: this one has it."""
        self._seen: SmallObject | None = None
        """The owner object as this process wrote it last; None before, and after another one was found."""
        self._stating = threading.Lock()

    def claim(self) -> None:
        """Compare at a start, and create the object where it is missing.

        If the store does not answer, a registry that had its object before starts nevertheless, because pulls need no bucket.

        Raises:
            BucketTaken, BucketUnfit, RebuildUnfinished: the server must not start.
            Unavailable: the bucket can't be compared, and never was.
        """
        known = self._database.read_and_wait(bucket_rows.owner)
        if known is not None and known.rebuilding:
            raise RebuildUnfinished(f"the server does not start: {UNFINISHED}")
        try:
            self._claim()
        except Unavailable as error:
            if known is None or not known.claimed:
                raise
            _log.warning("the owner of the bucket was not compared", reason=error.message)

    def check(self) -> None:
        """Compare before objects are deleted.

        Raises: BucketTaken; RebuildUnfinished; Unavailable: the bucket can't be compared.
        """
        self._database.read_and_wait(refuse_rebuilding)
        self._compare()

    def confirm(self, within_s: float = 0.0) -> None:
        """Check that the bucket is still this registry's, unless that was found within this time. Callable in any thread.

        A move, a restore or a rebuild may have given it to another registry. What is pushed to this one after that is lost.
        Raises: BucketTaken: another registry has it, in the words of `lost`. Unavailable: the bucket can't be compared.
        """
        if time.monotonic() - self._compared_s < within_s:
            return
        self._compare_running(owner_now(self._client))

    def state(self, log: str, head: Checkpoint, root_of: Callable[[int], bytes]) -> None:
        """State the checkpoint of a log that is about to be signed, if the bucket is still this registry's. One conditional write.

        When this returns, the bucket was this registry's at the moment of the write, and every later owner finds the statement.
        `root_of`: returns the root of the first entries of this registry's log; its argument is their number.
        Raises:
            BucketTaken: another registry has the bucket; nothing was written.
            StatedOtherwise: a checkpoint of more entries, or of other entries, was stated before.
            Unavailable: perhaps stated; a repetition is harmless.
        """
        with self._stating:
            for _ in range(_TRIES):
                # What this process wrote last is not read again: if it was replaced since, the conditional write fails.
                found, self._seen = self._seen, None
                if found is None:
                    found = owner_now(self._client)
                    self._compare_running(found)
                if found is None:
                    # There is no row either: a command signs before the first server started, which would claim the bucket.
                    return
                signing = _statements(found)
                _compare_statements(signing.get(log), head, root_of)
                content = _document(registry_in(found, self._shown) or "", {**signing, log: head})
                try:
                    version = self._client.put_if(KEY, content, _version(found))
                except ObjectChanged:
                    continue  # a server of this registry stated, another registry took over, or an answer was lost
                self._seen = SmallObject(content, version)
                self.lost, self._compared_s = None, time.monotonic()
                return
            raise OwnerUnreachable(
                "the owner object of the bucket is replaced by other servers again and again; try again"
            )

    def begin_rebuild(self) -> None:
        """Make the registry that is rebuilt, which has a new ID, the owner of the bucket. A repetition goes on.

        The former owner, which may still run, deletes nothing in the bucket from now on.
        Raises: BucketTaken: another registry became the owner after this one. Unavailable.
        """
        known = self._database.read_and_wait(bucket_rows.owner)
        if known is None or not known.rebuilding:
            raise AssertionError("no rebuild was begun")
        if known.claimed:
            self._compare()
            return
        before = owner_now(self._client)
        if registry_in(before, self._shown) != known.registry:
            take_over(self._client, known.registry, self._shown, before)
        self._database.write_and_wait(partial(bucket_rows.put_owner, row=known._replace(claimed=True)))

    def end_rebuild(self, tx: UnitOfWork) -> None:
        """Let servers start, in the transaction that completes the rows. Raises: BucketTaken, Unavailable."""
        known = self._compare(tx)
        bucket_rows.put_owner(tx, known._replace(rebuilding=False))

    def differs(self) -> str | None:
        """Return why the bucket is not this registry's, None if it is, or if there is neither an owner object nor a row. Unavailable."""
        known = self._database.read_and_wait(bucket_rows.owner)
        try:
            found = self.registry()
        except BucketTaken as error:
            return error.message
        expected = None if known is None else known.registry
        return None if found == expected else self._taken(known, found).message

    def registry(self) -> str | None:
        """Return the ID of the registry that has the prefix, None if no object names one. Raises: BucketTaken, Unavailable."""
        return registry_in(owner_now(self._client), self._shown)

    def _compare_running(self, found: SmallObject | None) -> None:
        """Compare an owner object that was read or written just now, and remember the result. Raises: BucketTaken."""
        self._compared_s = -math.inf
        known = self._database.read_and_wait(bucket_rows.owner)
        try:
            registry = registry_in(found, self._shown)
            if registry != (None if known is None else known.registry):
                raise self._taken(known, registry)
        except BucketTaken as error:
            self.lost = f"{error.message}; {_UNCHANGED}"
            raise BucketTaken(self.lost) from error
        self.lost, self._compared_s = None, time.monotonic()

    def _compare(self, snapshot: Snapshot | None = None) -> OwnerRow:
        """Return the row if the owner object has its ID. Raises: BucketTaken, Unavailable."""
        found = self.registry()  # first: another server that starts now writes its row before its object
        known = self._database.read_and_wait(bucket_rows.owner) if snapshot is None else bucket_rows.owner(snapshot)
        if known is None or found != known.registry:
            raise self._taken(known, found)
        return known

    def _claim(self) -> None:
        check_conditions(self._client, self._shown)
        if self.registry() is None:
            try:
                self._check_ours()
            except BucketTaken:
                if self.registry() is None:
                    raise
                # A server of this registry, or of another one, started meanwhile: compare its object.
            else:
                row = self._database.write_and_wait(partial(_first_row, registry=new_id()))
                with suppress(ObjectChanged):  # another server was faster, or the answer to this request was lost
                    self._client.put_if(KEY, _document(row.registry), None)
        known = self._compare()
        if not known.claimed:
            self._database.write_and_wait(partial(_put_claimed, before=known))

    def _check_ours(self) -> None:
        """Raise BucketTaken if there are objects, and none of those that the database names."""
        keys = self._database.read_and_wait(partial(bucket_rows.some_keys, limit=_LOOKED_AT))
        if any(self._client.size_and_wait(key) is not None for key in keys):
            return
        for page in self._client.listed(""):
            foreign = next((each.key for each in page if each.key not in _OF_A_START), None)
            if foreign is not None:
                raise BucketTaken(
                    f"{self._shown} has objects, such as {foreign}, but no owner object, and none that this registry's database "
                    f"names: {_HELP}"
                )

    def _taken(self, known: OwnerRow | None, found: str | None) -> BucketTaken:
        expected = "this database never had a bucket" if known is None else f"this registry is {known.registry}"
        if found is None:
            return BucketTaken(
                f"{self._shown} has no owner object, and {expected}: if this registry's objects are there, start the server again, "
                "which writes it; if not, restore the bucket, or correct [storage] blobs"
            )
        if known is None or not known.claimed:
            return BucketTaken(f"{self._shown} has the owner object of the registry {found}, and {expected}: {_HELP}")
        return BucketTaken(
            f"{self._shown} belongs to another registry now: it has the owner object of the registry {found}, and {expected}; if the "
            "registry was moved, restored or rebuilt, push to the new server, and stop this one for good; if not, correct "
            "[storage] blobs"
        )


def _first_row(tx: UnitOfWork, registry: str) -> OwnerRow:
    """Return the row of this registry; where there is none, it gets this ID. Of servers that start at once the first one decides."""
    known = bucket_rows.owner(tx)
    if known is not None and known.rebuilding:
        raise RebuildUnfinished(f"the server does not start: {UNFINISHED}")
    if known is not None:
        return known
    row = OwnerRow(registry, claimed=False, rebuilding=False)
    bucket_rows.put_owner(tx, row)
    return row


def _put_claimed(tx: UnitOfWork, before: OwnerRow) -> None:
    if bucket_rows.owner(tx) == before:
        bucket_rows.put_owner(tx, before._replace(claimed=True))


def check_conditions(client: ObjectClient, shown: str) -> None:
    """Refuse an S3 server that replaces objects without comparing. Raises: BucketUnfit, Unavailable."""
    if not client.compares(PROBE):
        raise BucketUnfit(
            f"the S3 server of {shown} replaces objects without comparing (If-Match and If-None-Match of a PUT); choose one that "
            "supports conditional writes"
        )


def refuse_rebuilding(snapshot: Snapshot) -> None:
    """Check that all rows are there, in a transaction that removes what no row refers to. Raises: RebuildUnfinished."""
    known = bucket_rows.owner(snapshot)
    if known is not None and known.rebuilding:
        raise RebuildUnfinished(f"nothing is deleted: {UNFINISHED}")


def owner_now(client: ObjectClient) -> SmallObject | None:
    """Return the owner object as it is at the start of a move, a restore or a rebuild, for `take_over`. Raises: Unavailable."""
    return client.get(KEY, _MOST_BYTES)


def registry_in(found: SmallObject | None, shown: str) -> str | None:
    """Return the ID that an owner object states, None if there is no object. `shown`: the address of the prefix.

    Raises: BucketTaken: the object states no ID, or has a newer format.
    """
    if found is None:
        return None
    try:
        document = json.loads(found.content)
        registry, number = document["registry"], document["format"]
    except (ValueError, KeyError, TypeError) as error:
        raise BucketTaken(f"{shown}/{KEY} is no owner object ({type(error).__name__}): {_DAMAGED}") from error
    if number != FORMAT:
        raise BucketTaken(f"{shown}/{KEY} has format {number!r}, expected {FORMAT}: use a newer boltseal")
    if not isinstance(registry, str) or not _is_id(registry):
        raise BucketTaken(
            f"{shown}/{KEY} is no owner object (its registry is {registry!r}, expected 32 hexadecimal digits): {_DAMAGED}"
        )
    return registry


def take_over(client: ObjectClient, registry: str, shown: str, before: SmallObject | None) -> None:
    """Make a new ID the owner of a prefix, if the owner still is the one that `owner_now` returned.

    The former owner signs and deletes nothing there from now on, and its next start is refused. What it has signed stays stated.
    Raises: BucketTaken: another registry became the owner meanwhile, or the object is gone. Unavailable: perhaps done; a repetition
    begins with `owner_now` again.
    """
    found = before
    for _ in range(_TRIES):
        document = _document(registry, {} if found is None else _statements(found))
        try:
            client.put_if(KEY, document, None if found is None else _version(found))
        except ObjectChanged:
            # The owner has signed, another registry was faster, or the answer to this request was lost.
            found = client.get(KEY, _MOST_BYTES)
            if found is not None and found.content == document:
                return
            if before is None or found is None or registry_in(found, shown) != registry_in(before, shown):
                raise BucketTaken(
                    f"another registry became the owner of {shown} meanwhile: find out which server or command did that; then repeat "
                    "this one, or name an unused prefix with [storage] blobs"
                ) from None
        else:
            return
    raise OwnerUnreachable(f"the owner of {shown} signs again and again: stop its servers, and repeat this command")


def _version(found: SmallObject) -> str:
    """Return the ETag for a conditional write. A server without ETags is refused at each start (`compares`)."""
    if found.version is None:
        raise BucketUnfit(
            "the S3 server gives no ETags, so that an object can't be replaced by comparing; choose another one"
        )
    return found.version


def new_id() -> str:
    """Return an ID for a registry, which no other has."""
    return uuid.uuid4().hex


def _document(registry: str, signing: Mapping[str, Checkpoint] | None = None) -> bytes:
    document: dict[str, object] = {"format": FORMAT, "registry": registry}
    if signing:
        document["signing"] = {
            log: {"origin": head.origin, "size": head.size, "root": head.root.hex()} for log, head in signing.items()
        }
    return json.dumps(document).encode()


def _statements(found: SmallObject) -> dict[str, Checkpoint]:
    """Return the last statement of each log in an owner object with an ID. Raises: BucketTaken: they can't be read."""
    try:
        stated = json.loads(found.content).get("signing", {})
        return {
            log: Checkpoint(str(head["origin"]), int(head["size"]), bytes.fromhex(head["root"]))
            for log, head in stated.items()
        }
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise BucketTaken(
            f"the owner object of the bucket does not say what was signed last ({type(error).__name__}): {_DAMAGED}"
        ) from error


def _compare_statements(stated: Checkpoint | None, head: Checkpoint, root_of: Callable[[int], bytes]) -> None:
    """Check that a checkpoint continues the one that was stated last. Raises: StatedOtherwise."""
    if (
        stated is None or stated.origin != head.origin
    ):  # the first checkpoint, or the first after a recovery of the ledger
        return
    if stated.size > head.size:
        raise StatedOtherwise(
            stated,
            f"{stated.size} entries of the log were signed, or were about to be, by a server that had this bucket; this one has "
            f"{head.size}",
        )
    if stated.root != (head.root if stated.size == head.size else root_of(stated.size)):
        raise StatedOtherwise(
            stated,
            f"the first {stated.size} entries of the log are not the ones that a server with this bucket has signed",
        )


UNFINISHED: Final = (
    "the database is being rebuilt, and that was not finished: run `boltseal admin fsck --rebuild` again"
)


def _failed(failure: Failure) -> OwnerUnreachable:
    if failure.kind is FailureKind.TOO_LARGE:
        return OwnerUnreachable(
            f"the object {KEY!r} of the bucket has more than {_MOST_BYTES} bytes, so it is no owner object"
        )
    return OwnerUnreachable(
        f"the object {KEY!r} of the bucket can't be {failure.done}, so it is not known which registry the bucket belongs to: "
        f"{failure.cause}; {failure.advice}"
    )


OWNER: Final = ObjectUse("owner", _failed, Limits(answer_s=10))
"""The errors and limits of a client that reads and writes the owner object."""
_UNCHANGED: Final = "nothing was changed, and pulls go on"
_HELP: Final = (
    "if the database of this registry is lost, restore its backup, or rebuild it with `boltseal admin fsck --rebuild`; for a new "
    "registry choose an empty prefix with [storage] blobs"
)
_DAMAGED: Final = (
    "if this registry's other objects are there, delete it and start the server again, which writes it; if not, choose an empty "
    "prefix with [storage] blobs"
)
