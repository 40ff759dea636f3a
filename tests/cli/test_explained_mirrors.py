"""`--explain` through our registry as a pull-through cache of docker-registry: by the mirror's names, and by `[client] mirrors`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests import servers
from tests.cli.program import Run, call
from tests.images import Document
from tests.packaged_images import DPKG, dpkg, image_of, layer_of
from tests.polling import wait_until
from tests.servers import Server
from tests.tar_images import push_document
from tests.thread_server import boltseal_in_thread

pytestmark = [pytest.mark.slow]
NAME, DIGEST = "org.opencontainers.image.base.name", "org.opencontainers.image.base.digest"
OS = layer_of({DPKG: dpkg(bash="5.1", openssl="3.0.1"), "usr/lib/libssl.so": b"3.0.1"})
FIXED = layer_of({DPKG: dpkg(bash="5.1", openssl="3.0.2"), "usr/lib/libssl.so": b"3.0.2"})
APP = layer_of({"app": b"x"})
UPSTREAM = '[[upstream]]\nname = "up.example"\nurl = "{url}"\nfresh = "1s"\n'


@dataclass
class Mirrored:
    """A registry without a ledger, and our mirror of it."""

    upstream: Server
    mirror: Server
    client: httpx2.Client

    def name(self, reference: str) -> str:
        """Return a reference as the mirror names it."""
        return f"{self.mirror.address}/up.example/{reference}"

    def push(self, repository: str, tag: str, image: Document) -> None:
        """Push an image upstream, and wait until the mirror serves it."""
        push_document(self.client, repository, tag, image)
        served = self.name(f"{repository}:{tag}")
        wait_until(lambda: call("digest", served).out.strip() == image.digest, "the mirror serves the image")

    def read(self, repository: str, image: Document) -> None:
        """Read an image through the mirror, which keeps it."""
        read = call("inspect", "--packages", f"{self.name(repository)}@{image.digest}")

        assert read.code == 0, read.err

    def delete(self, repository: str, image: Document) -> None:
        """Delete an image upstream."""
        answer = self.client.delete(f"/v2/{repository}/manifests/{image.digest}")

        assert answer.status_code == 202, answer.text

    def app_on_a_moved_base(self, base: str) -> Document:
        """Push a base, an image on it that records the base's name, and a fix of the base; return the former base."""
        old = image_of(OS)
        self.push("base/os", "latest", old)
        self.push("shop/app", "edge", image_of(OS, APP, annotations={NAME: base, DIGEST: old.digest}))
        self.read("base/os", old)
        self.push("base/os", "latest", image_of(FIXED))
        return old


@pytest.fixture
def mirrored(tmp_path: Path) -> Iterator[Mirrored]:
    with (
        servers.docker_registry(tmp_path / "upstream") as upstream,
        boltseal_in_thread(tmp_path / "data", UPSTREAM.format(url=upstream.url)) as mirror,
        httpx2.Client(base_url=upstream.url, trust_env=False) as client,
    ):
        yield Mirrored(upstream, mirror, client)


@pytest.fixture
def configured(mirrored: Mirrored, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Mirrored:
    """The mirror in the user's own settings."""
    folder = tmp_path / "config" / "boltseal"
    folder.mkdir(parents=True)
    mirrors = f'["{mirrored.upstream.address}={mirrored.mirror.address}/up.example"]'
    (folder / "boltseal.toml").write_text(f"[client]\nmirrors = {mirrors}\n")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    return mirrored


def explained(result: Run) -> dict[str, Any]:
    """Return the one explanation of a run."""
    [found] = [row["explanation"] for row in result.json["results"] if "explanation" in row]
    return dict(found)


def outdated(*names: str) -> dict[str, Any]:
    return explained(call("outdated", "--window", "0s", "--explain", "json", *names))


def updated_lock(project: Path, mirrored: Mirrored, image: str, *, deleted: bool = False) -> dict[str, Any]:
    """Lock a project, move its image upstream, update the lock, and return the explanation.

    `deleted`: upstream deletes the former image, which the mirror keeps.
    """
    mirrored.push("shop/app", "edge", image_of(OS))
    mirrored.read("shop/app", image_of(OS))
    project.mkdir()
    (project / "compose.yaml").write_text(f"services:\n  web:\n    image: {image}\n")
    assert call("lock", "--project", project).code == 0
    mirrored.push("shop/app", "edge", image_of(FIXED))
    if deleted:
        mirrored.delete("shop/app", image_of(OS))
    return explained(call("lock", "--update", "--explain", "json", "--project", project))


PACKAGE = {"kind": "deb", "name": "openssl", "was": "3.0.1", "now": "3.0.2"}


def test_a_moved_base_is_explained_by_the_mirrors_names(mirrored: Mirrored) -> None:
    """An image under the mirror's name is explained from what the mirror keeps, also if upstream deleted the former base."""
    old = mirrored.app_on_a_moved_base(mirrored.name("base/os:latest"))
    mirrored.delete("base/os", old)
    found = outdated(mirrored.name("shop/app:edge"))

    assert (found["reach"], found["was"]) == ("reaches", old.digest)
    assert found["packages"]["listed"] == [PACKAGE | {"image": "3.0.1", "state": "former"}]
    assert found["files"]["listed"] == ["/usr/lib/libssl.so", f"/{DPKG}"]


def test_a_moved_base_is_explained_through_a_configured_mirror(configured: Mirrored) -> None:
    """An image under upstream's name is read from the mirror in the user's settings, also if upstream deleted the former base."""
    base = f"{configured.upstream.address}/base/os:latest"
    old = configured.app_on_a_moved_base(base)
    configured.delete("base/os", old)
    found = outdated(f"{configured.upstream.address}/shop/app:edge")

    assert (found["reach"], found["base"]) == ("reaches", base)
    assert found["packages"]["listed"] == [PACKAGE | {"image": "3.0.1", "state": "former"}]


def test_an_update_of_a_mirrored_tag_has_the_mirrors_observation(mirrored: Mirrored, tmp_path: Path) -> None:
    """The person who pushed a mirrored image is not known; the mirror's log says since when it is served, and the contents are compared."""
    found = updated_lock(tmp_path / "project", mirrored, mirrored.name("shop/app:edge"), deleted=True)

    assert (found["pushed"]["by"], found["pushed"]["at"], found["pushed"]["proven"]) == (None, None, False)
    assert found["pushed"]["reason"] == (
        f"not known who pushed it, and when; the mirror at {mirrored.mirror.address} has it since {found['known_since']}, "
        "proven by its log"
    )
    assert found["packages"]["changed"] == [PACKAGE]
    assert found["files"]["changed"] == ["usr/lib/libssl.so", DPKG]


def test_an_update_is_explained_through_a_configured_mirror(configured: Mirrored, tmp_path: Path) -> None:
    """The two images of an update are read from the mirror in the user's settings, also if upstream deleted the former one."""
    image = f"{configured.upstream.address}/shop/app:edge"
    found = updated_lock(tmp_path / "project", configured, image, deleted=True)

    assert found["packages"]["changed"] == [PACKAGE]
    assert f"the mirror at {configured.mirror.address} has it since" in found["pushed"]["reason"]


def test_without_its_mirror_an_update_is_explained_by_the_registry(configured: Mirrored, tmp_path: Path) -> None:
    """A configured mirror that can't be reached, or does not have the images, changes nothing: the registry is read."""
    settings = tmp_path / "config" / "boltseal" / "boltseal.toml"
    settings.write_text(settings.read_text().replace("/up.example", "/other.example"))
    found = updated_lock(tmp_path / "project", configured, f"{configured.upstream.address}/shop/app:edge")

    assert found["packages"]["changed"] == [PACKAGE]
    assert found["pushed"]["reason"] == f"{configured.upstream.address} keeps no ledger"
