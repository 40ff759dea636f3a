"""The servers: boltseal as users start it, Debian's docker-registry, nginx and bare granian with the same bytes, and olareg.

olareg, a small registry in Go, is in no Debian package; it is measured where a program `olareg` is on PATH.

All of them run on the first core, the load on the second. Servers that are read from are started once and stay
up, idle while another is measured; a server for pushes is new and empty each time, since
the remains of an earlier push (a larger folder, pages to write back) would be measured with it.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import httpx2

from bench.content import FLOATING_TAG, MANIFEST_TYPE, REPOSITORY, SEALED_TAG, Blob, Content
from tests import servers
from tests.servers import Server

BOLTSEAL = "boltseal"
REGISTRY = "docker-registry"
NGINX = "nginx"
OLAREG = "olareg"
GRANIAN = "granian alone"
"""boltseal's HTTP server with an application that only answers these bytes (`bench/bare.py`): what no registry on it beats."""
PEERS = (BOLTSEAL, REGISTRY, NGINX, GRANIAN, OLAREG)
OPEN = "boltseal + no login"
"""boltseal as it answers on loopback without users, and without an access log: what logins and lines are held against."""
SKOPEO = "boltseal + skopeo"
"""What `skopeo copy` takes from and to the same servers."""


def installed_peers() -> tuple[str, ...]:
    """Return the peers that this machine can run; only olareg may be missing."""
    return PEERS if shutil.which(OLAREG) else tuple(peer for peer in PEERS if peer != OLAREG)


SERVER_CORE, LOAD_CORE = 0, 1
ON_SERVER_CORE = ("taskset", "-c", str(SERVER_CORE))


@dataclass(frozen=True, slots=True)
class Readable:
    """A server with the content, and the paths of it."""

    server: Server
    content: Content

    @property
    def by_tag(self) -> str:
        """Return the path of the manifest by its sealed tag."""
        return f"/v2/{REPOSITORY}/manifests/{SEALED_TAG}"

    @property
    def by_floating_tag(self) -> str:
        """Return the path of the manifest by its mutable tag."""
        return f"/v2/{REPOSITORY}/manifests/{FLOATING_TAG}"

    @property
    def by_digest(self) -> str:
        """Return the path of the manifest by its digest."""
        return f"/v2/{REPOSITORY}/manifests/{self.content.manifest.digest}"

    def blob(self, blob: Blob) -> str:
        """Return the path of a blob."""
        return f"/v2/{REPOSITORY}/blobs/{blob.digest}"


@contextlib.contextmanager
def readable(
    peer: str, folder: Path, content: Content, settings: Mapping[str, str] | None = None
) -> Iterator[Readable]:
    """Run a server with the content, every byte of which was read back once and compared."""
    as_files = peer in (NGINX, GRANIAN)
    with _fresh_files(peer, folder, content) if as_files else fresh(peer, folder, settings) as server:
        if not as_files:
            fill(server, content)
        filled = Readable(server, content)
        for path, blob in (
            (filled.by_tag, content.manifest),
            (filled.by_floating_tag, content.manifest),
            (filled.by_digest, content.manifest),
            (filled.blob(content.small), content.small),
            (filled.blob(content.large), content.large),
        ):
            answer = httpx2.get(server.url + path, headers={"accept": MANIFEST_TYPE}, timeout=60, trust_env=False)
            assert answer.content == blob.data, f"{peer} answers {path} with {answer.status_code} and other bytes"
        yield filled


@contextlib.contextmanager
def fresh(peer: str, folder: Path, settings: Mapping[str, str] | None = None) -> Iterator[Server]:
    """Run a registry with an empty store; afterwards its folder is deleted and the disk is idle. `settings`: of
    boltseal."""
    with _start(peer, folder, settings) as server:
        yield server
    shutil.rmtree(folder)
    os.sync()


def _start(peer: str, folder: Path, settings: Mapping[str, str] | None) -> AbstractContextManager[Server]:
    folder.mkdir(parents=True)
    os.sync()
    if peer == BOLTSEAL:
        return servers.boltseal(folder / "data", before=ON_SERVER_CORE, settings=settings)
    if peer == OLAREG:
        return servers.olareg(folder, before=ON_SERVER_CORE)
    return servers.docker_registry(folder, before=ON_SERVER_CORE)


@contextlib.contextmanager
def _fresh_files(peer: str, folder: Path, content: Content) -> Iterator[Server]:
    """A server of files with the content under a registry's paths."""
    root = folder / "root"
    manifests, blobs = (root / "v2" / REPOSITORY / kind for kind in ("manifests", "blobs"))
    manifests.mkdir(parents=True)
    blobs.mkdir()
    for name in (SEALED_TAG, FLOATING_TAG, content.manifest.digest):
        (manifests / name).write_bytes(content.manifest.data)
    for blob in (content.small, content.large):
        (blobs / blob.digest).write_bytes(blob.data)
    with _file_server(peer, folder, root) as server:
        yield server
    shutil.rmtree(folder)


def _file_server(peer: str, folder: Path, root: Path) -> AbstractContextManager[Server]:
    if peer == NGINX:
        return servers.nginx(folder / "nginx", root, before=ON_SERVER_CORE)
    (folder / "granian").mkdir()
    return servers.asgi("bench.bare:app", folder / "granian", {"BENCH_BARE_ROOT": str(root)}, before=ON_SERVER_CORE)


def fill(server: Server, content: Content) -> None:
    """Push the content to a registry."""
    with httpx2.Client(base_url=server.url, timeout=60, trust_env=False) as client:
        for blob in (*content.parts, content.small, content.large):
            target = client.post(f"/v2/{REPOSITORY}/blobs/uploads/").headers["location"]
            finish = httpx2.URL(target).copy_add_param("digest", blob.digest)
            client.put(finish, content=blob.data).raise_for_status()
        for tag in (SEALED_TAG, FLOATING_TAG):
            client.put(
                f"/v2/{REPOSITORY}/manifests/{tag}",
                content=content.manifest.data,
                headers={"content-type": MANIFEST_TYPE},
            ).raise_for_status()
