"""`deploy --quadlet` of a user without root: units in the user's folder, Podman's generator for users, and the user's own Podman.

No systemd of a user runs here, so services are not started: that is tested for root, in `test_quadlet`.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from boltseal.deploy.quadlet.generator import PROGRAMS
from tests.attacks.scrub.users import UID
from tests.real.registry import Registry
from tests.real.rootless import Rootless, rootless_podman
from tests.real.sleeper import publish, sleepers

pytestmark = [pytest.mark.real, pytest.mark.slow, pytest.mark.usefixtures("empty_home")]


@pytest.fixture
def rootless(registry: Registry, repository: str, tmp_path: Path) -> Iterator[Rootless]:
    """A user's Podman, and a unit of the user whose image is published."""
    with rootless_podman(registry, repository, tmp_path) as made:
        units = made.user.home / ".config/containers/systemd/shop"
        units.mkdir(parents=True)
        (units / "web.container").write_text(
            f"[Container]\nImage={made.name}\nNetwork=none\n[Install]\nWantedBy=default.target\n"
        )
        for path in (made.user.home / ".config", *(made.user.home / ".config").rglob("*")):
            os.chown(path, UID, UID)
        yield made


def units(rootless: Rootless) -> Path:
    return rootless.user.home / ".config/containers/systemd"


def boltseal(rootless: Rootless, *words: str) -> tuple[int, str]:
    """Run boltseal as the user on the units; return its exit code and all that it printed."""
    done = rootless.boltseal(*words, "--project-directory", str(units(rootless) / "shop"), as_user=True)
    return done.code, done.out + done.err


def lock(rootless: Rootless) -> None:
    done = rootless.boltseal("lock", "--update", "--project", str(units(rootless) / "shop"), as_user=True)
    assert done.code == 0, done.err


def started_image(rootless: Rootless) -> str:
    """Return the image that the user's systemd would start, as Podman's generator prints it."""
    program = next(each for each in PROGRAMS if os.access(each, os.X_OK))
    words = [*rootless.user.as_user(), program, "-user", "-dryrun"]
    printed = subprocess.run(words, capture_output=True, text=True, check=True).stdout
    (found,) = [line.split()[-1] for line in printed.splitlines() if line.startswith("ExecStart=")]
    return found


def test_units_of_a_user_are_deployed_and_gone_back_from(rootless: Rootless, registry: Registry) -> None:
    """The generator of users starts the locked digest, what was written is the user's own, and a rollback restores it."""
    repository = rootless.name.partition("/")[2].rpartition(":")[0]
    lock(rootless)
    first = boltseal(rootless, "deploy", "--quadlet", "--no-start")
    before = started_image(rootless)
    publish(registry.host, repository, "1.4.2-b", sleepers("newer"))
    unit = units(rootless) / "shop/web.container"
    unit.write_text(unit.read_text().replace(":1.4.2\n", ":1.4.2-b\n"))
    lock(rootless)
    second = boltseal(rootless, "deploy", "--quadlet", "--no-start")
    after = started_image(rootless)
    unit.write_text(unit.read_text().replace(":1.4.2-b\n", ":1.4.2\n"))
    back = boltseal(rootless, "rollback", "--quadlet", "--no-start")
    written = [units(rootless) / "boltseal-shop", *units(rootless).parent.joinpath("boltseal").rglob("*")]

    assert (first[0], second[0], back[0]) == (0, 0, 0), first[1] + second[1] + back[1]
    assert before.startswith(f"{rootless.name}@sha256:")
    assert after.startswith(f"{rootless.name}-b@sha256:")
    assert started_image(rootless) == before
    assert {each.lstat().st_uid for each in written} == {UID}
    assert len(written) > 4


def test_without_a_systemd_of_the_user_nothing_is_changed(rootless: Rootless) -> None:
    """A deploy that has to start services is refused with what the user lacks, and writes no drop-in file."""
    lock(rootless)
    done = boltseal(rootless, "deploy", "--quadlet")

    assert done[0] == 3, done[1]
    assert "systemctl --user is-system-running" in done[1]
    assert "loginctl enable-linger" in done[1]
    assert not (units(rootless) / "boltseal-shop").is_symlink()
    assert started_image(rootless) == rootless.name
