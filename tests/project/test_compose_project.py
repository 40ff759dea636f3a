"""The name that Compose gives a project, compared with Compose itself where it is available."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from boltseal.files.named_files import FileMissing
from boltseal.project.compose_name import ComposeProjectInvalid, compose_project
from boltseal.project.source_files import MAX_FILE_BYTES
from tests.programs import program


def written(folder: Path, text: str, env: str | None = None) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "compose.yaml").write_text(text)
    if env is not None:
        (folder / ".env").write_text(env)
    return folder / "compose.yaml"


ONE_SERVICE = "services: {web: {image: a}}\n"


@pytest.mark.parametrize(
    ("folder", "text", "env", "name"),
    [
        ("shop", ONE_SERVICE, None, "shop"),
        ("My Shop_2.0", ONE_SERVICE, None, "myshop_20"),
        ("__shop", ONE_SERVICE, None, "shop"),
        ("shop", f"name: other\n{ONE_SERVICE}", "COMPOSE_PROJECT_NAME=third\n", "third"),
        ("shop", f"name: other\n{ONE_SERVICE}", None, "other"),
        ("shop", ONE_SERVICE, "COMPOSE_PROJECT_NAME=third\n", "third"),
        ("shop", f"name: ${{STAGE:-dev}}-shop\n{ONE_SERVICE}", None, "dev-shop"),
        ("shop", f"name: ${{STAGE}}-shop\n{ONE_SERVICE}", "STAGE=prod\n", "prod-shop"),
    ],
)
@pytest.mark.real
def test_the_project_has_the_name_that_compose_gives_it(
    tmp_path: Path, folder: str, text: str, env: str | None, name: str
) -> None:
    """The project's name is from the file, the `.env` beside it, or the folder, as in Compose."""
    file = written(tmp_path / folder, text, env)
    docker = subprocess.run(
        [program("docker-compose"), "-f", file, "config", "--format", "json"],
        capture_output=True,
        check=True,
        env={"PATH": "/usr/bin:/bin", "HOME": str(tmp_path)},
        cwd=file.parent,
    )

    assert compose_project(file).name == name == json.loads(docker.stdout)["name"]
    assert compose_project(file.parent).name == name


def test_the_services_that_should_run_are_listed(tmp_path: Path) -> None:
    """Services of a profile, and those with zero replicas, are not expected to run."""
    services = {
        "web": {"image": "a"},
        "built": {"build": "."},
        "debug": {"image": "b", "profiles": ["x"]},
        "none": {"image": "c", "scale": 0},
        "replicas": {"image": "d", "deploy": {"replicas": 0}},
        "two": {"image": "d", "deploy": {"replicas": 2}},
    }

    assert compose_project(written(tmp_path / "shop", json.dumps({"services": services}))).services == (
        "web",
        "built",
        "two",
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("services: [", "compose.yaml"),
        ("name: ${NOBODY}\n", "can't be evaluated"),
        ("name: '../etc'\n", "is not a valid project name"),
        ("name: Shop\n", "is not a valid project name"),
        ("\0", "contains a NUL byte"),
    ],
)
def test_an_invalid_file_is_refused(tmp_path: Path, text: str, message: str) -> None:
    """An invalid Compose file is refused in one line."""
    with pytest.raises(ComposeProjectInvalid, match=message):
        compose_project(written(tmp_path / "shop", text))


def test_an_empty_file_is_a_project_without_services(tmp_path: Path) -> None:
    """An empty Compose file is a project without services, named after its folder."""
    found = compose_project(written(tmp_path / "shop", ""))

    assert (found.name, found.services) == ("shop", ())


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    """A missing Compose file or folder is refused."""
    with pytest.raises(FileMissing, match="no such file or folder"):
        compose_project(tmp_path)


def test_a_large_file_is_refused(tmp_path: Path) -> None:
    """A Compose file over the size limit is refused before it is read to its end."""
    file = written(tmp_path / "shop", ONE_SERVICE)
    os.truncate(file, MAX_FILE_BYTES + 1)

    with pytest.raises(ComposeProjectInvalid, match=f"more than {MAX_FILE_BYTES} bytes"):
        compose_project(file)
