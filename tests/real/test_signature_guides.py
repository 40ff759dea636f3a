"""The commands of the pages for users of Docker Content Trust, cosign and Notation, and of the page about receipts beside images.

All commands of a page run in order in one shell, between boltseal and docker-registry, which stands for Docker Hub. notation is not in
Debian: `NOT_RUN` names its line.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from boltseal.server.storage.ledger_key import LedgerKeys
from tests import servers
from tests.docs.page_commands import reason_not_run
from tests.docs.pages import fenced, text, typed_lines
from tests.real.layout import Layout, image_layout
from tests.real.tools import CommandResult, run
from tests.servers import Server

pytestmark = pytest.mark.real

PUBLISHED = "registry.example.com/shop/app"
HUB = "docker.io/acme/app"
UNENCRYPTED = "--allow-http-registry --allow-insecure-registry"
OF_COSIGN = {
    "cosign sign --yes": f"cosign sign --yes --tlog-upload=false {UNENCRYPTED}",
    "cosign verify --key": f"cosign verify --insecure-ignore-tlog=true {UNENCRYPTED} --key",
    "cosign verify-attestation": f"cosign verify-attestation {UNENCRYPTED}",
}


@dataclass(frozen=True)
class Reader:
    """A reader of a page with a shell in `folder`, where the server's data is. `hub`: stands for Docker Hub."""

    folder: Path
    server: Server
    hub: Server

    @property
    def here(self) -> Mapping[str, str]:
        """What stands for the names in the page."""
        key = LedgerKeys(self.folder / "data.keys").key()
        assert key is not None
        return {
            PUBLISHED: f"{self.server.address}/shop/app",
            "registry.example.com": self.server.address,
            HUB: f"{self.hub.address}/shop/app",
            " KEY": f" '{key.verifier}'",
        } | OF_COSIGN

    def play(self, page: str, replace: Mapping[str, str]) -> str:
        """Run every command of a page, and return what they printed."""
        commands = "\n".join(line for line in typed_lines(text(page)) if reason_not_run(page, line) is None)
        for written, here in {**self.here, **replace}.items():
            commands = commands.replace(written, here)
        assert "example.com" not in commands
        return self.shell(commands).checked()

    def shell(self, commands: str) -> CommandResult:
        """Run commands that stop at the first one that fails."""
        programs = self.folder / "bin"
        programs.mkdir(exist_ok=True)
        script = programs / "boltseal"
        script.write_text(f'#!/bin/sh\nexec {sys.executable} -m boltseal "$@"\n')
        script.chmod(0o755)
        environment = {
            "PATH": f"{programs}:{os.environ['PATH']}",
            "BOLTSEAL_STATE": str(self.folder / "state"),
            "COSIGN_PASSWORD": "",
        }
        return run("/bin/bash", "-euo", "pipefail", "-c", commands, env=environment, cwd=self.folder, timeout_s=600)


@pytest.fixture
def app(tmp_path: Path) -> Layout:
    return image_layout(tmp_path / "app", b"app")


def push(app: Layout, reference: str) -> None:
    run("skopeo", "copy", "--dest-tls-verify=false", app.source, f"docker://{reference}").checked()


@pytest.mark.parametrize("page", ["docs/guides/docker-content-trust.md", "docs/guides/from-notation.md"])
def test_images_move_from_the_hub_and_their_tags_are_proven(page: str, app: Layout, tmp_path: Path) -> None:
    """The commands of the page copy an image, pin the ledger's key and show the tag's history."""
    with servers.docker_registry(tmp_path / "hub") as hub, servers.boltseal(tmp_path / "data") as server:
        push(app, f"{hub.address}/shop/app:1.4.2")
        printed = Reader(tmp_path, server, hub).play(page, {})

    assert app.digest in printed


def test_signed_images_move_from_the_hub_and_new_ones_are_signed_before_their_tag(app: Layout, tmp_path: Path) -> None:
    """With the rule of the page, the copy carries cosign's signature along, and `publish` has cosign sign the next version."""
    page = "docs/guides/from-cosign.md"
    following = image_layout(tmp_path / "image", b"the next version")
    run(
        *("cosign", "generate-key-pair", "--output-key-prefix", "release"), env={"COSIGN_PASSWORD": ""}, cwd=tmp_path
    ).checked()
    (rule,) = fenced(text(page), "toml")
    rule = rule.replace("/etc/boltseal/release.pub", str(tmp_path / "release.pub"))
    with (
        servers.docker_registry(tmp_path / "hub") as hub,
        servers.boltseal(tmp_path / "data", config=rule) as server,
    ):
        reader = Reader(tmp_path, server, hub)
        source = f"{hub.address}/shop/app"
        push(app, f"{source}:1.4.2")
        unsigned = reader.shell(f"boltseal copy {source}:1.4.2 {server.address}/shop/app:1.4.2")
        reader.shell(f"{OF_COSIGN['cosign sign --yes']} --key release.key {source}@{app.digest}").checked()
        printed = reader.play(page, {"oci:./image": following.source})

    assert not unsigned.ok
    assert following.digest in printed


def test_a_receipt_travels_with_its_image(app: Layout, tmp_path: Path) -> None:
    """The commands of the page make the key, attach a receipt, copy the image, and verify the receipt with and without boltseal."""
    with servers.docker_registry(tmp_path / "hub") as hub, servers.boltseal(tmp_path / "data") as server:
        reader = Reader(tmp_path, server, hub)
        push(app, f"{server.address}/shop/app:1.4.2")
        reader.shell(f"boltseal ledger trust {server.address}{reader.here[' KEY']}").checked()
        printed = reader.play("docs/guides/receipts-beside-images.md", {})

    # attach, find, find -o, verify, and the receipt as a file
    assert printed.count(f"shop/app:1.4.2 was created as {app.digest}") == 5
    assert (tmp_path / "app.sigstore.json").exists()
