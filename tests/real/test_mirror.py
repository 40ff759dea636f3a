"""docker, containerd and podman, configured as docs/guides/pull-through-cache.md describes, pull through a mirror of
docker-registry."""

from __future__ import annotations

import contextlib
import json
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx2
import pytest

from tests import servers
from tests.docs.pages import ROOT
from tests.images import JsonObject
from tests.real.layout import app_in_layout, app_in_tar, image_layout
from tests.real.tools import Docker, output, run

pytestmark = pytest.mark.real

PAGE_ADDRESS = "127.0.0.1:5000"
IMAGE = "docker.io/library/app:1.4.2"
CONTENT = b"what upstream has\n" * 1000


@dataclass
class Mirrored:
    """A mirror of a hub that has one image. `hub`: ends the hub."""

    address: str
    url: str
    hub: contextlib.ExitStack

    def page(self, heading: str, language: str) -> str:
        """Return the block under a heading of the page, with the address of this mirror."""
        page = (ROOT / "docs/guides/pull-through-cache.md").read_text(encoding="utf-8")
        block = page.partition(f"\n## {heading}\n")[2].partition(f"```{language}\n")[2].partition("```")[0]
        assert PAGE_ADDRESS in block
        return block.replace(PAGE_ADDRESS, self.address)

    def counted(self, name: str) -> int:
        """Return a sum of the mirror's metrics."""
        lines = httpx2.get(f"{self.url}/metrics", trust_env=False).text.splitlines()
        return next(int(float(line.split()[1])) for line in lines if line.startswith(f"boltseal_{name}_total "))


@pytest.fixture
def mirrored(tmp_path: Path) -> Iterator[Mirrored]:
    """A mirror with users, whose hub is docker-registry with one image for all users."""
    with contextlib.ExitStack() as hub:
        upstream = hub.enter_context(servers.docker_registry(tmp_path / "hub"))
        layout = image_layout(tmp_path / "layout", CONTENT)
        target = f"docker://{upstream.address}/library/app:1.4.2"
        run("skopeo", "--insecure-policy", "copy", "--dest-tls-verify=false", layout.source, target).checked()
        config = f'[[upstream]]\nname = "docker.io"\nurl = "{upstream.url}"\nroot = true\nfresh = "1s"\n'
        config += '[auth]\nanonymous_pull = ["docker.io/**"]\n'  # so that each client needs a token
        with servers.boltseal(tmp_path / "data", config=config) as server:
            yield Mirrored(server.address, server.url, hub)


def test_docker_pulls_through_registry_mirrors(mirrored: Mirrored, tmp_path: Path) -> None:
    """docker pulls through the mirror, also when the hub is stopped, and from a daemon that reaches nothing else."""
    settings: JsonObject = json.loads(mirrored.page("Docker", "json"))
    with servers.dockerd(tmp_path / "dockerd", settings=settings) as daemon:
        docker = Docker(daemon.address, "docker")
        first = docker.pull("app:1.4.2")
        mirrored.hub.close()
        again = docker.pull("app:1.4.2")
        by_prefix = docker.pull(f"{mirrored.address}/{IMAGE}")

    assert first == again == by_prefix == CONTENT
    assert mirrored.counted("mirror_blobs_fetched") == 2
    assert mirrored.counted("mirror_manifests_fetched") == 1


def test_containerd_pulls_through_hosts_toml(mirrored: Mirrored, tmp_path: Path) -> None:
    """containerd pulls with `?ns=docker.io`, also when the hub is stopped."""
    hosts = tmp_path / "certs.d/docker.io/hosts.toml"
    hosts.parent.mkdir(parents=True)
    # Without `server`, as the page describes for hosts that use only the mirror, since tests reach no Docker Hub.
    hosts.write_text("\n".join(mirrored.page("containerd", "toml").splitlines()[1:]))
    with servers.containerd(tmp_path / "containerd") as daemon:
        ctr = ("ctr", "--address", daemon.address, "images")
        pull = (*ctr, "pull", "--hosts-dir", str(tmp_path / "certs.d"), "--snapshotter", "native", IMAGE)
        run(*pull).checked()
        run(*ctr, "rm", "--sync", IMAGE).checked()
        mirrored.hub.close()
        run(*pull).checked()
        archive = tmp_path / "image.tar"
        run(*ctr, "export", archive, IMAGE).checked()
    with tarfile.open(archive) as tar:
        tar.extractall(tmp_path / "exported", filter="data")

    assert app_in_layout(tmp_path / "exported") == CONTENT
    assert mirrored.counted("mirror_blobs_fetched") == 2


def test_podman_pulls_through_registries_conf(
    mirrored: Mirrored, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """podman pulls by the mirror's prefix, also when the hub is stopped."""
    conf = tmp_path / "registries.conf"
    conf.write_text(mirrored.page("Podman", "toml"))
    monkeypatch.setenv("CONTAINERS_REGISTRIES_CONF", str(conf))
    contents = []
    for host in ("first", "second"):
        at = tmp_path / host
        podman = (
            *("podman", "--root", f"{at}/root", "--runroot", f"{at}/run", "--tmpdir", f"{at}/tmp"),
            *("--storage-driver", "vfs", "--cgroup-manager", "cgroupfs", "--events-backend", "file"),
        )
        run(*podman, "pull", IMAGE).checked()
        container = output(*podman, "create", IMAGE, "/app").decode().strip()
        contents.append(app_in_tar(output(*podman, "export", container)))
        servers.unmounted(at)
        mirrored.hub.close()

    assert contents == [CONTENT, CONTENT]
    assert mirrored.counted("mirror_blobs_fetched") == 2


def test_a_registry_without_referrers_is_mirrored(mirrored: Mirrored) -> None:
    """docker-registry has no referrers API, so the mirror reads the fallback tag."""
    tags = httpx2.get(f"{mirrored.url}/v2/docker.io/library/app/tags/list", trust_env=False)
    head = httpx2.head(f"{mirrored.url}/v2/docker.io/library/app/manifests/1.4.2", trust_env=False)
    digest = head.headers["docker-content-digest"]
    referrers = httpx2.get(f"{mirrored.url}/v2/docker.io/library/app/referrers/{digest}", trust_env=False)

    assert tags.json() == {"name": "docker.io/library/app", "tags": ["1.4.2"]}
    assert (referrers.status_code, referrers.json()["manifests"]) == (200, [])
