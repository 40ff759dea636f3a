"""A rollback on a branch of git holds what it took back: `update` in a clone of the branch does not deploy it again."""

from __future__ import annotations

import os
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from tests.real.compose_project import ComposeProject, ProjectOn
from tests.real.tools import Docker

pytestmark = pytest.mark.real

NAMED = {"GIT_AUTHOR_NAME": "A", "GIT_AUTHOR_EMAIL": "a@b", "GIT_COMMITTER_NAME": "A", "GIT_COMMITTER_EMAIL": "a@b"}


@pytest.fixture(autouse=True)
def _no_settings_of_this_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("GIT_")]:
        monkeypatch.delenv(name)
    for name, value in {**NAMED, "HOME": str(tmp_path)}.items():
        monkeypatch.setenv(name, value)


def git(folder: Path, *arguments: str) -> None:
    subprocess.run(["git", *arguments], cwd=folder, check=True, capture_output=True)


def on_branch(shop: ComposeProject, *words: str) -> None:
    """Run a command on the branch `production`, and require success."""
    done = shop.run(*words, "--git-branch", "production")
    assert done.code == 0, done.err


def deployed(clone: ComposeProject) -> dict[str, str]:
    """Deploy what the branch has now from the clone, and return what runs."""
    git(clone.root, "pull", "--quiet", "--ff-only")
    done = clone.run("deploy")
    assert done.code == 0, done.err
    return clone.words()


def test_update_in_a_clone_leaves_what_a_rollback_took_back(
    docker: Docker, project_on: ProjectOn, tmp_path: Path
) -> None:
    """The tag resolves to the held image, and `update` leaves the restored one until the hold is ended on the branch."""
    shop = project_on(docker)
    shop.publish("edge", "edge 1")
    shop.web("edge")
    git(shop.root, "init", "--quiet", "--initial-branch=main")
    git(shop.root, "add", "compose.yaml")
    git(shop.root, "commit", "--quiet", "-m", "First")
    on_branch(shop, "deploy")
    git(tmp_path, "clone", "--quiet", "--branch", "production", str(shop.root), "clone")
    clone = replace(shop, root=tmp_path / "clone")
    first = deployed(clone)
    shop.publish("edge", "edge 2")
    on_branch(shop, "deploy", "--update")
    second = deployed(clone)
    on_branch(shop, "rollback")
    third = deployed(clone)
    held = clone.run("update", "--json")
    kept = clone.words()
    on_branch(shop, "release", "hold", "--end")
    git(clone.root, "pull", "--quiet", "--ff-only")
    taken = clone.run("update")

    assert [each["web"] for each in (first, second, third, kept)] == ["edge 1", "edge 2", "edge 1", "edge 1"]
    assert held.code == 0, held.err
    assert [(each["status"], "boltseal.holds" in each["reason"]) for each in held.json["results"]] == [
        ("nothing", True)
    ]
    assert (taken.code, clone.words()) == (0, {"web": "edge 2"}), taken.err
