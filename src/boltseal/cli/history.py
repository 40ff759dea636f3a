"""`boltseal history`: what a tag meant and when, by whom and why, proven by its registry's ledger."""

from __future__ import annotations

from typing import TYPE_CHECKING

from boltseal.cli.answer import Answer, Outcome, print_table, say
from boltseal.cli.onhistory import clean, read, tell_proof, when
from boltseal.cli.options import JsonOption
from boltseal.cli.remote import (
    AnonymousOption,
    CaFileOption,
    NamesNothing,
    PlainHttpOption,
    Reach,
    RemoteRefArgument,
    StrictOption,
    remote_reference,
)

if TYPE_CHECKING:
    from boltseal.client.history import Event, Proven
    from boltseal.ledger.history import Said
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
    be in the registry's signed ledger. Of a registry without one it shows what that says, and that nobody has signed it.

    Exit code 1: the history is broken, or empty.
    """
    with Answer("history", as_json=as_json) as answer:
        from boltseal.oci.reference import Tag

        reference = remote_reference(ref)
        if reference.digest is not None:
            raise NamesNothing(f"a history is a tag's; expected {reference.name}:{reference.tag or 'TAG'}")
        tag = reference.tag or Tag("latest")
        found = read(Reach(plain_http, ca_file, anonymous, strict), reference, tag)
        name = f"{reference.name}:{tag}"
        if isinstance(found, list):
            _unsigned(answer, name, reference, found)
        else:
            _signed(answer, name, found, tag)
        if not answer.results:
            answer.outcome = Outcome.DIFFERS
            say(f"{name} was never there")


def _signed(answer: Answer, name: str, found: Proven, tag: str) -> None:
    rows = []
    for said in found.history.of(tag):
        entry = said.entry
        event, mode = entry.kind.removeprefix("tag."), entry.extra.get("mode", "") if said.changes else ""
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


def _unsigned(answer: Answer, name: str, reference: Reference, events: list[Event]) -> None:
    for one in events:
        answer.add(ref=name, status=one.event, reason="", time=one.time, digest=one.digest, proven=False)
    if events:
        say(f"nobody has signed this: {reference.registry} could tell another history tomorrow")
    if events and not answer.as_json:
        print_table(
            ("WHEN", "DIGEST", "EVENT"), [(clean(one.time), one.digest[:19], clean(one.event)) for one in events]
        )


def _short(said: Said) -> str:
    from boltseal.oci.digest import Digest

    return Digest.parse(said.entry.digest).hex[:12] if said.entry.digest else ""
