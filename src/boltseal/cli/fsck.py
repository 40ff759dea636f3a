"""`boltseal fsck`: is everything in the data folder what it must be? Reads only, and repairs nothing."""

from __future__ import annotations

from dataclasses import asdict

from boltseal.cli.answer import Answer, Outcome, print_line, say
from boltseal.cli.options import ConfigOption, DataOption, JsonOption, settings_of
from boltseal.cli.progress import Progress, in_words
from boltseal.errors import Unavailable


class CouldNotLook(Unavailable):
    """A file that can't be read, and not because it is missing."""


def fsck(config: ConfigOption = None, data: DataOption = None, as_json: JsonOption = False) -> None:
    """Read everything in the data folder and compare it with what it must be. Works beside a running server.

    Every row has its bytes, all bytes have their digest, the ledger has no gap and says what the tags mean.
    Exit code 0: all of it holds; 1: something does not; 3: something could not be read.
    """
    with Answer("fsck", as_json=as_json) as answer:
        settings = settings_of(config, data=data)

        from boltseal.app import examine_store

        try:
            with Progress() as progress:
                examined = examine_store(settings, progress)
        except OSError as error:
            raise CouldNotLook(f"could not read {error.filename or settings.server.data}: {error.strerror}") from error
        for finding in examined.findings:
            answer.add(ref=finding.what, status="differs", reason=finding.problem)
            if not as_json:
                print_line(f"{finding.what}: {finding.problem}")
        counts = {name: count for name, count in asdict(examined).items() if name != "findings"}
        if examined.findings:
            answer.outcome = Outcome.DIFFERS
        answer.add(
            ref=str(settings.server.data), status=answer.outcome, reason=_verdict(len(examined.findings)), **counts
        )
        if not as_json:
            print_line(f"{settings.server.data}: {_verdict(len(examined.findings))}")
            say(
                f"read {examined.entries} ledger entries, {examined.tags} tags, {examined.manifests} manifests, "
                f"{examined.blobs} blobs ({in_words(examined.blob_bytes)})"
            )
            if examined.unnamed_blobs:
                unnamed = in_words(examined.unnamed_bytes)
                say(f"nothing names {examined.unnamed_blobs} more blobs ({unnamed}); boltseal collect removes old ones")


def _verdict(findings: int) -> str:
    if not findings:
        return "all of it holds"
    return f"{findings} thing{'s' if findings > 1 else ''} not as {'they' if findings > 1 else 'it'} must be"
