"""`deploy --quadlet` and `rollback --quadlet` with systemd and Podman: services are restarted, waited for, and restored."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.cli.program import clean_environment
from tests.polling import wait_until
from tests.programs import program
from tests.real.compose_project import ENDS
from tests.real.registry import Registry
from tests.real.sleeper import SLEEP, publish, sleeper

pytestmark = [pytest.mark.real, pytest.mark.slow]

HOST = Path(__file__).with_name("systemd_host.sh")
UNITS = "/etc/containers/systemd"


@dataclass
class SystemdHost:
    """A host with systemd. `folder`: FOLDER of systemd_host.sh; `pid`: of systemd; `image`: the name of the test's image."""

    folder: Path
    pid: int
    registry: Registry
    image: str

    @property
    def units(self) -> Path:
        """Podman's folder of units, as this machine sees it."""
        return self.folder / "containers/systemd"

    def run(self, *words: str | Path) -> subprocess.CompletedProcess[str]:
        """Run a command on the host, in the folder of the units."""
        environment = clean_environment(
            {
                "DOCKER_HOST": f"unix://{self.folder}/p.sock",
                "BOLTSEAL_STATE": str(self.folder / "state"),
                "BOLTSEAL_ENGINES": str(self.folder / "state/engines"),
                "HOME": str(self.folder),
            }
        )
        enter = ["nsenter", "-t", str(self.pid), "--all", f"--wdns={UNITS}", "--"]
        return subprocess.run(
            [*enter, *map(str, words)], env=environment, capture_output=True, text=True, check=False, timeout=300
        )

    def boltseal(self, *words: str) -> tuple[int, str]:
        """Run boltseal; return its exit code and all that it printed."""
        done = self.run(sys.executable, "-m", "boltseal", *words)
        return done.returncode, done.stdout + done.stderr

    def publish(self, words: str, command: tuple[str, ...] = SLEEP) -> str:
        """Push an image under the tag `dev`, and lock it; return its digest."""
        repository = self.image.partition("/")[2].rpartition(":")[0]
        digest = publish(
            self.registry.host, repository, "dev", sleeper(words, commands=("true", "false"), command=command)
        )
        code, printed = self.boltseal("lock", "--update")
        assert code == 0, printed
        return digest

    def runs(self) -> str:
        """Return the image of the running container of web.service."""
        return self.run("podman", "ps", "--format", "{{.Image}}", "--filter", "name=systemd-web").stdout.strip()


@pytest.fixture
def host(tmp_path: Path, registry: Registry, repository: str) -> Iterator[SystemdHost]:
    """A host with Podman, and an empty folder of units."""
    folder = tmp_path / "h"
    for name in ("temporary", "packages"):
        (folder / name).mkdir(parents=True)
    shutil.copytree("/etc/containers", folder / "containers", symlinks=True)
    (folder / "containers.conf").write_text("[containers]\npids_limit = 0\n")
    (folder / "registries.conf").write_text(f'[[registry]]\nlocation = "{registry.host}"\ninsecure = true\n')
    (folder / "podman").write_text(
        f"""\
#!/bin/sh
export CONTAINERS_REGISTRIES_CONF={folder}/registries.conf CONTAINERS_CONF_OVERRIDE={folder}/containers.conf
export TMPDIR={folder}/temporary DPKG_ADMINDIR={folder}/packages
exec {folder}/podman-program --root {folder}/root --runroot {folder}/run --tmpdir {folder}/tmp --storage-driver vfs \\
  --cgroup-manager cgroupfs --events-backend file --runtime runc --log-level error "$@"
"""
    )
    (folder / "podman").chmod(0o755)
    program("podman")
    spaces = ["--pid", "--fork", "--mount", "--mount-proc", "--cgroup", "--ipc", "--uts", "--kill-child"]
    groups = next(each for each in ("/sys/fs/cgroup/unified", "/sys/fs/cgroup") if Path(each, "cgroup.procs").exists())
    group = Path(groups, f"boltseal-test-{os.getpid()}-{folder.parent.name}")
    group.mkdir()
    inside = 'echo $$ > "$1/cgroup.procs" && shift && exec "$@"'  # its cgroup namespace begins there
    with (folder / "log").open("wb") as log:
        started = subprocess.Popen(
            [
                "sh",
                "-c",
                inside,
                "sh",
                str(group),
                program("setpriv"),
                "--pdeathsig",
                "KILL",
                "unshare",
                *spaces,
                str(HOST),
                str(folder),
            ],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
    children = Path(f"/proc/{started.pid}/task/{started.pid}/children")
    try:
        wait_until(lambda: (folder / "p.sock").exists() or started.poll() is not None, "systemd and Podman run")
        pid = int(children.read_text().split()[0])
        yield SystemdHost(folder, pid, registry, f"{registry.host}/{repository}:dev")
    finally:
        for each in children.read_text().split() if started.poll() is None else ():
            os.kill(int(each), signal.SIGKILL)
        started.kill()
        started.wait()
        wait_until(lambda: _removed(group), "the host's processes are gone")


def _removed(group: Path) -> bool:
    """Remove a cgroup and those in it; return whether that was possible: a process that ends keeps its own."""
    for each in sorted((path.parent for path in group.rglob("cgroup.procs")), reverse=True):
        with contextlib.suppress(OSError):
            each.rmdir()
    return not group.exists()


def test_a_failed_release_is_replaced_by_the_former_one(host: SystemdHost) -> None:
    """The first release runs, an equal deploy changes nothing, a container that ends brings the first image back."""
    (host.units / "web.container").write_text(
        f"[Container]\nImage={host.image}\nNetwork=none\n[Service]\nTimeoutStopSec=1\n[Install]\nWantedBy=default.target\n"
    )
    good = host.publish("one")
    first = host.boltseal("deploy", "--quadlet", "--project-name", "shop")
    again = host.boltseal("deploy", "--quadlet", "--project-name", "shop")
    running = host.runs()
    host.publish("broken", ENDS)
    failed = host.boltseal("deploy", "--quadlet", "--project-name", "shop")

    assert first[0] == 0, first[1]
    assert "release 1 of shop runs: 1 service, healthy" in first[1]
    assert (again[0], "runs already: nothing was pulled, started or stopped" in again[1]) == (0, True), again[1]
    assert running.endswith(f"@{good}")
    assert failed[0] == 1, failed[1]
    assert "web.service: failed" in failed[1]
    assert "release 2 of shop failed; release 1 runs again" in failed[1]
    assert host.runs() == running


def test_a_rollback_starts_the_former_image_and_holds_the_other(host: SystemdHost) -> None:
    """A new digest is started by a restart; the rollback starts the former one, and the next deploy is refused."""
    (host.units / "web.container").write_text(
        f"[Container]\nImage={host.image}\nNetwork=none\n[Service]\nTimeoutStopSec=1\n[Install]\nWantedBy=default.target\n"
    )
    named = ("--quadlet", "--project-name", "shop")
    digests, images = [], []
    for words in ("one", "two"):
        digests.append(host.publish(words))
        code, printed = host.boltseal("deploy", *named)
        images.append(host.runs())
        assert code == 0, printed
    back = host.boltseal("rollback", *named)
    now = host.runs()
    held = host.boltseal("deploy", *named)
    listed = host.boltseal("release", "ls", "--project-name", "shop")

    assert [each.rpartition("@")[2] for each in images] == digests
    assert back[0] == 0, back[1]
    assert now == images[0]
    assert held[0] == 1, held[1]
    assert "is held since release 3 went back from release 2" in held[1]
    assert "* shop/3" in listed[1]
