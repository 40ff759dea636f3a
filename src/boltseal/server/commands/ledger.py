"""Administration of the ledger and of the log of observations: keys, rotation, recovery."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from boltseal.client.ledger_client import LedgerClient, registry_of
from boltseal.client.transport import Transport
from boltseal.commands.registry_access import RegistryOptions, ask
from boltseal.commands.tag_changes import required_reason
from boltseal.errors import Invalid, NotFound, Unavailable
from boltseal.ledger.checkpoint import checkpoint_of_note_unverified
from boltseal.ledger.note import VerifierKey
from boltseal.server.commands.data_folder import local_admin
from boltseal.server.commands.users import list_users
from boltseal.server.registry.recovery import (
    Recovered,
    RecoveryRefused,
    accept_loss,
    bring_back,
    restore_tags,
    step_back,
)
from boltseal.server.registry.tag_writer import TagWriter
from boltseal.server.registry.witness_service import KEY_NAME
from boltseal.server.settings import Settings
from boltseal.server.storage.clock_guard import ClockGuard
from boltseal.server.storage.ledger_copy import FolderCopy
from boltseal.server.storage.ledger_key import LedgerKeys
from boltseal.server.storage.metadata import ledger_store
from boltseal.server.storage.metadata.protocol import LEDGER, OBSERVATIONS, TAGS
from boltseal.server.store_factory import open_store


@dataclass(frozen=True, slots=True)
class LedgerKey:
    """The key of a log, with the name of its origin."""

    origin: str
    key: VerifierKey


@dataclass(frozen=True, slots=True)
class RecoverRequest:
    """How to recover a log: copy missing entries from `source` (URL or folder), or accept their loss (None).

    `clock`: confirm the clock instead. `reason`: required to accept a loss. `observations`: the log of observations instead
    of the ledger. `restore_tags`: set tags that differ from the ledger to what it says, instead.
    """

    source: str | None
    accept_loss: bool
    clock: bool
    reason: str
    observations: bool
    restore_tags: bool = False

    def __post_init__(self) -> None:
        if self.accept_loss + self.restore_tags + self.clock + (self.source is not None) != 1:
            raise Invalid(
                "give one of: --from URL|FOLDER to copy the missing entries, --accept-loss to continue without them, "
                "--restore-tags to set the tags to what the ledger says, --clock to confirm that the clock of this machine is right"
            )
        if self.restore_tags and self.observations:
            raise Invalid("--restore-tags is about the ledger; give it without --observations")
        if self.clock and self.observations:
            raise Invalid("--clock is about both logs: leave out --observations")


@dataclass(frozen=True, slots=True)
class ClockConfirmed:
    """The result of confirming the clock. `key`: of the ledger, as before. `stepped_back`: logs whose time steps back.

    `doubt`: why the ledger takes no entry all the same; None if it does.
    """

    key: LedgerKey
    stepped_back: tuple[str, ...]
    doubt: str | None


def ledger_key(settings: Settings, *, observations: bool) -> LedgerKey:
    """Return the public key of a log. Raises: NotFound: nothing was signed here yet."""
    name = OBSERVATIONS.name if observations else LEDGER.name
    found = LedgerKeys(settings.keys, name=name).key()
    if found is None:
        raise NotFound(
            "no observations were signed here yet"
            if observations
            else f"no ledger was signed in {settings.server.data} yet: `boltseal serve` makes the key at its first start; "
            "name another data folder with --data"
        )
    return LedgerKey(found.name, found.verifier)


def witness_key(settings: Settings) -> LedgerKey:
    """Return the public key with which this registry cosigns other ledgers. Raises: NotFound: there is none yet."""
    found = LedgerKeys(settings.keys, name=KEY_NAME).key()
    if found is None:
        raise NotFound(
            f"nothing was cosigned in {settings.server.data} yet: `boltseal serve` makes the key at its first start with "
            "[witness_service] logs"
        )
    return LedgerKey(found.name, found.verifier)


def rotate_key(settings: Settings, reason: str, *, observations: bool) -> LedgerKey:
    """Sign a log with a new key from now on; the old key's last entry names it."""
    reason = required_reason(reason)
    with open_store(settings) as store:
        log = store.observing if observations else store.integrator
        new = log.rotate(local_admin().name, reason).verifier
    return LedgerKey(new.name, new)


def recover_ledger(settings: Settings, request: RecoverRequest, registries: RegistryOptions) -> Recovered:
    """Copy missing entries into a log, record that they are lost, or restore tags. Raises: Invalid, and errors of recovery."""
    if request.restore_tags:
        with open_store(settings) as store:
            key = store.keys.key()
            restored = restore_tags(store.database, store.keys, TagWriter(settings.rules))
            origin, verifier = ("", "") if key is None else (key.name, str(key.verifier))
            return Recovered(origin, verifier, len(restored), restored)
    if request.source is None:
        return _accept_loss(settings, required_reason(request.reason), observations=request.observations)
    log = OBSERVATIONS if request.observations else LEDGER
    with open_store(settings) as store:
        writer, keys = TagWriter(settings.rules), store.keys.of(log.name)
        if "://" not in request.source:
            copy = FolderCopy(Path(request.source), log)
            return bring_back(store.database, keys, writer, copy.lines, copy.head(), log)
        start = store.database.read_and_wait(lambda snapshot: ledger_store.size(snapshot, log))
        suffix = "/observations" if request.observations else ""
        head, lines = _fetch_unverified(request.source, start, registries, suffix)
        return bring_back(
            store.database, keys, writer, lambda first, end: lines[first - start : end - start], head, log
        )


def confirm_clock(settings: Settings, reason: str) -> ClockConfirmed:
    """Declare that the clock of this machine is right, and let the times of logs from the future step back to it.

    Raises: NotFound: no ledger was signed here yet; LedgerFrozen: a log may not match its checkpoint; Unavailable: the
    running server cannot be informed.
    """
    key = ledger_key(settings, observations=False)
    with open_store(settings) as store:
        guard = ClockGuard.beside(store.data)
        if guard is not None:
            try:
                guard.confirm(store.database.now_us())
            except OSError as error:
                raise Unavailable(f"the running server cannot be informed: {error.strerror}") from error
        actor = local_admin().name
        stepped = [
            each.log.name
            for each in store.integrators
            if step_back(store.database, actor, reason.strip() or "the clock was wrong", each.log)
        ]
        return ClockConfirmed(key, tuple(stepped), store.database.frozen)


def _fetch_unverified(url: str, start: int, registries: RegistryOptions, suffix: str) -> tuple[bytes, list[bytes]]:
    """Return the checkpoint of another registry's log, and its entries from `start` on; `bring_back` verifies them."""

    async def fetch(transport: Transport) -> tuple[bytes, list[bytes]]:
        client = LedgerClient(transport, f"{registry_of(url)}{suffix}")
        head = await client.checkpoint()
        size = checkpoint_of_note_unverified(head).size
        return head, await client.entries(start, size) if size > start else []

    return ask(registries, [registry_of(url)], fetch)


def _accept_loss(settings: Settings, reason: str, *, observations: bool) -> Recovered:
    """Begin a new origin of a log in doubt. Without a doubt nothing is lost, and every client would refuse the new key."""
    log = OBSERVATIONS if observations else LEDGER
    with open_store(settings) as store:
        doubts = store.database.doubts
        if log.name not in doubts and (observations or TAGS not in doubts):
            raise RecoveryRefused(
                f"the log {log.name} is not in doubt: its entries are the ones that were signed, so there is no loss to "
                "accept; `boltseal ledger rotate` changes its key"
            )
        opens = store.keys_lost and not settings.login_required and not list_users(settings)
        done = accept_loss(store.database, store.keys.of(log.name), local_admin().name, reason, log)
        return replace(done, opens=opens)
