"""Fixtures of the real tests: the tools and engines, one of each for this folder, and a running boltseal."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest

from boltseal.engines.address import EngineAddress
from boltseal.engines.inventory import ImageStoreKind
from tests import servers
from tests.go_programs import build_go
from tests.real.registry import Registry
from tests.real.tools import Buildah, Cosign, Ctr, Docker, Oras, Podman, Skopeo, Tool, run

CRANE = "github.com/google/go-containerregistry/cmd/crane"
_numbers = itertools.count(1)


@pytest.fixture(scope="session", autouse=True)
def _empty_home(empty_home: None) -> None:
    """Let tools neither read nor write this machine's user configuration and logins."""


@pytest.fixture(scope="session")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    """A boltseal with the built-in rules, shared by tests that each use their own repository."""
    with servers.boltseal(tmp_path_factory.mktemp("boltseal") / "data") as server:
        yield Registry(server)


@pytest.fixture
def repository() -> str:
    """The name of a repository that no other test uses."""
    return f"shop/app{next(_numbers)}"


@pytest.fixture(scope="session")
def docker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Docker]:
    """Docker as Debian installs it."""
    with servers.dockerd(tmp_path_factory.mktemp("dockerd")) as server:
        yield Docker(server.address, "docker")


@pytest.fixture(scope="session")
def docker_containerd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Docker]:
    """Docker with containerd's image store."""
    with servers.dockerd(tmp_path_factory.mktemp("dockerc"), containerd_store=True) as server:
        yield Docker(server.address, "docker-containerd")


@pytest.fixture(scope="session")
def podman_service(tmp_path_factory: pytest.TempPathFactory, registry: Registry) -> Iterator[servers.Server]:
    """Podman behind Docker's API, with its own storage."""
    with servers.podman(tmp_path_factory.mktemp("podmans"), plain_http=[registry.host]) as server:
        yield server


@pytest.fixture(params=ImageStoreKind)
def engine_store(request: pytest.FixtureRequest) -> ImageStoreKind:
    """Each kind of engine, by its image store."""
    found: ImageStoreKind = request.param
    return found


@pytest.fixture
def engine_address(request: pytest.FixtureRequest, engine_store: ImageStoreKind) -> EngineAddress:
    """The address of such an engine."""
    if engine_store is ImageStoreKind.PODMAN:
        service: servers.Server = request.getfixturevalue("podman_service")
        return EngineAddress.parse(f"unix://{service.address}")
    found: Docker = request.getfixturevalue("docker" if engine_store is ImageStoreKind.CLASSIC else "docker_containerd")
    return EngineAddress.parse(found.host)


@pytest.fixture(scope="session")
def podman(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Podman]:
    """Podman with its own storage."""
    folder = tmp_path_factory.mktemp("podman")
    yield Podman(folder)
    servers.unmounted(folder)


@pytest.fixture(scope="session")
def buildah(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Buildah]:
    """Buildah with its own storage."""
    folder = tmp_path_factory.mktemp("buildah")
    yield Buildah(folder)
    servers.unmounted(folder)


@pytest.fixture(scope="session")
def skopeo(tmp_path_factory: pytest.TempPathFactory) -> Skopeo:
    """skopeo with image layouts on disk."""
    return Skopeo(tmp_path_factory.mktemp("skopeo"))


@pytest.fixture(scope="session")
def oras(tmp_path_factory: pytest.TempPathFactory) -> Oras:
    """oras with files on disk."""
    return Oras(tmp_path_factory.mktemp("oras"))


@pytest.fixture(scope="session")
def ctr(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ctr]:
    """ctr with a separate containerd."""
    folder = tmp_path_factory.mktemp("containerd")
    with servers.containerd(folder) as server:
        yield Ctr(server.address, folder / "images")


@pytest.fixture(params=["docker", "docker_containerd", "podman", "buildah", "skopeo", "oras", "ctr"])
def tool(request: pytest.FixtureRequest) -> Tool:
    """Each client tool."""
    found: Tool = request.getfixturevalue(request.param)
    return found


@pytest.fixture(scope="session")
def cosign(tmp_path_factory: pytest.TempPathFactory) -> Cosign:
    """cosign with a new key pair."""
    folder = tmp_path_factory.mktemp("cosign")
    run("cosign", "generate-key-pair", env={"COSIGN_PASSWORD": ""}, cwd=folder).checked()
    return Cosign(folder)


@pytest.fixture(scope="session")
def crane(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The program crane, built from the source in Debian's package golang-github-google-go-containerregistry-dev."""
    return str(build_go(CRANE, tmp_path_factory.mktemp("crane") / "crane"))
