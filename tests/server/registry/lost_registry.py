"""A registry on a bucket that loses its database, and what it answered before."""

from __future__ import annotations

import asyncio
import json
import shutil
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx2
import obstore
from obstore.store import S3Store

from boltseal.server.commands.rebuild import RebuiltStore, rebuild_store
from boltseal.server.settings import Settings
from boltseal.server.storage_settings import DatabaseUrl
from boltseal.server.store_factory import collect_store, prepare
from tests.images import Document, artifact, image, index, push, signature, signature_tag
from tests.polling import until_signed
from tests.serving import serving_as
from tests.storage_servers import BUCKET, ObjectServer

REPOSITORIES = ("shop/app", "shop/api", "tools")
RULES = [{"repository": "**", "tag": "v*", "mode": "sealed"}, {"repository": "**", "tag": "*", "mode": "floating"}]


Answer = tuple[int, bytes, str]
"""Status, body and type of an answer."""
Answers = dict[str, Answer]
"""The answers by path."""


@dataclass(slots=True)
class Registry:
    """A registry on a bucket, its answers, and how it loses its database. `documents`: what was pushed, by repository."""

    settings: Settings
    bucket: S3Store
    new_database: Callable[[], str] | None = None
    documents: dict[str, list[Document]] = field(default_factory=dict)

    @property
    def data(self) -> Path:
        """The data folder; the keys are beside it."""
        return self.settings.server.data

    def lose_database(self) -> None:
        """Remove the data folder, and leave the keys. On PostgreSQL take a new database."""
        shutil.rmtree(self.data)
        if self.new_database is not None:
            database = DatabaseUrl.parse(self.new_database())
            storage = self.settings.storage.model_copy(update={"database": database})
            self.settings = self.settings.model_copy(update={"storage": storage})

    def keys(self, prefix: str) -> list[str]:
        """Return the keys of the objects below a prefix."""
        return sorted(each["path"] for page in obstore.list(self.bucket, prefix) for each in page)

    def content(self, key: str) -> bytes:
        """Return the bytes of an object."""
        return bytes(obstore.get(self.bucket, key).bytes())

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[httpx2.AsyncClient]:
        """Run the registry, after a start as the supervisor makes it."""
        await asyncio.to_thread(prepare, self.settings)
        async with serving_as(self.settings) as running:
            yield running.client

    async def push(self, client: httpx2.AsyncClient, repository: str, reference: str, document: Document) -> int:
        """Push a document, and remember its digests. Returns the status of the answer."""
        self.documents.setdefault(repository, []).append(document)
        return (await push(client, repository, reference, document)).status_code

    async def answers(self, client: httpx2.AsyncClient) -> Answers:
        """Return what every repository answers about everything that was ever pushed anywhere."""
        found: Answers = {}

        async def ask(path: str) -> bytes:
            answer = await client.get(path)
            found[path] = answer.status_code, answer.content, answer.headers.get("content-type", "")
            return answer.content

        documents = [each for some in self.documents.values() for each in some]
        documents += [child for each in documents for child in each.children]
        documents += [child for each in documents for child in each.children]
        for repository in REPOSITORIES:
            tags = json.loads(await ask(f"/v2/{repository}/tags/list")).get("tags") or []
            for tag in tags:
                await ask(f"/v2/{repository}/manifests/{tag}")
                await ask(f"/v2/{repository}/_boltseal/history/{tag}")
            for each in documents:
                await ask(f"/v2/{repository}/manifests/{each.digest}")
                await ask(f"/v2/{repository}/referrers/{each.digest}")
                for blob in each.blobs:
                    await ask(f"/v2/{repository}/blobs/{blob.digest}")
        checkpoint = (await ask("/ledger/checkpoint")).decode()
        size = int(checkpoint.split("\n")[1])
        await ask(f"/ledger/tile/0/000.p/{size}")
        await ask(f"/ledger/tile/entries/000.p/{size}")
        return found


def registry_on(
    object_server: ObjectServer, data: Path, new_database: Callable[[], str] | None = None, **more: object
) -> Registry:
    """Return an empty registry with its blobs on the S3 server, below a prefix of its own. `more`: of `[storage.s3]`."""
    prefix = uuid.uuid4().hex
    storage: dict[str, object] = {
        "blobs": f"s3://{BUCKET}/{prefix}",
        "s3": {"endpoint": object_server.endpoint, **more},
    }
    if new_database is not None:
        storage |= {"database": new_database(), "mark": {"single_replica": True}}
    settings = {"server": {"data": data}, "storage": storage, "rule": RULES}
    return Registry(Settings.model_validate(settings), object_server.store(prefix), new_database)


async def fill(registry: Registry, client: httpx2.AsyncClient) -> None:
    """Push, move, seal and delete: untagged manifests, referrers, signatures, indexes of indexes, two digest algorithms."""
    one, two, three = (image(words) for words in ("one", "two", "three"))
    nested = index(index(one, two), three)
    for repository in REPOSITORIES[:2]:
        await registry.push(client, repository, "latest", one)
        await registry.push(client, repository, "latest", two)
        await registry.push(client, repository, "v1", one)
    await registry.push(client, "shop/app", "v2", nested)
    await registry.push(client, "shop/app", artifact("sbom", subject=one).digest, artifact("sbom", subject=one))
    await registry.push(client, "shop/app", signature_tag(one), signature(one, "ci"))
    await registry.push(client, "shop/api", "sha512", image("four", algorithm="sha512"))
    await registry.push(client, "tools", three.digest, three)
    await registry.push(client, "tools", "gone", image("gone"))
    gone = await client.delete(f"/v2/tools/manifests/{image('gone').digest}")
    refused = await registry.push(client, "shop/app", "v1", image("another"))

    assert (gone.status_code, refused) == (202, 409)


async def filled(registry: Registry) -> Answers:
    """Fill a registry, let the collection delete what is dead, and return its answers."""
    async with registry.serving() as client:
        await fill(registry, client)
        size = int((await client.get("/ledger/checkpoint")).text.split("\n")[1])
        await until_signed(client, max(size, 9))
    list(collect_store(registry.settings, dry_run=False))
    async with registry.serving() as client:
        return without_loose_blobs(registry, await registry.answers(client))


def without_loose_blobs(registry: Registry, answers: Answers) -> Answers:
    """Return the answers without those about blobs that no manifest of their repository contains, which a rebuild can't restore."""
    documents = [each for some in registry.documents.values() for each in some]
    documents += [child for each in documents for child in each.children]
    documents += [child for each in documents for child in each.children]
    contained = {
        f"/v2/{repository}/blobs/{blob.digest}"
        for repository in REPOSITORIES
        for each in documents
        if answers[f"/v2/{repository}/manifests/{each.digest}"][0] == 200
        for blob in each.blobs
    }
    return {path: answer for path, answer in answers.items() if "/blobs/" not in path or path in contained}


def rebuilt(registry: Registry) -> RebuiltStore:
    """Lose the database and rebuild it."""
    registry.lose_database()
    return rebuild_store(registry.settings, lambda *_: None)
