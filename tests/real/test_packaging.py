"""What `packaging/` holds, read by the programs that it is for."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli import program as boltseal
from tests.docs.pages import ROOT
from tests.real.tools import run

pytestmark = pytest.mark.real


def test_systemd_understands_every_line_of_the_unit(tmp_path: Path) -> None:
    """It says nothing, which it does only where it knows every setting and finds the program."""
    unit = (ROOT / "packaging" / "boltseal.service").read_text(encoding="utf-8")
    assert "/opt/boltseal/bin/boltseal" in unit
    at = tmp_path / "boltseal.service"
    at.write_text(unit.replace("/opt/boltseal/bin/boltseal", "/bin/true"), encoding="utf-8")
    told = run("systemd-analyze", "verify", "--man=no", at)
    at.write_text(at.read_text(encoding="utf-8").replace("UMask=", "UMsk="), encoding="utf-8")
    misspelt = run("systemd-analyze", "verify", "--man=no", at)

    assert (told.ok, told.text) == (True, "")
    assert "UMsk" in misspelt.text


def test_the_compose_file_is_one_and_its_settings_are_ours(tmp_path: Path) -> None:
    """docker-compose reads it; boltseal takes every setting that it and the image give."""
    said = run("docker-compose", "-f", ROOT / "packaging" / "compose.yaml", "config", "--format", "json").checked()
    service = json.loads(said)["services"]["registry"]
    containerfile = (ROOT / "packaging" / "Containerfile").read_text(encoding="utf-8")
    of_image = dict(
        word.split("=") for word in containerfile.replace("\\\n", " ").split() if word.startswith("BOLTSEAL_")
    )
    told = boltseal.run("admin", "config", "--json", environment=of_image | service["environment"]).json["results"]
    given = {row["ref"]: row["value"] for row in told if row["status"] == "environment"}

    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert [port["target"] for port in service["ports"]] == [5000]
    assert len(given) == len(of_image) + len(service["environment"])
    assert given["[server] listen"] == "0.0.0.0:5000"
    assert service["volumes"][0]["target"] == str(Path(given["[server] data"]).parent)
    assert {mount["target"] for mount in service["volumes"][1:]} == {
        given["[server] tls_cert"],
        given["[server] tls_key"],
    }
