"""Read the history of a tag or repository from its registry's ledger, or from what `boltseal watch` recorded."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from boltseal.client.errors import RemoteNotFound
from boltseal.client.history import ProvenHistory, UnsignedTagEvent, read_history, read_unsigned
from boltseal.client.tag_observations import ObservedInterval, TagObservations
from boltseal.client.transport import Transport
from boltseal.commands.client_context import ClientContext
from boltseal.commands.outcome import Outcome
from boltseal.commands.registry_access import ReferenceUnsuitable, RegistryOptions, ask, followed
from boltseal.errors import BoltsealError, Denied, TooMany, Unauthenticated, Unavailable
from boltseal.oci.reference import Reference, Tag

_NO_ANSWER: Final = (Unavailable, Unauthenticated, Denied, TooMany)
"""Errors of a registry that has no history to show; a broken ledger is not among them."""


@dataclass(frozen=True, slots=True)
class SignedHistory:
    """Entries of a ledger."""

    reference: Reference
    proven: ProvenHistory

    @property
    def outcome(self) -> Outcome:
        """DIFFERS if the history is broken, or if the tag never existed."""
        entries = self.reference.tag is None or self.proven.history.of(self.reference.tag)
        return Outcome.HOLDS if entries and not self.proven.problems else Outcome.DIFFERS


@dataclass(frozen=True, slots=True)
class UnsignedHistory:
    """Events that a registry reports, and that are not in a ledger."""

    reference: Reference
    events: tuple[UnsignedTagEvent, ...]

    @property
    def outcome(self) -> Outcome:
        """DIFFERS if the tag never existed."""
        return Outcome.HOLDS if self.events else Outcome.DIFFERS


@dataclass(frozen=True, slots=True)
class WatchedHistory:
    """What `boltseal watch` recorded on this machine. `error`: why the registry itself shows no history."""

    reference: Reference
    intervals: tuple[ObservedInterval, ...]
    error: BoltsealError

    @property
    def outcome(self) -> Outcome:
        """Return HOLDS: a history that was read is a success."""
        return Outcome.HOLDS


def tag_history(reference: Reference, options: RegistryOptions) -> SignedHistory | UnsignedHistory | WatchedHistory:
    """Return the history of a tag (default: `latest`).

    Raises: ReferenceUnsuitable: the reference has a digest; LedgerBroken; ObservationsCorrupt, StateUnusable; errors of
    the registry, if `boltseal watch` recorded nothing either.
    """
    if reference.digest is not None:
        expected = f"{reference.name}:{reference.tag or 'TAG'}"
        raise ReferenceUnsuitable(f"a digest has no history; expected the reference of a tag, {expected}")
    tag = reference.tag or Tag("latest")
    named = Reference(reference.registry, reference.repository, tag)
    try:
        found = read(options, reference, tag)
    except _NO_ANSWER as error:
        intervals = _observed(options.client, named)
        if not intervals:
            raise
        return WatchedHistory(named, intervals, error)
    return SignedHistory(named, found) if isinstance(found, ProvenHistory) else UnsignedHistory(named, tuple(found))


def read(options: RegistryOptions, reference: Reference, tag: Tag | None) -> ProvenHistory | list[UnsignedTagEvent]:
    """Return the history of a tag, or of a whole repository (`tag` None).

    Returns unsigned events if the registry has no ledger, [] for a repository. Raises: Unavailable: it has no history.
    """

    async def run(transport: Transport) -> ProvenHistory | list[UnsignedTagEvent]:
        at = reference.registry, reference.repository
        try:
            return await read_history(transport, *at, tag, lambda registry: followed(options, transport, registry))
        except RemoteNotFound as missing:
            try:
                return [] if tag is None else await read_unsigned(transport, *at, tag)
            except RemoteNotFound:
                reason = f"{reference.registry} keeps no history of its tags: {missing.message}"
                raise Unavailable(reason) from missing

    return ask(options, [reference.registry], run)


def _observed(client: ClientContext, reference: Reference) -> tuple[ObservedInterval, ...]:
    with TagObservations(client.state) as observations:
        return observations.past(reference)
