"""This registry as a witness of other ledgers: it cosigns a checkpoint that extends the one that it cosigned last.

    witness_service.key             in the folder of keys: the private key of the cosignatures, made at the first start
    witness_service.mark            its public key: servers that do not share the folder of keys must have the same key
    witnessed-<SHA-256 of the origin in hex>.mark    for each ledger the checkpoint that was cosigned last, as a note

The marks are files in the folder of keys, or objects beside the ledger's own mark (`[storage.mark]`); `ledger_mark` has their
promises. So what was cosigned is not in the data: a database that is restored from a backup does not take it back.

Order of an answer: compare with the mark, sign, replace the mark if it is still the one that was read, answer. Of two requests at once,
in any process or server, one replaces the mark; the other reads it again. A process that ends before the answer leaves a mark
that is newer than the ledger knows; the ledger learns its size from the next answer (409).

Fail closed: nothing is cosigned while a mark or the key can't be read, while the clock is in doubt, and while a witness of this
registry states that it saw more of this registry's own ledger than there is. In the last case the whole machine may be an old copy,
the marks included.

Trusted: accounts that can write the folder of keys, or the marks. If it is compromised, the attacker can cosign what contradicts
earlier cosignatures.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256
from typing import Final

import structlog

from boltseal.errors import BoltsealError, NotFound, Unavailable, quote
from boltseal.ledger.checkpoint import Checkpoint, parse_checkpoint_unverified
from boltseal.ledger.cosigning import KnownLogs, OpenedSubmission, check_extends, open_submission, parse_submission
from boltseal.ledger.note import (
    COSIGNATURE,
    Signature,
    SigningKey,
    VerifierKey,
    cosigned_at_unverified,
    format_note,
    parse_note_unverified,
)
from boltseal.server.storage.ledger_key import LedgerKeys, new_signing_key
from boltseal.server.storage.ledger_mark import LedgerKeyUnreadable, MarkMoved
from boltseal.server.storage.metadata.protocol import Metadata
from boltseal.server.storage.witness_statements import Stated, WitnessStatements
from boltseal.server.storage.worker_threads import finish_in_thread

KEY_NAME: Final = "witness_service"
REPEATED_WITHIN_S: Final = 10
"""For how long the same checkpoint gets the same cosignature again, so that repeated requests do not write to the disk."""
TRIES: Final = 10

_log = structlog.get_logger(__name__)


class NothingCosigned(NotFound):
    """The witness has cosigned no checkpoint of this ledger."""


@dataclass(frozen=True, slots=True)
class _Seen:
    """What was cosigned last. `mark`: as it is stored. `cosignature`: by the key of now; None: by a former key."""

    mark: bytes
    text: str
    checkpoint: Checkpoint
    cosignature: Signature | None
    time_s: int


class WitnessService:
    """Cosigns checkpoints of `logs`. `name`: of the key, when it is made. `now_us`: microseconds since the epoch.

    `clock_doubt`: returns why the time may be wrong, None if it is not.
    """

    def __init__(
        self,
        keys: LedgerKeys,
        database: Metadata,
        logs: KnownLogs,
        name: str,
        *,
        now_us: Callable[[], int],
        clock_doubt: Callable[[], str | None] = lambda: None,
    ) -> None:
        self._keys = keys
        self._statements = WitnessStatements(database, keys.folder)
        self._logs = logs
        self._origins = {mark_name(origin): origin for origin in logs}
        self._name = name
        self._now_us = now_us
        self._clock_doubt = clock_doubt
        self._key: SigningKey | None = None
        self._origin_locks = defaultdict[str, asyncio.Lock](asyncio.Lock)
        self.trouble: str | None = None

    def begin(self) -> None:
        """Make the key if there is none yet. What prevents it is logged and in `trouble`, and the next request tries again."""
        try:
            self._signing_key()
        except BoltsealError as error:
            _log.error("the witness service has no key", reason=error.message)

    async def add_checkpoint(self, body: bytes) -> bytes:
        """Return the cosignature lines for the checkpoint of a request.

        Raises:
            SubmissionInvalid, NoteInvalid, CheckpointInvalid, LogUnknown, SignatureRefused, SizeDiffers, NotConsistent: as the
                functions of `ledger.cosigning`.
            Unavailable: nothing can be cosigned now.
        """
        submission = open_submission(parse_submission(body), self._logs)
        # Requests of one process do not compete for the mark.
        async with self._origin_locks[submission.checkpoint.origin]:
            return await finish_in_thread(self._cosign, submission)

    async def latest(self, origin_sha256: str) -> bytes:
        """Return the checkpoint that was cosigned last, with the cosignature. `origin_sha256`: of the ledger's origin, in hex.

        Raises:
            NothingCosigned: there is none, or the ledger is not known.
            LedgerKeyUnreadable: the mark can't be read.
        """
        name = _mark_of(origin_sha256)
        found = await finish_in_thread(self._keys.of(name).mark) if name in self._origins else None
        if found is None:
            raise NothingCosigned("this witness has cosigned no checkpoint of a ledger with this hash of its origin")
        return found

    def _cosign(self, submission: OpenedSubmission) -> bytes:
        self._refuse_in_doubt()
        key = self._signing_key()
        origin = submission.checkpoint.origin
        mark = self._keys.of(mark_name(origin))
        for _ in range(TRIES):
            seen = _seen(mark.mark(), origin, key.verifier)
            check_extends(submission, None if seen is None else seen.checkpoint)
            now_s = self._now_us() // 1_000_000
            if seen is not None:
                if seen.text == submission.text and seen.cosignature and 0 <= now_s - seen.time_s < REPEATED_WITHIN_S:
                    return seen.cosignature.line().encode()
                now_s = max(now_s, seen.time_s)  # the clock may have stepped back
            cosignature = key.sign(submission.text, now_s)
            note = format_note(submission.text, [*submission.signatures, cosignature])
            with suppress(MarkMoved):
                mark.put_mark(note, before=None if seen is None else seen.mark)
                return cosignature.line().encode()
        raise Unavailable(f"other requests for the ledger {quote(origin)} are in progress; send the request again")

    def _refuse_in_doubt(self) -> None:
        """Raise Unavailable while what was cosigned before, or the time, may not be right."""
        doubt = self._clock_doubt()
        if doubt is not None:
            raise Unavailable(f"nothing is cosigned now: {doubt}")
        if any(one.stated is not Stated.COSIGNED for one in self._statements.read().values()):
            raise Unavailable(
                "nothing is cosigned now: a witness of this registry saw more of its ledger than there is, so what this registry "
                "cosigned may be from an old copy too; the operator has to recover the ledger"
            )

    def _signing_key(self) -> SigningKey:
        if self._key is None:
            try:
                self._key = _open_key(self._keys.of(KEY_NAME), self._name)
            except BoltsealError as error:
                self.trouble = f"checkpoints of other ledgers are not cosigned: {error.message}"
                raise
            self.trouble = None
        return self._key


def mark_name(origin: str) -> str:
    """Return the name of the mark of a ledger."""
    return _mark_of(sha256(origin.encode()).hexdigest())


def _mark_of(origin_sha256: str) -> str:
    return f"witnessed-{origin_sha256}"


def _open_key(keys: LedgerKeys, name: str) -> SigningKey:
    """Return the key of cosignatures, and make it if no server of this registry has one. Raises: LedgerKeyUnreadable."""
    with keys.locked():
        key, stored = keys.key(), keys.mark()
        if key is None and stored is not None:
            raise LedgerKeyUnreadable(
                f"{KEY_NAME}.key is missing in the folder of keys; copy it from another server or a backup, or remove "
                f"{KEY_NAME}.mark to begin with a new key"
            )
        if key is None:
            key = new_signing_key(name, COSIGNATURE)
            keys.put_key(key)
            _store_public(keys, key, made=True)
        elif key.type != COSIGNATURE:
            raise LedgerKeyUnreadable(
                f"{KEY_NAME}.key has type {key.type}; expected {COSIGNATURE}, the type of cosignatures"
            )
        elif stored is None:
            _store_public(keys, key, made=False)
        elif stored != _public(key.verifier):
            raise LedgerKeyUnreadable(
                f"{KEY_NAME}.key is not the key of the other servers of this registry, whose public key is in "
                f"{KEY_NAME}.mark; copy the file from one of them"
            )
        return key


def _store_public(keys: LedgerKeys, key: SigningKey, *, made: bool) -> None:
    """Write the public key where all servers of this registry see it. `made`: the key was made just now, and signed nothing."""
    try:
        keys.put_mark(_public(key.verifier), before=None)
    except MarkMoved as error:
        if made:
            keys.remove_key()
        raise LedgerKeyUnreadable(
            f"another server of this registry has made the key of cosignatures; copy its {KEY_NAME}.key into the folder of keys"
        ) from error


def _public(key: VerifierKey) -> bytes:
    return f"{key}\n".encode()


def _seen(mark: bytes | None, origin: str, key: VerifierKey) -> _Seen | None:
    """Return what a mark says. Raises: LedgerKeyUnreadable: it is no checkpoint of this ledger."""
    if mark is None:
        return None
    try:
        note = parse_note_unverified(mark)
        checkpoint = parse_checkpoint_unverified(note.text)
    except BoltsealError as error:
        raise LedgerKeyUnreadable(
            f"what was cosigned for the ledger {quote(origin)} can't be read: {error.message}"
        ) from error
    if checkpoint.origin != origin:
        raise LedgerKeyUnreadable(
            f"what was cosigned for the ledger {quote(origin)} is a checkpoint of {quote(checkpoint.origin)}"
        )
    ours = next((one for one in note.signatures if (one.name, one.key_id) == (key.name, key.key_id)), None)
    return _Seen(mark, note.text, checkpoint, ours, 0 if ours is None else cosigned_at_unverified(ours))
