"""A boltseal registry with a ledger in this process, in the form of `Published`: images with a layer for each letter."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx2

from boltseal.client.credentials import CredentialStore
from boltseal.client.document_cache import DocumentCache
from boltseal.client.ledger_trust import LedgerWatch
from boltseal.client.state import ClientState
from boltseal.client.transport import Transport, TransportOptions
from boltseal.oci.digest import Digest
from boltseal.oci.reference import Reference
from boltseal.project.bases.base_report import BaseReport, ImageToCheck
from boltseal.project.bases.base_scan import BaseScanner
from boltseal.project.bases.image_documents import ImageDocuments
from boltseal.project.bases.tag_history import TagHistories, memory_from_cache
from tests.images import OCI_CONFIG, OCI_INDEX, OCI_LAYER, OCI_MANIFEST, Blob, push_blob
from tests.polling import until_signed
from tests.serving import FLOATING, Clock, Serving, serving

HOST = "localhost:5000"


@dataclass
class OwnRegistry:
    """A running registry and the state folder of a client. `entries`: the number of ledger entries so far."""

    serving: Serving
    state: Path
    clock: Clock
    layers: set[tuple[str, str]] = field(default_factory=set)
    entries: int = 2

    async def image(
        self,
        repository: str,
        tag: str,
        layers: str,
        *,
        architecture: str,
        labels: Mapping[str, str],
        annotations: Mapping[str, str],
        env: Iterable[str],
        history: Iterable[tuple[str, str]],
        created: str,
    ) -> Digest:
        """Push an image under a tag, or by its digest if the tag is empty."""
        body = {
            "os": "linux",
            "architecture": architecture,
            "created": created,
            "config": {"Env": list(env), "Labels": dict(labels)},
            "rootfs": {"type": "layers", "diff_ids": [str(Digest.of(letter.encode())) for letter in layers]},
            "history": [{"created": time, "created_by": line} for time, line in history],
        }
        blobs = [Blob(letter.encode(), OCI_LAYER) for letter in layers]
        config = Blob(json.dumps(body).encode(), OCI_CONFIG)
        for blob in (config, *blobs):
            if (repository, blob.digest) not in self.layers:
                await push_blob(self.serving.client, repository, blob)
                self.layers.add((repository, blob.digest))
        manifest = {
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "config": config.descriptor(),
            "layers": [blob.descriptor() for blob in blobs],
            **({"annotations": dict(annotations)} if annotations else {}),
        }
        return await self.put(repository, tag, json.dumps(manifest).encode(), OCI_MANIFEST)

    async def unlabelled(
        self, repository: str, tag: str, layers: str, annotations: Mapping[str, str] | None = None
    ) -> Digest:
        """Push an image for amd64 whose history has a line for each layer."""
        return await self.image(
            repository,
            tag,
            layers,
            architecture="amd64",
            labels={},
            annotations=annotations or {},
            env=(),
            history=[("2026-11-20T00:00:00Z", letter) for letter in layers],
            created="2026-11-20T00:00:00Z",
        )

    async def index(self, repository: str, tag: str, children: Mapping[str, Digest]) -> Digest:
        """Push an index of existing images by architecture."""
        entries = []
        for architecture, digest in children.items():
            found = await self.serving.client.get(f"/v2/{repository}/manifests/{digest}")
            descriptor = {"mediaType": OCI_MANIFEST, "digest": str(digest), "size": len(found.content)}
            entries.append(descriptor | {"platform": {"os": "linux", "architecture": architecture}})
        body = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries}
        return await self.put(repository, tag, json.dumps(body).encode(), OCI_INDEX)

    async def put(self, repository: str, tag: str, raw: bytes, media_type: str) -> Digest:
        """Push a manifest under a tag, or by its digest if the tag is empty."""
        digest = Digest.of(raw)
        path = f"/v2/{repository}/manifests/{tag or digest}"
        before = await self.serving.client.head(path)
        answer = await self.serving.client.put(path, content=raw, headers={"content-type": media_type})

        assert answer.status_code == 201, answer.text
        if tag and before.headers.get("docker-content-digest") != str(digest):
            self.entries += 1
        return digest

    async def delete(self, repository: str, digest: Digest) -> None:
        """Delete a manifest to which no tag resolves."""
        answer = await self.serving.client.delete(f"/v2/{repository}/manifests/{digest}")

        assert answer.status_code in (202, 404, 405), answer.text

    async def look(self, *names: str, listed: str | None = HOST) -> list[BaseReport]:
        """Scan images, an hour later at each call. `listed`: a registry of which these are all tags."""
        await until_signed(self.serving.client, self.entries)
        app = httpx2.ASGITransport(app=self.serving.app)
        transport = Transport(CredentialStore(()), TransportOptions(attempts=1), app=app)
        state = ClientState(self.state)
        watch = LedgerWatch(state, transport, lambda: self.clock.now_us // 1_000_000)
        try:
            with DocumentCache(state, now_us=self.clock.now_us) as learned:
                histories = TagHistories(transport, [memory_from_cache(learned)])
                scanner = BaseScanner(
                    transport,
                    ImageDocuments(transport, learned),
                    learned,
                    histories,
                    allowed=lambda _: True,
                    watch=watch.follow,
                    now_us=self.clock.now_us,
                    window_s=0,
                )
                histories.followed = scanner.followed
                wanted = [ImageToCheck(name, Reference.parse(name)) for name in names]
                return await scanner.scan(wanted, listed=listed)
        finally:
            await transport.aclose()
            self.clock.advance(hours=1)


@asynccontextmanager
async def own_registry(folder: Path, now_us: int) -> AsyncIterator[OwnRegistry]:
    """Run a registry in which all tags may move."""
    clock = Clock(now_us)
    async with serving(folder / "data", FLOATING, clock=clock) as running:
        yield OwnRegistry(running, folder / "state", clock)
