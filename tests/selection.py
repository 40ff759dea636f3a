"""Which tests a target of the Makefile runs: marks from places and measured times, one row of each table, what changed.

Loaded by `tests/conftest.py`. Three options of pytest, independent of each other:

--one-row              of each table of cases only the first row
--changed-since REV    only tests that can reach a module that differs from git revision REV, by the import graph
--write-timings        measure every test that runs and store its processor time in `tests/timings.json`

A test whose stored processor time exceeds LENGTHY_S gets the mark `lengthy`. A test without a stored time gets none.
A test that is marked `real` gets the mark `engine` in one of ENGINE_TESTS, and `store` in one of STORE_TESTS.
"""

from __future__ import annotations

import ast
import json
import re
import resource
import subprocess
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Final

import grimp
import pytest

ROOT: Final = Path(__file__).parent.parent
TIMINGS: Final = ROOT / "tests/timings.json"
LENGTHY_S: Final = 0.1
"""Processor time, in seconds, above which a quick check leaves a test out."""
ENGINE_TESTS: Final = ("tests/distribution/test_image.py", "tests/real/engines/")
"""Where real container engines build, run and keep images: `make test-engines` runs these."""
STORE_TESTS: Final = ("tests/attacks/scrub/",)
"""Where the stores of container engines on disk are checked: `make test-stores` runs these, `make test` all others."""
EVERYTHING: Final = re.compile(
    r"pyproject\.toml|Makefile|requirements.*\.lock|scripts/.*|tests/conftest\.py|tests/selection\.py|tests/environment\.py|tests/data/.*"
)
"""Changed files that no import graph connects with tests: a change of one of them selects every test."""
LOADED_BY_NAME: Final = {"boltseal.cli.root": "boltseal.cli."}
"""Modules that load others by name at run time, and the names' common beginning."""

_measured: dict[str, float] = {}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--one-row", action="store_true", help="of each table of cases only the first row")
    parser.addoption("--changed-since", metavar="REV", default="", help="only tests that can reach what changed since")
    parser.addoption("--write-timings", action="store_true", help="store processor times in tests/timings.json")


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> Iterator[None]:
    """Mark lengthy tests and drop what a change can't reach; after pytest's own `-m`, drop rows of tables."""
    timings = stored_timings()
    for item in items:
        if timings.get(function_id(item), 0.0) > LENGTHY_S:
            item.add_marker(pytest.mark.lengthy)
        if item.get_closest_marker("real") is not None and item.nodeid.startswith(ENGINE_TESTS):
            item.add_marker(pytest.mark.engine)
        if item.get_closest_marker("real") is not None and item.nodeid.startswith(STORE_TESTS):
            item.add_marker(pytest.mark.store)
    revision = config.getoption("--changed-since")
    changed = changed_files(revision) if revision else frozenset()
    if changed and not any(map(EVERYTHING.fullmatch, changed)):
        _keep(config, items, filter(_Reach(changed).by, list(items)))
    yield  # after -m another row may be the first
    if config.getoption("--one-row"):
        _keep(config, items, first_rows(items))


def _keep(config: pytest.Config, items: list[pytest.Item], wanted: Iterable[pytest.Item]) -> None:
    kept = list(wanted)
    config.hook.pytest_deselected(items=[item for item in items if item not in set(kept)])
    items[:] = kept


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    """Measure a test with its own fixtures: processor time of this process and of the children it waited for."""
    before = _processor_time()
    result = yield
    spent = _processor_time() - before
    _measured[function_id(item)] = max(spent, _measured.get(function_id(item), 0.0))
    return result


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Write what was measured, beside what is known of tests that did not run."""
    if not session.config.getoption("--write-timings"):
        return
    kept = {name: spent for name, spent in stored_timings().items() if name not in _measured and exists(name)}
    lengthy = {name: round(spent, 2) for name, spent in _measured.items() if spent > LENGTHY_S}
    TIMINGS.write_text(json.dumps(kept | lengthy, indent=0, sort_keys=True) + "\n", encoding="utf-8")


@cache
def stored_timings() -> Mapping[str, float]:
    """Return seconds of processor time by `tests/FILE.py::FUNCTION`, for tests above LENGTHY_S."""
    stored: dict[str, float] = json.loads(TIMINGS.read_text(encoding="utf-8"))
    return stored


def function_id(item: pytest.Item) -> str:
    """Return the node id without the row of a table."""
    return item.nodeid.partition("[")[0]


def changed_files(revision: str) -> frozenset[str]:
    """Return the files that differ from a git revision, new ones included, relative to the root of the repository."""
    commands = (
        ("git", "diff", "--name-only", "--no-renames", revision),
        ("git", "ls-files", "--others", "--exclude-standard"),
    )
    outputs = [subprocess.run(each, cwd=ROOT, capture_output=True, text=True, check=True).stdout for each in commands]
    return frozenset(line for output in outputs for line in output.splitlines())


class _Reach:
    """The tests that a set of changed files can affect."""

    def __init__(self, changed: frozenset[str]) -> None:
        self._changed = changed
        graph = grimp.build_graph("boltseal", cache_dir=str(ROOT / ".import_linter_cache"))
        for loader, beginning in LOADED_BY_NAME.items():
            for module in graph.modules:
                if module.startswith(beginning) and module != loader:
                    graph.add_import(importer=loader, imported=module)
        modules = {_module_of(name) for name in changed if name.startswith("src/")} & graph.modules
        self._modules = modules.union(*(graph.find_downstream_modules(module) for module in modules))

    def by(self, item: pytest.Item) -> bool:
        """Return whether a test, its helpers or its fixtures import a module that changed or imports one."""
        files = {Path(item.path), *_fixture_files(item)}
        reachable = frozenset(each for file in files for each in _reachable(file))
        if any(file.relative_to(ROOT).as_posix() in self._changed for file in reachable):
            return True
        if self._modules & {module for file in reachable for module in _imports(file)}:
            return True
        pages = any(name.endswith((".md", ".toml")) for name in self._changed)
        return pages and item.nodeid.startswith("tests/docs/")


def _fixture_files(item: pytest.Item) -> Iterator[Path]:
    """Yield the files of the fixtures that a test names, directly or by others; not of those that every test has."""
    info = getattr(item, "_fixtureinfo", None)
    for name, definitions in getattr(info, "name2fixturedefs", {}).items():
        if name.startswith("_"):
            continue
        for definition in definitions:
            file = Path(definition.func.__code__.co_filename)
            if file.is_relative_to(ROOT / "tests"):
                yield file


@cache
def _reachable(file: Path) -> frozenset[Path]:
    """Return a test file and the helpers that it imports, directly or by others."""
    seen: set[Path] = set()
    waiting = [file]
    while waiting:
        at = waiting.pop()
        if at not in seen:
            seen.add(at)
            waiting.extend(
                found
                for name in _imports(at)
                if name.startswith("tests.") and (found := ROOT / (name.replace(".", "/") + ".py")).is_file()
            )
    return frozenset(seen)


@cache
def _imports(file: Path) -> frozenset[str]:
    """Return the modules of `boltseal` and `tests` that a file names: in imports, and in programs that it starts."""
    text = file.read_text(encoding="utf-8")
    found = set(re.findall(r"\bboltseal(?:\.\w+)+", text))
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ImportFrom) and node.module is not None:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    if re.search(r"""["']-m["'], *["']boltseal["']|bin/boltseal""", text):
        found.add("boltseal.__main__")
    return frozenset(found)


def _module_of(name: str) -> str:
    """Return the dotted name of a file below `src/`."""
    return name.removeprefix("src/").removesuffix(".py").removesuffix("/__init__").replace("/", ".")


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
    return path.is_file() and wanted in path.read_text(encoding="utf-8")


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
