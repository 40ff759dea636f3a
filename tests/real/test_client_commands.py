"""The read and write commands of other clients, each on a registry without users and on one with users.

A row of `ROWS` is one command line of a client, or several in order, and what the last one prints. Each row has a repository of
its own with a sealed tag (1.0.0), a mutable one (latest) and an index (2.0.0). Left out, because they are no requests of a
registry: `docker search HOST/TERM` (an API of Docker Hub), and `skopeo standalone-sign` and the like, which work on files.
crane is built from Debian's package of its source. regctl is in no package of Debian, so it is not here.
"""

from __future__ import annotations

import base64
import hashlib
import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx2
import pytest

from boltseal.server.auth.logins import hash_password
from boltseal.server.storage.users import UserFile
from tests import servers
from tests.real.layout import app_tar, image_layout, index_layout
from tests.real.registry import Registry
from tests.real.tools import CommandResult, Ctr, Docker, Podman, run
from tests.servers import Server

pytestmark = pytest.mark.real

USER = "ci"
WORD = "correct-horse"
UPLOADS = "/v2/{name}/blobs/uploads/"
GRANTS = """\
[auth]
anonymous_pull = ["public/**"]

[[auth.grant]]
users = ["ci"]
actions = ["pull", "push", "delete"]
"""


@dataclass(frozen=True, slots=True)
class Access:
    """A registry and a login. `folder`: the clients' configuration with that login. `word`: "" for a registry without users."""

    server: Server
    folder: Path
    word: str

    @property
    def host(self) -> str:
        return self.server.address

    @property
    def environment(self) -> dict[str, str]:
        """Return the variables by which clients find the login and use plain HTTP."""
        return {
            "DOCKER_CONFIG": str(self.folder),
            "REGISTRY_AUTH_FILE": str(self.folder / "config.json"),
            "HOME": str(self.folder),
            "XDG_CONFIG_HOME": str(self.folder / ".config"),
        }


def access(server: Server, folder: Path, word: str) -> Access:
    """Write the login into the file of docker, which the others read too, and the settings of each client."""
    auth = {server.address: {"auth": base64.b64encode(f"{USER}:{word}".encode()).decode()}}
    (folder / "config.json").write_text(json.dumps({"auths": auth if word else {}}))
    containers = folder / ".config/containers"
    containers.mkdir(parents=True)
    (containers / "registries.conf").write_text(f'[[registry]]\nlocation = "{server.address}"\ninsecure = true\n')
    return Access(server, folder, word)


@pytest.fixture(scope="module")
def open_registry(registry: Registry, tmp_path_factory: pytest.TempPathFactory) -> Access:
    """The registry without users that all tests of this folder share."""
    return access(registry.server, tmp_path_factory.mktemp("open"), "")


@pytest.fixture(scope="module")
def guarded_registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Access]:
    """A registry in which `ci` may do everything but administer, and anonymous clients may pull `public/**`."""
    folder = tmp_path_factory.mktemp("guarded")
    UserFile(folder / "data.keys" / "htpasswd").put(USER, hash_password(WORD))
    with servers.boltseal(folder / "data", config=GRANTS) as server:
        logins = folder / "logins"
        logins.mkdir()
        yield access(server, logins, WORD)


@dataclass(frozen=True, slots=True)
class ClientScene:
    """One repository with its images, and a scratch folder that has the layouts `one` and `index` and a file `note`."""

    access: Access
    repository: str
    work: Path
    digests: dict[str, str]
    clients: dict[str, tuple[str, ...]]

    def fill(self, text: str) -> list[str]:
        """Return the words of a command line of the table."""
        words = {
            "host": self.access.host,
            "name": f"{self.access.host}/{self.repository}",
            "copy": f"{self.access.host}/{self.repository}-copy",
            "repository": self.repository,
            "work": str(self.work),
            "user": f"{USER}:{self.access.word}",
            **self.digests,
        }
        return [word.format(**words) for word in text.split()]

    def run(self, text: str) -> CommandResult:
        """Run a command line of the table."""
        client, *arguments = self.fill(text)
        return run(*self.clients[client], *arguments, env=self.access.environment, cwd=self.work)

    def digest(self, reference: str, repository: str = "") -> str | None:
        """Return the digest that a reference resolves to, asked without any client; None if it does not exist."""
        accept = "application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json, " + (
            "application/vnd.docker.distribution.manifest.v2+json, application/vnd.docker.distribution.manifest.list.v2+json"
        )
        auth = httpx2.BasicAuth(USER, self.access.word) if self.access.word else None
        url = f"{self.access.server.url}/v2/{repository or self.repository}/manifests/{reference}"
        answer = httpx2.head(url, headers={"accept": accept}, auth=auth, trust_env=False)
        return answer.headers["docker-content-digest"] if answer.status_code == 200 else None


@pytest.fixture(params=["open", "users"])
def of(request: pytest.FixtureRequest) -> Access:
    """Return the registry without users, then the one with users."""
    found: Access = request.getfixturevalue("open_registry" if request.param == "open" else "guarded_registry")
    return found


@pytest.fixture(scope="session")
def layouts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write the image layouts that all rows share."""
    folder = tmp_path_factory.mktemp("layouts")
    image_layout(folder / "two", b"content of two")
    index_layout(folder / "index", {"amd64": b"for amd64", "arm64": b"for arm64"})
    (folder / "note").write_text("a note")
    (folder / "blob").write_bytes(b"a blob")
    (folder / "layer.tar").write_bytes(app_tar(b"appended"))
    return folder


@pytest.fixture
def scene(of: Access, layouts: Path, repository: str, tmp_path: Path) -> ClientScene:
    work = tmp_path / "work"
    shutil.copytree(layouts, work)
    image_layout(work / "one", f"content of {repository}".encode())  # docker mounts only what it pulled from here
    made = ClientScene(of, repository, work, {}, {"skopeo": ("skopeo", "--insecure-policy"), "oras": ("oras",)})
    for layout, tag in (("one", "1.0.0"), ("two", "latest"), ("index", "2.0.0")):
        made.run(f"skopeo copy --all oci:{{work}}/{layout}:app docker://{{name}}:{tag}").checked()
        made.digests[layout] = made.digest(tag) or ""
    made.digests["blob"] = f"sha256:{hashlib.sha256((work / 'blob').read_bytes()).hexdigest()}"
    return made


ROWS: dict[str, tuple[str, ...]] = {
    # client and what it does: command lines, and last a word that the output has; "" for any
    "skopeo inspect": ("skopeo inspect docker://{name}:1.0.0", "{one}"),
    "skopeo inspect --raw": ("skopeo inspect --raw docker://{name}:2.0.0", "arm64"),
    "skopeo inspect --config": ("skopeo inspect --config docker://{name}:1.0.0", "rootfs"),
    "skopeo inspect by digest": ("skopeo inspect docker://{name}@{one}", "{one}"),
    "skopeo list-tags": ("skopeo list-tags docker://{name}", "latest"),
    "skopeo copy from": ("skopeo copy docker://{name}:1.0.0 dir:{work}/out", ""),
    "skopeo copy across": (
        "skopeo copy --all docker://{name}:2.0.0 docker://{copy}:2.0.0",
        "skopeo inspect --raw docker://{copy}:2.0.0",
        "arm64",
    ),
    "skopeo copy converts": (
        "skopeo copy --format v2s2 docker://{name}:1.0.0 docker://{copy}:1.0.0",
        "skopeo inspect docker://{copy}:1.0.0",
        "{copy}",
    ),
    "skopeo sync": ("skopeo sync --src docker --dest dir {name} {work}/synced", "1.0.0"),
    "skopeo delete": ("skopeo delete docker://{name}:latest", "skopeo list-tags docker://{name}", "1.0.0"),
    "oras repo ls": ("oras repo ls --plain-http {host}", "{repository}"),
    "oras repo tags": ("oras repo tags --plain-http {name}", "latest"),
    "oras resolve": ("oras resolve --plain-http {name}:1.0.0", "{one}"),
    "oras manifest fetch": ("oras manifest fetch --plain-http --descriptor {name}:1.0.0", "{one}"),
    "oras manifest fetch-config": ("oras manifest fetch-config --plain-http {name}:1.0.0", "rootfs"),
    "oras manifest push": (
        "oras manifest fetch --plain-http --output {work}/manifest {name}:1.0.0",
        "oras manifest push --plain-http {name}:1.0.1 {work}/manifest",
        "{one}",
    ),
    "oras manifest delete": ("oras manifest delete --plain-http --force {name}:latest", "Deleted"),
    "oras blob push, fetch and delete": (
        "oras blob push --plain-http {name} {work}/blob",
        "oras blob fetch --plain-http --output {work}/got {name}@{blob}",
        "oras blob delete --plain-http --force {name}@{blob}",
        "Deleted",
    ),
    "oras tag": ("oras tag --plain-http {name}:1.0.0 1.0.2 stable", "oras resolve --plain-http {name}:1.0.2", "{one}"),
    "oras cp": (
        "oras cp --from-plain-http --to-plain-http {name}:2.0.0 {copy}:2.0.0,2.0.1",
        "oras repo tags --plain-http {copy}",
        "2.0.1",
    ),
    "oras attach and discover": (
        "oras attach --plain-http --artifact-type application/vnd.example.note {name}:1.0.0 note:text/plain",
        "oras discover --plain-http --format json {name}:1.0.0",
        "application/vnd.example.note",
    ),
    "oras cp with referrers": (
        "oras attach --plain-http --artifact-type application/vnd.example.note {name}:1.0.0 note:text/plain",
        "oras cp --recursive --from-plain-http --to-plain-http {name}:1.0.0 {copy}:1.0.0",
        "oras discover --plain-http --format json {copy}:1.0.0",
        "application/vnd.example.note",
    ),
    "oras push and pull": (
        "oras push --plain-http --artifact-type application/vnd.example.app {name}:3.0.0 note:text/plain",
        "oras pull --plain-http --output {work}/pulled {name}:3.0.0",
        "Pulled",
    ),
    "podman search": ("podman search --limit 1000 {host}/", "{name}"),
    "podman search --list-tags": ("podman search --list-tags {name}", "latest"),
    "podman pull and push": (
        "podman pull {name}:1.0.0",
        "podman push {name}:1.0.0 docker://{copy}:1.0.0",
        "podman search --list-tags {copy}",
        "1.0.0",
    ),
    "podman manifest create and push": (
        "podman pull {name}:latest",
        "podman manifest create {name}:4.0.0 {name}:latest",
        "podman manifest push --all {name}:4.0.0 docker://{name}:4.0.0",
        "podman search --list-tags {name}",
        "4.0.0",
    ),
    "docker pull and push": (
        "docker pull {name}:1.0.0",
        "docker tag {name}:1.0.0 {copy}:1.0.0",
        "docker push {copy}:1.0.0",
        "digest: sha256:",
    ),
    "docker pull by digest": ("docker pull {name}@{one}", "{one}"),
    "docker manifest inspect": ("docker manifest inspect --insecure {name}:2.0.0", "arm64"),
    "docker manifest create and push": (
        "docker manifest create --insecure {name}:5.0.0 {name}:1.0.0",
        "docker manifest push --insecure --purge {name}:5.0.0",
        "sha256:",
    ),
    "docker buildx imagetools": ("docker buildx imagetools inspect {name}:2.0.0", "{index}"),
    "ctr pull and push": (
        "ctr images pull --plain-http --snapshotter native {login} {name}:1.0.0",
        "ctr images tag --force {name}:1.0.0 {copy}:1.0.0",
        "ctr images push --plain-http {login} {copy}:1.0.0",
        "done",
    ),
    "crane ls": ("crane ls {name}", "latest"),
    "crane catalog": ("crane catalog {host}", "{repository}"),
    "crane digest": ("crane digest {name}:1.0.0", "{one}"),
    "crane manifest": ("crane manifest {name}:2.0.0", "arm64"),
    "crane config": ("crane config {name}:1.0.0", "rootfs"),
    "crane validate": ("crane validate --remote {name}:2.0.0", "PASS"),
    "crane copy": ("crane copy {name}:2.0.0 {copy}:2.0.0", "crane digest {copy}:2.0.0", "{index}"),
    "crane tag": ("crane tag {name}:1.0.0 1.0.3", "crane digest {name}:1.0.3", "{one}"),
    "crane pull and push": (
        "crane pull --format oci {name}:1.0.0 {work}/pulled",
        "crane push {work}/pulled {copy}:1.0.0",
        "{copy}",
    ),
    "crane append": ("crane append --oci-empty-base -f {work}/layer.tar -t {name}:6.0.0", "{name}"),
    "crane mutate": ("crane mutate --label a=b -t {name}:6.1.0 {name}:1.0.0", "{name}"),
    "crane delete": ("crane delete {name}@{two}", "crane ls {name}", "1.0.0"),
}


@pytest.fixture
def row(request: pytest.FixtureRequest, scene: ClientScene) -> tuple[str, ...]:
    """Return one row of the table after starting its client."""
    lines = ROWS[request.param]
    client = lines[0].partition(" ")[0]
    match client:
        case "docker":
            docker: Docker = request.getfixturevalue("docker")
            scene.clients[client] = ("docker", "-H", docker.host)
        case "podman":
            podman: Podman = request.getfixturevalue("podman")
            scene.clients[client] = podman.words()
        case "ctr":
            ctr: Ctr = request.getfixturevalue("ctr")
            scene.clients[client] = ctr.words()
        case "crane":
            scene.clients[client] = (request.getfixturevalue("crane"),)
        case _:
            assert client in scene.clients
    login = "--user {user}" if scene.access.word else ""
    return tuple(line.replace("{login}", login) for line in lines)


@pytest.mark.parametrize("row", ROWS, indirect=True)
def test_a_command_of_a_client_works_with_and_without_users(scene: ClientScene, row: tuple[str, ...]) -> None:
    """Every command line of the row succeeds, the last one prints the row's last text, and the sealed tag is unchanged."""
    *lines, expected = row
    printed = [scene.run(line).checked() for line in lines]

    assert " ".join(scene.fill(expected)) in printed[-1]
    assert scene.digest("1.0.0") == scene.digests["one"]


@pytest.mark.parametrize(
    "row",
    ["skopeo copy across", "oras cp", "docker pull and push", "podman pull and push", "crane copy"],
    indirect=True,
)
def test_a_client_mounts_blobs_between_repositories(scene: ClientScene, row: tuple[str, ...]) -> None:
    """A copy within the registry uploads no blob that can be mounted: the challenge names what a mount needs."""
    registry = Registry(scene.access.server)
    before = registry.answered("POST", UPLOADS, 201)
    for line in row[:-1]:
        scene.run(line).checked()

    assert registry.answered("POST", UPLOADS, 201) > before
