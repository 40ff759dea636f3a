"""Whether a registry's ledger is still the one that was seen before. The rules are `ledger.follow`; the memory, `client.state`.

For one registry, in this order:

1. Nothing is known of it, and within a day it was found to have no ledger: nothing is asked.
2. Its checkpoint is read. Where nothing is known, none there is no fault, and is remembered for a day. Where a ledger was
   seen or a key was given, one that can't be had could not be checked, and that is an error.
3. Seen for the first time it is kept, and that is said aloud: nobody vouches for it. `strict` refuses it.
4. Otherwise it must be signed by the trusted key, or one that key leads to, and go on from what was seen. If not, both
   are kept as evidence, and it ends loudly.
5. What was seen now is kept, if nobody has kept something else meanwhile; else again from step 1.
6. Where the project's lock names a key, that one has to have signed too, or lead to the one that did. On a machine that
   knows nothing else that is what the ledger is believed by, and it is said aloud: a lock is a file that came with a
   project. So its key is believed for that project, and kept for nobody; `strict` does not take it for one that was given.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Final

from boltseal.client.errors import RemoteNotFound
from boltseal.client.ledger_client import LedgerClient
from boltseal.client.state import FIRST_USE, GIVEN, ClientState, KnownLedger, StateChanged, StateUnusable
from boltseal.client.transport import Transport
from boltseal.errors import BoltsealError, Denied, Invalid, Precondition, Unavailable, quote
from boltseal.ledger.checkpoint import Checkpoint, open_checkpoint
from boltseal.ledger.follow import (
    Fault,
    LedgerBroken,
    Rotated,
    Trusted,
    TrustedCheckpoint,
    check_extension,
    compare_checkpoints,
    first_checkpoint,
    follow_rotations,
    read_checkpoint,
)
from boltseal.ledger.merkle import EMPTY_ROOT
from boltseal.ledger.note import VerifierKey
from boltseal.ledger.tiles import TileInvalid

REMEMBERED_S: Final = 24 * 3600
TRIES: Final = 5


class LedgerUnchecked(Unavailable):
    """A registry whose ledger is known does not show it, or not enough of it to compare."""


class NotTrusted(Denied):
    """Nobody has given a key for this registry's ledger, and `strict` wants one."""


class KeyDiffers(Precondition):
    """The project's lock names another key than the one that signs this registry's ledger."""


class KeyStands(Precondition):
    """Another key is trusted for this registry already."""


class TrustStatus(StrEnum):
    """What was found. NOT_SEEN: nothing is known and nothing was shown, for whatever reason; it is asked again next time."""

    NO_LEDGER = "no ledger"
    NOT_SEEN = "not seen"
    FIRST_USE = "first use"
    UNCHANGED = "unchanged"
    GROWN = "grown"
    ROTATED = "rotated"


@dataclass(frozen=True, slots=True)
class LedgerCheck:
    """How it stands with a registry's ledger. `head`: what it shows now; `given`: under a key that somebody gave.

    `unkept`: why it could not be remembered, "" when it is. `named`: the key that signs, by what a project's lock says.
    """

    registry: str
    status: TrustStatus
    head: TrustedCheckpoint | None = None
    unkept: str = ""
    named: VerifierKey | None = None

    @property
    def given(self) -> bool:
        """Whether a key that was given vouches for the head."""
        return self.head is not None and self.head.trusted.key is not None


@dataclass(slots=True)
class _Shown:
    """What a registry showed while it was compared: the evidence, if it turns out that it lies."""

    checkpoint: bytes
    receipts: list[bytes] = field(default_factory=list)
    proof: tuple[bytes, ...] = ()


class LedgerWatch:
    """Follows the ledgers of registries. `clock`: seconds since 1970."""

    def __init__(
        self, state: ClientState, transport: Transport, clock: Callable[[], int], *, strict: bool = False
    ) -> None:
        self._state = state
        self._transport = transport
        self._clock = clock
        self._strict = strict

    async def follow(self, registry: str, named: VerifierKey | None = None) -> LedgerCheck:
        """Compare. `named`: the key that a project's lock names. LedgerBroken, LedgerUnchecked, NotTrusted, KeyDiffers, StateUnusable."""
        for tried in range(TRIES):
            known = self._state.known(registry)
            try:
                found = await (self._first(registry, named) if known is None else self._again(known, named))
                return found if named is None else await self._as_named(found, named)  # 6
            except StateChanged:
                if tried == TRIES - 1:
                    raise
        raise AssertionError("the last try returns or raises")

    async def _first(self, registry: str, named: VerifierKey | None) -> LedgerCheck:
        # 1
        now_s = self._clock()
        none_s = self._state.without_ledger_s(registry)
        if named is None and none_s is not None and 0 <= now_s - none_s < REMEMBERED_S:
            return LedgerCheck(registry, TrustStatus.NO_LEDGER)
        # 2
        try:
            head = first_checkpoint(await LedgerClient(self._transport, registry).checkpoint(patient=False))
        except (RemoteNotFound, Invalid):  # a page for people is as good as nothing
            try:
                self._state.keep_without_ledger(registry, now_s)
            except StateUnusable as error:
                return LedgerCheck(registry, TrustStatus.NO_LEDGER, unkept=error.message)
            return LedgerCheck(registry, TrustStatus.NO_LEDGER)
        except BoltsealError:
            return LedgerCheck(registry, TrustStatus.NOT_SEEN)
        # 3
        if self._strict:
            raise _not_trusted(registry, named)
        try:
            self._state.keep(KnownLedger(registry, head.trusted, FIRST_USE, now_s, head), None)
        except StateChanged:
            raise
        except StateUnusable as error:
            return LedgerCheck(registry, TrustStatus.FIRST_USE, head, error.message)
        return LedgerCheck(registry, TrustStatus.FIRST_USE, head)

    async def _again(self, known: KnownLedger, named: VerifierKey | None) -> LedgerCheck:
        registry = known.registry
        if self._strict and known.trusted.key is None:
            raise _not_trusted(registry, named)
        client = LedgerClient(self._transport, registry)
        trusted, seen_only = known.trusted, known.trusted.key is None
        if seen_only and named is not None and (named.name, named.key_id) == (trusted.origin, trusted.key_id):
            trusted = Trusted.by(named)  # the very key that was seen: with it, rotations can be followed
        try:
            # 2
            shown = _Shown(await client.checkpoint())
            # 4
            head, rotated = await _signed(client, trusted, shown)
            await _goes_on(client, known, head, rotated, shown)
        except LedgerBroken as broken:
            raise self._with_evidence(known, shown, broken) from broken
        except (BoltsealError, TileInvalid) as error:
            raise LedgerUnchecked(
                f"{registry} has a ledger, and it can't be checked now: {error.message}; so nothing is said of its "
                "tags either"
            ) from error
        # 5
        if seen_only:
            head = replace(head, trusted=replace(head.trusted, key=None))
        seen = known.head
        if seen is not None and (seen.checkpoint, seen.trusted) == (head.checkpoint, head.trusted):
            return LedgerCheck(registry, TrustStatus.UNCHANGED, head)
        self._state.keep(KnownLedger(registry, head.trusted, known.how, known.since_s, head), known)
        return LedgerCheck(registry, TrustStatus.ROTATED if rotated else TrustStatus.GROWN, head)

    async def _as_named(self, found: LedgerCheck, named: VerifierKey) -> LedgerCheck:
        """Hold what was found against the key that a lock names."""
        if found.head is None:
            raise LedgerUnchecked(
                f"{found.registry} shows no ledger now, and the project's lock names the key of one: {named}"
            )
        if found.head.trusted.key == named:
            return replace(found, named=named)
        client = LedgerClient(self._transport, found.registry)
        trusted, shown = Trusted.by(named), _Shown(found.head.raw)
        try:
            head, rotated = await _signed(client, trusted, shown)
            if rotated:
                await _goes_on(client, KnownLedger(found.registry, trusted, GIVEN, 0, None), head, rotated, shown)
        except LedgerBroken as broken:
            raise KeyDiffers(
                f"the project's lock names the key {named} for the ledger of {found.registry}, which shows the ledger "
                f"{quote(found.head.checkpoint.origin)} signed by another key that this one does not lead to: do not deploy "
                "from it, and ask its keeper which is the key, and who wrote the lock"
            ) from broken
        except (BoltsealError, TileInvalid) as error:
            raise LedgerUnchecked(
                f"whether the ledger of {found.registry} is signed by the key that the project's lock names can't be checked "
                f"now: {error.message}"
            ) from error
        return replace(found, named=head.trusted.key)

    def _with_evidence(self, known: KnownLedger, shown: _Shown, broken: LedgerBroken) -> LedgerBroken:
        files = {"now.checkpoint": shown.checkpoint, "fault.txt": f"{broken.fault}: {broken.message}\n".encode()}
        if known.head is not None:
            files["before.checkpoint"] = known.head.raw
        if known.trusted.key is not None:
            files["trusted.key"] = f"{known.trusted.key}\n".encode()
        if shown.proof:
            files["proof.txt"] = b"".join(b64encode(one) + b"\n" for one in shown.proof)
        files |= {f"rotation-{number}.tlog-proof": one for number, one in enumerate(shown.receipts)}
        try:
            where = f"the evidence is in {self._state.keep_evidence(known.registry, files)}"
        except StateUnusable as error:
            where = f"the evidence could not be kept: {error.message}"
        return LedgerBroken(broken.fault, f"{known.registry} is not to be believed: {broken.message}; {where}")


async def _signed(
    client: LedgerClient, trusted: Trusted, shown: _Shown
) -> tuple[TrustedCheckpoint, tuple[Rotated, ...]]:
    head = read_checkpoint(shown.checkpoint, trusted)
    if head is not None:
        return head, ()
    if trusted.key is not None:
        shown.receipts = await client.rotations()
    return follow_rotations(shown.checkpoint, trusted, shown.receipts)


async def _goes_on(
    client: LedgerClient, known: KnownLedger, head: TrustedCheckpoint, rotated: tuple[Rotated, ...], shown: _Shown
) -> None:
    seen = Checkpoint(head.checkpoint.origin, 0, EMPTY_ROOT) if known.head is None else known.head.checkpoint
    now = head.checkpoint
    compare_checkpoints(seen, now)
    if now.size == seen.size and not rotated:
        return
    if any(one.index >= now.size for one in rotated):
        raise LedgerBroken(
            Fault.REWRITTEN, f"its ledger of {now.size} entries lacks the entry by which its key was rotated"
        )
    shown.proof = await client.consistency(seen.size, now.size)
    included = await client.inclusion((one.index for one in rotated), now.size)
    check_extension(seen, now, shown.proof, {one: included[one.index] for one in rotated})


def give_key(state: ClientState, registry: str, key: VerifierKey, now_s: int, *, replace: bool = False) -> KnownLedger:
    """Trust a key that somebody was given. KeyStands, LedgerBroken, StateUnusable.

    A checkpoint that was seen before stays if this key has signed it.
    """
    known = state.known(registry)
    head = None if known is None else known.head
    if known is not None and known.trusted.key == key:
        return known
    if known is not None and known.trusted.key is not None and not replace:
        raise KeyStands(
            f"{registry} is trusted by the key {known.trusted.key}; another one takes its place only with --replace, "
            "and only when its keeper says so"
        )
    trusted = Trusted.by(key)
    if head is not None:
        try:
            open_checkpoint(head.raw, key)
            head = TrustedCheckpoint(trusted, head.checkpoint, head.raw)
        except Invalid as error:
            if not replace:
                raise LedgerBroken(
                    Fault.UNKNOWN_KEY,
                    f"what {registry} showed at first use is not signed by this key: {error.message}; find out which of "
                    "the two is true, then say --replace",
                ) from error
            state.keep_evidence(registry, {"replaced.checkpoint": head.raw, "new.key": f"{key}\n".encode()})
            head = None
    new = KnownLedger(registry, trusted, GIVEN, now_s, head)
    state.keep(new, known)
    return new


def _not_trusted(registry: str, named: VerifierKey | None) -> NotTrusted:
    lock = "" if named is None else f"; the project's lock names {named}, which is worth what that file is worth"
    return NotTrusted(
        f"no key is trusted for the ledger of {registry}: ask its keeper for what `boltseal ledger key` prints, and give "
        f"it to `boltseal trust {registry} KEY`{lock}"
    )
