"""The client's commands with other registries and engines, over TLS with logins, compared with skopeo."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from tests import servers
from tests.cli import program
from tests.cli.program import Run
from tests.ports import free_port
from tests.real.layout import Layout, image_layout, index_layout
from tests.real.registry import Registry
from tests.real.tools import Cosign, Docker, run
from tests.servers import Server

pytestmark = pytest.mark.real

USER, PASSWORD = "ci", "correct horse battery"


@pytest.fixture(scope="module")
def peer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Debian's docker-registry."""
    with servers.docker_registry(tmp_path_factory.mktemp("peer")) as server:
        yield server


@pytest.fixture
def app(tmp_path: Path) -> Layout:
    """One image."""
    return image_layout(tmp_path / "app", b"app")


def boltseal(*arguments: str | Path, environment: Mapping[str, str] | None = None) -> Run:
    """Run a command that must succeed."""
    done = program.run(*arguments, environment=environment)
    assert done.code == 0, done.err
    return done


def test_an_index_is_copied_to_docker_registry_and_back(
    peer: Server, registry: Registry, repository: str, tmp_path: Path
) -> None:
    """An index copied to docker-registry and back to boltseal keeps its digest, and all commands read both."""
    both = index_layout(tmp_path / "both", {"amd64": b"one", "arm64": b"two"})
    there, here = f"{peer.address}/{repository}", f"{registry.host}/{repository}"
    boltseal("copy", both.source, f"{there}:1.0.0")
    boltseal("copy", f"{there}:1.0.0", f"{here}:1.0.0")
    again = boltseal("copy", "--all-tags", there, here, "--json").json

    assert boltseal("digest", f"{there}:1.0.0").out.strip() == both.digest
    assert registry.digest(repository, "1.0.0") == both.digest
    assert [result["status"] for result in again["results"]] == ["unchanged"]
    assert boltseal("tags", there).out.split() == ["1.0.0"]
    assert boltseal("check", f"{there}:1.0.1").code == 0
    assert program.run("check", f"{there}:1.0.0").code == 1
    assert boltseal("compare", f"{there}:1.0.0", f"{here}:1.0.0").out.startswith("the same image, byte for byte")
    assert "linux/arm64" in boltseal("inspect", f"{there}:1.0.0").out


def test_a_copy_within_docker_registry_mounts(peer: Server, repository: str, app: Layout) -> None:
    """Copying between two repositories of docker-registry mounts all blobs and sends none."""
    boltseal("copy", app.source, f"{peer.address}/{repository}-ci:build-123")
    result = boltseal("copy", f"{peer.address}/{repository}-ci:build-123", f"{peer.address}/{repository}:1.4.2")

    assert "sent 0 blobs" in result.err
    assert "2 blobs mounted" in result.err


def test_referrers_are_copied_to_a_registry_without_the_api(
    peer: Server, registry: Registry, repository: str, app: Layout, tmp_path: Path
) -> None:
    """docker-registry has no referrers API, so the copy writes the fallback tag, which oras reads too."""
    here, there = f"{registry.host}/{repository}:1.0.0", f"{peer.address}/{repository}:1.0.0"
    boltseal("copy", app.source, here)
    (tmp_path / "sbom.json").write_text("{}")
    attach = ("attach", "--plain-http", "--artifact-type", "application/vnd.example.sbom", here, "sbom.json")
    run("oras", *attach, cwd=tmp_path).checked()
    result = boltseal("copy", here, there, "--json").json["results"][0]
    seen = boltseal("inspect", there, "--json").json["results"][0]["referrers"]
    discovered = run("oras", "discover", "--plain-http", there).checked()

    assert result["referrers"] == 1
    assert [each["artifact_type"] for each in seen] == ["application/vnd.example.sbom"]
    assert "application/vnd.example.sbom" in discovered


@pytest.mark.parametrize(
    ("more", "check"),
    [((), ()), (("--registry-referrers-mode=oci-1-1",), ("--experimental-oci11",))],
    ids=["tag", "referrer"],
)
def test_cosign_verifies_what_went_along(
    peer: Server,
    registry: Registry,
    repository: str,
    app: Layout,
    cosign: Cosign,
    more: tuple[str, ...],
    check: tuple[str, ...],
) -> None:
    """cosign finds a copied signature in docker-registry, which has no referrers API, and an attestation beside it."""
    here, there = f"{registry.host}/{repository}:1.0.0", f"{peer.address}/{repository}:1.0.0"
    boltseal("copy", app.source, here)
    cosign.sign(here, "builder", *more).checked()
    cosign.attest(here, {"tests": "passed"}).checked()
    result = boltseal("copy", here, there, "--json").json["results"][0]

    assert (result["referrers"], result["not_carried"]) == (2, [])
    assert cosign.verify(there, *check) == {"builder"}
    assert cosign.attestations(there) == 1


def test_layouts_are_exchanged_with_skopeo(registry: Registry, repository: str, tmp_path: Path) -> None:
    """skopeo reads the layouts and archives that boltseal writes, and boltseal those of skopeo."""
    app, ref = image_layout(tmp_path / "app", b"app"), f"{registry.host}/{repository}"
    boltseal("copy", app.source, f"oci:{tmp_path}/ours:app")
    boltseal("copy", app.source, f"docker-archive:{tmp_path}/ours.tar:shop/app:1")
    run("skopeo", "copy", app.source, f"docker-archive:{tmp_path}/theirs.tar:shop/app:1").checked()
    boltseal("copy", f"docker-archive:{tmp_path}/theirs.tar", f"{ref}:2")
    raw = run("skopeo", "inspect", "--raw", f"oci:{tmp_path}/ours:app").checked()
    archive = json.loads(run("skopeo", "inspect", "--config", f"docker-archive:{tmp_path}/ours.tar").checked())

    assert json.loads(raw)["schemaVersion"] == 2
    assert archive["architecture"] == "amd64"
    compared = program.run("compare", app.source, f"{ref}:2", "--json").json["results"][0]
    assert compared["status"] in ("same-config", "same-files"), compared


@pytest.mark.parametrize("engine", ["docker", "docker_containerd"])
def test_an_image_is_copied_into_a_docker_daemon_and_back(
    engine: str, request: pytest.FixtureRequest, registry: Registry, repository: str, app: Layout
) -> None:
    """Docker runs an image that boltseal loaded, and the image that is read back is the same."""
    docker: Docker = request.getfixturevalue(engine)
    daemon = {"DOCKER_HOST": docker.host}
    name = f"{registry.host}/{repository}"
    boltseal("copy", app.source, f"docker-daemon:{name}:1.4.2", environment=daemon)
    listed = docker.run("image", "inspect", f"{name}:1.4.2").checked()
    boltseal("copy", f"docker-daemon:{name}:1.4.2", f"{name}:1.4.2", environment=daemon)
    compared = program.run("compare", app.source, f"{name}:1.4.2", "--json").json["results"][0]

    assert json.loads(listed)[0]["Architecture"] == "amd64"
    assert compared["status"] in ("same-manifest", "same-config"), compared


@pytest.fixture
def guarded(tmp_path: Path) -> Iterator[Server]:
    """A boltseal with a user, over TLS with its own authority, which issues tokens."""
    port = free_port()
    _certificates(tmp_path)
    subprocess.run(
        [sys.executable, "-m", "boltseal", "admin", "user", "add", USER, "--data", str(tmp_path / "data")],
        input=PASSWORD.encode(),
        check=True,
        capture_output=True,
        env=program.clean_environment(),
    )
    settings = {
        "BOLTSEAL_SERVER__TLS_CERT": str(tmp_path / "server.crt"),
        "BOLTSEAL_SERVER__TLS_KEY": str(tmp_path / "server.key"),
        "BOLTSEAL_SERVER__PUBLIC_URL": f"https://127.0.0.1:{port}",
    }
    with servers.boltseal(tmp_path / "data", settings=settings, port=port) as server:
        yield server


@pytest.fixture
def helper(tmp_path: Path, guarded: Server) -> dict[str, str]:
    """An environment with a Docker credential helper that records its calls."""
    folder = tmp_path / "bin"
    folder.mkdir()
    program_file = folder / "docker-credential-test"
    secret = json.dumps({"ServerURL": guarded.address, "Username": USER, "Secret": PASSWORD})
    program_file.write_text(f"#!/bin/sh\ncat >> {tmp_path}/asked\necho >> {tmp_path}/asked\necho '{secret}'\n")
    program_file.chmod(0o755)
    (tmp_path / "config.json").write_text(json.dumps({"credHelpers": {guarded.address: "test"}}))
    return {"DOCKER_CONFIG": str(tmp_path), "PATH": f"{folder}:{os.environ['PATH']}"}


def test_a_credential_helpers_login_is_used_over_tls(
    guarded: Server, helper: dict[str, str], tmp_path: Path, app: Layout
) -> None:
    """Over TLS with tokens, each command asks the credential helper once."""
    ref, authority = f"{guarded.address}/shop/app:1.4.2", ("--ca-file", tmp_path / "ca.crt")
    boltseal("copy", app.source, ref, *authority, environment=helper)
    result = boltseal("digest", ref, *authority, environment=helper)

    assert result.out.strip() == app.digest
    assert (tmp_path / "asked").read_text().split() == [guarded.address] * 2


def test_without_the_authority_or_the_login_nothing_is_checked(
    guarded: Server, helper: dict[str, str], tmp_path: Path
) -> None:
    """Without the authority or the login the exit code is 3 with the reason, and no password is printed."""
    ref, authority = f"{guarded.address}/shop/app:1.4.2", ("--ca-file", tmp_path / "ca.crt")
    distrusted = program.run("check", ref, environment=helper)
    anonymous = program.run("check", ref, *authority, "--anonymous", environment=helper)

    assert (distrusted.code, anonymous.code) == (3, 3)
    assert "certificate" in distrusted.err.lower()
    assert "login" in anonymous.err
    assert PASSWORD not in distrusted.err + anonymous.err


def _certificates(folder: Path) -> None:
    """Write ca.crt, and server.crt and server.key signed by it for 127.0.0.1."""
    new = ("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2")
    signs = ("-addext", "keyUsage=critical,keyCertSign,cRLSign")  # Python 3.13 requires it in an authority
    authority = (*signs, "-subj", "/CN=authority of a test", "-keyout", f"{folder}/ca.key", "-out", f"{folder}/ca.crt")
    server = (
        *("-subj", "/CN=server", "-CA", f"{folder}/ca.crt", "-CAkey", f"{folder}/ca.key"),
        *("-addext", "subjectAltName=IP:127.0.0.1", "-addext", "basicConstraints=critical,CA:FALSE"),
        *("-keyout", f"{folder}/server.key", "-out", f"{folder}/server.crt"),
    )
    for arguments in (authority, server):
        subprocess.run([*new, *arguments], check=True, capture_output=True)
