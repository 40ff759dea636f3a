"""The container image: two builds are equal, it runs without privileges or a writable root, its documents are attached."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote

import pytest

from tests.distribution.builds import checked, clone, download_wheels, is_valid_sbom, typed
from tests.distribution.image_build import BASE, HARDENED, Layout, Storage, build_image, make_base, storage
from tests.polling import wait_until
from tests.ports import free_port
from tests.programs import program
from tests.real.tools import run
from tests.servers import START_TIMEOUT_S, Server, answers

pytestmark = [pytest.mark.slow, pytest.mark.real]

SBOM = "application/vnd.cyclonedx+json"
PROVENANCE = "application/vnd.in-toto+json"


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Storage]:
    """buildah and podman, with the base image."""
    with storage(tmp_path_factory.mktemp("engine")) as here:
        yield here


@pytest.fixture(scope="module")
def locked(engine: Storage, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The locked wheels for the base image's Python."""
    return download_wheels(tmp_path_factory.mktemp("locked"), make_base(engine))


@pytest.fixture(scope="module")
def layout(engine: Storage, locked: Path, revision: str, tmp_path_factory: pytest.TempPathFactory) -> Layout:
    """The image with its documents."""
    return build_image(engine, tmp_path_factory.mktemp("image") / "oci", revision, sys.executable, locked)


@pytest.fixture(scope="module")
def image(engine: Storage, layout: Layout) -> str:
    """The image in podman's storage."""
    return engine.podman("pull", "--quiet", f"oci:{layout.source}").checked().split()[-1]


def test_two_builds_have_the_same_digest(
    engine: Storage, locked: Path, layout: Layout, revision: str, tmp_path: Path
) -> None:
    """Two builds of the image, also from another checkout, have equal digest, SBOM and provenance."""
    root = clone(tmp_path / "clone", revision)
    again = build_image(engine, tmp_path / "oci", revision, sys.executable, locked, root=root)

    assert again.digest == layout.digest
    assert set(layout.referrers()) == {SBOM, PROVENANCE}
    assert again.referrers() == layout.referrers()


def test_it_runs_without_privileges_and_without_a_writable_root(engine: Storage, image: str) -> None:
    """The image runs without root or capabilities; only the volume is writable, and no build program is left."""
    script = "id -u; grep -E 'CapEff|NoNewPrivs' /proc/self/status; touch /x /opt/boltseal/x /tmp/x; touch data; ls; ls /opt/boltseal/bin"
    options = (*HARDENED, "--read-only-tmpfs=false", "--network", "none", "--entrypoint", "sh")
    ran = engine.podman("run", "--rm", *options, image, "-c", script).checked()

    assert ran.startswith("10001\nCapEff:\t0000000000000000\nNoNewPrivs:\t1\n")
    assert ran.count("Read-only file system") == 3
    assert "\ndata\n" in ran
    assert "boltseal" in ran.split()
    assert not {"pip", "hatchling"} & set(ran.split())


def test_it_serves_and_its_health_check_succeeds(engine: Storage, image: str, layout: Layout) -> None:
    """The running image accepts a push of itself; its health check succeeds, and fails for another address."""
    address = f"127.0.0.1:{free_port()}"
    options = ("--network", "host", "--read-only-tmpfs=false", "--env", f"BOLTSEAL_SERVER__LISTEN={address}")
    within = ("--health-interval", "disable", "--health-timeout", f"{START_TIMEOUT_S:.0f}s")
    check = ("--health-cmd", "boltseal health --ready", *within)
    box = engine.podman("run", "--detach", *HARDENED, *options, *check, image).checked().strip()
    try:
        wait_until(lambda: answers(f"http://{address}/readyz"), "the server is ready", START_TIMEOUT_S)
        healthy = engine.podman("healthcheck", "run", box)
        elsewhere = engine.podman(
            "exec", "--env", f"BOLTSEAL_SERVER__LISTEN=127.0.0.1:{free_port()}", box, "boltseal", "health"
        )
        pushed = run(
            "oras", "cp", "--no-tty", "--from-oci-layout", layout.source, "--to-plain-http", f"{address}/boltseal:1"
        )
        resolved = run("oras", "resolve", "--plain-http", f"{address}/boltseal:1")
        log = engine.podman("logs", box).text
    finally:
        stopped = engine.podman("stop", "--time", "20", box)
    ended = engine.podman("inspect", "--format", "{{.State.ExitCode}}", box).checked().strip()

    assert healthy.ok, healthy.text + log
    assert not elsewhere.ok
    assert "connection refused" in elsewhere.text
    assert pushed.ok, pushed.text + log
    assert resolved.checked().strip() == layout.digest
    assert (stopped.ok, ended) == (True, "0"), log


def test_the_documents_are_copied_to_a_registry_with_the_image(
    layout: Layout, registry: Server, tmp_path: Path
) -> None:
    """`oras discover` shows SBOM and provenance as referrers of the pushed image."""
    reference = f"{registry.address}/release/boltseal:{layout.version}"
    copy = typed("oras cp", layout=layout.source, image=reference)
    run(*copy[:-1], "--no-tty", "--to-plain-http", copy[-1]).checked()
    shown = run(*typed("oras discover", image=reference), "--plain-http").checked()
    output = run("oras", "discover", "--plain-http", "--format", "json", reference).checked()
    found = {each["artifactType"]: each["digest"] for each in json.loads(output)["manifests"]}
    for digest in found.values():
        source = f"{registry.address}/release/boltseal@{digest}"
        run("oras", "pull", "--no-tty", "--plain-http", "--output", tmp_path, source).checked()
    statement = json.loads((tmp_path / "provenance.intoto.json").read_bytes())
    sbom = json.loads((tmp_path / "sbom.cdx.json").read_bytes())

    assert set(found) == {SBOM, PROVENANCE}
    assert all(kind in shown for kind in found)
    assert statement["subject"] == [{"name": "boltseal", "digest": dict([layout.digest.split(":")])}]
    assert sbom["metadata"]["component"]["hashes"][0]["content"] == layout.digest.partition(":")[2]


def test_the_image_and_its_documents_are_signed(layout: Layout, registry: Server, tmp_path: Path) -> None:
    """cosign signs image and documents by digest and verifies them; it finds no signature on an unsigned one."""
    secret = {"COSIGN_PASSWORD": ""}
    plain = ("--allow-http-registry", "--allow-insecure-registry")
    reference = f"{registry.address}/signed/boltseal"
    run("cosign", "generate-key-pair", cwd=tmp_path, env=secret).checked()
    copy = ("oras", "cp", "--no-tty", "--recursive", "--from-oci-layout", layout.source, "--to-plain-http")
    run(*copy, f"{reference}:{layout.version}").checked()
    outcomes = []
    for digest in (layout.digest, *layout.referrers().values()):
        verify = typed("cosign verify", by_digest=f"{reference}@{digest}")
        sign = typed("cosign sign", by_digest=f"{reference}@{digest}")
        before = run(*verify, "--insecure-ignore-tlog=true", *plain, cwd=tmp_path)
        run(*sign, "--tlog-upload=false", *plain, cwd=tmp_path, env=secret).checked()
        after = run(*verify, "--insecure-ignore-tlog=true", *plain, cwd=tmp_path)
        outcomes.append((before.ok, after.ok))

    assert outcomes == [(False, True)] * 3


def test_the_sbom_lists_what_the_image_contains(engine: Storage, image: str, layout: Layout, tmp_path: Path) -> None:
    """The SBOM is valid CycloneDX 1.6 and lists every Python and Debian package that the image's own programs list."""
    source = f"{layout.folder}@{layout.referrers()[SBOM]}"
    run("oras", "pull", "--no-tty", "--oci-layout", "--output", tmp_path, source).checked()
    text = (tmp_path / "sbom.cdx.json").read_text()
    listed = [unquote(each.get("purl", "").partition("?")[0]) for each in json.loads(text)["components"]]
    code = (
        "from importlib.metadata import distributions as d; print(*(f'{x.name} {x.version}' for x in d()), sep='\\n')"
    )
    python = engine.podman("run", "--rm", "--network", "none", "--entrypoint", "python", image, "-c", code).checked()
    names = "${db:Status-Status} ${Package}\\n"
    debian = engine.podman("run", "--rm", "--network", "none", "--entrypoint", "dpkg-query", image, "-W", "-f", names)

    assert is_valid_sbom(text)
    assert sum(each.startswith("pkg:pypi/") for each in listed) == len(python.splitlines())
    assert f"pkg:pypi/boltseal@{layout.version}" in listed
    assert {each.split("/")[2].split("@")[0] for each in listed if each.startswith("pkg:deb/")} == {
        line.split()[1] for line in debian.checked().splitlines() if line.startswith("installed ")
    }


def test_the_provenance_names_the_base_and_the_commit(
    engine: Storage, layout: Layout, revision: str, tmp_path: Path
) -> None:
    """The provenance has the base and the commit, so that a user can rebuild and compare the digest."""
    source = f"{layout.folder}@{layout.referrers()[PROVENANCE]}"
    run("oras", "pull", "--no-tty", "--oci-layout", "--output", tmp_path, source).checked()
    definition = json.loads((tmp_path / "provenance.intoto.json").read_bytes())["predicate"]["buildDefinition"]
    base = engine.podman("image", "inspect", "--format", "{{.Digest}}", BASE).checked().strip()

    assert definition["externalParameters"]["base"] == f"{BASE}:latest"
    assert {"name": "source", "digest": {"gitCommit": revision}} in definition["resolvedDependencies"]
    assert base.partition(":")[2] in [each["digest"].get("sha256") for each in definition["resolvedDependencies"]]


def test_the_configuration_is_that_of_a_service(layout: Layout) -> None:
    """The image's configuration has user, volume, port and commit."""
    output = json.loads(checked([program("oras"), "manifest", "fetch-config", "--oci-layout", layout.source]))["config"]

    assert output["User"] == "10001:10001"
    assert output["Volumes"] == {"/var/lib/boltseal": {}}
    assert output["ExposedPorts"] == {"5000/tcp": {}}
    assert (output["Entrypoint"], output["Cmd"]) == (["boltseal"], ["serve"])
    assert output["Labels"]["org.opencontainers.image.version"] == layout.version
