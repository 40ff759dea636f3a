"""Files of a release are restored only into the folder in which the command runs, whatever an engine recorded."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec
import pytest

from boltseal.commands.release_files import OtherProjectFolder, different_files, restored_files
from boltseal.deploy.release_store import ReleaseFolder
from boltseal.deploy.releases import Release, ReleaseContents
from boltseal.errors import Unavailable
from tests.deploy.samples import release

TEXT = b'{"name": "shop", "services": {"app": {"image": "x"}, "db": {"image": "y"}}}'
PLANTED = b"planted"


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """The folder of a project."""
    folder = tmp_path / "home/shop"
    folder.mkdir(parents=True)
    (folder / "compose.yaml").write_bytes(TEXT)
    return folder


def recorded(tmp_path: Path, directory: Path | str, *names: str) -> tuple[ReleaseFolder, Release]:
    """Record a release of a folder, with settings of these names."""
    folder = ReleaseFolder(tmp_path / "state", "shop")
    made = msgspec.structs.replace(release(1), directory=str(directory))
    files = {"compose.yaml": TEXT, **dict.fromkeys(names, PLANTED)}
    with folder.deploying():
        folder.begin(made, ReleaseContents(TEXT, files=files, modes=dict.fromkeys(names, 0o600)))
    return folder, folder.read(1)


def no_notice(text: str) -> None:
    """Fail: no notice is expected."""
    pytest.fail(text)


def files_in(folder: Path) -> set[str]:
    """Return the paths of all regular files below a folder."""
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_settings_inside_the_project_are_restored(tmp_path: Path, project: Path) -> None:
    """A recorded setting that is missing is written again."""
    folder, made = recorded(tmp_path, project, "app.env", "conf/app.conf")

    assert restored_files(folder, made, project, no_notice).names == ("app.env", "conf/app.conf")
    assert (project / "conf/app.conf").read_bytes() == PLANTED
    assert different_files(folder, made) == ()


def test_the_undo_of_a_restoration_keeps_what_was_written_meanwhile(tmp_path: Path, project: Path) -> None:
    """An undo writes back each restored file unless another program wrote it meanwhile, and names that file."""
    folder, made = recorded(tmp_path, project, "app.env", "web.env", "new.env", "edited.env")
    before = {"compose.yaml": b"{}", "app.env": b"A=1\n", "web.env": b"W=1\n"}
    for name, raw in before.items():
        (project / name).write_bytes(raw)
    restored = restored_files(folder, made, project, no_notice)
    (project / "web.env").write_bytes(b"theirs\n")
    (project / "edited.env").write_bytes(b"theirs\n")
    notices: list[str] = []
    restored.undo(notices.append)

    assert {name: (project / name).read_bytes() for name in files_in(project)} == before | {
        "web.env": b"theirs\n",
        "edited.env": b"theirs\n",
    }
    assert notices == ["boltseal: edited.env, web.env: changed after it was restored, and stays; check it"]


def test_a_file_that_can_not_be_restored_leaves_all_as_before(tmp_path: Path, project: Path) -> None:
    """If a setting can't be restored, the project's own files are as before the restoration again."""
    folder, made = recorded(tmp_path, project, "app.env", "linked.env")
    (project / "compose.yaml").write_bytes(b"{}")
    (tmp_path / "outside").write_bytes(b"kept")
    (project / "linked.env").symlink_to(tmp_path / "outside")

    with pytest.raises(Unavailable, match=r"linked\.env can't be restored"):
        restored_files(folder, made, project, no_notice)
    assert (project / "compose.yaml").read_bytes() == b"{}"
    assert files_in(project) == {"compose.yaml", "linked.env"}


@pytest.mark.parametrize(
    "name",
    ["{home}/.ssh/authorized_keys", "../.ssh/authorized_keys", "conf/../../.profile", ".git/hooks/post-checkout"],
)
def test_no_file_outside_of_the_project_is_written(tmp_path: Path, project: Path, name: str) -> None:
    """A recorded name that leads out of the project, or into git's folder, is not written, and is named as different."""
    wanted = name.format(home=project.parent)
    folder, made = recorded(tmp_path, project, wanted)
    restored = restored_files(folder, made, project, no_notice)

    assert restored.names == ()
    assert files_in(project.parent) == {"shop/compose.yaml"}
    assert different_files(folder, made) == (wanted,)


@pytest.mark.parametrize("directory", ["/", "{home}", "shop", "{home}/other"])
def test_a_release_of_another_folder_restores_no_file(tmp_path: Path, project: Path, directory: str) -> None:
    """A release that names another folder than the one in which the command runs restores nothing, and both are named."""
    folder, made = recorded(tmp_path, directory.format(home=project.parent), "shop/app.env", "app.env")

    with pytest.raises(OtherProjectFolder, match="must run there"):
        restored_files(folder, made, project, no_notice)
    assert files_in(project.parent) == {"shop/compose.yaml"}


def test_names_of_pipes_and_devices_are_files_that_differ(tmp_path: Path, project: Path) -> None:
    """A recorded name that is a pipe or an endless device is compared without reading it."""
    os.mkfifo(project / "pipe")
    (project / "zero").symlink_to("/dev/zero")
    folder, made = recorded(tmp_path, project, "pipe", "zero", "/dev/zero")

    assert different_files(folder, made) == ("/dev/zero", "pipe", "zero")
