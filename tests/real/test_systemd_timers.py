"""The services and timers of packaging/systemd, read by systemd's own tools."""

from __future__ import annotations

import os
import re
import shlex
import sys
from datetime import date
from pathlib import Path

import pytest

from tests.cli.program import clean_environment
from tests.docs.pages import ROOT
from tests.programs import program
from tests.real.layout import image_layout
from tests.real.tools import run

pytestmark = pytest.mark.real

FOLDER = ROOT / "packaging/systemd"
PROGRAM = "/opt/boltseal/bin/boltseal"
SERVICES = sorted(path.name for path in FOLDER.glob("*.service"))
TIMERS = sorted(path.name for path in FOLDER.glob("*.timer"))


def settings(unit: str, name: str) -> list[str]:
    """Return the values of a setting in a unit, in order."""
    return re.findall(rf"^{name}=(.*)$", (FOLDER / unit).read_text(encoding="utf-8"), re.MULTILINE)


@pytest.fixture
def units(tmp_path: Path) -> Path:
    """A folder with every unit, with a program that exists."""
    folder = tmp_path / "units"
    folder.mkdir()
    for path in FOLDER.iterdir():
        text = path.read_text(encoding="utf-8")
        (folder / path.name).write_text(text.replace(PROGRAM, "/bin/true"), encoding="utf-8")
    return folder


def test_systemd_understands_every_line_of_the_units(units: Path) -> None:
    """systemd-analyze reports nothing for the units, and finds a misspelt setting."""
    whole = run("systemd-analyze", "verify", "--man=no", *sorted(units.iterdir()))
    at = units / SERVICES[0]
    at.write_text(at.read_text(encoding="utf-8").replace("UMask=", "UMsk="), encoding="utf-8")
    misspelt = run("systemd-analyze", "verify", "--man=no", at)

    assert (whole.ok, whole.text) == (True, "")
    assert "UMsk" in misspelt.text


def test_each_timer_has_its_service_and_times_that_systemd_parses() -> None:
    """`systemd-analyze calendar` computes the next time of each timer, which has a service."""
    assert [name.removesuffix(".timer") for name in TIMERS] == [name.removesuffix(".service") for name in SERVICES]
    for timer in TIMERS:
        (when,) = settings(timer, "OnCalendar")

        assert "Next elapse:" in run("systemd-analyze", "calendar", when).checked()
        assert settings(timer, "Persistent") == ["true"]


@pytest.mark.parametrize("service", SERVICES)
def test_a_service_is_as_confined_as_the_registry(service: str, units: Path) -> None:
    """By systemd's rating each service is as confined as the registry; scrub needs root but has no network."""
    limit = "25" if service.startswith("boltseal-scrub") else "15"
    rated = run("systemd-analyze", "security", "--offline=true", f"--threshold={limit}", "--no-pager", units / service)

    assert rated.ok, rated.text[-500:]


@pytest.mark.parametrize("service", SERVICES)
def test_a_service_runs_a_command_that_exists(service: str) -> None:
    """Each service runs an existing command with known options."""
    (line,) = settings(service, "ExecStart")
    called, *arguments = shlex.split(line)
    words = [word for word in arguments if not word.startswith("$")]
    result = run("/usr/bin/env", f"PYTHONPATH={ROOT / 'src'}", sys.executable, "-m", "boltseal", *words, "--help")

    assert called == PROGRAM
    assert arguments[-1].startswith("$")
    assert result.ok, result.text
    assert "Usage:" in result.text


@pytest.mark.parametrize("unit", ["boltseal-scrub", "boltseal-scrub-quick"])
def test_a_scrub_gives_way_to_all_other_work_and_is_staggered(unit: str) -> None:
    """Each scrub has the lowest priority of processor and disk, and each host a constant delay of its own."""
    delay = settings(f"{unit}.timer", "RandomizedDelaySec")

    assert (settings(f"{unit}.service", "Nice"), settings(f"{unit}.service", "IOSchedulingClass")) == (["19"], ["idle"])
    assert settings(f"{unit}.timer", "FixedRandomDelay") == ["true"]
    assert delay in (["6h"], ["1h"])


def test_the_full_scrub_is_weekly_and_the_quick_one_daily() -> None:
    """The next two times of each timer are a week and a day apart."""
    days = {}
    for unit in ("boltseal-scrub", "boltseal-scrub-quick"):
        (when,) = settings(f"{unit}.timer", "OnCalendar")
        shown = run("systemd-analyze", "calendar", "--iterations=2", when, env={"TZ": "UTC"}).checked()
        first, second = re.findall(r"(?:Next elapse|Iteration #2): \w+ (\d{4}-\d{2}-\d{2})", shown)
        days[unit] = (date.fromisoformat(second) - date.fromisoformat(first)).days

    assert days == {"boltseal-scrub": 7, "boltseal-scrub-quick": 1}


@pytest.mark.parametrize("service", [name for name in SERVICES if "scrub" in name])
def test_a_scrub_may_write_only_its_state_and_the_metrics(service: str) -> None:
    """Beside its state folder, a scrub's service can write only to the folder of the textfile collector."""
    assert settings(service, "ProtectSystem") == ["strict"]
    assert settings(service, "ReadWritePaths") == ["-/var/lib/prometheus/node-exporter"]
    assert settings(service, "Environment") == [f"BOLTSEAL_STATE=/var/lib/{settings(service, 'StateDirectory')[0]}"]


def test_scrub_needs_no_more_capabilities_than_its_service_has(tmp_path: Path) -> None:
    """With its service's capabilities, scrub verifies an image that only another user may read."""
    layout = image_layout(tmp_path / "image", b"words")
    store = tmp_path / "image"
    (allowed,) = settings("boltseal-scrub.service", "CapabilityBoundingSet")
    for path in (store, *store.rglob("*")):
        path.chmod(0o700 if path.is_dir() else 0o600)
        if not os.geteuid():
            os.chown(path, 12345, 12345)
    bounds = ",".join(["-all", *(f"+{name.removeprefix('CAP_').lower()}" for name in allowed.split())])
    confined = [] if os.geteuid() else [program("setpriv"), f"--bounding-set={bounds}"]
    command = [sys.executable, "-m", "boltseal", "scrub", "--no-lock", "--root", str(store)]
    done = run(*confined, *command, env=clean_environment({"PYTHONPATH": str(ROOT / "src")}), cwd=Path("/"))

    assert done.ok, done.text
    assert layout.digest.startswith("sha256:")
    assert "holds" in done.text
