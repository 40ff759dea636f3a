"""`boltseal version`."""

from __future__ import annotations

import sys

from boltseal import __version__
from tests.cli import program


def test_version_prints_its_environment() -> None:
    """`boltseal version` prints the versions that a defect report needs."""
    lines = program.call("version").out.splitlines()

    assert lines[0] == f"boltseal {__version__}"
    assert f"python {sys.version.split()[0]}" in lines[1]
    assert "granian 2." in lines[1]


def test_version_as_json() -> None:
    """JSON of `version` is one result with all fields."""
    output = program.call("version", "--json").json

    assert output["schema"] == "boltseal.version/1"
    assert output["results"][0]["version"] == __version__
