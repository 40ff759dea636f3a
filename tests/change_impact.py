"""Which test files a change can affect, how near they are to it, and how many of them fit into a minute.

Loaded by `tests/conftest.py`. Two options of pytest:

--changed-since REV  only test files that can reach a module that differs from git revision REV, by the import graph
--budget-s SECONDS   of these as many as take this processor time by `tests/timings.json`, the nearest ones first

A test file has distance 0 if it differs, or tests the package of a module that differs. Otherwise the distance is one
more than the number of imports between a module that it or its fixtures name and one that differs. A change that no import graph
connects with tests (EVERYTHING), and no change at all, selects every file. What the budget leaves out is counted in one line
at the end. Continuous integration passes neither option.

Files are selected before they are imported: importing all of them takes longer than most selections run. With several workers
the first process selects for all.
"""

from __future__ import annotations

import ast
import re
import subprocess
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any, Final, NamedTuple

import grimp
import pytest

from tests.selection import ROOT, quick_seconds, quick_tests

EVERYTHING: Final = re.compile(
    r"pyproject\.toml|Makefile|requirements.*\.lock|scripts/.*|tests/(conftest|selection|change_impact|environment)\.py|tests/data/.*"
)
"""Changed files that no import graph connects with tests: a change of one of them selects every test."""
LOADED_BY_NAME: Final = {"boltseal.cli.root": "boltseal.cli."}
"""Modules that load others by name at run time, and the names' common beginning."""
DISTANCE_UNKNOWN: Final = 2
IMPORT_S: Final = 0.05
"""Processor time for importing one test file in two workers."""
UNMEASURED_S: Final = 1.0
"""Processor time that a test file without a stored time is expected to take."""


_FROM: Final = re.compile(r"^ *from ((?:boltseal|tests)[\w.]*) import (\([^)]*\)|.+)$", re.MULTILINE)
_IMPORT: Final = re.compile(r"^ *import (tests[\w.]*)", re.MULTILINE)
_SIGNATURE: Final = re.compile(r"\bdef \w+\((.*?)\)\s*(?:->|:)", re.DOTALL)
_USED_FIXTURES: Final = re.compile(r"usefixtures\(([^)]*)\)")


class AffectedFile(NamedTuple):
    """A test file, its distance from the change, and the processor time of its quick tests."""

    name: str
    distance: int
    seconds: float


def within_budget(affected: Iterable[AffectedFile], budget_s: float) -> list[str]:
    """Return the files that fit into a processor time: the nearest first, of the same distance the quickest first.

    Files of distance 0 are returned in any case. A file that does not fit does not keep out a quicker one further away.
    """
    chosen: list[str] = []
    left_s = budget_s
    for each in sorted(affected, key=lambda file: (file.distance, file.seconds, file.name)):
        if each.distance == 0 or each.seconds <= left_s:
            chosen.append(each.name)
            left_s -= each.seconds
    return chosen


class _Plan(NamedTuple):
    """The test files to run. `left_out`: the number of those that the budget leaves out, `left_out_s` their processor time."""

    files: frozenset[str]
    left_out: int
    left_out_s: float


_PLAN: Final = pytest.StashKey[_Plan | None]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--changed-since", metavar="REV", default="", help="only files that can reach what changed since")
    parser.addoption(
        "--budget-s", metavar="SECONDS", type=float, default=0.0, help="processor time of the tests to run"
    )


def pytest_configure(config: pytest.Config) -> None:
    """Select the files, once for all workers."""
    if hasattr(config, "workerinput"):
        files: list[str] | None = config.workerinput["boltseal_files"]
        config.stash[_PLAN] = None if files is None else _Plan(frozenset(files), 0, 0.0)
    else:
        config.stash[_PLAN] = _plan(config)


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Give a worker the selection."""
    plan = node.config.stash[_PLAN]
    node.workerinput["boltseal_files"] = None if plan is None else sorted(plan.files)


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Do not import test files that are not selected."""
    plan = config.stash[_PLAN]
    if plan is None or not collection_path.name.startswith("test_") or collection_path.suffix != ".py":
        return None
    return True if collection_path.relative_to(ROOT).as_posix() not in plan.files else None


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Report in one line what the budget left out."""
    plan = config.stash[_PLAN]
    if plan is not None and plan.left_out:
        terminalreporter.write_line(
            f"{plan.left_out} test files of distant importers ({plan.left_out_s:.0f} s of processor time) are left to make test; "
            "make check HURRY= runs them"
        )


def _plan(config: pytest.Config) -> _Plan | None:
    revision, budget_s = config.getoption("--changed-since"), config.getoption("--budget-s")
    if not revision and not budget_s:
        return None
    affected = list(affected_files(changed_files(revision) if revision else frozenset()))
    chosen = frozenset(within_budget(affected, budget_s) if budget_s else (each.name for each in affected))
    left_out = [each.seconds for each in affected if each.name not in chosen]
    return _Plan(chosen, len(left_out), sum(left_out))


def changed_files(revision: str) -> frozenset[str]:
    """Return the files that differ from a git revision, new ones included, relative to the root of the repository."""
    commands = (
        ("git", "diff", "--name-only", "--no-renames", revision),
        ("git", "ls-files", "--others", "--exclude-standard"),
    )
    outputs = [subprocess.run(each, cwd=ROOT, capture_output=True, text=True, check=True).stdout for each in commands]
    return frozenset(line for output in outputs for line in output.splitlines())


def affected_files(changed: frozenset[str]) -> Iterator[AffectedFile]:
    """Yield the test files that a change of these files can affect; all of them if nothing else is known."""
    everything = not changed or any(map(EVERYTHING.fullmatch, changed))
    distances = _module_distances(changed)
    quick = quick_seconds()
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        name = path.relative_to(ROOT).as_posix()
        distance = _distance(path, name, changed, distances)
        if distance is None and everything:
            distance = DISTANCE_UNKNOWN
        if distance is not None and (name in quick or quick_tests(path)):
            yield AffectedFile(name, distance, IMPORT_S + quick.get(name, UNMEASURED_S))


def _distance(path: Path, name: str, changed: frozenset[str], modules: Mapping[str, int]) -> int | None:
    packages = {_package_of(each.removeprefix("src/boltseal/")) for each in changed if each.startswith("src/boltseal/")}
    if name in changed or _package_of(name.removeprefix("tests/")) in packages:
        return 0
    reached: list[int] = []
    for file in _reachable(path) | _fixture_files(path):
        if file.relative_to(ROOT).as_posix() in changed:
            reached.append(1)
        reached.extend(1 + modules[module] for module in _imports(file) if module in modules)
    if name.startswith("tests/docs/") and any(each.endswith((".md", ".toml")) for each in changed):
        reached.append(1)
    return min(reached, default=None)


def _package_of(name: str) -> str:
    """Return the package of a module, or what a test file tests, by its path; server packages are named in full."""
    parts = name.split("/")[:-1]
    return "/".join(parts[:2] if parts[:1] == ["server"] else parts[:1]) or name.removeprefix("test_")


def _module_distances(changed: frozenset[str]) -> dict[str, int]:
    """Return modules by how many imports they are away from a module that changed."""
    graph = grimp.build_graph("boltseal", cache_dir=None)  # its cache can be stale: after a checkout it lacked imports
    for loader, beginning in LOADED_BY_NAME.items():
        for module in graph.modules:
            if module.startswith(beginning) and module != loader:
                graph.add_import(importer=loader, imported=module)
    at = {_module_of(name) for name in changed if name.startswith("src/")} & graph.modules
    distances: dict[str, int] = {}
    while at:
        distances.update(dict.fromkeys(at, max(distances.values(), default=-1) + 1))
        at = {each for module in at for each in graph.find_modules_that_directly_import(module)} - distances.keys()
    return distances


def _fixture_files(file: Path) -> frozenset[Path]:
    """Return the files of the fixtures that a test file names, directly or by others, and their helpers.

    Fixtures that begin with `_` are for every test, and are left out.
    """
    found: set[Path] = set()
    seen: set[str] = set()
    waiting = {name for helper in _reachable(file) for name in _parameters(helper)}
    while waiting:
        name = waiting.pop()
        seen.add(name)
        for at, parameters in _shared_fixtures().get(name, ()):
            if not name.startswith("_") and (at.name != "conftest.py" or file.is_relative_to(at.parent)):
                found |= _reachable(at)
                waiting |= parameters - seen
    return frozenset(found)


@cache
def _shared_fixtures() -> dict[str, list[tuple[Path, frozenset[str]]]]:
    """Return by the name of a fixture the files outside of test modules that define it, and the fixtures it needs."""
    found: dict[str, list[tuple[Path, frozenset[str]]]] = {}
    for file in (ROOT / "tests").rglob("*.py"):
        if not file.name.startswith("test_") and "pytest.fixture" in file.read_text(encoding="utf-8"):
            for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
                if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and any(
                    "pytest.fixture" in ast.unparse(each) for each in node.decorator_list
                ):
                    found.setdefault(node.name, []).append((file, frozenset(_arguments(node))))
    return found


@cache
def _parameters(file: Path) -> frozenset[str]:
    """Return the names of all parameters of a file's functions, and of the fixtures that its marks name."""
    text = file.read_text(encoding="utf-8")
    named = {name for each in _USED_FIXTURES.findall(text) for name in re.findall(r"""["'](\w+)["']""", each)}
    return frozenset(named.union(*(re.findall(r"(\w+)\s*:", each) for each in _SIGNATURE.findall(text))))


def _arguments(node: ast.FunctionDef | ast.AsyncFunctionDef) -> set[str]:
    return {each.arg for each in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)}


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
    found = {*re.findall(r"\bboltseal(?:\.\w+)+", text), *_IMPORT.findall(text)}
    for module, names in _FROM.findall(text):
        found |= {module, *(f"{module}.{name}" for name in re.findall(r"\w+", names))}
    if re.search(r"""["']-m["'], *["']boltseal["']|bin/boltseal""", text):
        found.add("boltseal.__main__")
    return frozenset(found)


def _module_of(name: str) -> str:
    """Return the dotted name of a file below `src/`."""
    return name.removeprefix("src/").removesuffix(".py").removesuffix("/__init__").replace("/", ".")
