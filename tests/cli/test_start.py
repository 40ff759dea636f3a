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
