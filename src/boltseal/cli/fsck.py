"""`boltseal fsck`: is everything in the data folder what it must be? Reads only, and repairs nothing."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

from boltseal.cli.answer import CommandOutput, Outcome, print_line, say
from boltseal.cli.options import ConfigOption, DataOption, JsonOption, settings_of
from boltseal.cli.progress import Progress, in_words

if TYPE_CHECKING:
    from boltseal.server.storage.findings import Examined


def fsck(config: ConfigOption = None, data: DataOption = None, as_json: JsonOption = False) -> None:
    """Read everything in the data folder and compare it with what it must be. Works beside a running server.

    Every row has its bytes, all bytes have their digest, the ledger has no gap and says what the tags mean.
    Exit code 0: all of it holds; 1: something does not; 3: something could not be read.
    """
    with CommandOutput("fsck", as_json=as_json) as answer:
        settings = settings_of(config, data=data)

        from boltseal.server.store_factory import examine_store

        with Progress() as progress:
            examined = examine_store(settings, progress)
        for finding in examined.findings:
            answer.add(ref=finding.what, status=finding.status, reason=finding.problem)
            if not as_json:
                print_line(f"{finding.what}: {finding.problem}")
        counts, verdict = examined.counts, _verdict(examined)
        answer.outcome = Outcome(examined.outcome)
        answer.add(ref=str(settings.server.data), status=answer.outcome, reason=verdict, **asdict(counts))
        if not as_json:
            print_line(f"{settings.server.data}: {verdict}")
            say(
                f"read {counts.entries} ledger entries, {counts.observations} observations, "
                f"{counts.tags} tags, {counts.manifests} manifests, "
                f"{counts.blobs} blobs ({in_words(counts.blob_bytes)})"
            )
            if counts.unnamed_blobs:
                unnamed = in_words(counts.unnamed_bytes)
                say(f"nothing names {counts.unnamed_blobs} more blobs ({unnamed}); boltseal collect removes old ones")


def _verdict(examined: Examined) -> str:
    differ = sum(Outcome(finding.status) is Outcome.DIFFERS for finding in examined.findings)
    unread = len(examined.findings) - differ
    said = []
    if differ:
        said.append(f"{differ} thing{'s' if differ > 1 else ''} not as {'they' if differ > 1 else 'it'} must be")
    if unread:
        said.append(f"{unread} could not be looked at")
    return ", ".join(said) or "all of it holds"
