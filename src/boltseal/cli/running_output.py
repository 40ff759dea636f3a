"""Output that the commands on running containers share: rows of `--json`, failed hosts and broken histories."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from boltseal.cli.output import CommandOutput, say
from boltseal.commands.outcome import Outcome
from boltseal.commands.ps import FoundContainers, broken_histories
from boltseal.commands.text import clean
from boltseal.host.containers.registries import RegistryAnswers
from boltseal.host.containers.rows import ContainerRow
from boltseal.lockfile.container_check import DigestKind
from boltseal.lockfile.format import time_text


def add_failed(output: CommandOutput, found: FoundContainers, missing_weight: str = "note") -> None:
    """Report hosts and records that could not be read, which makes the outcome unknown, and services without a container."""
    unread = [(name, error.message) for name, error in found.failed]
    unread += [(each.name, reason) for each in found.hosts for reason in each.unread]
    for name, reason in unread:
        output.outcome = Outcome.UNKNOWN if output.outcome is Outcome.HOLDS else output.outcome
        output.add(ref=name, status="unknown", reason=reason, weight="unknown")
        say(f"boltseal: {clean(reason)}")
    for name in found.missing if found.hosts else ():
        reason = "no container runs for this service"
        output.add(ref=name, status="not-running", reason=reason, weight=missing_weight)
        say(f"{clean(name)}: {reason}")


def add_broken(output: CommandOutput, answers: RegistryAnswers) -> None:
    """Report histories that contradict themselves or the signed tree."""
    for broken in broken_histories(answers):
        output.outcome = Outcome.DIFFERS
        output.add(ref=broken.repository, status="broken", reason=broken.problem)
        say(f"boltseal: {broken.repository}: {clean(broken.problem)}")


def count_text(rows: Sequence[ContainerRow], key: Callable[[ContainerRow], str]) -> str:
    """Return how many rows there are of each kind: `3 holds, 1 unknown`."""
    return ", ".join(f"{number} {kind}" for kind, number in sorted(Counter(map(key, rows)).items()))


def row_fields(row: ContainerRow) -> dict[str, Any]:
    """Return a container for `--json`."""
    seen, verdict = row.seen, row.verdict
    locked = None if verdict is None else verdict.locked
    released = row.deployed or row.released
    return {
        "ref": str(row.name) if row.name is not None else seen.started_as,
        "status": "not-compared" if verdict is None else str(verdict.status),
        "reason": "" if verdict is None else verdict.reason,
        "weight": None if verdict is None else str(verdict.weight),
        "host": seen.host,
        "node": seen.node or None,
        "runtime": seen.runtime,
        "container": seen.name,
        "id": seen.id,
        "project": seen.project or None,
        "service": seen.service or None,
        "state": str(seen.state),
        "health": str(seen.health),
        "restarts": seen.restarts,
        "started_as": seen.started_as,
        "image": {str(kind).replace("-", "_"): [str(each) for each in row.of_kind(kind)] for kind in DigestKind},
        "platform": seen.image.platform or None,
        "machine": seen.image.machine or None,
        "local": row.local,
        "recorded": seen.image.recorded,
        "changed_on_disk": seen.image.is_evidence,
        "names": [str(name) for name in seen.image.names],
        "tags": [_tag(tag) for tag in row.tags],
        "tags_by": str(row.tags_by) or None,
        "locked": None if locked is None else str(locked.reference),
        "locked_digest": None if locked is None or locked.digest is None else str(locked.digest),
        "resolves_to": None if row.resolves_to is None else str(row.resolves_to),
        "moved": row.moved,
        "behind": None if row.behind is None else row.behind.moves,
        "behind_since": None if row.behind is None else _time(row.behind.since_us),
        "created_at": _time(seen.image.created_us),
        "started_at": _time(seen.started_us),
        "release": None if row.deployed is None else row.deployed.number,
        "released_by": None if released is None else released.by,
        "released_at": None if released is None else _time(released.time_us),
        "built": None if row.built is None else row.built._asdict(),
        "unasked": row.unasked or None,
    }


def _tag(tag: Any) -> dict[str, Any]:
    until = None if tag.until_us is None else _time(tag.until_us)
    entry = None if tag.entry < 0 else tag.entry
    return {"tag": tag.tag, "since": _time(tag.since_us), "until": until, "by": tag.by or None, "entry": entry}


def _time(time_us: int | None) -> str | None:
    return None if time_us is None else time_text(time_us)
