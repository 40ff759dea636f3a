"""How the command starts: without what the verb does not need."""

from __future__ import annotations

import subprocess
import sys

import pytest


@pytest.mark.slow
def test_a_verb_of_a_client_does_not_load_what_the_server_needs() -> None:
    """A check that a build script runs a hundred times would wait for it each time, longer than for the registry."""
    ran = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "boltseal", "check", "127.0.0.1:1/shop/app:1.4.2"],
        capture_output=True,
        text=True,
        check=False,
    )
    loaded = {line.rpartition("|")[2].strip() for line in ran.stderr.splitlines() if line.startswith("import time:")}

    assert "boltseal.client.transport" in loaded
    assert not loaded & {
        "boltseal.server.settings",
        "pydantic_settings",
        "sqlalchemy",
        "granian",
        "starlette",
        "alembic",
        "prometheus_client",
    }


@pytest.mark.parametrize(
    "arguments", [["serve"], ["admin", "fsck"], ["ledger", "key"], ["admin", "rules"], ["ratelimit"]]
)
def test_an_admin_command_without_the_server_extra_says_what_to_install(arguments: list[str]) -> None:
    """One line and exit code 2, without a traceback."""
    code = f"import sys; sys.modules['pydantic'] = None; from boltseal.cli.root import run; run({arguments!r})"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)

    assert ran.returncode == 2
    assert ran.stderr.count("\n") == 1
    assert 'needs the server extra: pip install "boltseal[server]"' in ran.stderr


@pytest.mark.parametrize(
    "arguments", [["ledger", "monitor", "--help"], ["ledger", "trust"], ["ratelimit", "--help"], ["version"]]
)
def test_a_client_command_needs_no_server_extra(arguments: list[str]) -> None:
    """Also one in a group, or with a name, that it shares with an admin command."""
    code = f"import sys; sys.modules['pydantic'] = None; from boltseal.cli.root import run; run({arguments!r})"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)

    assert ran.returncode == 0, ran.stderr
