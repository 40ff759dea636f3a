"""Which files a project consists of, where Compose is told none."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from boltseal.deploy.compose_program import ProjectFiles
from boltseal.deploy.project_files import NoProject, named_files, overrides_of


def found(folder: Path, environment: dict[str, str] | None = None) -> list[str]:
    named = named_files(ProjectFiles(folder), environment or {})
    return [path.relative_to(folder).as_posix() for path in named.files]


def write(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).write_text("services: {}\n")


def test_the_first_of_four_names_counts_with_its_override(tmp_path: Path) -> None:
    """As Compose has it: compose.yaml before docker-compose.yml, and one override."""
    write(tmp_path, "docker-compose.yml", "compose.yaml", "compose.override.yaml", "docker-compose.override.yml")

    assert found(tmp_path) == ["compose.yaml", "compose.override.yaml"]


def test_a_folder_above_is_looked_at_where_there_is_nothing(tmp_path: Path) -> None:
    """The nearest one counts."""
    write(tmp_path, "compose.yaml")
    below = tmp_path / "a/b"
    below.mkdir(parents=True)

    assert named_files(ProjectFiles(below), {}).files == (tmp_path / "compose.yaml",)


def test_compose_file_of_the_env_file_or_the_environment_wins(tmp_path: Path) -> None:
    """The environment before `.env`; several are separated by a colon."""
    write(tmp_path, "compose.yaml", "one.yml", "two.yml")
    (tmp_path / ".env").write_text("COMPOSE_FILE=one.yml:two.yml\n")

    assert found(tmp_path) == ["one.yml", "two.yml"]
    assert found(tmp_path, {"COMPOSE_FILE": "two.yml"}) == ["two.yml"]


def test_an_env_file_that_is_no_file_keeps_nobody_waiting(tmp_path: Path) -> None:
    """A pipe that nobody writes to would be read for ever."""
    write(tmp_path, "compose.yaml")
    os.mkfifo(tmp_path / ".env")

    assert found(tmp_path) == ["compose.yaml"]


def test_what_is_not_there_is_said(tmp_path: Path) -> None:
    """No project, a file that is named and missing, standard input."""
    for files in ((), (Path("other.yaml"),), (Path("-"),)):
        with pytest.raises(NoProject):
            named_files(ProjectFiles(tmp_path, files), {})


def test_an_override_beside_a_file_that_is_named_is_told_of(tmp_path: Path) -> None:
    """Compose reads it only where it is told no file at all."""
    write(tmp_path, "compose.yaml", "compose.override.yaml")

    assert overrides_of([tmp_path / "compose.yaml"]) == [tmp_path / "compose.override.yaml"]
    assert overrides_of([tmp_path / "compose.yaml", tmp_path / "compose.override.yaml"]) == []
