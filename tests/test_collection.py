"""No test is left out by accident: not by its folder's name, and no room by `make check`."""

from __future__ import annotations

import ast
import subprocess
import sys
from fnmatch import fnmatch
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
ROOMS = sorted(
    folder.name for folder in TESTS.parent.joinpath("src/boltseal").iterdir() if (folder / "__init__.py").is_file()
)


def test_no_folder_of_tests_has_a_name_that_pytest_passes_over(pytestconfig: pytest.Config) -> None:
    """As its own list does with `build`: whoever names no folder would never see those tests fail."""
    passed_over: list[str] = pytestconfig.getini("norecursedirs")
    folders = {
        above.name for file in TESTS.rglob("test_*.py") for above in file.relative_to(TESTS).parents if above.name
    }

    assert {"build", "server"} <= folders
    assert not [name for name in folders if any(fnmatch(name, pattern) for pattern in passed_over)]


def test_every_room_has_tests_for_a_quick_check() -> None:
    """`make check` speaks for the whole house, or it says nothing."""
    without = [room for room in ROOMS if not any(map(_quick_tests, TESTS.joinpath(room).rglob("test_*.py")))]

    assert len(ROOMS) > 12
    assert without == []


@pytest.mark.slow
def test_one_row_stands_for_its_table_and_for_no_other_test() -> None:
    """Every function stays, and every kind of store that a fixture goes through."""
    files = ("tests/deploy/test_restore.py", "tests/test_config.py")
    whole, cut = _collected(*files), _collected("--one-row", *files)

    assert cut < whole
    assert {name.partition("[")[0] for name in cut} == {name.partition("[")[0] for name in whole}
    by_number = [name for name in cut if "test_an_image_is_selected_by_number_or_digest[" in name]
    assert sorted(store for store in ("classic", "containerd", "podman") for name in by_number if store in name) == [
        "classic",
        "containerd",
        "podman",
    ]
    assert len(by_number) == 3


def _collected(*arguments: str) -> set[str]:
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "--collect-only", "-q", *arguments],
        cwd=TESTS.parent,
        capture_output=True,
        text=True,
        check=True,
    )
    return {line for line in run.stdout.splitlines() if "::" in line}


def _quick_tests(file: Path) -> list[str]:
    """The tests of a file that are neither lengthy nor slow nor real."""
    body = ast.parse(file.read_bytes()).body
    if any(isinstance(node, ast.Assign) and "pytest.mark." in ast.unparse(node) for node in body):
        return []
    functions = [node for node in body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    tests = [node for node in functions if node.name.startswith("test_")]
    return [test.name for test in tests if not any(_leaves_out(ast.unparse(mark)) for mark in test.decorator_list)]


def _leaves_out(mark: str) -> bool:
    return mark.startswith(("pytest.mark.lengthy", "pytest.mark.slow", "pytest.mark.real"))
