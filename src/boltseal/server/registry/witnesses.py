"""Submits each checkpoint of the ledger to witnesses, which cosign that it extends the one they saw before.

One worker of a store at a time submits the newest checkpoint to each witness separately, so a witness that is down or never
ends its answers does not delay the others. Cosignatures are stored with the checkpoint.

A witness that saw a larger or different checkpoint knows entries that this store lost. If the ledger's own key signed that
checkpoint, it becomes the high-water mark, and then every process of the store refuses writes (`integrator`). Where the
witness shows no such checkpoint, its word that it saw a larger size is enough to refuse writes: the doubt is kept in the
database until the witness agrees, or `boltseal ledger recover --accept-loss`. An older signed checkpoint never lowers the mark,
however late a witness sends it.

Fail closed: a witness that can't be asked does not agree. A server starts with the doubt that its witnesses were not asked
yet, and takes writes when enough of them agree (`[ledger] witness_quorum`, by default all). A witness agrees when it
cosigned the newest checkpoint, or never heard of this ledger. One that fails later, while the server runs, changes nothing.

What a witness stated is kept too (`witness_statements`). A witness that cosigned before and now answers that it does
not know this ledger does not agree: its address is wrong, or it lost its state. A witness that stated a larger size, or that it
saw other entries, is a doubt until it agrees itself, also after a restart, whatever the others say.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final

import structlog

from boltseal.client.errors import RemoteMismatch, RemoteUnavailable
from boltseal.client.witness import Cosigned, LedgerUnknown, ProofRefused, WitnessClient
from boltseal.errors import BoltsealError, Invalid
from boltseal.ledger.checkpoint import Checkpoint, open_checkpoint
from boltseal.ledger.merkle import consistency_path, prove
from boltseal.ledger.note import NoteInvalid, Signature, SigningKey, VerifierKey, format_note, parse_note_unverified
from boltseal.ledger.tiles import Tiles, needed
from boltseal.server.storage.ledger_doubts import WITNESSES, LedgerDoubts
from boltseal.server.storage.ledger_key import LedgerKeys
from boltseal.server.storage.ledger_mark import LedgerKeyUnreadable
from boltseal.server.storage.metadata import ledger_tree
from boltseal.server.storage.metadata.protocol import Metadata, Snapshot, UnitOfWork
from boltseal.server.storage.witness_statements import Stated, Statement, WitnessStatements
from boltseal.server.storage.worker_threads import finish_in_thread

EVERY_S: Final = 1.0
RETRY_S: Final = 30.0
"""The longest pause after failures of one witness; the first is `EVERY_S`, and each one is twice as long as the one before."""
START_TIMEOUT_S: Final = 3.0
"""How long a starting server waits for the witnesses' answers."""

_log = structlog.get_logger(__name__)


@dataclass(slots=True)
class WitnessState:
    """One witness. `size`: of the last checkpoint that it saw, if known. `trouble`: why it is not asked until `retry_s`.

    `agrees`: None until it answered; False: it saw more than this store has, or the failure may hide that.
    """

    client: WitnessClient
    key: VerifierKey
    size: int = 0
    trouble: str | None = None
    retry_s: float = field(default=0.0)
    failures: int = 0
    agrees: bool | None = None
    ahead: str | None = None


class Witnesses:
    """All witnesses of one process."""

    def __init__(
        self,
        database: Metadata,
        keys: LedgerKeys,
        witnesses: Sequence[WitnessState],
        *,
        quorum: int | None = None,
        on_agreed: Callable[[], None] = lambda: None,
    ) -> None:
        self._database = database
        self._keys = keys
        self._witnesses = witnesses
        self._quorum = len(witnesses) if quorum is None else min(quorum, len(witnesses))
        self._on_agreed = on_agreed
        self._kept_doubt: str | None = None
        self._doubts = LedgerDoubts(database, keys.folder)
        self._statements = WitnessStatements(database, keys.folder)

    @property
    def troubles(self) -> tuple[str, ...]:
        """Why some witnesses are not asked, one sentence each."""
        return tuple(witness.trouble for witness in self._witnesses if witness.trouble is not None)

    async def run(self) -> None:
        """Submit each new head, until cancelled. Only one process of a store does so at a time."""
        while True:
            try:
                with self._keys.witnessing() as acquired:
                    if acquired:
                        await asyncio.gather(*(self._run_one(witness) for witness in self._witnesses))
            except LedgerKeyUnreadable as error:
                _log.warning("witnesses not asked", reason=error.message)
            await asyncio.sleep(EVERY_S)  # another process asks, until it ends

    async def at_start(self) -> None:
        """Ask all witnesses once, for at most `START_TIMEOUT_S`: a store that lost entries must not accept writes."""
        with suppress(TimeoutError):
            async with asyncio.timeout(START_TIMEOUT_S):
                await self.submit()

    async def aclose(self) -> None:
        """Close every connection."""
        for witness in self._witnesses:
            await witness.client.aclose()

    async def submit(self) -> None:
        """Submit the newest checkpoint to every witness that has not seen it."""
        await asyncio.gather(*(self._submit(witness) for witness in self._witnesses))

    async def _run_one(self, witness: WitnessState) -> None:
        while True:
            try:
                await self._submit(witness)
            except Exception:  # noqa: BLE001 - the outermost layer of this task: the other witnesses must go on
                _log.exception("witness not asked: internal error", witness=witness.key.name)
                witness.retry_s = asyncio.get_running_loop().time() + RETRY_S
            await asyncio.sleep(EVERY_S)

    async def _submit(self, witness: WitnessState) -> None:
        if witness.retry_s > asyncio.get_running_loop().time():
            return
        try:
            key, head = self._keys.key(), await self._database.read(ledger_tree.head)
            if key is None or head is None or not head.size:
                return
            if head.size == witness.size and witness.ahead is None:
                return
            await self._show(witness, head, key)
        except BoltsealError as error:
            if witness.trouble is None:
                _log.warning("witness did not cosign the checkpoint", witness=witness.key.name, reason=error.message)
            witness.trouble = error.message
            pause_s = min(RETRY_S, EVERY_S * 2**witness.failures)
            witness.failures = min(witness.failures + 1, 10)
            witness.retry_s = asyncio.get_running_loop().time() + pause_s
        else:
            witness.trouble, witness.failures = None, 0
        try:
            await finish_in_thread(self._conclude)
        except BoltsealError as error:
            _log.warning("the witnesses' answers can't be kept", reason=error.message)

    def _conclude(self) -> None:
        """Keep or withdraw the doubt of the witnesses, by what all of them answered. Raises: Unavailable."""
        statements = self._statements.read()
        doubts = (_doubt(witness, statements.get(str(witness.key))) for witness in self._witnesses)
        ahead = next((doubt for doubt in doubts if doubt is not None), None)
        if ahead is not None:
            if ahead != self._kept_doubt:
                _log.error("a witness saw another ledger than this store has", reason=ahead)
                self._doubts.put(WITNESSES, ahead)
                self._kept_doubt = ahead
        elif sum(witness.agrees is True for witness in self._witnesses) >= self._quorum:
            self._kept_doubt = None
            if self._doubts.has(WITNESSES):
                self._doubts.clear(WITNESSES)
                self._on_agreed()

    async def _show(self, witness: WitnessState, head: ledger_tree.SignedHead, key: SigningKey) -> None:
        checkpoint = open_checkpoint(head.note, key.verifier).checkpoint
        for _ in range(2):  # the first answer may be the size that the witness saw last
            if witness.size > head.size:
                break
            proof = await self._database.read(lambda snapshot: _proof(snapshot, witness.size, head.size))
            try:
                answer = await witness.client.add_checkpoint(witness.size, proof, head.note)
            except LedgerUnknown:
                await self._note_unknown(witness)
                raise
            if isinstance(answer, Cosigned):
                await self._store(witness, head, checkpoint, answer.lines)
                witness.agrees, witness.ahead = True, None
                return
            if isinstance(answer, ProofRefused) or answer.size == witness.size:
                # It saw another tree of that size. Its refusal of a proof from 0, or of its own size, means nothing.
                if witness.size and (isinstance(answer, ProofRefused) or answer.size == head.size):
                    await self._note_another(witness)
                break
            witness.size = answer.size
        await self._note_larger(witness)
        await self._check_larger(witness, key, head)

    async def _note_unknown(self, witness: WitnessState) -> None:
        """Let a witness that does not know the ledger agree if it never did. Raises: RemoteUnavailable, Unavailable."""
        before = (await finish_in_thread(self._statements.read)).get(str(witness.key))
        if before is not None:
            raise RemoteUnavailable(
                f"the witness {witness.key.name} answered 404: it does not know this ledger, but {_knows(before)}; correct "
                "its address, or remove its [[witness]] and restart"
            )
        witness.agrees, witness.ahead = True, None

    async def _note_larger(self, witness: WitnessState) -> None:
        """Keep the doubt if a witness states a size that this store does not have, before it gets another request."""
        head = await self._database.read(ledger_tree.head)
        here = 0 if head is None else head.size
        if witness.size > here:
            witness.ahead = (
                f"the witness {witness.key.name} saw {witness.size} entries of the ledger, and the data has {here} signed ones: "
                "it is an old copy, or entries were removed; `boltseal ledger recover` brings them back"
            )
            await self._keep(witness, Statement(Stated.LARGER, witness.size))

    async def _note_another(self, witness: WitnessState) -> None:
        """Keep the doubt if a witness states that it saw other entries than this store has."""
        witness.ahead = (
            f"the witness {witness.key.name} saw other entries than the first {witness.size} of this ledger: the data is an old "
            "copy to which others were added, or it was rewritten; see `boltseal ledger recover`"
        )
        await self._keep(witness, Statement(Stated.ANOTHER, witness.size))

    async def _keep(self, witness: WitnessState, statement: Statement) -> None:
        """Keep a statement that is a doubt. Raises: Unavailable."""
        witness.agrees = False
        await finish_in_thread(self._statements.note, str(witness.key), statement)
        await finish_in_thread(self._conclude)
        witness.size = 0  # its word is not proven: ask anew whether it still says so

    async def _store(
        self, witness: WitnessState, head: ledger_tree.SignedHead, checkpoint: Checkpoint, lines: bytes
    ) -> None:
        """Verify a cosignature and store it with the others of the head.

        Raises:
            NoteInvalid: it does not verify.
            Unavailable: what it stated can't be kept.
        """
        text = checkpoint.text()
        offered = parse_note_unverified(text.encode() + b"\n" + lines).signatures
        configured = (witness.key.name, witness.key.key_id)
        own = [signature for signature in offered if (signature.name, signature.key_id) == configured]
        if not own:
            raise NoteInvalid(f"the witness {witness.key.name} signed with another key than the one that is configured")
        witness.key.verify(text, own[0])
        await finish_in_thread(self._statements.note, str(witness.key), Statement(Stated.COSIGNED, head.size))
        await self._database.write(lambda tx: _add_cosignature(tx, head, own[0]))
        witness.size = head.size

    async def _check_larger(self, witness: WitnessState, key: SigningKey, head: ledger_tree.SignedHead) -> None:
        """Fetch the checkpoint that the witness saw and this store lacks. If the ledger key signed it, it becomes the mark.

        Raises:
            NoteInvalid: the witness shows another ledger.
            RemoteMismatch: it shows a checkpoint that this store has, so it had no reason to refuse the newest one.
        """
        seen = await witness.client.latest(key.name)
        try:
            signed = open_checkpoint(seen, key.verifier).checkpoint
        except Invalid as error:
            raise NoteInvalid(
                f"the witness {witness.key.name} says that it saw another ledger under our name: {error.message}"
            ) from error
        witness.size = signed.size
        if await finish_in_thread(self._raise_mark, seen):
            _log.error(
                "witness saw a checkpoint that this store lacks",
                witness=witness.key.name,
                size=signed.size,
                here=head.size,
            )
        elif signed.size <= head.size:
            raise RemoteMismatch(
                f"the witness {witness.key.name} refused the checkpoint of {head.size} entries, and shows one of {signed.size} "
                "that this ledger has"
            )

    def _raise_mark(self, seen: bytes) -> bool:
        """Make a verified checkpoint the mark, unless it is known. Read everything again: the answer may have come late."""
        with self._keys.signing():
            key, mark = self._keys.key(), self._keys.mark()
            head = self._database.read_and_wait(ledger_tree.head)
            if key is None or mark is None or head is None:
                return False  # frozen already, and a new mark would hide the reason
            signed, marked = (open_checkpoint(note, key.verifier).checkpoint for note in (seen, mark))
            if signed.size <= head.size:  # two submissions overlapped, or the witness answered late or lost its state
                root = self._database.read_and_wait(lambda snapshot: ledger_tree.root(snapshot, signed.size, head.size))
                if root == signed.root:
                    return False
            elif signed.size < marked.size or signed == marked:
                return False  # signed, but not in the tree yet: the integrator compares it with the mark
            self._keys.put_mark(seen, before=mark)
            return True


def _doubt(witness: WitnessState, before: Statement | None) -> str | None:
    """Return why a witness doubts the ledger, by its last answer or, until it answers again, by what it stated before."""
    if witness.agrees is True:
        return None
    if witness.ahead is None and before is not None and before.stated != Stated.COSIGNED:
        return f"the witness {witness.key.name} has not agreed since {_knows(before)}; see `boltseal ledger recover`"
    return witness.ahead


def _knows(statement: Statement) -> str:
    """Return the statement of a witness as a clause."""
    match statement.stated:
        case Stated.COSIGNED:
            return f"it cosigned {statement.size} entries of it"
        case Stated.LARGER:
            return f"it saw {statement.size} entries of it, more than the data had"
        case Stated.ANOTHER:
            return f"it saw other entries than its first {statement.size}"


def _proof(snapshot: Snapshot, old_size: int, size: int) -> tuple[bytes, ...]:
    if old_size in (0, size):
        return ()
    path = consistency_path(old_size, size)
    return prove(path, Tiles(size, ledger_tree.tiles(snapshot, needed(path, size))).node)


def _add_cosignature(tx: UnitOfWork, shown: ledger_tree.SignedHead, signature: Signature) -> None:
    """Add a cosignature to the witnessed checkpoint, and to the newest one if it is still the same."""
    for name in (ledger_tree.WITNESSED, ledger_tree.LATEST):
        stored = ledger_tree.head(tx, name)
        if name == ledger_tree.LATEST and (stored is None or stored.size != shown.size):
            continue
        if stored is not None and stored.size > shown.size:
            continue
        same = stored if stored is not None and stored.size == shown.size else shown
        note = parse_note_unverified(same.note)
        others = [
            other for other in note.signatures if (other.name, other.key_id) != (signature.name, signature.key_id)
        ]
        ledger_tree.put_head(tx, name, ledger_tree.SignedHead(shown.size, format_note(note.text, [*others, signature])))
