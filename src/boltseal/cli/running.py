"""`boltseal running`: which image each container really runs, what that is called, and whether it is what is locked."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from boltseal.cli.answer import CommandOutput, clean, counted, print_line, say
from boltseal.cli.clock import clock_us
from boltseal.cli.onrunning import (
    ComposeOption,
    HostsOption,
    KubeOption,
    Looked,
    NamespaceOption,
    Where,
    counts,
    look,
    read_locked,
    result,
    tell_broken,
    tell_failed,
    told_of,
    with_releases,
)
from boltseal.cli.options import JsonOption
from boltseal.cli.project_options import AllowOption, ProjectOption
from boltseal.cli.remote import AnonymousOption, CaFileOption, PlainHttpOption, RegistryOptions

if TYPE_CHECKING:
    from collections.abc import Sequence

    from boltseal.host.containers.rows import ContainerRow

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
    reach = None if offline else RegistryOptions(plain_http, ca_file, anonymous)
    known: _Known = {}
    said: set[str] = set()
    while True:
        try:
            with CommandOutput("running", as_json=as_json) as answer:
                _once(answer, where, reach, allow or [], project, known, said)
        except typer.Exit:
            if watch is None:
                raise
        if watch is None:
            return
        import time

        time.sleep(watch)


def _once(
    answer: CommandOutput,
    where: Where,
    reach: RegistryOptions | None,
    allow: list[str],
    project: Path,
    known: _Known,
    said: set[str],
) -> None:
    from boltseal.cli.running_text import blocks
    from boltseal.host.containers.rows import rows as rows_of
    from boltseal.lockfile.format import time_text

    looked, lock, first = look(where), read_locked(project), not said
    told = told_of(reach, allow, looked.seen, lock)
    rows = with_releases(rows_of(looked.seen, lock, told))
    for row in rows:
        answer.add(**result(row))
    tell_broken(answer, told)
    tell_failed(answer, looked)
    if answer.as_json:
        return
    changed, gone = _changes(rows, known, {name for name, _ in looked.failed})
    now_us = clock_us()
    if not first and (changed or gone):
        print_line(f"-- {time_text(now_us)}")
    for line in blocks(changed, now_us, several=len(looked.hosts) > 1):
        print_line(line)
    for name in gone:
        print_line(f"{name} runs no more")
    _talk(looked, rows, said, has_lock=lock is not None and first)


def _changes(rows: Sequence[ContainerRow], known: _Known, failed: set[str]) -> tuple[list[ContainerRow], list[str]]:
    """What is not as it was the last time, and what is not there any more; `known` is then as it is now.

    Of a host that could not be looked at this time nothing is known to have changed.
    """
    now: _Known = {key: said for key, said in known.items() if key[0] in failed}
    changed = []
    for row in rows:
        key = (row.seen.host, row.seen.id)
        standing = None if row.verdict is None else row.verdict.standing
        now[key] = (clean(row.seen.name), row.digests, standing, row.tags, row.means, row.seen.started_us)
        if known.get(key) != now[key]:
            changed.append(row)
    gone = [str(said[0]) for key, said in known.items() if key not in now]
    known.clear()
    known.update(now)
    return changed, gone


def _talk(looked: Looked, rows: Sequence[ContainerRow], said: set[str], *, has_lock: bool) -> None:
    """What the blocks do not say, of each host and for each reason once: `said` are those that were told before."""
    for host in looked.hosts:
        if host.name not in said:
            say(f"{clean(host.name)}: {clean(host.kind)}: {counted(len(host.seen), 'container')}; times are UTC")
    for reason in dict.fromkeys(row.unasked for row in rows if row.unasked):
        if reason not in said:
            say(f"could not ask: {clean(reason)}")
    said.update(host.name for host in looked.hosts)
    said.update(row.unasked for row in rows)
    if has_lock and rows:
        say(counts(rows, lambda row: "" if row.verdict is None else str(row.verdict.standing)))
