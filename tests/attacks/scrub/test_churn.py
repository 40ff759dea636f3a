"""Engines that load, build, tag, run and prune while their store is checked: nothing of it is a difference."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from boltseal.host.scrub.find_stores import store_at
from boltseal.host.scrub.report import ReportStatus, ScrubReport
from boltseal.host.scrub.scrub import ScrubRequest, scrub
from tests import servers
from tests.attacks.scrub.image import Layer, archive, base, middle
from tests.programs import program
from tests.real.tools import run
from tests.soak.scale import IS_FULL

pytestmark = [pytest.mark.real, pytest.mark.slow, pytest.mark.usefixtures("empty_home")]

ROUNDS = 40 if IS_FULL else 3
DOCKERFILE = "FROM churn/base:1\nRUN echo $RANDOM > /etc/built\nCOPY Dockerfile /srv/\nLABEL round={number}\n"


@dataclass(frozen=True)
class Churn:
    """A running engine. `command`: of its program; `other`: of another program on the same store, or the same."""

    root: Path
    command: tuple[str, ...]
    other: tuple[str, ...]
    options: tuple[str, ...] = ()
    settings: tuple[tuple[str, str], ...] = ()

    def once(self, folder: Path, number: int) -> None:
        """Do everything that changes a store, once."""
        folder.mkdir()
        (folder / "Dockerfile").write_text(DOCKERFILE.format(number=number))
        built, moved = f"churn/built:{number}", "churn/moved:1"
        run(*self.command, "load", "-i", folder.parent / "image.tar").checked()
        run(*self.command, "build", *self.options, "-t", built, folder, env=dict(self.settings)).checked()
        run(*self.other, "tag", built, moved).checked()
        box = f"box-{number}"
        run(*self.command, "run", "-d", "--network", "none", "--name", box, moved, "sleep", "1000").checked()
        run(*self.other, "restart", "-t", "0", box).checked()
        run(*self.command, "run", "--rm", "--network", "none", moved, "cat", "/etc/built").checked()
        run(*self.other, "rm", "-f", box).checked()
        run(*self.other, "rmi", built).checked()
        run(*self.command, "rmi", "-f", moved).checked()
        run(*self.other, "image", "prune", "-f").checked()


@contextmanager
def docker(folder: Path) -> Iterator[Churn]:
    with servers.dockerd(folder, driver="overlay2") as server:
        command = ("docker", "-H", f"unix://{server.address}")
        yield Churn(folder / "data", command, command, ("--network", "none"), (("DOCKER_BUILDKIT", "0"),))


@contextmanager
def docker_with_buildkit(folder: Path) -> Iterator[Churn]:
    with servers.dockerd(folder, driver="overlay2") as server:
        command = ("docker", "-H", f"unix://{server.address}")
        yield Churn(folder / "data", command, command, ("--network", "none"), (("DOCKER_BUILDKIT", "1"),))


@contextmanager
def podman(folder: Path) -> Iterator[Churn]:
    """Podman's service beside its own command, which changes the store that the service has in memory."""
    with servers.podman(folder, driver="overlay") as server:
        client, remote = (f"{folder}/podman",), ("docker", "-H", f"unix://{server.address}")
        limits = ("--ulimit", "nofile=4096:4096", "--ulimit", "nproc=4096:4096")
        yield Churn(folder / "root", client, remote, ("--isolation", "chroot", "--network", "host", *limits))


@pytest.mark.parametrize("engine", [docker, docker_with_buildkit, podman])
def test_nothing_differs_while_an_engine_works(
    tmp_path: Path,
    engine: Callable[[Path], AbstractContextManager[Churn]],
    record_property: Callable[[str, object], None],
) -> None:
    """Images and containers that are created, renamed and removed during the check are never a difference."""
    shell = Layer().folder("bin").add("bin/busybox", Path(program("busybox")).read_bytes(), mode=0o755)
    for name in ("sh", "cat", "sleep", "echo"):
        shell.add(f"bin/{name}", kind=b"1", link="bin/busybox", mode=0o755)
    archive(tmp_path / "image.tar", [base(), middle(), shell.done()], "churn/base:1", ["/bin/sleep", "1000"])
    failed: list[BaseException] = []
    found: list[ScrubReport] = []
    with engine(tmp_path / "engine") as churn:

        def work() -> None:
            try:
                for number in range(ROUNDS):
                    churn.once(tmp_path / f"context-{number}", number)
            except BaseException as error:  # noqa: BLE001 - raised in the test's own thread
                failed.append(error)

        worker = threading.Thread(target=work)
        worker.start()
        checks = 0
        while worker.is_alive():
            found += scrub(store_at(churn.root), ScrubRequest(), lambda *_: None)
            checks += 1
        worker.join()
        left = scrub(store_at(churn.root), ScrubRequest(), lambda *_: None)
    record_property("checks", checks)
    record_property("reports", len(found))

    assert failed == []
    assert [each for each in (*found, *left) if each.status is ReportStatus.DIFFERS] == []
    assert [each for each in left if each.status is ReportStatus.UNKNOWN] == []
    assert any(each.status is ReportStatus.HOLDS for each in found)
