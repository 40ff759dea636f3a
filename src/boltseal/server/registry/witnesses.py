"""Witnesses: others who see each head of the ledger, and vouch that it extends what they saw before.

A worker at a time submits the newest head, to every witness by itself: a dead one holds nothing up, nor one that never
ends its answers. What it cosigns is kept with the head. A witness that saw more than we have, or something else, knows of
a past that this store lost: if the head that it holds is signed by our own key, it becomes the high-water mark, and with
that every process of the store takes nothing in (`integrator`). The word of a witness without that signature is only
told, and what we signed on the way to where the mark is now never lowers it, however late somebody shows it.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import structlog

from boltseal.client.witness import Cosigned, SizeConflict
from boltseal.errors import BoltsealError, Invalid
from boltseal.ledger.checkpoint import Checkpoint, open_checkpoint
from boltseal.ledger.merkle import consistency_path, prove
from boltseal.ledger.note import NoteInvalid, format_note, parse_note_unverified
from boltseal.ledger.tiles import Tiles, needed
from boltseal.server.storage.ledger_key import LedgerKeyUnreadable
from boltseal.server.storage.metadata import ledger_tree

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy import Connection

    from boltseal.client.witness import WitnessClient
    from boltseal.ledger.note import Signature, SigningKey, VerifierKey
    from boltseal.server.storage.ledger_key import LedgerKeys
    from boltseal.server.storage.metadata.database import Database, Transaction

EVERY_S: Final = 1.0
AFTER_TROUBLE_S: Final = 30.0
AT_START_S: Final = 3.0
"""How long a start waits for witnesses to say what they saw."""

_log = structlog.get_logger(__name__)


@dataclass(slots=True)
class WitnessState:
    """One of them. `size`: of the head that it saw last, as far as we know. `trouble`: why it is not asked now."""

    client: WitnessClient
    key: VerifierKey
    size: int = 0
    trouble: str | None = None
    again_s: float = field(default=0.0)


class Witnesses:
    """All of them, of one process."""

    def __init__(self, database: Database, keys: LedgerKeys, witnesses: Sequence[WitnessState]) -> None:
        self._database = database
        self._keys = keys
        self._witnesses = witnesses

    @property
    def troubles(self) -> tuple[str, ...]:
        """Why some of them are not asked, one sentence each."""
        return tuple(one.trouble for one in self._witnesses if one.trouble is not None)

    async def run(self) -> None:
        """Submit each new head, until cancelled. One process of a store at a time."""
        while True:
            try:
                with self._keys.witnessing() as mine:
                    if mine:
                        await asyncio.gather(*(self._go_on(one) for one in self._witnesses))
            except LedgerKeyUnreadable as error:
                _log.warning("no witness is asked", reason=error.message)
            await asyncio.sleep(AFTER_TROUBLE_S)

    async def at_start(self) -> None:
        """Ask all of them once, for a short while: a store that is behind must not begin to take things in."""
        with suppress(TimeoutError):
            async with asyncio.timeout(AT_START_S):
                await self.submit()

    async def aclose(self) -> None:
        """Let go of every connection."""
        for one in self._witnesses:
            await one.client.aclose()

    async def submit(self) -> None:
        """Show the newest head to every witness that has not seen it."""
        await asyncio.gather(*(self._submit(one) for one in self._witnesses))

    async def _go_on(self, witness: WitnessState) -> None:
        while True:
            try:
                await self._submit(witness)
            except Exception:  # noqa: BLE001 - the outermost shell of this task: the talk with the others goes on
                _log.exception("a witness could not be asked: this is a defect", witness=witness.key.name)
                witness.again_s = asyncio.get_running_loop().time() + AFTER_TROUBLE_S
            await asyncio.sleep(EVERY_S)

    async def _submit(self, witness: WitnessState) -> None:
        if witness.again_s > asyncio.get_running_loop().time():
            return
        try:
            key, head = self._keys.key(), await self._database.read(ledger_tree.head)
            if key is None or head is None or head.size in (0, witness.size):
                return
            await self._show(witness, head, key)
        except BoltsealError as error:
            if witness.trouble is None:
                _log.warning("a witness did not see the ledger's head", witness=witness.key.name, reason=error.message)
            witness.trouble = error.message
            witness.again_s = asyncio.get_running_loop().time() + AFTER_TROUBLE_S
        else:
            witness.trouble = None

    async def _show(self, witness: WitnessState, head: ledger_tree.SignedHead, key: SigningKey) -> None:
        checkpoint = open_checkpoint(head.note, key.verifier).checkpoint
        for _ in range(2):  # the first answer may be the size that it saw last
            if witness.size > head.size:
                break
            proof = await self._database.read(lambda held: _proof(held, witness.size, head.size))
            answer = await witness.client.add_checkpoint(witness.size, proof, head.note)
            if isinstance(answer, Cosigned):
                await self._keep(witness, head, checkpoint, answer.lines)
                return
            if not isinstance(answer, SizeConflict) or answer.size == witness.size:
                break  # of the same size it saw another root
            witness.size = answer.size
        await self._heed(witness, key, head)

    async def _keep(
        self, witness: WitnessState, head: ledger_tree.SignedHead, checkpoint: Checkpoint, lines: bytes
    ) -> None:
        """Store a cosignature that holds, beside those that the head has. NoteInvalid."""
        text = checkpoint.text()
        offered = parse_note_unverified(text.encode() + b"\n" + lines).signatures
        own = (witness.key.name, witness.key.key_id)
        mine = [one for one in offered if (one.name, one.key_id) == own]
        if not mine:
            raise NoteInvalid(f"the witness {witness.key.name} signed with another key than the one that is configured")
        witness.key.verify(text, mine[0])
        await self._database.write(lambda tx: _add_cosignature(tx, head, mine[0]))
        witness.size = head.size

    async def _heed(self, witness: WitnessState, key: SigningKey, head: ledger_tree.SignedHead) -> None:
        """It saw something that is not here. If we signed that, it is our mark from now on."""
        seen = await witness.client.latest(key.name)
        try:
            signed = open_checkpoint(seen, key.verifier).checkpoint
        except Invalid as error:
            raise NoteInvalid(
                f"the witness {witness.key.name} says that it saw another ledger under our name: {error.message}"
            ) from error
        witness.size = signed.size
        if await asyncio.to_thread(self._raise_mark, seen):
            _log.error(
                "a witness saw a ledger that is not here", witness=witness.key.name, size=signed.size, here=head.size
            )

    def _raise_mark(self, seen: bytes) -> bool:
        """Make what a witness saw our mark, unless we know it. Everything is looked at again: it may be long ago."""
        with self._keys.locked():
            key, mark = self._keys.key(), self._keys.mark()
            head = self._database.read_and_wait(ledger_tree.head)
            if key is None or mark is None or head is None:
                return False  # doubted already, and a mark made of this would hide why
            signed, marked = (open_checkpoint(one, key.verifier).checkpoint for one in (seen, mark))
            if signed.size <= head.size:  # it was asked twice at once, answers late, or forgot
                root = self._database.read_and_wait(lambda held: ledger_tree.root(held, signed.size, head.size))
                if root == signed.root:
                    return False
            elif signed.size < marked.size or signed == marked:
                return False  # signed, and not in the tree yet: the integrator holds the mark against it
            self._keys.put_mark(seen)
            return True


def _proof(held: Connection, old_size: int, size: int) -> tuple[bytes, ...]:
    if old_size in (0, size):
        return ()
    path = consistency_path(old_size, size)
    return prove(path, Tiles(size, ledger_tree.tiles(held, needed(path, size))).node)


def _add_cosignature(tx: Transaction, shown: ledger_tree.SignedHead, signature: Signature) -> None:
    """Beside the cosignatures that this head has already, of the newest head too if it is still this one."""
    for name in (ledger_tree.WITNESSED, ledger_tree.LATEST):
        stored = ledger_tree.head(tx.connection, name)
        if name == ledger_tree.LATEST and (stored is None or stored.size != shown.size):
            continue
        if stored is not None and stored.size > shown.size:
            continue
        same = stored if stored is not None and stored.size == shown.size else shown
        note = parse_note_unverified(same.note)
        others = [one for one in note.signatures if (one.name, one.key_id) != (signature.name, signature.key_id)]
        ledger_tree.put_head(tx, name, ledger_tree.SignedHead(shown.size, format_note(note.text, [*others, signature])))
