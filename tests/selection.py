"""Which tests a target of the Makefile runs: marks from places and measured times, one row of each table.

Loaded by `tests/conftest.py`. Two options of pytest, independent of each other:

--one-row              of each table of cases only the first row
--write-timings        measure every test that runs and store its processor time in `tests/timings.json`

A test whose stored processor time exceeds LENGTHY_S gets the mark `lengthy`. A test without a stored time gets none. For each
file the sum of its other tests is stored, one row of each table.
A test that is marked `real` gets the mark `engine` in one of ENGINE_TESTS, `store` in one of STORE_TESTS, `fault` in one of
FAULT_TESTS, `replicas` in one of REPLICA_TESTS, `kube` in one of KUBE_TESTS, and `browser` in one of BROWSER_TESTS. Each test in one of STORAGE_TESTS gets the mark `storage`. With `-m` and one of these marks only the files there are imported: each worker would import those of all other
tests as well, 14,000 of them.
A slow test gets the mark `sized` in a file that reads the size of the run (`tests.soak.scale`): `make soak` runs these.
"""

from __future__ import annotations

import ast
import json
import re
import resource
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Final

import pytest

from tests.programs import packages_installed

ROOT: Final = Path(__file__).parent.parent
TIMINGS: Final = ROOT / "tests/timings.json"
LENGTHY_S: Final = 0.1
"""Processor time, in seconds, above which a quick check leaves a test out."""
ENGINE_TESTS: Final = ("tests/distribution/test_image.py", "tests/real/engines/")
"""Where real container engines build, run and keep images: `make test-engines` runs these."""
STORE_TESTS: Final = ("tests/attacks/scrub/",)
"""Where the stores of container engines on disk are checked: `make test-stores` runs these."""
FAULT_TESTS: Final = ("tests/server/faults/",)
"""Where PostgreSQL, an S3 server and boltseal are broken under pushes: `make test-faults` runs these."""
REPLICA_TESTS: Final = ("tests/server/replicas/", "tests/real/test_serve_replicas.py")
"""Where several servers share one database and bucket: `make test-replicas` runs these."""
KUBE_TESTS: Final = ("tests/kube/",)
"""Where releases run on a cluster that real kubectl talks to: `make test-kube` runs the real ones of these."""
STORAGE_TESTS: Final = (
    "tests/attacks/shared_storage/",
    "tests/real/test_serve_postgres.py",
    "tests/server/api/test_object_store.py",
    "tests/server/commands/test_backup",
    "tests/server/commands/test_former_servers.py",
    "tests/server/commands/test_hostile_backups.py",
    "tests/server/commands/test_move_",
    "tests/server/registry/test_published_tree.py",
    "tests/server/registry/test_rebuild",
    "tests/server/registry/test_shared_mark.py",
    "tests/server/storage/test_bucket_owner.py",
    "tests/server/storage/test_collection.py",
    "tests/server/storage/test_hidden_blobs.py",
    "tests/server/storage/test_object",
    "tests/server/storage/test_postgres_",
    "tests/server/storage/test_radosgw.py",
    "tests/server/storage/test_replica_rows.py",
    "tests/server/test_database_time.py",
    "tests/server/test_shared_storage.py",
)
"""What tests that start PostgreSQL or an S3 server begin with; `make test-storage` runs these."""
BROWSER_TESTS: Final = ("tests/browser/",)
"""Where pages are opened in a real browser: `make test-browser` runs these."""

SIZES: Final = ("tests.soak.scale", "tests.scale.growth")
"""The modules that say how large a test is: `make soak` runs the tests of files that import one of them, at full size."""

_PLACES: Final = {
    "engine": ENGINE_TESTS,
    "store": STORE_TESTS,
    "fault": FAULT_TESTS,
    "replicas": REPLICA_TESTS,
    "kube": KUBE_TESTS,
    "storage": STORAGE_TESTS,
    "browser": BROWSER_TESTS,
}

_measured: dict[str, float] = {}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--one-row", action="store_true", help="of each table of cases only the first row")
    parser.addoption("--write-timings", action="store_true", help="store processor times in tests/timings.json")


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> Iterator[None]:
    """Mark lengthy tests; after pytest's own `-m`, drop rows of tables."""
    timings = stored_timings()
    for item in items:
        if timings.get(function_id(item), 0.0) > LENGTHY_S:
            item.add_marker(pytest.mark.lengthy)
        is_real = item.get_closest_marker("real") is not None
        for mark, places in _PLACES.items():
            if (is_real or mark == "storage") and item.nodeid.startswith(places):
                item.add_marker(mark)
        if item.get_closest_marker("slow") is not None and is_sized(item.path):
            item.add_marker(pytest.mark.sized)
    yield  # after -m another row may be the first
    if config.getoption("--one-row"):
        kept = set(first_rows(items))
        config.hook.pytest_deselected(items=[item for item in items if item not in kept])
        items[:] = [item for item in items if item in kept]


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Do not import test files in which no test can have the one mark that `-m` asks for."""
    name = collection_path.relative_to(ROOT).as_posix() if collection_path.is_relative_to(ROOT) else ""
    return True if is_elsewhere(name, config.getoption("markexpr")) else None


def is_elsewhere(file: str, marks: str) -> bool:
    """Return whether a test file is in no place of the mark that an expression of `-m` consists of."""
    return marks in _PLACES and Path(file).name.startswith("test_") and not file.startswith(_PLACES[marks])


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    """Measure a test with its own fixtures: processor time of this process and of the children it waited for.

    `make check`, which runs no real test, installs no packages: its tests may start no program that the other targets install.
    """
    before = _processor_time()
    with packages_installed("not real" not in item.config.getoption("markexpr")):
        result = yield
    spent = _processor_time() - before
    _measured[function_id(item)] = max(spent, _measured.get(function_id(item), 0.0))
    return result


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Write what was measured, beside what is known of tests that did not run."""
    if not session.config.getoption("--write-timings"):
        return
    kept = {name: spent for name, spent in _stored().items() if name not in _measured and exists(name)}
    lengthy = {name: round(spent, 2) for name, spent in _measured.items() if spent > LENGTHY_S}
    quick: dict[str, float] = {}
    for name, spent in _measured.items():
        file = name.partition("::")[0]
        quick[file] = quick.get(file, 0.0) + (spent if spent <= LENGTHY_S else 0.0)
    sums = {file: round(spent, 2) for file, spent in quick.items()}
    TIMINGS.write_text(json.dumps(kept | lengthy | sums, indent=0, sort_keys=True) + "\n", encoding="utf-8")


@cache
def stored_timings() -> Mapping[str, float]:
    """Return seconds of processor time by `tests/FILE.py::FUNCTION`, for tests above LENGTHY_S."""
    return {name: spent for name, spent in _stored().items() if "::" in name}


@cache
def quick_seconds() -> Mapping[str, float]:
    """Return by `tests/FILE.py` how many seconds of processor time its tests take that are neither lengthy nor slow nor real."""
    return {name: spent for name, spent in _stored().items() if "::" not in name}


@cache
def _stored() -> Mapping[str, float]:
    stored: dict[str, float] = json.loads(TIMINGS.read_text(encoding="utf-8"))
    return stored


def function_id(item: pytest.Item) -> str:
    """Return the node id without the row of a table."""
    return item.nodeid.partition("[")[0]


def quick_tests(file: Path) -> list[str]:
    """Return the tests of a file that are neither slow nor real nor lengthy by their measured time."""
    body = ast.parse(file.read_bytes()).body
    if any(
        isinstance(node, ast.Assign) and re.search(r"pytest\.mark\.(slow|real)", ast.unparse(node)) for node in body
    ):
        return []
    functions = [node for node in body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    name = file.relative_to(ROOT).as_posix()
    return [
        test.name
        for test in functions
        if test.name.startswith("test_")
        and stored_timings().get(f"{name}::{test.name}", 0.0) <= LENGTHY_S
        and not any(_leaves_out(ast.unparse(mark)) for mark in test.decorator_list)
    ]


@cache
def is_sized(file: Path) -> bool:
    """Return whether the tests of a file are larger in `make soak`."""
    return any(f"from {module} import" in file.read_text(encoding="utf-8") for module in SIZES)


def _leaves_out(mark: str) -> bool:
    return mark.startswith(("pytest.mark.slow", "pytest.mark.real"))


def _processor_time() -> float:
    spent = time.process_time()
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return spent + children.ru_utime + children.ru_stime


def exists(name: str) -> bool:
    """Return whether a test of this `function_id` exists. A state machine's test is `CLASS.TestCase`, without a function."""
    file, _, function = name.partition("::")
    path = ROOT / file
    owner, _, function = function.rpartition("::")
    wanted = f"{owner} =" if function == "runTest" else f"def {function}("
    return path.is_file() and (not function or wanted in path.read_text(encoding="utf-8"))


def first_rows(items: Sequence[pytest.Item]) -> Iterable[pytest.Item]:
    """Yield of each table of cases the first row; what fixtures vary, such as kinds of stores, all stays."""
    first = {_table_of(item): item for item in reversed(items)}
    return [item for item in items if first[_table_of(item)] is item]


def _table_of(item: pytest.Item) -> tuple[str, ...]:
    """Return the same value for all rows of one table of one test, under the same variants of its fixtures."""
    test = function_id(item)
    if not isinstance(item, pytest.Function) or not hasattr(item, "callspec"):
        return (test,)
    columns = {name for mark in item.iter_markers("parametrize") for name in _names(mark.args[0])}
    variants = [f"{name}={index}" for name, index in sorted(item.callspec.indices.items()) if name not in columns]
    return (test, *variants)


def _names(columns: str | Sequence[str]) -> list[str]:
    return [name.strip() for name in columns.split(",")] if isinstance(columns, str) else list(columns)
