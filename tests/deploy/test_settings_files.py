"""Settings in files: which of them belong to a release, and restoring them."""

from __future__ import annotations

import json
import stat
from pathlib import Path
from typing import Any

import pytest

from boltseal.deploy.settings_files import (
    MAX_FILE_BYTES,
    SettingsFiles,
    paths_with_variables,
    settings_files,
    write_settings,
)
from boltseal.errors import Unavailable


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A project's folder."""
    made = tmp_path / "shop"
    made.mkdir()
    return made


def found(root: Path, *mounts: dict[str, Any], **more: Any) -> SettingsFiles:
    """Return the settings of a project of one service with these bind mounts."""
    volumes = [{"type": "bind", "target": f"/{index}", **each} for index, each in enumerate(mounts)]
    return settings_files(root, {"services": {"web": {"volumes": volumes}}, **more}, {})


def test_env_files_secrets_and_configs_are_recorded(root: Path, tmp_path: Path) -> None:
    """Files of `env_file` in each of its forms, of secrets and of configs are recorded, also outside of the project's folder."""
    for name in ("a.env", "b.env", "c.env", "config.ini"):
        (root / name).write_text(name)
    (tmp_path / "token").write_text("swordfish")
    services = {
        "a": {"env_file": "a.env"},
        "b": {"env_file": ["./b.env", {"path": "c.env", "required": False}, "gone.env", "${X}.env"]},
    }
    document = {
        "services": {},
        "secrets": {"token": {"file": str(tmp_path / "token")}, "other": {"environment": "X"}},
        "configs": {"config": {"file": str(root / "config.ini")}},
    }
    sources = {"compose.yaml": json.dumps({"services": services}).encode(), "broken.yaml": b"a: [", ".env": b"A=1\n"}
    settings = settings_files(root, document, sources)

    assert {name: raw.decode() for name, raw in settings.files.items()} == {
        "a.env": "a.env",
        "b.env": "b.env",
        "c.env": "c.env",
        "config.ini": "config.ini",
        str(tmp_path / "token"): "swordfish",
    }
    assert {name for name, mode in settings.modes.items() if mode == 0o600} == {"a.env", "b.env", "c.env"}
    assert settings.outside == []


def test_a_file_that_is_mounted_singly_is_recorded(root: Path) -> None:
    """A regular file that a service mounts by itself is recorded with its mode, with and without write access."""
    (root / "nginx.conf").write_text("x")
    (root / "nginx.conf").chmod(0o644)
    (root / "seed.sql").write_text("y")
    settings = found(root, {"source": str(root / "nginx.conf")}, {"source": str(root / "seed.sql"), "read_only": True})

    assert settings.files == {"nginx.conf": b"x", "seed.sql": b"y"}
    assert settings.modes["nginx.conf"] == 0o644


def test_files_of_a_folder_that_is_mounted_read_only_are_recorded(root: Path) -> None:
    """The files of a folder that is mounted read-only are recorded, except for links and other kinds of files."""
    (root / "conf/deep").mkdir(parents=True)
    (root / "conf/a").write_text("a")
    (root / "conf/deep/b").write_text("b")
    (root / "conf/link").symlink_to("/etc/passwd")
    settings = found(root, {"source": str(root / "conf"), "read_only": True})

    assert settings.files == {"conf/a": b"a", "conf/deep/b": b"b"}
    assert settings.outside == ["conf/link: a symbolic link"]


def test_what_a_container_can_write_is_never_recorded(root: Path) -> None:
    """A folder that is mounted with write access is not read, nor is a file in it that is also mounted by itself."""
    (root / "data").mkdir()
    (root / "data/pg.conf").write_text("x")
    settings = found(
        root,
        {"source": str(root / "data")},
        {"source": str(root / "data/pg.conf"), "read_only": True},
        {"source": str(root), "read_only": True},
    )

    assert settings.files == {}
    assert settings.outside == ["data: a container can write it", "data/pg.conf: a container can write it"]


def test_mounts_outside_of_the_project_are_listed(root: Path, tmp_path: Path) -> None:
    """A mount outside of the project's folder, also through a symbolic link, is listed as not part of the release."""
    (tmp_path / "host.conf").write_text("x")
    (root / "link.conf").symlink_to(tmp_path / "host.conf")
    settings = found(
        root,
        {"source": str(tmp_path / "host.conf"), "read_only": True},
        {"source": str(root / "link.conf"), "read_only": True},
        {"source": str(root / "missing")},
    )

    assert settings.files == {}
    assert [each.rpartition("/")[2].partition(":")[0] for each in settings.outside] == [
        "host.conf",
        "link.conf",
        "missing",
    ]


def test_large_files_are_listed(root: Path) -> None:
    """A file larger than 1 MiB is listed, and so is what exceeds 16 MiB together."""
    (root / "conf").mkdir()
    (root / "large").write_bytes(bytes(MAX_FILE_BYTES + 1))
    for number in range(17):
        (root / f"conf/{number:02}").write_bytes(bytes(MAX_FILE_BYTES))
    settings = found(root, {"source": str(root / "large")}, {"source": str(root / "conf"), "read_only": True})

    assert len(settings.files) == 16
    assert settings.outside == ["conf/16: all files together have more than 16 MiB", "large: larger than 1 MiB"]


def test_a_file_that_grows_while_it_is_read_is_listed() -> None:
    """A file that is larger than the limit when it is read is listed, and no part of it is recorded."""
    settings = SettingsFiles(Path("/proc"))
    settings.add(Path("/proc/kallsyms"), private=False)  # its size is 0, and it has several MiB

    assert settings.files == {}
    assert settings.outside == ["kallsyms: larger than 1 MiB"]


def test_an_env_file_whose_path_has_a_variable_is_recorded(root: Path) -> None:
    """A path of `env_file` with a variable is recorded by the value that Compose filled in; one without a value is left out."""
    (root / "prod.env").write_text("A=1")
    services = {"a": {"env_file": ["${STAGE}.env", "${NONE}"]}}
    sources = {"compose.yaml": json.dumps({"services": services}).encode()}
    settings = settings_files(root, {"services": {}}, sources, {"${STAGE}.env": "prod.env", "${NONE}": ""})

    assert paths_with_variables(sources) == ("${NONE}", "${STAGE}.env")
    assert (settings.files, settings.outside) == ({"prod.env": b"A=1"}, [])


def test_settings_are_restored_with_their_modes(root: Path) -> None:
    """Files of `env_file` are restored with mode 0600 and other files with the recorded one, also if a file is gone."""
    (root / "nginx.conf").write_text("bad")
    write_settings(
        root,
        {"app.env": b"A=1\n", "conf/nginx.conf": b"x", "nginx.conf": b"y"},
        {"nginx.conf": 0o644, "app.env": 0o600},
    )
    modes = {each.name: stat.S_IMODE(each.stat().st_mode) for each in (root / "app.env", root / "nginx.conf")}

    assert (root / "app.env").read_text() == "A=1\n"
    assert (root / "conf/nginx.conf").read_text() == "x"
    assert (root / "nginx.conf").read_text() == "y"
    assert modes == {"app.env": 0o600, "nginx.conf": 0o644}


def test_a_link_out_of_the_project_is_not_followed(root: Path, tmp_path: Path) -> None:
    """A recorded file is not restored through a symbolic link that leads out of the project."""
    (tmp_path / "outside").write_text("kept")
    (root / "app.env").symlink_to(tmp_path / "outside")

    with pytest.raises(Unavailable, match="points out of the project"):
        write_settings(root, {"app.env": b"A=1\n"}, {})
    assert (tmp_path / "outside").read_text() == "kept"


def test_a_restored_file_gets_no_special_rights(root: Path) -> None:
    """A recorded mode with the setuid bit is restored without it: a release comes from the engine."""
    write_settings(root, {"tool": b"#!/bin/sh\n"}, {"tool": 0o6755})

    assert stat.S_IMODE((root / "tool").stat().st_mode) == 0o755
