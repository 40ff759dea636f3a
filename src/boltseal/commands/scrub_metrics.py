"""Metrics of scrubs for Prometheus: a file for the textfile collector of node_exporter.

The file is replaced atomically at the end of each run, also of one that failed. `last_success` is kept from run to run in the
file itself: a failed run writes the former value. It is 0 until the first success, so that an alert on its age works from the start.
A run that was killed writes nothing, which the same alert reports.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from boltseal.files.atomic_files import Disk, write_file
from boltseal.host.scrub.report import ReportStatus, ScrubReport
from boltseal.host.scrub.rotation import ShareSummary

FILE_MODE: Final = 0o644
"""The collector runs as another user."""
MAX_BYTES: Final = 1024 * 1024
SUBJECTS: Final = ("container", "image", "store")
"""The kinds of subjects that are always written, so that a value falls to 0 and does not disappear."""
_LAST_SUCCESS: Final = "boltseal_scrub_last_success_timestamp_seconds"
_HELP: Final = {
    "boltseal_scrub_last_run_timestamp_seconds": "When the last scrub ended, whatever it found.",
    _LAST_SUCCESS: "When the last scrub ended in which everything holds; 0: none did yet.",
    "boltseal_scrub_duration_seconds": "How long the last scrub took.",
    "boltseal_scrub_read_bytes": "How many bytes of layers and of containers the last scrub read.",
    "boltseal_scrub_unread_bytes": "How many bytes the last scrub with --share left to other runs.",
    "boltseal_scrub_oldest_read_timestamp_seconds": "When that was read which was read longest ago; 0: some never was.",
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
        read_bytes: how much content was read.
        holds: whether everything that it checked holds.
        reports: its results; none if it failed.
        share: what a run with --share read.
    """

    mode: str
    ended_s: int
    duration_s: float
    read_bytes: int
    holds: bool
    reports: Sequence[ScrubReport] = ()
    share: ShareSummary | None = None


def write_metrics(path: Path, run: ScrubRun) -> None:
    """Replace the file by the metrics of a run. Raises: OSError."""
    former = min(_former_success(path, run.mode), run.ended_s)
    write_file(Disk(), path.absolute(), metrics_text(run, former).encode(), FILE_MODE, whatever_umask=True)


def metrics_text(run: ScrubRun, former_success_s: int) -> str:
    """Return the metrics in Prometheus's text format. `former_success_s`: of an earlier run, 0 for none."""
    mode = f'mode="{run.mode}"'
    samples = {
        "boltseal_scrub_last_run_timestamp_seconds": [(mode, str(run.ended_s))],
        _LAST_SUCCESS: [(mode, str(run.ended_s if run.holds else former_success_s))],
        "boltseal_scrub_duration_seconds": [(mode, f"{run.duration_s:.3f}")],
        "boltseal_scrub_read_bytes": [(mode, str(run.read_bytes))],
        "boltseal_scrub_results": [
            (f'{mode},status="{status}",what="{what}"', str(count)) for what, status, count in _counts(run.reports)
        ],
    }
    if run.share is not None:
        samples |= {
            "boltseal_scrub_unread_bytes": [(mode, str(run.share.unread_bytes))],
            "boltseal_scrub_oldest_read_timestamp_seconds": [(mode, str(run.share.oldest_s))],
        }
    return "".join(_lines(samples.items()))


def _counts(reports: Sequence[ScrubReport]) -> Iterator[tuple[str, str, int]]:
    counts = Counter((each.what, str(each.status)) for each in reports)
    for what in sorted({*SUBJECTS, *(each.what for each in reports)}):
        for status in ReportStatus:
            yield what, str(status), counts[what, str(status)]


def _lines(samples: Iterable[tuple[str, list[tuple[str, str]]]]) -> Iterator[str]:
    for name, values in samples:
        yield f"# HELP {name} {_HELP[name]}\n# TYPE {name} gauge\n"
        for labels, value in values:
            yield f"{name}{{{labels}}} {value}\n"


def _former_success(path: Path, mode: str) -> int:
    """Return when the last success was, by the file as it is; 0 if it has none, or is no file of ours."""
    try:
        with path.open("rb") as file:
            text = file.read(MAX_BYTES).decode("utf-8", "replace")
    except OSError:
        return 0
    found = (_SAMPLE.fullmatch(line) for line in text.splitlines())
    values = (int(each[3]) for each in found if each and (each[1], each[2]) == (_LAST_SUCCESS, f'mode="{mode}"'))
    return next(values, 0)
