"""`admin fsck` finds what a rebuild could not use, and `admin gc --full` writes it again."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import obstore
import pytest

from boltseal.errors import Unavailable
from boltseal.server.storage.findings import Finding
from boltseal.server.storage.metadata import blob_keys
from boltseal.server.store_factory import collect_store, examine_store, open_store
from tests.object_faults import Fault, faulty, on
from tests.server.registry.lost_registry import Registry, filled, rebuilt, registry_on
from tests.storage_servers import ACCESS_KEY, SECRET_KEY, ObjectServer


@pytest.fixture
def registry(object_server: ObjectServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Registry:
    """An empty registry with its blobs on the S3 server, below a prefix of its own."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", ACCESS_KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET_KEY)
    return registry_on(object_server, tmp_path / "data")


def findings_of(registry: Registry) -> tuple[Finding, ...]:
    """Return what `admin fsck` finds."""
    return examine_store(registry.settings, lambda *_: None).findings


def _changed(registry: Registry, key: str, _other: str) -> None:
    obstore.put(registry.bucket, key, registry.content(key)[:-1] + b" ")


def _of_another(registry: Registry, key: str, other: str) -> None:
    obstore.put(registry.bucket, key, registry.content(other))


def _empty(registry: Registry, key: str, _other: str) -> None:
    obstore.put(registry.bucket, key, b"")


def _of_other_parts(registry: Registry, key: str, _other: str) -> None:
    """Let the object state that the manifest has no parts, or the blob no objects."""
    line, _, raw = registry.content(key).partition(b"\n")
    obstore.put(registry.bucket, key, re.sub(rb'"(parts|keys)": ?\[.+\]', rb'"\1":[]', line) + b"\n" + raw)


def _missing(registry: Registry, key: str, _other: str) -> None:
    obstore.delete(registry.bucket, key)


@pytest.mark.parametrize("kind", ["manifests/", "index/"])
@pytest.mark.parametrize("damage", [_changed, _of_another, _of_other_parts, _empty, _missing])
async def test_fsck_names_a_damaged_object_and_gc_replaces_it(
    registry: Registry, kind: str, damage: Callable[[Registry, str, str], None]
) -> None:
    """A damaged or missing object of a manifest or index is one finding; after its deletion a full collection writes it, and a rebuild has everything."""
    before = await filled(registry)
    named = [key for key in registry.keys(kind) if key.startswith(kind)]
    with_parts = [key for key in named if b'"parts":[]' not in registry.content(key).replace(b" ", b"")]
    key = with_parts[0]  # an index has none that could be left out
    other = next(each for each in reversed(named) if each != key)
    sound = findings_of(registry)
    damage(registry, key, other)
    found = findings_of(registry)
    obstore.delete(registry.bucket, key)
    list(collect_store(registry.settings, dry_run=False, full=True))
    mended = findings_of(registry)
    result = rebuilt(registry)
    async with registry.serving() as client:
        after = await registry.answers(client)

    assert sound == mended == ()
    assert [finding.what for finding in found] == [key]
    assert "rebuilt" in found[0].problem
    assert "gc --full" in found[0].problem
    assert result.findings == ()
    assert {path: after[path] for path in before} == before


async def test_a_missing_object_of_a_blob_says_what_to_do(registry: Registry) -> None:
    """The bytes of a blob can't be written again: the finding about its object says to restore it or to push again."""
    await filled(registry)
    with open_store(registry.settings) as store:
        [stored, *_] = store.blobs.maintenance.walk()
        [part, *_] = store.database.read_and_wait(lambda tx: blob_keys.keys_of(tx, str(stored.digest)))
    key = part.key
    obstore.delete(registry.bucket, key)
    found = {finding.what: finding.problem for finding in findings_of(registry)}
    list(collect_store(registry.settings, dry_run=False, full=True))

    assert "push the blob again" in found[key]
    assert key in {finding.what for finding in findings_of(registry)}


@pytest.mark.parametrize("kind", ["manifests/", "index/"])
@pytest.mark.parametrize("fault", [Fault.REFUSED, Fault.LOST])
async def test_an_object_that_is_not_written_again_is_written_by_the_next_run(
    registry: Registry, object_server: ObjectServer, kind: str, fault: Fault
) -> None:
    """If the new object can't be written, or the answer is lost, the collection fails, and the next one writes it."""
    before = await filled(registry)
    obstore.delete(registry.bucket, registry.keys(kind)[0])
    with faulty(object_server) as proxy:
        proxy.plan = on("PUT", f"/{kind}", fault)
        s3 = registry.settings.storage.s3.model_copy(update={"endpoint": proxy.endpoint})
        storage = registry.settings.storage.model_copy(update={"s3": s3})
        with pytest.raises(Unavailable):
            list(collect_store(registry.settings.model_copy(update={"storage": storage}), dry_run=False, full=True))
    list(collect_store(registry.settings, dry_run=False, full=True))
    mended = findings_of(registry)
    result = rebuilt(registry)
    async with registry.serving() as client:
        after = await registry.answers(client)

    assert (mended, result.findings) == ((), ())
    assert {path: after[path] for path in before} == before
