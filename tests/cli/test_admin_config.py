"""`boltseal admin config`: every setting and its source."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli import program


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A configuration file with settings of every kind."""
    path = tmp_path / "boltseal.toml"
    path.write_text('[server]\nworkers = 2\nlog_level = "debug"\n[[rule]]\ntag = "x*"\nmode = "floating"\n')
    return path


def test_each_value_has_its_source(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each value is shown with its source; flag wins over environment, environment over file, file over default."""
    monkeypatch.setenv("BOLTSEAL_SERVER__WORKERS", "3")
    output = program.call("admin", "config", "--config", file, "--data", tmp_path / "data", "--json").json
    found = {each["ref"]: (each["value"], each["status"], each["where"]) for each in output["results"]}

    assert output["schema"] == "boltseal.admin-config/1"
    assert found["[server] workers"] == (3, "environment", "BOLTSEAL_SERVER__WORKERS")
    assert found["[server] log_level"] == ("debug", "file", str(file))
    assert found["[server] data"] == (str(tmp_path / "data"), "flag", "--data")
    assert found["[server] read_only"] == (False, "default", "")
    assert found["[[rule]]"][:2] == ([{"tag": "x*", "mode": "floating"}], "file")


def test_the_table_shows_no_key(file: Path) -> None:
    """The table on stdout shows the paths of keys, and never a key."""
    run = program.call("admin", "config", "--config", file)

    assert run.code == 0
    assert "[server] listen" in run.out
    assert "127.0.0.1:5000" in run.out
    assert "data.keys" in run.err


def test_an_invalid_file_is_reported_in_one_line(tmp_path: Path) -> None:
    """The command also serves to check a file before a reload."""
    path = tmp_path / "boltseal.toml"
    path.write_text("[server]\nworkers = 0\n")
    run = program.call("admin", "config", "--config", path)

    assert run.code == 2
    assert "[server] workers is" in run.err
