"""The files of `packaging/`, read by the programs that use them."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest

from tests.docs.pages import ROOT
from tests.real.image_settings import settings_in_force, settings_of_image
from tests.real.tools import run

pytestmark = pytest.mark.real


def test_systemd_understands_every_line_of_the_unit(tmp_path: Path) -> None:
    """systemd-analyze reports nothing for the unit, which it does only if it knows every setting and finds the program."""
    unit = (ROOT / "packaging" / "boltseal.service").read_text(encoding="utf-8")
    assert "/opt/boltseal/bin/boltseal" in unit
    at = tmp_path / "boltseal.service"
    at.write_text(unit.replace("/opt/boltseal/bin/boltseal", "/bin/true"), encoding="utf-8")
    result = run("systemd-analyze", "verify", "--man=no", at)
    at.write_text(at.read_text(encoding="utf-8").replace("UMask=", "UMsk="), encoding="utf-8")
    misspelt = run("systemd-analyze", "verify", "--man=no", at)

    assert (result.ok, result.text) == (True, "")
    assert "UMsk" in misspelt.text


def test_the_compose_file_is_valid_and_its_settings_are_known(tmp_path: Path) -> None:
    """docker-compose reads the file, and boltseal knows every setting in it and in the image."""
    output = run("docker-compose", "-f", ROOT / "packaging" / "compose.yaml", "config", "--format", "json").checked()
    service = json.loads(output)["services"]["registry"]
    of_image = settings_of_image()
    given = settings_in_force(of_image | service["environment"])

    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["healthcheck"]["test"] == ["CMD", "boltseal", "health"]
    assert [port["target"] for port in service["ports"]] == [5000]
    assert len(given) == len(of_image) + len(service["environment"])
    assert given["[server] listen"] == "0.0.0.0:5000"
    assert service["volumes"][0]["target"] == str(Path(given["[server] data"]).parent)
    assert {mount["target"] for mount in service["volumes"][1:]} == {
        given["[server] tls_cert"],
        given["[server] tls_key"],
    }


def test_podman_makes_a_service_of_the_quadlet_file_with_known_settings(tmp_path: Path) -> None:
    """Podman's generator knows every key of the quadlet file, and boltseal knows every setting."""
    generator = "/usr/libexec/podman/quadlet"
    units = tmp_path / "units"
    units.mkdir()
    unit = units / "boltseal.container"
    unit.write_text((ROOT / "packaging" / "boltseal.container").read_text(encoding="utf-8"), encoding="utf-8")
    result = run(generator, "-dryrun", env={"QUADLET_UNIT_DIRS": str(units)})
    command = shlex.split(next(line for line in result.text.splitlines() if line.startswith("ExecStart=")))
    variables = dict(word.split("=", 1) for word in command if word.startswith("BOLTSEAL_"))
    given = settings_in_force(settings_of_image() | variables)
    volumes = {command[at + 1].split(":")[1] for at, word in enumerate(command) if word == "-v"}
    unit.write_text(unit.read_text(encoding="utf-8").replace("HealthCmd=", "HealhCmd="), encoding="utf-8")
    misspelt = run(generator, "-dryrun", env={"QUADLET_UNIT_DIRS": str(units)})

    assert result.ok, result.text
    assert {"--read-only", "--security-opt=no-new-privileges"} <= set(command)
    assert command[command.index("--cap-drop") + 1] == "all"
    assert command[command.index("--user") + 1] == "10001:10001"
    assert command[command.index("--health-cmd") + 1] == "boltseal health"
    assert volumes == {str(Path(given["[server] data"]).parent), given["[server] tls_cert"], given["[server] tls_key"]}
    assert len(given) == len(settings_of_image()) + len(variables)
    assert not misspelt.ok
    assert "HealhCmd" in misspelt.text


def test_the_image_leaves_the_health_check_to_the_engine() -> None:
    """OCI images have no health check, so that one in the Containerfile would be dropped silently."""
    assert "\nHEALTHCHECK" not in (ROOT / "packaging" / "Containerfile").read_text(encoding="utf-8")
