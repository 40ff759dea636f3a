"""The order of test files for several workers: the longest first, so that the workers end at about the same time.

Loaded by `tests/conftest.py`. pytest-xdist gives each worker one file after the other (`--dist loadfile`), by itself those
with the most tests first: a file of three tests that take a minute each would come last. `--no-loadscope-reorder` keeps
this order. A file with a slow or real test that was never measured comes before all others, since it may take the longest.

--write-durations  store how long each file took, in `tests/durations.json`; with or without several workers
"""

from __future__ import annotations

import json
from collections import defaultdict
from math import inf
from pathlib import Path
from typing import Final

import pytest

DURATIONS: Final = Path(__file__).parent / "durations.json"
STORED_FROM_S: Final = 3.0
"""How long a file takes at least to be stored; what is shorter runs at the end, in the order of the names."""

_spent: defaultdict[str, float] = defaultdict(float)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--write-durations", action="store_true", help="store seconds by file in tests/durations.json")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Sort the files for several workers, each of which collects all tests; one process keeps the order of the names."""
    if hasattr(config, "workerinput"):
        stored = stored_durations()
        unknown = {file_of(item.nodeid): inf for item in items if any(map(item.get_closest_marker, ("slow", "real")))}
        assumed = unknown | stored
        items.sort(key=lambda item: -assumed.get(file_of(item.nodeid), 0.0))


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Add up what the workers, or this process, report."""
    _spent[file_of(report.nodeid)] += report.duration


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Store the seconds of the files that ran, beside those of the others."""
    if not session.config.getoption("--write-durations") or hasattr(session.config, "workerinput"):
        return
    root = DURATIONS.parent.parent
    kept = {file: s for file, s in stored_durations().items() if file not in _spent and (root / file).is_file()}
    long = {file: round(spent, 1) for file, spent in _spent.items() if spent >= STORED_FROM_S}
    DURATIONS.write_text(json.dumps(kept | long, indent=0, sort_keys=True) + "\n", encoding="utf-8")


def stored_durations() -> dict[str, float]:
    """Return seconds by `tests/FILE.py`."""
    stored: dict[str, float] = json.loads(DURATIONS.read_text(encoding="utf-8"))
    return stored


def file_of(nodeid: str) -> str:
    """Return the file of a test."""
    return nodeid.partition("::")[0]
