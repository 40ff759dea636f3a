"""The report of `boltseal ps`: the images of the containers that run on one engine, or in one cluster."""

from __future__ import annotations

from collections.abc import Iterable

from boltseal.commands.host_reports import ReportTarget, SentReport, fitting, send_report, short, some_digests
from boltseal.commands.ps import RunningResult
from boltseal.commands.registry_access import RegistryOptions
from boltseal.host.containers.rows import ContainerRow
from boltseal.lockfile.compare import Weight
from boltseal.lockfile.container_check import STORES_KINDS
from boltseal.lockfile.format import time_text
from boltseal.policy.host_report import ReportCounts, ReportedImage, ReportKind, ReportOutcome


def report_running(options: RegistryOptions, target: ReportTarget, found: RunningResult, engine: str) -> SentReport:
    """Send what runs on an engine or in a cluster. It is complete unless that could not be read. `engine`: its address, or the context."""
    images, left_out = fitting(_image(row, target.registry) for row in found.rows)
    fields = {
        "kind": ReportKind.PS,
        "subject": short(engine),
        "complete": not found.found.failed and not left_out,
        "outcome": ReportOutcome(str(found.outcome)),
        "counts": _counts(found.rows),
        "images": images,
    }
    return send_report(options, target, fields, left_out)


def _image(row: ContainerRow, registry: str) -> ReportedImage:
    seen = row.seen
    locked = None if row.verdict is None or row.verdict.locked is None else row.verdict.locked.digest
    own = [each.digest for each in seen.image.pulled_as if each.registry == registry and each.digest is not None]
    named = [digest for digest, kind in row.digests.items() if kind not in STORES_KINDS]
    stored = [digest for digest, kind in row.digests.items() if kind in STORES_KINDS]
    return ReportedImage(
        reference=short(seen.started_as if row.name is None else str(row.name), 512),
        digests=some_digests([*own, *named], stored[:1]),
        locked=None if locked is None else str(locked),
        status="not-compared" if row.verdict is None else str(row.verdict.status),
        state=str(seen.state),
        project=short(seen.project),
        service=short(seen.service),
        name=short(seen.name),
        since=None if seen.started_us is None else time_text(seen.started_us),
        reason="" if row.verdict is None else short(row.verdict.reason),
    )


def _counts(rows: Iterable[ContainerRow]) -> ReportCounts:
    """Return how many containers match the lock; none is counted without a lock."""
    weights = [row.verdict.weight for row in rows if row.verdict is not None]
    return ReportCounts(
        holds=sum(each not in (Weight.DIFFERS, Weight.UNKNOWN) for each in weights),
        differs=weights.count(Weight.DIFFERS),
        unknown=weights.count(Weight.UNKNOWN),
    )
