"""What the verbs on a registry's past share: its entries, read and proven, and how far they are."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from boltseal.cli.answer import CommandOutput, Outcome, say
from boltseal.cli.remote import RegistryOptions, ask, followed
from boltseal.errors import Denied, TooMany, Unauthenticated, Unavailable

if TYPE_CHECKING:
    from boltseal.client.history import ProvenHistory, TagEvent
    from boltseal.client.tag_observations import ObservedInterval
    from boltseal.client.transport import Transport
    from boltseal.ledger.history import EntryAt
    from boltseal.oci.reference import Reference, Tag


NO_ANSWER: Final = (Unavailable, Unauthenticated, Denied, TooMany)
"""How a registry ends that tells nothing of a tag's past, or not now; one whose ledger is broken tells something."""


class NoHistory(Unavailable):
    """A registry that keeps no history, or not of this kind."""


def read(reach: RegistryOptions, reference: Reference, tag: Tag | None) -> ProvenHistory | list[TagEvent]:
    """The history of a tag, or with None of a whole repository; events that nobody signed where there is no more."""

    async def run(transport: Transport) -> ProvenHistory | list[TagEvent]:
        from boltseal.client.errors import RemoteNotFound
        from boltseal.client.history import read_history, read_unsigned

        at = reference.registry, reference.repository
        try:
            return await read_history(transport, *at, tag, lambda registry: followed(reach, transport, registry))
        except RemoteNotFound as missing:
            try:
                return [] if tag is None else await read_unsigned(transport, *at, tag)
            except RemoteNotFound:
                raise NoHistory(f"{reference.registry} keeps no history of its tags: {missing.message}") from missing

    return ask(reach, [reference.registry], run)


def watched_past(reference: Reference, tag: Tag) -> tuple[ObservedInterval, ...]:
    """What `boltseal watch` saw of a tag from here; nothing where it never looked. ObservationsCorrupt, StateUnusable."""
    from boltseal.client.state import ClientState
    from boltseal.client.tag_observations import TagObservations
    from boltseal.config import state_folder
    from boltseal.oci.reference import Reference

    with TagObservations(ClientState(state_folder())) as watched:
        return watched.past(Reference(reference.registry, reference.repository, tag))


def tell_proof(answer: CommandOutput, found: ProvenHistory) -> None:
    """Say how far it is proven, and what is wrong."""
    for problem in found.problems:
        answer.outcome = Outcome.DIFFERS
        answer.add(ref=found.followed.registry, status="broken", reason=problem)
        say(f"boltseal: {problem}")
    head = found.followed.head
    if head is None or answer.as_json or found.problems:
        return
    by = (
        f"signed by the trusted key {head.trusted.key_id.hex()}" if found.followed.given else "by whomever it is signed"
    )
    number = len(found.proven)
    say(f"{number} {'entry' if number == 1 else 'entries'} found in the ledger of {head.checkpoint.size}, {by}")


def when(said: EntryAt) -> str:
    """When it happened, as the ledger has it."""
    from boltseal.ledger.entry import format_time

    return format_time(said.entry.time_us)
