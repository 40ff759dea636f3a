"""Metrics of scrubs for Prometheus: a file for the textfile collector of node_exporter.

The file is replaced atomically at the end of each run, also of one that failed. `last_success` is kept from run to run in the
file itself: a failed run writes the former value. It is 0 until the first success, so that an alert on its age works from the start.
A run that was killed writes nothing, which the same alert reports.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from boltseal.errors import MAX_PATH, quote
from boltseal.files.atomic_files import Disk, write_file
from boltseal.host.scrub.report import ReportStatus
from boltseal.host.scrub.rotation import ShareSummary

FILE_MODE: Final = 0o644
"""The collector runs as another user."""
MAX_BYTES: Final = 1024 * 1024
SUBJECTS: Final = ("build-cache", "container", "image", "orphaned-layers", "store")
"""The kinds of subjects that are always written, so that a value falls to 0 and does not disappear."""
_LAST_SUCCESS: Final = "boltseal_scrub_last_success_timestamp_seconds"
_HELP: Final = {
    "boltseal_scrub_last_run_timestamp_seconds": "When the last scrub ended, whatever it found.",
    _LAST_SUCCESS: "When the last scrub ended in which everything holds; 0: none did yet.",
    "boltseal_scrub_duration_seconds": "How long the last scrub took.",
    "boltseal_scrub_read_bytes": "How many bytes of layers and of containers the last scrub read.",
    "boltseal_scrub_unread_bytes": "How many bytes the last scrub with --share left to other runs.",
    "boltseal_scrub_oldest_read_timestamp_seconds": "Since when the part waits to be read that waits longest.",
    "boltseal_scrub_results": "Subjects of the last scrub by kind and status.",
}
_SAMPLE: Final = re.compile(r"([a-z_]+)\{([^}\n]{0,2000})\} ([0-9]{1,15})")


@dataclass(frozen=True, slots=True)
class ScrubRun:
    """One run, for its metrics.

    Attributes:
        mode: how it read: full, quick or share.
        ended_s: when it ended, in seconds since 1970.
        duration_s: how long it took.
        holds: whether everything that it checked holds.
        results: the kind and status of each subject; none if it failed.
        read_bytes: how much content was read; None: not known, of another host.
        share: what a run with --share read.
        host: the address of another host, "" for this one.
    """

    mode: str
    ended_s: int
    duration_s: float
    holds: bool
    results: Sequence[tuple[str, str]] = ()
    read_bytes: int | None = None
    share: ShareSummary | None = None
    host: str = ""

    @property
    def labels(self) -> str:
        """The labels of all its samples; an address has no character to escape."""
        return f'host="{self.host}",mode="{self.mode}"' if self.host else f'mode="{self.mode}"'


def write_metrics(path: Path, runs: Sequence[ScrubRun]) -> str:
    """Replace the file by the metrics of runs, one for each host. Return why it could not be written, or ""."""
    former = _former_successes(path)
    text = metrics_text(runs, former)
    try:
        write_file(Disk(), path.absolute(), text.encode(), FILE_MODE, whatever_umask=True)
    except OSError as error:
        return f"{quote(str(path), MAX_PATH)[1:-1]}: the metrics can't be written: {error.strerror}"
    return ""


def metrics_text(runs: Sequence[ScrubRun], former: Mapping[str, int]) -> str:
    """Return the metrics in Prometheus's text format. `former`: by labels, when earlier runs succeeded."""
    samples: dict[str, list[tuple[str, str]]] = {name: [] for name in _HELP}
    for run in runs:
        success_s = run.ended_s if run.holds else min(former.get(run.labels, 0), run.ended_s)
        values: dict[str, object] = {
            "boltseal_scrub_last_run_timestamp_seconds": run.ended_s,
            _LAST_SUCCESS: success_s,
            "boltseal_scrub_duration_seconds": f"{run.duration_s:.3f}",
        }
        if run.read_bytes is not None:
            values["boltseal_scrub_read_bytes"] = run.read_bytes
        if run.share is not None:
            values["boltseal_scrub_unread_bytes"] = run.share.unread_bytes
            values["boltseal_scrub_oldest_read_timestamp_seconds"] = run.share.oldest_s
        for name, value in values.items():
            samples[name].append((run.labels, str(value)))
        for what, status, count in _counts(run.results):
            samples["boltseal_scrub_results"].append((f'{run.labels},status="{status}",what="{what}"', str(count)))
    return "".join(_lines((name, found) for name, found in samples.items() if found))


def _counts(results: Sequence[tuple[str, str]]) -> Iterator[tuple[str, str, int]]:
    counts = Counter(results)
    for what in sorted({*SUBJECTS, *(what for what, _ in results)}):
        for status in ReportStatus:
            yield what, str(status), counts[what, str(status)]


def _lines(samples: Iterable[tuple[str, list[tuple[str, str]]]]) -> Iterator[str]:
    for name, values in samples:
        yield f"# HELP {name} {_HELP[name]}\n# TYPE {name} gauge\n"
        for labels, value in values:
            yield f"{name}{{{labels}}} {value}\n"


def _former_successes(path: Path) -> dict[str, int]:
    """Return by labels when the last success was, by the file as it is; nothing if it is no file of ours."""
    try:
        with path.open("rb") as file:
            text = file.read(MAX_BYTES).decode("utf-8", "replace")
    except OSError:
        return {}
    found = (_SAMPLE.fullmatch(line) for line in text.splitlines())
    return {each[2]: int(each[3]) for each in found if each and each[1] == _LAST_SUCCESS}
