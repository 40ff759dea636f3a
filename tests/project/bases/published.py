"""Images in an in-memory registry, with a layer for each letter."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from boltseal.client.credentials import CredentialStore
from boltseal.client.document_cache import DocumentCache
from boltseal.client.ledger_trust import LedgerWatch
from boltseal.client.state import ClientState
from boltseal.client.tag_observations import TagObservations
from boltseal.client.transport import Transport, TransportOptions
from boltseal.oci.digest import Digest
from boltseal.oci.reference import Reference
from boltseal.project.bases.base_claims import ClaimSource, claim_from_reference
from boltseal.project.bases.base_report import BaseReport, ImageToCheck
from boltseal.project.bases.base_scan import BaseScanner
from boltseal.project.bases.image_documents import ImageDocuments
from boltseal.project.bases.tag_history import TagHistories, memory_from_cache, memory_from_observations
from tests.fakes.hub import FakeHub
from tests.images import OCI_CONFIG, OCI_INDEX, OCI_LAYER, OCI_MANIFEST

HUB = "registry-1.docker.io"
NAME, DIGEST = "org.opencontainers.image.base.name", "org.opencontainers.image.base.digest"
NOW_US = 1_795_500_000_000_000


def base_labels(name: str, digest: Digest) -> dict[str, str]:
    return {NAME: name, DIGEST: str(digest)}


@dataclass
class Published:
    """A registry at every host, and a persistent state folder. `inner`: hosts that are not allowed."""

    state: Path
    hub: FakeHub = field(default_factory=FakeHub)
    now_us: int = NOW_US
    allowed: bool = True
    inner: frozenset[str] = frozenset()
    _made: dict[str, str] = field(default_factory=dict)

    def image(
        self,
        repository: str,
        tag: str,
        layers: str,
        *,
        architecture: str = "amd64",
        labels: Mapping[str, str] | None = None,
        annotations: Mapping[str, str] | None = None,
        env: Iterable[str] = (),
        history: Iterable[str] | None = None,
        times: Iterable[str] | None = None,
        created: str = "2026-11-20T00:00:00Z",
        packed: str = "gzip",
    ) -> Digest:
        """Push an image; its layers need not exist, because they are not read.

        `times`: of the lines of its history; else a line keeps the time of the first image that had it, as a base's lines do.
        """
        lines = [*(layers if history is None else history)]
        config = json.dumps(
            {
                "os": "linux",
                "architecture": architecture,
                "created": created,
                "config": {"Env": list(env), "Labels": dict(labels or {})},
                "rootfs": {"type": "layers", "diff_ids": [str(Digest.of(letter.encode())) for letter in layers]},
                "history": [
                    {"created": time, "created_by": line}
                    for time, line in zip(
                        times or [self._made.setdefault(line, created) for line in lines], lines, strict=True
                    )
                ],
            }
        ).encode()
        self.hub.blobs[str(Digest.of(config))] = config
        body = {
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "config": {"mediaType": OCI_CONFIG, "digest": str(Digest.of(config)), "size": len(config)},
            "layers": [
                {"mediaType": OCI_LAYER, "digest": str(Digest.of(f"{packed} {letter}".encode())), "size": 1000}
                for letter in layers
            ],
            **({"annotations": dict(annotations)} if annotations else {}),
        }
        return self.hub.publish(repository, tag, json.dumps(body).encode(), OCI_MANIFEST)

    def index(self, repository: str, tag: str, children: Mapping[str, Digest], *attestations: dict[str, Any]) -> Digest:
        """Push an index of existing images by architecture, with further entries."""
        entries = [
            {
                "mediaType": OCI_MANIFEST,
                "digest": str(digest),
                "size": len(self.hub.manifests[repository][str(digest)][1]),
                "platform": {"os": "linux", "architecture": architecture},
            }
            for architecture, digest in children.items()
        ]
        body = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [*entries, *attestations]}
        return self.hub.publish(repository, tag, json.dumps(body).encode(), OCI_INDEX)

    def attested(self, repository: str, of: Digest, *materials: tuple[str, Digest], salt: str = "") -> dict[str, Any]:
        """Push a provenance statement with these build inputs; return its index entry."""
        statement = json.dumps(
            {
                "predicateType": "https://slsa.dev/provenance/v1",
                "predicate": {
                    "buildDefinition": {
                        "resolvedDependencies": [
                            {"uri": f"pkg:docker/{uri}", "digest": {"sha256": digest.hex}} for uri, digest in materials
                        ]
                    },
                    "salt": salt,
                },
            }
        ).encode()
        self.hub.blobs[str(Digest.of(statement))] = statement
        layer = {
            "mediaType": "application/vnd.in-toto+json",
            "digest": str(Digest.of(statement)),
            "size": len(statement),
            "annotations": {"in-toto.io/predicate-type": "https://slsa.dev/provenance/v1"},
        }
        config = {"mediaType": OCI_CONFIG, "digest": str(Digest.of(b"{}")), "size": 2}
        body = {"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": config, "layers": [layer]}
        digest = self.hub.publish(repository, "", json.dumps(body).encode(), OCI_MANIFEST)
        return {
            "mediaType": OCI_MANIFEST,
            "digest": str(digest),
            "size": 1,
            "platform": {"os": "unknown", "architecture": "unknown"},
            "annotations": {
                "vnd.docker.reference.type": "attestation-manifest",
                "vnd.docker.reference.digest": str(of),
            },
        }

    @asynccontextmanager
    async def looker(self, **more: Any) -> AsyncIterator[BaseScanner]:
        transport = Transport(CredentialStore(()), TransportOptions(attempts=1), app=self.hub.transport())
        state = ClientState(self.state)
        watch = LedgerWatch(state, transport, lambda: self.now_us // 1_000_000)
        with DocumentCache(state, now_us=self.now_us) as learned, TagObservations(state) as watched:
            mirrors = more.pop("mirrors", None)
            histories = TagHistories(transport, [memory_from_cache(learned), memory_from_observations(watched)])
            looker = BaseScanner(
                transport,
                ImageDocuments(transport, learned, mirrors),
                learned,
                histories,
                allowed=lambda name: self.allowed and name not in self.inner,
                watch=watch.follow,
                now_us=self.now_us,
                **more,
            )
            histories.followed = looker.followed
            try:
                yield looker
            finally:
                await transport.aclose()

    async def look(
        self, *wanted: str | ImageToCheck, base: str = "", listed: str | None = None, **more: Any
    ) -> list[BaseReport]:
        """Scan images, an hour later at each call. `listed`: a registry of which these are all tags."""
        claim = claim_from_reference(Reference.parse(base), ClaimSource.DOCKERFILE) if base else None
        images = [
            ImageToCheck(one, Reference.parse(one), base=claim) if isinstance(one, str) else one for one in wanted
        ]
        self.hub.counted_at.clear()
        async with self.looker(**more) as looker:
            answers = await looker.scan(images, listed=listed)
        self.now_us += 3_600_000_000
        return answers

    def asked(self, method: str, host: str = HUB) -> int:
        """Return how often manifests were requested at a host in the last scan."""
        return self.hub.counted_at[f"{method} manifest at {host}"]
