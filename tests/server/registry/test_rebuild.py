"""`admin fsck --rebuild`: a registry that lost its database answers as before, from its bucket and keys; a bucket that lies is found."""

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
import pytest
from obstore.store import S3Store

from boltseal.server.commands.rebuild import RebuiltStore, rebuild_store
from boltseal.server.registry.rebuilt_logs import RebuildRefused
from boltseal.server.settings import Settings
from boltseal.server.storage.bucket_owner import BucketTaken, RebuildUnfinished
from boltseal.server.storage.findings import FindingStatus
from boltseal.server.storage.object_manifests import decode
from boltseal.server.storage_settings import DatabaseUrl
from boltseal.server.store_factory import collect_store, prepare
from tests.images import Document, artifact, image, index, push, signature, signature_tag
from tests.polling import until_signed
from tests.server.registry.rows import forget_manifest_objects
from tests.serving import serving_as
from tests.storage_servers import ACCESS_KEY, BUCKET, SECRET_KEY, ObjectServer

REPOSITORIES = ("shop/app", "shop/api", "tools")
RULES = [{"repository": "**", "tag": "v*", "mode": "sealed"}, {"repository": "**", "tag": "*", "mode": "floating"}]


Answers = dict[str, tuple[int, bytes, str]]
"""Status, body and type of each answer, by path."""


class Killed(Exception):
    """The rebuild ends here."""


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


@pytest.fixture(params=["sqlite"])
def registry(
    request: pytest.FixtureRequest, object_server: ObjectServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Registry:
    """An empty registry with its blobs on the S3 server, below a prefix of its own."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", ACCESS_KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET_KEY)
    prefix = uuid.uuid4().hex
    storage: dict[str, object] = {"blobs": f"s3://{BUCKET}/{prefix}", "s3": {"endpoint": object_server.endpoint}}
    new_database = request.getfixturevalue("new_database") if request.param == "postgresql" else None
    if new_database is not None:
        storage |= {"database": new_database(), "mark": {"single_replica": True}}
    settings = {"server": {"data": tmp_path / "data"}, "storage": storage, "rule": RULES}
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


@pytest.mark.parametrize("registry", ["sqlite", "postgresql"], indirect=True)
async def test_every_answer_is_the_same_after_a_rebuild(registry: Registry) -> None:
    """Tags, digests, referrers, blobs, histories and the ledger's tiles are the same in each repository, and fsck finds nothing."""
    before = await filled(registry)
    stored = {str(decode(registry.content(key)).digest) for key in registry.keys("manifests/")}
    result = rebuilt(registry)
    async with registry.serving() as client:
        after = await registry.answers(client)
        sealed = await registry.push(client, "shop/app", "v1", image("other"))
        moved = await registry.push(client, "shop/app", "latest", image("other"))

    assert (result.findings, result.examined.findings) == ((), ())
    assert {path: after[path] for path in before} == before
    assert (sealed, moved) == (409, 201)
    assert stored.isdisjoint({image("gone").digest, image("another").digest})


async def test_a_rebuild_that_is_ended_at_each_step_is_continued(registry: Registry) -> None:
    """Each run ends after the next step; meanwhile no server starts; the last one ends with the same answers."""
    before = await filled(registry)
    registry.lose_database()

    def ended_at(step: str) -> Callable[[str, int, int], None]:
        def progress(name: str, _done: int, _total: int) -> None:
            if name == step:
                raise Killed

        return progress

    for step in ("ledger (compared)", "ledger", "blobs", "manifests"):
        with pytest.raises(Killed):
            rebuild_store(registry.settings, ended_at(step))
        with pytest.raises(RebuildUnfinished):
            prepare(registry.settings)
    result = rebuild_store(registry.settings, lambda *_: None)
    async with registry.serving() as client:
        after = await registry.answers(client)

    assert (result.findings, result.examined.findings) == ((), ())
    assert {path: after[path] for path in before} == before


def _changed_manifest(registry: Registry) -> None:
    key = registry.keys("manifests/")[0]
    obstore.put(registry.bucket, key, registry.content(key)[:-1] + b" ")


def _objects_of_a_blob(registry: Registry) -> list[str]:
    """Return the objects of one blob, also those of its former copies that are not deleted yet."""
    [first, *_] = registry.keys("index/")
    copies = [json.loads(registry.content(key)) for key in registry.keys(first.rpartition("/")[0])]
    return [each["key"] for copy in copies for each in copy["keys"]]


def _missing_blob(registry: Registry) -> None:
    obstore.delete(registry.bucket, _objects_of_a_blob(registry))


def _shorter_blob(registry: Registry) -> None:
    for key in _objects_of_a_blob(registry):
        obstore.put(registry.bucket, key, b"")


def _changed_tile(registry: Registry) -> None:
    key = max(
        (key for key in registry.keys("ledger/") if "/tile/0/" in key), key=lambda each: int(each.rpartition("/")[2])
    )
    obstore.put(registry.bucket, key, bytes(len(registry.content(key))))


@pytest.mark.parametrize("lie", [_changed_manifest, _missing_blob, _shorter_blob, _changed_tile])
async def test_a_lie_of_the_bucket_is_reported_and_not_used(
    registry: Registry, lie: Callable[[Registry], None]
) -> None:
    """A changed manifest, a blob without its bytes and a changed tile are findings, and everything else is restored."""
    before = await filled(registry)
    lie(registry)
    result = rebuilt(registry)
    async with registry.serving() as client:
        after = await registry.answers(client)
    tiles = {path for path in before if "/tile/0/" in path}

    assert [finding.status for finding in result.findings] == [FindingStatus.DIFFERS]
    assert all(after[path] == before[path] or after[path][0] in (404, 503) for path in before.keys() - tiles)
    assert sum(after[path] != before[path] for path in before) < len(before) / 2


async def test_objects_with_foreign_names_are_left_alone(registry: Registry) -> None:
    """Objects that boltseal does not write are neither used nor deleted by a rebuild."""
    before = await filled(registry)
    foreign = ["manifests/notes.txt", "index/sha256/x", "blobs/y", f"manifests/{uuid.uuid4().hex}/z"]
    for key in foreign:
        obstore.put(registry.bucket, key, b"?")
    result = rebuilt(registry)
    async with registry.serving() as client:
        after = await registry.answers(client)

    assert result.findings == ()
    assert {path: after[path] for path in before} == before
    assert {key for prefix in ("manifests/", "index/", "blobs/") for key in registry.keys(prefix)}.issuperset(foreign)


async def test_changed_entries_restore_nothing(registry: Registry) -> None:
    """If a bundle is not what was signed, the rebuild refuses and names the roots; when it is put back, the next run restores."""
    before = await filled(registry)
    key = next(key for key in registry.keys("ledger/") if key.endswith(f"/{_signed_size(before)}") and "entries" in key)
    right = registry.content(key)
    obstore.put(registry.bucket, key, right.replace(b"anonymous", b"anonymouz"))
    registry.lose_database()
    with pytest.raises(RebuildRefused, match="expected"):
        rebuild_store(registry.settings, lambda *_: None)
    obstore.put(registry.bucket, key, right)
    result = rebuild_store(registry.settings, lambda *_: None)
    async with registry.serving() as client:
        after = await registry.answers(client)

    assert result.findings == ()
    assert {path: after[path] for path in before} == before


async def test_an_older_bucket_is_noticed_by_the_mark(registry: Registry) -> None:
    """If the bucket has fewer entries than the mark says, the older ledger is restored, and the loss is a finding."""
    async with registry.serving() as client:
        await fill(registry, client)
        await until_signed(client, 9)
    async with registry.serving() as client:
        older = {key: registry.content(key) for key in registry.keys("ledger/")}
        await registry.push(client, "tools", "later", image("later"))
        size = int((await client.get("/ledger/checkpoint")).text.split("\n")[1])
        await until_signed(client, size + 1)
    obstore.delete(registry.bucket, registry.keys("ledger/"))
    for key, content in older.items():
        obstore.put(registry.bucket, key, content)
    result = rebuilt(registry)

    assert any("can't be restored" in finding.problem for finding in result.findings)
    assert result.rebuilt.entries == size


async def test_a_rebuild_needs_an_empty_database(registry: Registry) -> None:
    """A database with content is refused and not changed, and a server does not start on an empty one."""
    await filled(registry)
    with pytest.raises(RebuildRefused, match="not empty"):
        rebuild_store(registry.settings, lambda *_: None)
    registry.lose_database()
    with pytest.raises(BucketTaken, match="--rebuild"):
        prepare(registry.settings)
    result = rebuild_store(registry.settings, lambda *_: None)

    assert result.findings == ()


async def test_manifests_of_an_older_version_get_their_objects(registry: Registry) -> None:
    """Manifests whose rows name no object get one from the regular cleanup, and can be restored then."""
    before = await filled(registry)
    obstore.delete(registry.bucket, registry.keys("manifests/"))
    forget_manifest_objects(registry.data)
    list(collect_store(registry.settings, dry_run=False))
    result = rebuilt(registry)
    async with registry.serving() as client:
        after = await registry.answers(client)

    assert (result.findings, result.examined.findings) == ((), ())
    assert {path: after[path] for path in before} == before


def _signed_size(answers: Answers) -> int:
    return int(answers["/ledger/checkpoint"][1].decode().split("\n")[1])
