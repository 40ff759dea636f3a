"""Which files Compose reads without `-f`."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from boltseal.deploy.compose_program import ProjectFiles
from boltseal.deploy.project_files import NoProject, named_files, overrides_of
from boltseal.files.named_files import FileMissing


def found(folder: Path, environment: dict[str, str] | None = None) -> list[str]:
    named = named_files(ProjectFiles(folder), environment or {})
    return [path.relative_to(folder).as_posix() for path in named.files]


def write(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).write_text("services: {}\n")


def test_the_first_of_four_names_counts_with_its_override(tmp_path: Path) -> None:
    """As in Compose, compose.yaml precedes docker-compose.yml, and one override file applies."""
    write(tmp_path, "docker-compose.yml", "compose.yaml", "compose.override.yaml", "docker-compose.override.yml")

    assert found(tmp_path) == ["compose.yaml", "compose.override.yaml"]


def test_parent_folders_are_searched(tmp_path: Path) -> None:
    """As in Compose, the nearest parent folder with a project is used."""
    write(tmp_path, "compose.yaml")
    below = tmp_path / "a/b"
    below.mkdir(parents=True)

    assert named_files(ProjectFiles(below), {}).files == (tmp_path / "compose.yaml",)


def test_compose_file_takes_precedence(tmp_path: Path) -> None:
    """COMPOSE_FILE of the environment precedes that of `.env`; a colon separates several files."""
    write(tmp_path, "compose.yaml", "one.yml", "two.yml")
    (tmp_path / ".env").write_text("COMPOSE_FILE=one.yml:two.yml\n")

    assert found(tmp_path) == ["one.yml", "two.yml"]
    assert found(tmp_path, {"COMPOSE_FILE": "two.yml"}) == ["two.yml"]


def test_a_pipe_as_env_file_does_not_block(tmp_path: Path) -> None:
    """A pipe as the env file is refused, because reading it would never end."""
    write(tmp_path, "compose.yaml")
    os.mkfifo(tmp_path / ".env")

    assert found(tmp_path) == ["compose.yaml"]


def test_missing_files_are_reported(tmp_path: Path) -> None:
    """A missing project, a missing named file, and standard input are reported."""
    for files, error in (((), NoProject), ((Path("other.yaml"),), FileMissing), ((Path("-"),), NoProject)):
        with pytest.raises(error):
            named_files(ProjectFiles(tmp_path, files), {})


def test_an_override_beside_a_named_file_is_reported(tmp_path: Path) -> None:
    """An override beside a file named by `-f`, which Compose would ignore, is reported."""
    write(tmp_path, "compose.yaml", "compose.override.yaml")

    assert overrides_of([tmp_path / "compose.yaml"]) == [tmp_path / "compose.override.yaml"]
    assert overrides_of([tmp_path / "compose.yaml", tmp_path / "compose.override.yaml"]) == []


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("job.nomad", 'job "a" {}\n'),
        ("job.hcl", 'job "a" {}\n'),
        ("job.nomad.json", '{"Job": {"TaskGroups": [{"Tasks": []}]}}\n'),
        ("job.json", '{"TaskGroups": [{"Tasks": []}]}\n'),
    ],
)
def test_a_nomad_job_is_not_deployed(tmp_path: Path, name: str, text: str) -> None:
    """A Nomad job in place of a Compose file is refused in one line that says how to pin and run it."""
    (tmp_path / name).write_text(text)
    with pytest.raises(NoProject) as refused:
        named_files(ProjectFiles(tmp_path, (Path(name),)), {})

    assert refused.value.message == (
        f"{name} is a Nomad job, which boltseal does not deploy: pin it by `boltseal pin --write {name}`, then run "
        "`nomad job run`"
    )
