"""Commands whose `[storage]` settings need a library that is not installed: one line that says what to install.

The commands run in processes in which the libraries can't be imported, as where their extras are not installed.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

DATABASE = '[storage]\ndatabase = "postgresql://boltseal@127.0.0.1:1/boltseal"\n'
BLOBS = '[storage]\nblobs = "s3://bucket/prefix"\n'
MARK = '[storage.mark]\nurl = "s3://other/boltseal.mark"\n'
ALL = f'{DATABASE}blobs = "s3://bucket/prefix"\n{MARK}'
INSTALL = 'pip install "boltseal[{}]"\n'
CASES = {
    "database": (
        f"{DATABASE}{MARK}",
        ("psycopg",),
        "[storage] database needs the postgresql extra",
        "server,postgresql,s3",
    ),
    "blobs": (BLOBS, ("obstore",), "[storage] blobs needs the s3 extra", "server,s3"),
    "mark": (MARK, ("obstore",), "[storage.mark] url needs the s3 extra", "server,s3"),
    "all": (
        ALL,
        ("psycopg", "obstore"),
        "[storage] database needs the postgresql extra, [storage] blobs needs the s3 extra, "
        "[storage.mark] url needs the s3 extra",
        "server,postgresql,s3",
    ),
}
WITHOUT = "import sys\nsys.modules.update(dict.fromkeys({!r}))\nfrom boltseal.__main__ import main\nmain()"


def run_without(modules: tuple[str, ...], folder: Path, settings: str, *words: str) -> subprocess.CompletedProcess[str]:
    """Run a command in a process that can't import these modules."""
    config = folder / "boltseal.toml"
    config.write_text(settings)
    data = ["--config", str(config), "--data", str(folder / "data")]
    return subprocess.run(
        [sys.executable, "-c", WITHOUT.format(modules), *words, *data], capture_output=True, text=True, check=False
    )


@pytest.mark.slow
@pytest.mark.parametrize("words", [("serve",), ("admin", "user", "ls"), ("admin", "gc")], ids=" ".join)
@pytest.mark.parametrize("case", CASES)
def test_a_command_names_the_setting_and_the_extra(tmp_path: Path, case: str, words: tuple[str, ...]) -> None:
    """The command is one line on stderr with exit code 2, and creates no database."""
    settings, modules, reason, extras = CASES[case]
    ran = run_without(modules, tmp_path, settings, *words)

    assert (ran.returncode, ran.stdout) == (2, "")
    assert ran.stderr == f"boltseal: {reason}: {INSTALL.format(extras)}"
    assert not list((tmp_path / "data").glob("*.db"))


@pytest.mark.slow
def test_with_json_the_error_is_an_object(tmp_path: Path) -> None:
    """With `--json` the same line is the message of an error."""
    ran = run_without(("psycopg", "obstore"), tmp_path, ALL, "admin", "fsck", "--json")
    error = json.loads(ran.stdout)["errors"][0]

    assert ran.returncode == 2
    assert error["code"] == "INVALID"
    assert error["message"].endswith(INSTALL.format("server,postgresql,s3").strip())


@pytest.mark.slow
def test_a_store_on_sqlite_and_files_needs_no_extra(tmp_path: Path) -> None:
    """Without `[storage]` settings a command works where the libraries of both extras are missing."""
    ran = run_without(("psycopg", "obstore"), tmp_path, "", "admin", "user", "ls")

    assert ran.returncode == 0
    assert ran.stderr.startswith("no users in ")
