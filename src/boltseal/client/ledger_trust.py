"""Check that a registry's ledger extends what was seen of it before. The rules are in `ledger.follow`, the memory in
`client.state`.

The steps for one registry:

1. If nothing is known of it, and it was found to have no ledger within the last day, send no request.
2. Read its checkpoint. If nothing is known, a missing ledger is no error and is remembered for a day. If a ledger was
   seen or a key was given, a ledger that can't be read is an error: it could not be checked.
3. Save a ledger that is seen for the first time, and report first use: its key is unverified. `strict` refuses it.
4. Otherwise verify that it is signed by the trusted key, or by a successor by rotation, and that it extends what was
   seen. If not, save both checkpoints as evidence and fail.
5. Save what was seen now, unless another process saved something else meanwhile; then start again at step 1.
6. If the project's lock file names a key, verify that this key signed too, or is a predecessor, by rotation, of the key
   that did. On a machine that knows no other key, the ledger is trusted by it, and that is reported: a lock file comes
   with a project. So its key is trusted for that project only, and is not saved; `strict` does not accept it as a given
   key.
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
from boltseal.errors import BoltsealError, Denied, Invalid, Mismatch, Unavailable, quote
from boltseal.ledger.checkpoint import Checkpoint, open_checkpoint
from boltseal.ledger.follow import (
    Fault,
    FollowedRotations,
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
    """A registry whose ledger is known does not serve it, or not enough of it to compare."""


class NotTrusted(Denied):
    """No key was given for this registry's ledger, and `strict` requires one."""


class KeyDiffers(Mismatch):
    """The project's lock file names another key than the one that signs this registry's ledger."""


class OtherKeyTrusted(Mismatch):
    """Another key is trusted for this registry already."""


class TrustStatus(StrEnum):
    """The result of a check. NOT_SEEN: nothing is known and no ledger could be read; the next check asks again."""

    NO_LEDGER = "no ledger"
    NOT_SEEN = "not seen"
    FIRST_USE = "first use"
    UNCHANGED = "unchanged"
    GROWN = "grown"
    ROTATED = "rotated"


@dataclass(frozen=True, slots=True)
class LedgerCheck:
    """The result of a check of one registry's ledger. `head`: its newest checkpoint.

    `not_saved`: why the head could not be saved, "" if it was. `named`: the signing key, as named by the project's lock
    file. `not_seen`: why no ledger could be read, "" unless the status is NOT_SEEN.
    """

    registry: str
    status: TrustStatus
    head: TrustedCheckpoint | None = None
    not_saved: str = ""
    named: VerifierKey | None = None
    not_seen: str = ""

    @property
    def no_head_reason(self) -> str:
        """Return why there is no head: it could not be read, or the registry shows no ledger."""
        return self.not_seen or f"{self.registry} shows no ledger"

    @property
    def given(self) -> bool:
        """Return whether the head is signed by a key that was given."""
        return self.head is not None and self.head.trusted.key is not None


@dataclass(slots=True)
class _Shown:
    """What a registry served during a check: the evidence, if the check fails."""

    checkpoint: bytes
    receipts: list[bytes] = field(default_factory=list)
    proof: tuple[bytes, ...] = ()


class LedgerWatch:
    """Checks the ledgers of registries. `clock`: seconds since 1970."""

    def __init__(
        self, state: ClientState, transport: Transport, clock: Callable[[], int], *, strict: bool = False
    ) -> None:
        self._state = state
        self._transport = transport
        self._clock = clock
        self._strict = strict

    async def follow(self, registry: str, named: VerifierKey | None = None) -> LedgerCheck:
        """Check one registry's ledger. `named`: the key that a project's lock file names.

        Raises: LedgerBroken, LedgerUnchecked, NotTrusted, KeyDiffers, StateUnusable.
        """
        for tried in range(TRIES):
            known = self._state.known(registry)
            try:
                found = await (self._check_new(registry, named) if known is None else self._check_known(known, named))
                return found if named is None else await self._check_lock_key(found, named)  # 6
            except StateChanged:
                if tried == TRIES - 1:
                    raise
        raise AssertionError("the last try returns or raises")

    async def _check_new(self, registry: str, named: VerifierKey | None) -> LedgerCheck:
        # 1
        now_s = self._clock()
        none_s = self._state.no_ledger_since_s(registry)
        if named is None and none_s is not None and 0 <= now_s - none_s < REMEMBERED_S:
            return LedgerCheck(registry, TrustStatus.NO_LEDGER)
        # 2
        try:
            head = first_checkpoint(await LedgerClient(self._transport, registry).checkpoint(patient=False))
        except (RemoteNotFound, Invalid):  # some registries answer with an HTML page
            try:
                self._state.save_no_ledger(registry, now_s)
            except StateUnusable as error:
                return LedgerCheck(registry, TrustStatus.NO_LEDGER, not_saved=error.message)
            return LedgerCheck(registry, TrustStatus.NO_LEDGER)
        except BoltsealError as error:
            return LedgerCheck(registry, TrustStatus.NOT_SEEN, not_seen=error.message)
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

    async def _check_known(self, known: KnownLedger, named: VerifierKey | None) -> LedgerCheck:
        registry = known.registry
        if self._strict and known.trusted.key is None:
            raise _not_trusted(registry, named)
        client = LedgerClient(self._transport, registry)
        trusted, seen_only = known.trusted, known.trusted.key is None
        if seen_only and named is not None and (named.name, named.key_id) == (trusted.origin, trusted.key_id):
            trusted = Trusted.by(named)  # the key that was seen: with it, rotations can be followed
        try:
            # 2
            shown = _Shown(await client.checkpoint())
            # 4
            head, rotated = await _signed(client, trusted, shown)
            await _check_extends(client, known, head, rotated, shown)
        except LedgerBroken as broken:
            raise self._with_evidence(known, shown, broken) from broken
        except (BoltsealError, TileInvalid) as error:
            raise LedgerUnchecked(
                f"the ledger of {registry} can't be checked now: {error.message}; so its tags can't be checked either"
            ) from error
        # 5
        if seen_only:
            head = replace(head, trusted=replace(head.trusted, key=None))
        seen = known.head
        if seen is not None and (seen.checkpoint, seen.trusted) == (head.checkpoint, head.trusted):
            return LedgerCheck(registry, TrustStatus.UNCHANGED, head)
        self._state.keep(KnownLedger(registry, head.trusted, known.how, known.since_s, head), known)
        return LedgerCheck(registry, TrustStatus.ROTATED if rotated else TrustStatus.GROWN, head)

    async def _check_lock_key(self, found: LedgerCheck, named: VerifierKey) -> LedgerCheck:
        """Check a result against the key that a lock file names."""
        if found.head is None:
            raise LedgerUnchecked(f"{found.no_head_reason}; the project's lock names the key of one: {named}")
        if found.head.trusted.key == named:
            return replace(found, named=named)
        client = LedgerClient(self._transport, found.registry)
        trusted, shown = Trusted.by(named), _Shown(found.head.raw)
        try:
            head, rotated = await _signed(client, trusted, shown)
            if rotated:
                await _check_extends(client, KnownLedger(found.registry, trusted, GIVEN, 0, None), head, rotated, shown)
        except LedgerBroken as broken:
            raise KeyDiffers(
                f"the project's lock names the key {named} for the ledger of {found.registry}, which serves the ledger "
                f"{quote(found.head.checkpoint.origin)} signed by another key that is not a successor by rotation: do not deploy "
                "from it; ask its operator for the key, and find out who wrote the lock"
            ) from broken
        except (BoltsealError, TileInvalid) as error:
            raise LedgerUnchecked(
                f"can't check now whether the ledger of {found.registry} is signed by the key that the project's lock names: "
                f"{error.message}"
            ) from error
        return replace(found, named=head.trusted.key)

    def _with_evidence(self, known: KnownLedger, shown: _Shown, broken: LedgerBroken) -> LedgerBroken:
        files = {"now.checkpoint": shown.checkpoint, "fault.txt": f"{broken.fault}: {broken.message}\n".encode()}
        if known.head is not None:
            files["before.checkpoint"] = known.head.raw
        if known.trusted.key is not None:
            files["trusted.key"] = f"{known.trusted.key}\n".encode()
        if shown.proof:
            files["proof.txt"] = b"".join(b64encode(node) + b"\n" for node in shown.proof)
        files |= {f"rotation-{number}.tlog-proof": receipt for number, receipt in enumerate(shown.receipts)}
        try:
            where = f"the evidence is in {self._state.save_evidence(known.registry, files)}"
        except StateUnusable as error:
            where = f"the evidence could not be saved: {error.message}"
        return LedgerBroken(broken.fault, f"{known.registry} can't be trusted: {broken.message}; {where}")


async def _signed(client: LedgerClient, trusted: Trusted, shown: _Shown) -> FollowedRotations:
    head = read_checkpoint(shown.checkpoint, trusted)
    if head is not None:
        return FollowedRotations(head, ())
    if trusted.key is not None:
        shown.receipts = await client.rotations()
    return follow_rotations(shown.checkpoint, trusted, shown.receipts)


async def _check_extends(
    client: LedgerClient, known: KnownLedger, head: TrustedCheckpoint, rotated: tuple[Rotated, ...], shown: _Shown
) -> None:
    seen = Checkpoint(head.checkpoint.origin, 0, EMPTY_ROOT) if known.head is None else known.head.checkpoint
    now = head.checkpoint
    compare_checkpoints(seen, now)
    if now.size == seen.size and not rotated:
        return
    if any(rotation.index >= now.size for rotation in rotated):
        raise LedgerBroken(
            Fault.REWRITTEN, f"its ledger of {now.size} entries lacks the entry by which its key was rotated"
        )
    shown.proof = await client.consistency(seen.size, now.size)
    included = await client.inclusion((rotation.index for rotation in rotated), now.size)
    check_extension(seen, now, shown.proof, {rotation: included[rotation.index] for rotation in rotated})


def give_key(state: ClientState, registry: str, key: VerifierKey, now_s: int, *, replace: bool = False) -> KnownLedger:
    """Trust a key that the user was given. A checkpoint that was seen before is kept if this key signed it.

    `replace`: replace another key, and drop a checkpoint that the new key did not sign.

    Raises: OtherKeyTrusted, LedgerBroken, StateUnusable.
    """
    known = state.known(registry)
    head = None if known is None else known.head
    if known is not None and known.trusted.key == key:
        return known
    if known is not None and known.trusted.key is not None and not replace:
        raise OtherKeyTrusted(
            f"{registry} is trusted by the key {known.trusted.key}; if its operator confirms the new key, "
            "replace it with --replace"
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
                    f"the checkpoint that {registry} served at first use is not signed by this key: {error.message}; find out which "
                    "of the two is right, then pass --replace",
                ) from error
            state.save_evidence(registry, {"replaced.checkpoint": head.raw, "new.key": f"{key}\n".encode()})
            head = None
    new = KnownLedger(registry, trusted, GIVEN, now_s, head)
    state.keep(new, known)
    return new


def _not_trusted(registry: str, named: VerifierKey | None) -> NotTrusted:
    lock = "" if named is None else f"; the project's lock names {named}, which is as trustworthy as that file"
    return NotTrusted(
        f"no key is trusted for the ledger of {registry}: ask its operator for the output of `boltseal ledger key`, then "
        f"run `boltseal ledger trust {registry} KEY`{lock}"
    )
