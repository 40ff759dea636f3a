"""Output that the commands on a registry's history share."""

from __future__ import annotations

from boltseal.cli.output import CommandOutput, say
from boltseal.client.history import ProvenHistory
from boltseal.commands.outcome import Outcome
from boltseal.commands.text import counted
from boltseal.ledger.entry import format_time
from boltseal.ledger.history import EntryAt


def print_proof(output: CommandOutput, found: ProvenHistory) -> None:
    """Print how many entries are proven to be in the ledger, and every contradiction."""
    for problem in found.problems:
        output.outcome = Outcome.DIFFERS
        output.add(ref=found.followed.registry, status="broken", reason=problem)
        say(f"boltseal: {problem}")
    head = found.followed.head
    if head is None or output.as_json or found.problems:
        return
    key = f"the {'trusted' if found.followed.given else 'unverified'} key {head.trusted.key_id.hex()}"
    entries = counted(len(found.proven), "entry", "entries")
    say(f"{entries} found in the ledger of {head.checkpoint.size}, signed by {key}")


def time_of(entry: EntryAt) -> str:
    """Return the time of an entry as in the ledger."""
    return format_time(entry.entry.time_us)
