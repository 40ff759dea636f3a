"""Receipts as referrers, with the tools of others: cosign, oras, skopeo, and docker-registry as the other registry."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from boltseal.ledger.receipt_attestation import PREDICATE_TYPE
from boltseal.server.storage.ledger_key import LedgerKeys
from boltseal.transfer.receipt_referrers import ARTIFACT_TYPE, FILE_NAME
from tests import servers
from tests.cli import program
from tests.cli.program import Run
from tests.real.layout import Layout, image_layout
from tests.real.tools import CommandResult, run
from tests.servers import Server

pytestmark = pytest.mark.real

TAG = "shop/app:1.4.2"
COSIGN = (
    *("--new-bundle-format", "--trusted-root", "trusted_root.json", "--insecure-ignore-tlog=true"),
    *("--type", PREDICATE_TYPE),
)


@dataclass(frozen=True)
class Stated:
    """A registry whose ledger announced an attestation key. `folder`: has attestation.pub, and the client's state."""

    server: Server
    folder: Path
    key: str

    @property
    def image(self) -> str:
        """The image, whose receipt is attached."""
        return f"{self.server.address}/{TAG}"

    def boltseal(self, *arguments: str | Path) -> Run:
        """Run a command with the client's state."""
        return program.run(*arguments, environment={"BOLTSEAL_STATE": str(self.folder / "state")})

    def cosign(self, verb: str, *arguments: str) -> CommandResult:
        """Verify with cosign and the attestation key, without a transparency log."""
        return run("cosign", verb, "--key", "attestation.pub", *COSIGN, *arguments, cwd=self.folder)

    def cosign_image(self, reference: str) -> CommandResult:
        """Verify the attestation of an image in a registry without TLS."""
        return self.cosign("verify-attestation", "--allow-http-registry", "--allow-insecure-registry", reference)


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Layout:
    return image_layout(tmp_path_factory.mktemp("app"), b"app")


@pytest.fixture(scope="module")
def stated(tmp_path_factory: pytest.TempPathFactory, app: Layout) -> Iterator[Stated]:
    """A registry with one image, to which its receipt is attached."""
    folder = tmp_path_factory.mktemp("stated")
    data = folder / "data"
    with servers.boltseal(data) as server:
        key = LedgerKeys(folder / "data.keys").key()
        assert key is not None
        stated = Stated(server, folder, str(key.verifier))
        rotated = program.run("ledger", "rotate", "--attestation", "--data", data, "--reason", "the first")
        shown = program.run("ledger", "key", "--attestation", "--data", data)
        (folder / "attestation.pub").write_text(shown.out)
        (folder / "trusted_root.json").write_text(run("cosign", "trusted-root", "create").checked())
        for done in (
            rotated,
            shown,
            stated.boltseal("copy", app.source, stated.image),
            stated.boltseal("ledger", "trust", server.address, stated.key),
            stated.boltseal("ledger", "receipt", "attach", stated.image),
        ):
            assert done.code == 0, done.err
        assert rotated.out == shown.out
        yield stated


@pytest.fixture(scope="module")
def peer(tmp_path_factory: pytest.TempPathFactory, stated: Stated) -> Iterator[Server]:
    """docker-registry, with a copy of the image under another name."""
    with servers.docker_registry(tmp_path_factory.mktemp("peer")) as server:
        copied = stated.boltseal("copy", stated.image, f"{server.address}/acme/app:1.4.2")
        assert copied.code == 0, copied.err
        yield server


def test_oras_lists_the_receipt_in_both_registries(stated: Stated, peer: Server) -> None:
    """The registry lists it as a referrer, and a copy has it in a registry without the referrers API."""
    for reference in (stated.image, f"{peer.address}/acme/app:1.4.2"):
        listed = run("oras", "discover", "--plain-http", reference).checked()

        assert ARTIFACT_TYPE in listed


def test_attaching_again_changes_nothing(stated: Stated) -> None:
    """A receipt of the same entry is attached once."""
    again = stated.boltseal("ledger", "receipt", "attach", stated.image, "--json")

    assert (again.code, again.json["results"][0]["status"]) == (0, "unchanged")


def test_cosign_verifies_the_attestation_in_both_registries(stated: Stated, peer: Server, app: Layout) -> None:
    """Debian's cosign verifies it with the attestation key alone, also in the foreign registry."""
    for reference in (f"{stated.server.address}/shop/app", f"{peer.address}/acme/app"):
        verified = stated.cosign_image(f"{reference}@{app.digest}")

        assert verified.ok, verified.text


def test_cosign_refuses_another_key(stated: Stated, app: Layout, tmp_path: Path) -> None:
    """A key that the ledger never announced verifies nothing."""
    run("cosign", "generate-key-pair", env={"COSIGN_PASSWORD": ""}, cwd=tmp_path).checked()
    other = Stated(stated.server, tmp_path, stated.key)
    (tmp_path / "attestation.pub").write_text((tmp_path / "cosign.pub").read_text())
    (tmp_path / "trusted_root.json").write_text((stated.folder / "trusted_root.json").read_text())

    assert not other.cosign_image(f"{stated.server.address}/shop/app@{app.digest}").ok


def test_cosign_verifies_a_written_statement(stated: Stated, app: Layout) -> None:
    """`--in-toto` writes a bundle that cosign verifies for the manifest as a file."""
    file = stated.folder / "app.sigstore.json"
    written = stated.boltseal("ledger", "receipt", stated.image, "--in-toto", "-o", file)
    manifest = app.folder / "blobs/sha256" / app.digest.removeprefix("sha256:")
    verified = stated.cosign("verify-blob-attestation", "--bundle", str(file), str(manifest))
    (stated.folder / "other.json").write_bytes(manifest.read_bytes() + b"\n")
    other = stated.cosign("verify-blob-attestation", "--bundle", str(file), "other.json")

    assert written.code == 0, written.err
    assert verified.ok, verified.text
    assert not other.ok


def test_the_receipt_pulled_from_the_other_registry_is_verified_offline(
    stated: Stated, peer: Server, tmp_path: Path
) -> None:
    """What `oras pull` writes is verified with the ledger's key, without a state and without a registry."""
    found = json.loads(
        run("oras", "discover", "--plain-http", "--format", "json", f"{peer.address}/acme/app:1.4.2").checked()
    )
    key = "referrers" if "referrers" in found else "manifests"
    (receipt,) = (each for each in found[key] if each["artifactType"] == ARTIFACT_TYPE)
    run("oras", "pull", "--plain-http", "-o", tmp_path, f"{peer.address}/acme/app@{receipt['digest']}").checked()
    verify = ("ledger", "receipt", "verify", tmp_path / FILE_NAME, "--key", stated.key)
    state = {"BOLTSEAL_STATE": str(tmp_path / "empty")}
    right = program.run(*verify, "--about", stated.image, environment=state)
    other_tag = program.run(*verify, "--about", f"{stated.server.address}/shop/app:1.4.3", environment=state)

    assert right.code == 0, right.err
    assert f"{TAG} was created as sha256:" in right.out
    assert other_tag.code == 1
    assert f"it is about {TAG}; expected shop/app:1.4.3" in other_tag.err


def test_a_receipt_is_found_in_the_other_registry(stated: Stated, peer: Server, app: Layout, tmp_path: Path) -> None:
    """The tag of the copy is proven by the receipt; under its own name there, and with an image without one, it is not."""
    copied = f"{peer.address}/acme/app:1.4.2"
    find = ("ledger", "receipt", "find", "--key", stated.key)
    right = program.run(*find, copied, "--about", stated.image, "-o", tmp_path / "found.json", "--json")
    own_name = program.run(*find, copied)
    bare = image_layout(tmp_path / "bare", b"another")
    moved = stated.boltseal("copy", "--force", bare.source, copied.replace("1.4.2", "1.4.9"))
    missing = program.run(*find, copied.replace("1.4.2", "1.4.9"), "--about", stated.image)
    again = program.run("ledger", "receipt", "verify", tmp_path / "found.json", "--key", stated.key)

    assert right.code == 0, right.err
    assert right.json["results"][0]["digest"] == app.digest
    assert own_name.code == 1
    assert f"it is about {TAG}; expected acme/app:1.4.2" in own_name.err
    assert (moved.code, missing.code, again.code) == (0, 1, 0)
    assert "no receipt attached to" in missing.err


def test_skopeo_copies_the_image_and_finds_the_referrer_by_digest(stated: Stated, peer: Server) -> None:
    """The referrer is an ordinary manifest, which any tool copies by its digest."""
    attached = stated.boltseal("ledger", "receipt", "attach", stated.image, "--json").json["results"][0]["referrer"]
    source = f"docker://{stated.server.address}/shop/app@{attached}"
    target = f"docker://{peer.address}/elsewhere/app@{attached}"

    run("skopeo", "copy", "--src-tls-verify=false", "--dest-tls-verify=false", source, target).checked()
