"""No test is left out by accident: by its folder's name, by `make check` with its whole package, or by all of `make test`,
`make test-engines`, `make test-stores`, `make test-storage`, `make test-faults`, `make test-kube`, `make test-replicas` and
`make test-browser`.
"""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from fnmatch import fnmatch
from itertools import permutations
from pathlib import Path

import pytest

from tests.scheduling import stored_durations
from tests.selection import (
    BROWSER_TESTS,
    ENGINE_TESTS,
    FAULT_TESTS,
    KUBE_TESTS,
    REPLICA_TESTS,
    STORAGE_TESTS,
    STORE_TESTS,
    exists,
    is_elsewhere,
    quick_tests,
    stored_timings,
)
from tests.storage_option import CHOSEN_BY_TEST

TESTS = Path(__file__).parent
PACKAGES = sorted(
    folder.name for folder in TESTS.parent.joinpath("src/boltseal").iterdir() if (folder / "__init__.py").is_file()
)

ENGINES_ELSEWHERE = {
    "compatibility/make.py": "makes the data of a release; run by hand",
    "real/conftest.py": "docker, podman and containerd as clients that push and pull",
    "real/test_client_configuration.py": "docker login",
    "real/test_mirror.py": "docker and containerd pull through the mirror that they are configured for",
}
"""Files that start an engine outside ENGINE_TESTS and STORE_TESTS."""
TARGETS = (
    "test",
    "test-engines",
    "test-stores",
    "test-faults",
    "test-replicas",
    "test-kube",
    "test-storage",
    "test-browser",
)
"""The targets of the Makefile that together run every test."""
AGAIN = "test-postgres"
"""The target that runs some of them again, on PostgreSQL and an S3 server."""


def test_no_folder_of_tests_has_a_name_that_pytest_skips(pytestconfig: pytest.Config) -> None:
    """No folder of tests has a name in pytest's list of skipped folders, which has `build` by default."""
    skipped: list[str] = pytestconfig.getini("norecursedirs")
    folders = {
        above.name for file in TESTS.rglob("test_*.py") for above in file.relative_to(TESTS).parents if above.name
    }

    assert {"build", "server"} <= folders
    assert not [name for name in folders if any(fnmatch(name, pattern) for pattern in skipped)]


def test_every_package_has_tests_for_a_quick_check() -> None:
    """`make check` runs tests of each package of boltseal."""
    without = [each for each in PACKAGES if not any(map(quick_tests, TESTS.joinpath(each).rglob("test_*.py")))]

    assert len(PACKAGES) > 12
    assert without == []


def test_a_test_is_lengthy_by_its_measured_time_only() -> None:
    """No test is marked `lengthy` by hand, because such a mark stays when the test becomes fast."""
    by_hand = re.compile(r"^@pytest\.mark\.lengthy|^pytestmark = .*lengthy", re.MULTILINE)

    assert [path.name for path in TESTS.rglob("test_*.py") if by_hand.search(path.read_text())] == []


def test_every_test_is_run_by_exactly_one_target() -> None:
    """The targets of tests run pytest with the same options but `-m`, and no test is in two of the places that they run."""
    found = [_pytest_of(target) for target in TARGETS]
    (_, others), *_ = found
    places = (*ENGINE_TESTS, *STORE_TESTS, *FAULT_TESTS, *REPLICA_TESTS, *KUBE_TESTS, *STORAGE_TESTS, *BROWSER_TESTS)

    assert [marks for marks, _ in found] == [
        "not engine and not store and not fault and not replicas and not kube and not storage and not browser",
        "engine",
        "store",
        "fault",
        "replicas",
        "kube",
        "storage",
        "browser",
    ]
    assert [each for _, each in found] == [others] * len(TARGETS)
    assert not [one for one, other in permutations(places, 2) if one.startswith(other)]
    assert not [word for word in others if word.startswith(("tests", "--ignore", "--deselect", "-k", "-m"))]


def test_continuous_integration_runs_every_target_of_tests_once() -> None:
    """The Makefile has no other targets of tests, and .ci/run makes each of them in one stage."""
    made = re.findall(
        r"^(test[a-z-]*): \$", TESTS.parent.joinpath("Makefile").read_text(encoding="utf-8"), re.MULTILINE
    )
    ci = TESTS.parent.joinpath(".ci/run").read_text(encoding="utf-8")
    stages = re.findall(r'^stage ".*?" "\$whole" (.*)', ci, re.MULTILINE)

    assert sorted(made) == sorted((*TARGETS, AGAIN))
    made_there = [word for stage in stages for word in stage.split() if word.startswith("test")]
    assert sorted(made_there) == sorted((*TARGETS, AGAIN))


def test_a_test_is_about_engines_by_its_place_only() -> None:
    """The places exist, no test is marked by hand, and no engine is started elsewhere, but for named reasons."""
    files = {path.relative_to(TESTS).as_posix(): path.read_text() for path in TESTS.rglob("*.py")}
    starting = [name for name, text in files.items() if re.search(r"\bservers\.(dockerd|podman|containerd)\(", text)]

    places = (*ENGINE_TESTS, *STORE_TESTS, *FAULT_TESTS, *REPLICA_TESTS, *KUBE_TESTS, *STORAGE_TESTS, *BROWSER_TESTS)
    assert [place for place in places if not any(f"tests/{name}".startswith(place) for name in files)] == []
    assert not [
        name
        for name, text in files.items()
        if re.search(r"mark\.(engine|store|fault|replicas|kube|storage|browser)\b", text)
    ]
    assert {name for name in starting if not f"tests/{name}".startswith(places)} == set(ENGINES_ELSEWHERE)


def test_no_other_test_starts_a_database_or_an_object_store() -> None:
    """Outside the places of their marks only contracts start PostgreSQL or an S3 server, which run on every implementation."""
    places = (*STORAGE_TESTS, *FAULT_TESTS, *REPLICA_TESTS, "tests/contracts/")
    words = re.compile(
        rf"\b({'|'.join([*CHOSEN_BY_TEST, 'postgres', 'seaweedfs', 'radosgw'])})\(|def test_.*\b({'|'.join(CHOSEN_BY_TEST)})\b"
    )
    files = {path.relative_to(TESTS.parent).as_posix(): path.read_text() for path in TESTS.rglob("test_*.py")}

    assert [name for name, text in files.items() if words.search(text) and not name.startswith(places)] == []


def test_only_files_in_the_places_of_a_mark_are_imported_for_it() -> None:
    """`-m engine`, `-m store` and `-m storage` import the files in their places, and all other expressions import every file."""
    files = [path.relative_to(TESTS.parent).as_posix() for path in TESTS.rglob("test_*.py")]

    for mark, places in (("engine", ENGINE_TESTS), ("store", STORE_TESTS), ("storage", STORAGE_TESTS)):
        imported = {file for file in files if not is_elsewhere(file, mark)}
        assert imported == {file for file in files if file.startswith(places)}
        assert imported
    for marks in ("", "not engine and not store and not fault", "engine or store", "real"):
        assert not [file for file in files if is_elsewhere(file, marks)]


def test_every_file_with_a_stored_duration_exists() -> None:
    """Each file in durations.json exists, so that a renamed file keeps its duration."""
    assert [file for file in stored_durations() if not TESTS.parent.joinpath(file).is_file()] == []


@pytest.mark.slow
def test_a_slow_file_that_was_never_measured_comes_first(tmp_path: Path) -> None:
    """Workers start with slow files without a stored duration, since one of them may take longest."""
    for name, mark in (("a", ""), ("b", "@pytest.mark.slow\n"), ("c", "")):
        (tmp_path / f"test_{name}.py").write_text(f"import pytest\n\n{mark}def test_it():\n    pass\n")
    options = ("-p", "tests.scheduling", "-p", "no:cacheprovider", "-n", "1", "--dist", "loadfile")
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-v", "--no-loadscope-reorder", *options, "--rootdir", tmp_path, tmp_path],
        cwd=TESTS.parent,
        capture_output=True,
        text=True,
        check=True,
    )

    assert re.findall(r"PASSED .*test_(\w)\.py", run.stdout) == ["b", "a", "c"]


def test_every_measured_test_exists() -> None:
    """Each test in timings.json exists, so that a stored time follows a renamed test."""
    timings = stored_timings()

    assert len(timings) > 100
    assert [name for name in timings if not exists(name)] == []


@pytest.mark.slow
def test_one_row_of_each_table_is_kept() -> None:
    """With --one-row every test function stays, with every kind of store that parametrizes a fixture."""
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


def _pytest_of(target: str) -> tuple[str, list[str]]:
    """Return the expression of a target's `-m`, and the other words of its command."""
    makefile = TESTS.parent.joinpath("Makefile").read_text(encoding="utf-8")
    recipe = re.search(rf"^{target}: .*\n((?:\t.*\n)+)", makefile, re.MULTILINE)
    assert recipe is not None
    (command,) = (line for line in recipe[1].splitlines() if "$(PYTEST) -m" in line)
    words = shlex.split(command.partition("$(PYTEST)")[2])
    at = words.index("-m")
    return words[at + 1], words[:at] + words[at + 2 :]
