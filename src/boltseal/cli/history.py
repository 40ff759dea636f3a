"""`boltseal history`: show what a tag resolved to, with the time, user and reason of each change."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import typer

from boltseal.cli.history_refused import print_refused
from boltseal.cli.history_text import print_proof, time_of
from boltseal.cli.options import JsonOption
from boltseal.cli.output import CommandOutput, say
from boltseal.cli.remote import (
    RemoteRefArgument,
    takes_registry_options,
)
from boltseal.cli.table import print_table
from boltseal.commands.history import SignedHistory, UnsignedHistory, WatchedHistory, tag_history
from boltseal.commands.outcome import Outcome
from boltseal.commands.refused_pushes import refused_pushes
from boltseal.commands.registry_access import RegistryOptions
from boltseal.commands.text import clean
from boltseal.ledger.entry import format_time
from boltseal.ledger.history import RepositoryHistory
from boltseal.ledger.tag_intervals import BuiltOn, moment, recorded_base
from boltseal.oci.reference import Reference
from boltseal.policy.pipeline_claims import pipeline_text, shown_pipeline


@takes_registry_options
def history(
    ref: RemoteRefArgument,
    refused: Annotated[
        bool,
        typer.Option(
            "--refused",
            help="Show the pushes that a boltseal registry refused: who, when, from where, and both digests. Without a tag those to "
            "all tags of the repository.",
        ),
    ] = False,
    *,
    access: RegistryOptions,
    as_json: JsonOption = False,
) -> None:
    """Show what a tag resolved to and when, who moved it, and why.

    Also shows which other tags resolved to the same image. Each entry must follow the one before it, the last one must
    match the tag's present digest, and all must be in the registry's signed ledger. A registry without a ledger reports
    unsigned events; without any history, the records of `boltseal watch` are shown. For an image that a registry mirrors
    (localhost:5000/docker.io/library/node:16.13) it shows what the mirror saw and served, proven by its log of observations.

    Exit code 1: the history is broken, or empty.
    """
    with CommandOutput("history", as_json=as_json) as output:
        if refused:
            reference = Reference.parse(ref)
            print_refused(output, reference, refused_pushes(reference, access))
            return
        found = tag_history(Reference.parse(ref), access)
        output.outcome = found.outcome
        match found:
            case SignedHistory():
                _print_signed(output, found)
            case UnsignedHistory():
                _print_unsigned(output, found)
            case WatchedHistory():
                _print_watched(output, found)
        if not output.results:
            output.outcome = Outcome.DIFFERS
            say(f"{found.reference} was never there")


def _print_signed(output: CommandOutput, found: SignedHistory) -> None:
    tag, rows = str(found.reference.tag), []
    entries = found.proven.history
    tags = entries.tags_by_digest()
    for each in entries.of(tag):
        entry = each.entry
        event = "gone" if entry.kind == "observed" and not entry.digest else entry.kind.removeprefix("tag.")
        mode = entry.extra.get("mode", "") if each.changes else ""
        built = recorded_base(each)
        also = tuple(other for other in tags.get(entry.digest, ()) if other != tag)
        output.add(
            ref=str(found.reference),
            status=event,
            reason=entry.reason,
            index=each.index,
            time=time_of(each),
            digest=entry.digest,
            was=entry.was or None,
            by=entry.actor,
            mode=mode or None,
            also=also,
            proven=each.index in found.proven.proven,
            **({} if built is None else {"built": built._asdict()}),
            **({"pipeline": pipeline} if (pipeline := shown_pipeline(entry.extra)) else {}),
        )
        by = clean(pipeline_text(entry.extra) or entry.actor) + (f": {clean(entry.reason)}" if entry.reason else "")
        by += "" if built is None else f"; {_built_text(built)}"
        by += f"; also {', '.join(also)}" if also else ""
        bases = ("", "") if built is None else (clean(built.was), clean(built.digest))
        rows.append((str(each.index), moment(each.entry.time_us), each.entry.digest, event, mode, by, *bases))
    if rows and not output.as_json:
        _print_entries(rows)
    _print_pipeline(output, tag, entries)
    print_proof(output, found.proven)


def _print_pipeline(output: CommandOutput, tag: str, entries: RepositoryHistory) -> None:
    """Print in one sentence which pipeline published what the tag resolves to now, if one did."""
    changes = [each.entry for each in entries.of(tag) if each.changes and each.entry.digest]
    text = pipeline_text(changes[-1].extra) if changes else ""
    if text:
        output.print(clean(f"{tag} was published by {text}"))


def _print_entries(rows: Sequence[tuple[str, ...]]) -> None:
    """Print the entries, without the columns of bases if none has one."""
    whole, bases = ("ENTRY", "WHEN", "DIGEST", "EVENT", "MODE"), ("BASE WAS", "BASE")
    columns = (*whole, "BY, AND WHY", *(name for at, name in enumerate(bases, 6) if any(row[at] for row in rows)))
    kept = [(*row[:6], *(row[at] for at, name in enumerate(bases, 6) if name in columns)) for row in rows]
    print_table(columns, kept, (*whole, *bases))


def _built_text(built: BuiltOn) -> str:
    """Return what a `built` entry records: the base, or for a revision which tag it rebuilds and the base's change."""
    revision = f"a revision of {clean(built.revision_of)}, " if built.revision_of else ""
    base = clean(built.base)
    return f"{revision}base {base} changed" if built.was else f"{revision}built on {base}"


def _print_unsigned(output: CommandOutput, found: UnsignedHistory) -> None:
    for event in found.events:
        output.add(
            ref=str(found.reference), status=event.event, reason="", time=event.time, digest=event.digest, proven=False
        )
    if found.events:
        say(f"this history is not signed: {found.reference.registry} could change it unnoticed")
    if found.events and not output.as_json:
        rows = [(clean(event.time), clean(event.digest), clean(event.event)) for event in found.events]
        print_table(("WHEN", "DIGEST", "EVENT"), rows)


def _print_watched(output: CommandOutput, found: WatchedHistory) -> None:
    say(f"{clean(found.error.message)}; this is what `boltseal watch` recorded here")
    rows, was = [], None
    for each in found.intervals:
        status = "gone" if each.digest is None else "first" if each is found.intervals[0] else "moved"
        first, last = format_time(each.first_seen_us), format_time(each.last_seen_us)
        digest = None if each.digest is None else str(each.digest)
        output.add(
            ref=str(found.reference),
            status=status,
            reason="",
            line=each.line,
            time=first,
            last_seen=last,
            digest=digest,
            was=was,
            proven=False,
        )
        was = digest or was
        rows.append((moment(each.first_seen_us), moment(each.last_seen_us), digest or "", status))
    if not output.as_json:
        print_table(("FIRST SEEN", "LAST SEEN", "DIGEST", "EVENT"), rows)
