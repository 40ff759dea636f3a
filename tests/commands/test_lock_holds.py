"""`lock --update` leaves what a rollback holds."""

from __future__ import annotations

from pathlib import Path

import pytest

from boltseal.commands.client_context import ClientContext
from boltseal.commands.lock import unless_held
from boltseal.commands.update import services_held_in_git
from boltseal.config import ClientPaths
from boltseal.deploy.compose_model import ComposeService
from boltseal.deploy.holds import HeldImage
from boltseal.lockfile.holds import HOLDS_NAME, HeldDigest, format_holds
from boltseal.oci.digest import Digest
from boltseal.oci.reference import Reference

DIGEST = Digest.of(b"held")


@pytest.mark.parametrize("written", ["reg.test/web", "reg.test/web:latest", f"reg.test/web@{DIGEST}"])
def test_a_held_image_is_not_updated_however_its_file_writes_it(written: str, tmp_path: Path) -> None:
    """A held image is not resolved again, also if its file has only a digest, as after pinning a name without a tag."""
    notices: list[str] = []
    client = ClientContext(ClientPaths((), "", tmp_path / "none.toml"), tmp_path, lambda: 0, notices.append)
    held = HeldImage("web", written, str(DIGEST), str(DIGEST), undone=2, by=3)
    update = unless_held(lambda _: True, [held], client, {})

    assert not update(Reference.parse("reg.test/web:latest"))
    assert update(Reference.parse("reg.test/web:edge"))
    assert notices == [
        "reg.test/web:latest is not updated: held since release 3 went back from release 2; end it with `boltseal release hold --end`"
    ]


def test_what_git_holds_is_not_updated(tmp_path: Path) -> None:
    """A reference in `boltseal.holds` is not resolved again, with a notice that says how to end it."""
    notices: list[str] = []
    client = ClientContext(ClientPaths((), "", tmp_path / "none.toml"), tmp_path, lambda: 0, notices.append)
    web = Reference.parse("reg.test/web:latest")
    update = unless_held(lambda _: True, [], client, {web: "held by boltseal.holds"})

    assert not update(web)
    assert update(Reference.parse("reg.test/db:latest"))
    assert notices == [
        "reg.test/web:latest is not updated: held by boltseal.holds; end it with `boltseal release hold --end --git-branch NAME`"
    ]


def test_update_leaves_the_services_of_what_git_holds(tmp_path: Path) -> None:
    """`update` finds the services of a held reference by the file beside the lock."""
    held = HeldDigest(Reference.parse("reg.test/web:latest"), DIGEST, "a" * 40)
    (tmp_path / HOLDS_NAME).write_text(format_holds([held]))
    services = [
        ComposeService(
            name, Reference.parse(f"reg.test/{name}:latest"), build=False, wanted=1, environment={}, volumes=()
        )
        for name in ("web", "db")
    ]

    assert list(services_held_in_git(services, tmp_path)) == ["web"]
