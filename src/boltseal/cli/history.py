"""`boltseal history`: what a tag meant and when, by whom and why, proven by its registry's ledger."""

from __future__ import annotations

from typing import TYPE_CHECKING

from boltseal.cli.answer import CommandOutput, Outcome, clean, print_table, say
from boltseal.cli.onhistory import NO_ANSWER, read, tell_proof, watched_past, when
from boltseal.cli.options import JsonOption
from boltseal.cli.remote import (
    AnonymousOption,
    CaFileOption,
    NamesNothing,
    PlainHttpOption,
    RegistryOptions,
    RemoteRefArgument,
    StrictOption,
    remote_reference,
)

if TYPE_CHECKING:
    from boltseal.client.history import ProvenHistory, TagEvent
    from boltseal.client.tag_observations import ObservedInterval
    from boltseal.ledger.history import EntryAt
    from boltseal.oci.reference import Reference


def history(
    ref: RemoteRefArgument,
    plain_http: PlainHttpOption = False,
    ca_file: CaFileOption = None,
    anonymous: AnonymousOption = False,
    strict: StrictOption = False,
    as_json: JsonOption = False,
) -> None:
    """Say what a tag meant and when, who moved it, and why.

    Also which other tags meant the same image. Each entry must follow the one before it, mean what the tag means now, and
    be in the registry's signed ledger. Of a registry without one it shows what that says, and that nobody has signed it;
    and where that keeps no history either, what `boltseal watch` saw from here. Of an image that a registry mirrors
    (localhost:5000/docker.io/library/node:16.13) it shows what the mirror saw and served, proven by its log of observations.

    Exit code 1: the history is broken, or empty.
    """
    with CommandOutput("history", as_json=as_json) as answer:
        from boltseal.oci.reference import Tag

        reference = remote_reference(ref)
        if reference.digest is not None:
            raise NamesNothing(f"a history is a tag's; expected {reference.name}:{reference.tag or 'TAG'}")
        tag = reference.tag or Tag("latest")
        name = f"{reference.name}:{tag}"
        try:
            found = read(RegistryOptions(plain_http, ca_file, anonymous, strict), reference, tag)
        except NO_ANSWER as error:
            past = watched_past(reference, tag)
            if not past:
                raise
            say(f"{clean(error.message)}; this is what `boltseal watch` saw from here")
            _seen(answer, name, past)
            return
        if isinstance(found, list):
            _unsigned(answer, name, reference, found)
        else:
            _signed(answer, name, found, tag)
        if not answer.results:
            answer.outcome = Outcome.DIFFERS
            say(f"{name} was never there")


def _signed(answer: CommandOutput, name: str, found: ProvenHistory, tag: str) -> None:
    rows = []
    for said in found.history.of(tag):
        entry = said.entry
        event = "gone" if entry.kind == "observed" and not entry.digest else entry.kind.removeprefix("tag.")
        mode = entry.extra.get("mode", "") if said.changes else ""
        also = found.history.also(entry.digest, tag)
        answer.add(
            ref=name,
            status=event,
            reason=entry.reason,
            index=said.index,
            time=when(said),
            digest=entry.digest,
            was=entry.was or None,
            by=entry.actor,
            mode=mode or None,
            also=also,
            proven=said.index in found.proven,
        )
        who = clean(entry.actor) + (f": {clean(entry.reason)}" if entry.reason else "")
        who += f"; also {', '.join(also)}" if also else ""
        rows.append((str(said.index), when(said)[:19].replace("T", " "), _short(said), event, mode, who))
    if rows and not answer.as_json:
        whole = ("ENTRY", "WHEN (UTC)", "DIGEST", "EVENT", "MODE")
        print_table((*whole, "BY, AND WHY"), rows, whole)
    tell_proof(answer, found)


def _unsigned(answer: CommandOutput, name: str, reference: Reference, events: list[TagEvent]) -> None:
    for one in events:
        answer.add(ref=name, status=one.event, reason="", time=one.time, digest=one.digest, proven=False)
    if events:
        say(f"nobody has signed this: {reference.registry} could tell another history tomorrow")
    if events and not answer.as_json:
        print_table(
            ("WHEN", "DIGEST", "EVENT"), [(clean(one.time), one.digest[:19], clean(one.event)) for one in events]
        )


def _seen(answer: CommandOutput, name: str, past: tuple[ObservedInterval, ...]) -> None:
    from boltseal.ledger.entry import format_time

    rows, was = [], None
    for one in past:
        status = "gone" if one.digest is None else "first" if one is past[0] else "moved"
        first, last = format_time(one.first_seen_us), format_time(one.last_seen_us)
        digest = None if one.digest is None else str(one.digest)
        answer.add(
            ref=name,
            status=status,
            reason="",
            line=one.line,
            time=first,
            last_seen=last,
            digest=digest,
            was=was,
            proven=False,
        )
        was = digest or was
        short = "" if one.digest is None else one.digest.hex[:12]
        rows.append((first[:19].replace("T", " "), last[:19].replace("T", " "), short, status))
    if not answer.as_json:
        print_table(("FIRST SEEN (UTC)", "LAST SEEN (UTC)", "DIGEST", "EVENT"), rows)


def _short(said: EntryAt) -> str:
    from boltseal.oci.digest import Digest

    return Digest.parse(said.entry.digest).hex[:12] if said.entry.digest else ""
