"""A registry without HTTP: real database, real files, and a clock that the test moves."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from boltseal.ledger.entry import Entry, parse
from boltseal.oci.digest import Digest
from boltseal.oci.reference import Repository, Tag
from boltseal.policy.rules import parse_rules
from boltseal.server.auth.actor import ANONYMOUS, Actor
from boltseal.server.registry import Registry, build_registry
from boltseal.server.registry.models import UNCONDITIONAL, Conditions, ManifestUpload, Published
from boltseal.server.registry.sequencer import start_ledger
from boltseal.server.storage.blobs.blob_stores import check_place, open_blob_store
from boltseal.server.storage.blobs.protocol import BlobStore
from boltseal.server.storage.metadata import ledger_store
from boltseal.server.storage.metadata.protocol import Metadata
from boltseal.server.storage.metadata_factory import open_metadata, prepare_metadata
from tests.serving import settings_of

OCI = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"
SHOP = Repository("shop/app")
DAY_US = 86_400_000_000
HOUR_US = DAY_US // 24
START_US = 1_795_500_000_000_000


@dataclass
class Clock:
    """A clock in microseconds since the epoch that the test sets."""

    now_us: int = START_US

    def __call__(self) -> int:
        return self.now_us


async def once(data: bytes) -> AsyncIterator[bytes]:
    if data:
        yield data


@dataclass
class BareRegistry:
    """An opened store, and the operations that tests need."""

    registry: Registry
    database: Metadata
    blobs: BlobStore
    clock: Clock
    pushed: dict[str, bytes] = field(default_factory=dict)

    async def blob(self, data: bytes, repository: Repository = SHOP) -> dict[str, Any]:
        digest = Digest.of(data)
        upload = await self.registry.uploads.start(repository)
        await self.registry.uploads.finish(repository, upload, digest, None, None, once(data))
        return {"mediaType": "application/octet-stream", "digest": str(digest), "size": len(data)}

    async def image(self, salt: str, repository: Repository = SHOP, **more: Any) -> bytes:
        config = await self.blob(f'{{"salt":"{salt}"}}'.encode(), repository)
        layer = await self.blob(f"layer {salt}".encode(), repository)
        document = {"schemaVersion": 2, "mediaType": OCI, "config": config, "layers": [layer], **more}
        return json.dumps(document).encode()

    async def push(
        self,
        body: bytes,
        reference: str | Digest,
        *more_tags: str,
        repository: Repository = SHOP,
        media_type: str = OCI,
        conditions: Conditions = UNCONDITIONAL,
        actor: Actor = ANONYMOUS,
    ) -> Published:
        where = reference if isinstance(reference, Digest) else Tag(reference)
        return await self.registry.manifests.put(
            ManifestUpload(
                repository,
                where,
                body,
                media_type,
                actor,
                extra_tags=tuple(map(Tag, more_tags)),
                conditions=conditions,
            )
        )

    async def entries(self) -> list[Entry]:
        def read(connection: Any) -> list[Entry]:
            return [parse(line) for _, line in ledger_store.lines(connection)]

        return await self.database.read(read)


Opener = Callable[..., BareRegistry]


@pytest.fixture
def open_shop(tmp_path: Path) -> Iterator[Opener]:
    """Open the store of this test, as often as needed, with any rules."""
    opened: list[BareRegistry] = []
    clock = Clock()

    def open_(*rules: dict[str, object]) -> BareRegistry:
        data = tmp_path / "data"
        settings = settings_of(data)
        prepare_metadata(data, settings.storage)
        database = open_metadata(data, settings.storage, clock)
        check_place(settings, database, claim=True)  # as a start does
        blobs = open_blob_store(settings, database)
        rule_set = parse_rules(rules, read_key=lambda file: (tmp_path / file).read_bytes())
        database.write_and_wait(
            lambda tx: start_ledger(tx, origin="registry.test", rules=rule_set.canonical(), actor="boltseal")
        )
        opened.append(BareRegistry(build_registry(database, blobs, rule_set), database, blobs, clock))
        return opened[-1]

    yield open_
    for shop in opened:
        shop.database.close()
        shop.blobs.close()


@pytest.fixture
def shop(open_shop: Opener) -> BareRegistry:
    """A store with the built-in rules."""
    return open_shop()
