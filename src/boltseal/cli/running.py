"""`boltseal running`: which image each container really runs, what that is called, and whether it is what is locked."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from boltseal.cli.answer import Answer, Outcome, counted, print_line, print_table, say
from boltseal.cli.onproject import AllowOption, ProjectOption
from boltseal.cli.onrunning import (
    ComposeOption,
    HostsOption,
    KubeOption,
    Looked,
    NamespaceOption,
    Where,
    cell,
    counts,
    look,
    read_locked,
    result,
    tell_broken,
    told_of,
    with_releases,
)
from boltseal.cli.options import JsonOption
from boltseal.cli.remote import AnonymousOption, CaFileOption, PlainHttpOption, Reach

if TYPE_CHECKING:
    from collections.abc import Sequence

    from boltseal.fleet.hosts import Seen
    from boltseal.fleet.registries import Answers
    from boltseal.fleet.rows import Row
    from boltseal.lockfile.running import LockedImages

_Known = dict[tuple[str, str], tuple[object, ...]]


def running(
    host: HostsOption = None,
    compose: ComposeOption = None,
    kube: KubeOption = None,
    namespace: NamespaceOption = None,
    offline: Annotated[bool, typer.Option("--offline", help="Ask no registry: only hosts, and the lock.")] = False,
    watch: Annotated[
        int | None,
        typer.Option("--watch", metavar="SECONDS", min=1, show_default=False, help="Look again, and say what changed."),
    ] = None,
    project: ProjectOption = Path(),
    allow: AllowOption = None,
    plain_http: PlainHttpOption = False,
    ca_file: CaFileOption = None,
    anonymous: AnonymousOption = False,
    as_json: JsonOption = False,
) -> None:
    """Say which image each running container really runs.

    By the container's own image, whatever its tag means by now: its digests; which tags mean or meant it, and how far its
    tag has gone on; whether it is what boltseal.lock says; since when it runs, and who released it. Changes nothing.

    Exit code 3: a host could not be looked at. Whether what runs is what is locked is the question of
    `boltseal verify --running`.
    """
    where = Where(tuple(host or ()), compose, kube, namespace)
    reach = None if offline else Reach(plain_http, ca_file, anonymous)
    known: _Known = {}
    while True:
        try:
            with Answer("running", as_json=as_json) as answer:
                _once(answer, where, reach, allow or [], project, known)
        except typer.Exit:
            if watch is None:
                raise
        if watch is None:
            return
        import time

        time.sleep(watch)


def _once(answer: Answer, where: Where, reach: Reach | None, allow: list[str], project: Path, known: _Known) -> None:
    import time

    looked, lock, first = look(where), read_locked(project), not known
    told = told_of(reach, allow, looked.seen, lock)
    rows = with_releases(_rows(looked.seen, lock, told))
    for row in rows:
        answer.add(**result(row))
    tell_broken(answer, told)
    for name, error in looked.failed:
        answer.outcome = Outcome.UNKNOWN if answer.outcome is Outcome.HOLDS else answer.outcome
        answer.add(ref=name, status="unknown", reason=error.message)
        say(f"boltseal: {error.message}")
    if answer.as_json:
        return
    changed, gone = _changes(rows, known)
    if changed:
        _table(changed, time.time_ns() // 1000)
    for name in gone:
        print_line(f"{name} runs no more")
    if first:
        _talk(looked, rows, lock is not None)


def _rows(seen: Sequence[Seen], lock: LockedImages | None, told: Answers) -> list[Row]:
    from boltseal.fleet.rows import row

    return [row(each, lock, told) for each in seen]


def _changes(rows: Sequence[Row], known: _Known) -> tuple[list[Row], list[str]]:
    """What is not as it was the last time, and what is not there any more; `known` is then as it is now."""
    now: _Known = {}
    changed = []
    for row in rows:
        key = (row.seen.host, row.seen.id)
        standing = None if row.verdict is None else row.verdict.standing
        now[key] = (cell(row.seen.name), row.digests, standing, row.tags, row.means, row.seen.started_us)
        if known.get(key) != now[key]:
            changed.append(row)
    gone = [str(said[0]) for key, said in known.items() if key not in now]
    known.clear()
    known.update(now)
    return changed, gone


def _table(rows: Sequence[Row], now_us: int) -> None:
    several = len({row.seen.host for row in rows}) > 1
    print_table(
        ("CONTAINER", "SINCE (UTC)", "LOCK", "RUNS"),
        [(_who(row, several=several), _since(row, now_us), _lock(row), _what(row, now_us)) for row in rows],
        ("SINCE (UTC)", "LOCK"),
    )


def _who(row: Row, *, several: bool) -> str:
    return cell(row.seen.name) + (
        f" on {row.seen.node}" if row.seen.node else f" at {row.seen.host}" if several else ""
    )


def _what(row: Row, now_us: int) -> str:
    """Name and tags; how far behind; by whom; and on a line of its own the digest, and of what it is one."""
    parts = [_called(row, now_us)]
    if row.behind is not None and row.behind.since_us is not None and row.name is not None:
        moves = counted(row.behind.moves, "move")
        parts.append(f"{moves} behind `{row.name.tag}`" if row.behind.moves else f"`{row.name.tag}` was deleted")
    elif row.moved and row.name is not None and row.means is not None:
        parts.append(f"`{row.name.tag}` now means {row.means.short}")
    if not row.seen.image.recorded:
        parts.append("its host has no record of it")
    parts += [by] if (by := _by(row)) else []
    return "; ".join(parts) + f"\n{_digest(row)}"


def _called(row: Row, now_us: int) -> str:
    from boltseal.ledger.meant import in_words

    name = row.name
    if row.local:
        return f"{cell(row.seen.started_as)}, local"
    if row.tags and name is not None:
        return f"{_short(name.name)} {in_words(row.tags, now_us)}"
    if row.verdict is not None and row.verdict.weight == "holds" and row.verdict.locked is not None:
        return f"{row.verdict.locked.reference.familiar()}, by the lock"
    if row.seen.image.names:
        return ", ".join(each.familiar() for each in row.seen.image.names) + ", as its host calls it"
    return f"started as {cell(row.seen.started_as)}"


def _short(name: str) -> str:
    from boltseal.oci.reference import Reference

    return Reference.parse(name).familiar()


def _digest(row: Row) -> str:
    """The digest that says most, and what it is the digest of."""
    from boltseal.lockfile.running import DigestKind

    for kind in (DigestKind.INDEX, DigestKind.MANIFEST, DigestKind.UNSAID, DigestKind.CONFIG, DigestKind.IMAGE_ID):
        if found := row.of_kind(kind):
            word = str(kind).replace("-", " ")
            return found[0].short if kind is DigestKind.UNSAID else f"{word} {found[0].short}"
    return "no digest"


def _lock(row: Row) -> str:
    return (
        "no lock" if row.verdict is None else "same" if row.verdict.standing == "holds" else str(row.verdict.standing)
    )


def _since(row: Row, now_us: int) -> str:
    from boltseal.ledger.meant import moment

    return "" if row.seen.started_us is None else moment(row.seen.started_us, now_us)


def _by(row: Row) -> str:
    if row.deployed is not None:
        return f"released by {cell(row.deployed.by)} (release {row.deployed.number})"
    if row.released is not None:
        return f"released by {cell(row.released.by)}"
    by = next((tag.by for tag in row.tags if tag.by), "")
    return f"pushed by {cell(by)}" if by else ""


def _talk(looked: Looked, rows: Sequence[Row], has_lock: bool) -> None:
    """What the table does not say."""
    for host in looked.hosts:
        say(f"{cell(host.name)}: {cell(host.kind)}: {counted(len(host.seen), 'container')}")
    for name in looked.missing:
        say(f"{cell(name)}: no container runs for this service")
    for reason in dict.fromkeys(row.unasked for row in rows if row.unasked):
        say(f"could not ask: {cell(reason)}")
    if has_lock and rows:
        say(counts(rows, lambda row: "" if row.verdict is None else str(row.verdict.standing)))
