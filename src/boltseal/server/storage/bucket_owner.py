"""Keeps two registries from one prefix of a bucket: an object names the registry that deletes objects there.

    PREFIX/owner         JSON: {"format": 1, "registry": "<32 hex>"}, created once by a conditional write
    PREFIX/owner.probe   written by each start, to find out whether the S3 server honours conditional writes

The ID is random and is in the database too. At a start, and before each sweep that deletes objects which no row names, the two are
compared. A bucket without the object gets it if the prefix is empty, or has an object that a row of this database names.

A prefix inside another registry's prefix is safe as well: no key of one registry has the form of the other's keys, because all
keys of boltseal have a fixed number of parts, and their last parts differ (`object_comparison.KEYS`).

Trusted: accounts that can write the bucket.
"""

from __future__ import annotations

import json
import re
import uuid
from functools import partial
from typing import Final

import structlog

from boltseal.errors import Invalid, Unavailable
from boltseal.server.storage.metadata import bucket_rows
from boltseal.server.storage.metadata.bucket_rows import OwnerRow
from boltseal.server.storage.metadata.protocol import Metadata
from boltseal.server.storage.object_client import ObjectChanged, ObjectClient

KEY: Final = "owner"
PROBE: Final = "owner.probe"
FORMAT: Final = 1
_OF_A_START: Final = frozenset({KEY, PROBE, "health"})
_MOST_BYTES: Final = 4096
_LOOKED_AT: Final = 8
_is_id = re.compile(r"[0-9a-f]{32}").fullmatch

_log = structlog.get_logger(__name__)


class BucketTaken(Invalid):
    """The prefix belongs to another registry, or may do so."""


class BucketUnfit(Invalid):
    """The S3 server does not do what a registry needs."""


class RebuildUnfinished(Invalid):
    """The database has a part of what the bucket has."""


class BucketOwner:
    """The owner object of one registry's prefix. `shown`: the address of the prefix. Every method blocks."""

    def __init__(self, database: Metadata, client: ObjectClient, shown: str) -> None:
        self._database = database
        self._client = client
        self._shown = shown

    def claim(self) -> None:
        """Compare at a start, and create the object where it is missing.

        If the store does not answer, a registry that had its object before starts nevertheless, because pulls need no bucket.

        Raises:
            BucketTaken, BucketUnfit, RebuildUnfinished: the server must not start.
            Unavailable: the bucket can't be compared, and never was.
        """
        known = self._database.read_and_wait(bucket_rows.owner)
        if known is not None and known.rebuilding:
            raise RebuildUnfinished(UNFINISHED)
        try:
            self._claim(known)
        except Unavailable as error:
            if known is None or not known.claimed:
                raise
            _log.warning("the owner of the bucket was not compared", reason=error.message)

    def check(self) -> None:
        """Compare before objects are deleted.

        Raises: BucketTaken; RebuildUnfinished; Unavailable: the bucket can't be compared.
        """
        known, found = self._database.read_and_wait(bucket_rows.owner), self.registry()
        if known is None or found != known.registry:
            raise self._taken(known, found)
        if known.rebuilding:
            raise RebuildUnfinished(f"nothing is deleted: {UNFINISHED}")

    def registry(self) -> str | None:
        """Return the ID of the registry that has the prefix, None if no object names one. Raises: BucketTaken, Unavailable."""
        found = self._client.get(KEY, _MOST_BYTES)
        if found is None:
            return None
        try:
            document = json.loads(found.content)
            registry, number = document["registry"], document["format"]
        except (ValueError, KeyError, TypeError) as error:
            raise BucketTaken(f"{self._shown}/{KEY} is no owner object ({type(error).__name__}): {_HELP}") from error
        if number != FORMAT or not isinstance(registry, str) or not _is_id(registry):
            raise BucketTaken(f"{self._shown}/{KEY} has format {number!r}, expected {FORMAT}: use a newer boltseal")
        return registry

    def _claim(self, known: OwnerRow | None) -> None:
        if not self._client.compares(PROBE):
            raise BucketUnfit(
                f"the S3 server of {self._shown} replaces objects without comparing (If-Match and If-None-Match of a PUT); "
                "choose one that supports conditional writes"
            )
        found = self.registry()
        if found is None:
            self._check_ours()
            known = known or self._begin()
            self._create(known)
        elif known is None or known.registry != found:
            raise self._taken(known, found)
        if not known.claimed:
            self._database.write_and_wait(partial(bucket_rows.put_owner, row=known._replace(claimed=True)))

    def _begin(self) -> OwnerRow:
        row = OwnerRow(uuid.uuid4().hex, claimed=False, rebuilding=False)
        self._database.write_and_wait(partial(bucket_rows.put_owner, row=row))
        return row

    def _create(self, row: OwnerRow) -> None:
        document = json.dumps({"format": FORMAT, "registry": row.registry}).encode()
        try:
            self._client.put_if(KEY, document, None)
        except ObjectChanged:  # another registry was faster, or the answer to this request was lost
            found = self.registry()
            if found != row.registry:
                raise self._taken(row, found) from None

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
        got = "no owner object" if found is None else f"the owner object of the registry {found}"
        expected = "this database never had a bucket" if known is None else f"this registry is {known.registry}"
        return BucketTaken(f"{self._shown} has {got}, and {expected}: {_HELP}")


UNFINISHED: Final = (
    "the database is being rebuilt, and that was not finished: run `boltseal admin fsck --rebuild` again"
)
_HELP: Final = (
    "choose an empty prefix with [storage] blobs; if the database of this registry is lost, restore its backup, or see "
    "`boltseal admin fsck --rebuild`"
)
