"""The lock files of dependencies list every package with its hashes, and no package index."""

from __future__ import annotations

import re
import tomllib

import pytest

from tests.docs.pages import text
from tests.programs import BENCH_PACKAGES, PACKAGES

LOCKS = ("requirements.lock", "requirements-dev.lock")


def pinned(lock: str) -> dict[str, str]:
    """Return each package's version."""
    pins = re.findall(r"^([a-z0-9-]+)==(\S+)", text(lock), re.MULTILINE)
    return dict(pins)


def normal(requirement: str) -> str:
    found = re.match(r"[A-Za-z0-9._-]+", requirement)

    assert found is not None
    return re.sub(r"[-_.]+", "-", found[0]).lower()


@pytest.mark.parametrize("lock", [*LOCKS, "tests/data/pipelines/requirements.lock"])
def test_a_lock_has_a_hash_for_every_file_and_names_no_host(lock: str) -> None:
    """Every locked file has a hash, and no host is named, so that the user chooses the index."""
    entries = re.split(r"\n(?=\S)", text(lock).strip())

    assert len(entries) > 10
    assert all(re.fullmatch(r"[a-z0-9-]+==\S+.*(\n    --hash=sha256:[0-9a-f]{64}( \\)?)+", e) for e in entries)
    assert "://" not in text(lock)
    assert "index" not in text(lock)


def test_the_development_lock_contains_the_runtime_lock() -> None:
    """The development lock has the versions of the runtime lock, so tests run what users run."""
    run, work = pinned("requirements.lock"), pinned("requirements-dev.lock")

    assert run.items() <= work.items()


def test_every_dependency_is_locked() -> None:
    """Each dependency, also of the extras, is locked, since a fresh machine installs from the lock only."""
    project = tomllib.loads(text("pyproject.toml"))
    extras = project["project"]["optional-dependencies"]
    wanted = {normal(r) for group in (project["project"]["dependencies"], *extras.values()) for r in group}
    groups = {name: {normal(r) for r in group} for name, group in project["dependency-groups"].items()}
    built = {normal(requirement) for requirement in project["build-system"]["requires"]}

    assert wanted | groups["build"] | built <= set(pinned("requirements.lock"))
    assert wanted | groups["build"] | groups["dev"] <= set(pinned("requirements-dev.lock"))
    assert groups["pipelines"] <= set(pinned("tests/data/pipelines/requirements.lock"))


def test_the_install_script_covers_every_program_that_tests_start() -> None:
    """scripts/test-packages installs every program that a test starts, so that no test is skipped."""
    listed = re.search(r"^packages=\((.*?)^\)", text("scripts/test-packages"), re.MULTILINE | re.DOTALL)

    assert listed is not None
    names = set(re.sub(r"#.*", "", listed[1]).split())
    wanted = set((PACKAGES | BENCH_PACKAGES).values())

    assert wanted - names <= {"nginx"}  # nginx-light depends on it
