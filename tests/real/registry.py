"""The registry that the tools use, queried by a test directly."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import httpx2

from tests.servers import Server

ACCEPT = ", ".join(
    [
        "application/vnd.oci.image.manifest.v1+json",
        "application/vnd.oci.image.index.v1+json",
        "application/vnd.docker.distribution.manifest.v2+json",
        "application/vnd.docker.distribution.manifest.list.v2+json",
    ]
)


@dataclass(frozen=True, slots=True)
class Registry:
    """A running registry. `host`: the first part of a reference."""

    server: Server

    @property
    def host(self) -> str:
        """Return address and port."""
        return self.server.address

    def manifest(self, repository: str, reference: str) -> bytes:
        """Return the bytes of a manifest, after comparing its digest header with them."""
        answer = self._ask("GET", repository, reference)
        assert answer.status_code == 200, answer.text
        assert answer.headers["docker-content-digest"] == _digest(answer.content)
        return answer.content

    def digest(self, repository: str, reference: str) -> str:
        """Return the digest that a tag resolves to."""
        return _digest(self.manifest(repository, reference))

    def has(self, repository: str, reference: str) -> bool:
        """Return whether this manifest exists."""
        return self._ask("HEAD", repository, reference).status_code == 200

    def answered(self, method: str, route: str, status: int) -> int:
        """Return how many requests of this kind had this answer so far."""
        line = f'boltseal_http_requests_total{{method="{method}",route="{route}",status="{status}"}} '
        text = httpx2.get(f"{self.server.url}/metrics", timeout=30, trust_env=False).raise_for_status().text
        return sum(int(float(found.removeprefix(line))) for found in text.splitlines() if found.startswith(line))

    def _ask(self, method: str, repository: str, reference: str) -> httpx2.Response:
        url = f"{self.server.url}/v2/{repository}/manifests/{reference}"
        return httpx2.request(method, url, headers={"accept": ACCEPT}, timeout=30, trust_env=False)


def short(digest: str) -> str:
    """Return a digest as messages print it, long enough to distinguish two."""
    return digest[: len("sha256:") + 12]


def _digest(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"
