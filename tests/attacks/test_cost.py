"""Small requests that would cost a registry much: memory for one answer, work under the write lock."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from boltseal.oci.digest import Digest
from boltseal.server.storage.metadata import queries
from boltseal.server.storage.metadata.queries import ManifestRow
from tests.bare_registry import INDEX, OCI, SHOP
from tests.server.storage.sqlite_session import driver

if TYPE_CHECKING:
    from boltseal.server.storage.metadata.protocol import UnitOfWork
    from tests.bare_registry import BareRegistry

CHILDREN, TAGS = 3000, 64
MEBIBYTE = 1024 * 1024


@pytest.mark.parametrize("where", ["annotations", "artifactType"])
@pytest.mark.slow
async def test_a_page_of_referrers_has_few_megabytes(shop: BareRegistry, where: str) -> None:
    """Referrers that each carry a megabyte of text are listed in small pages: all, in order, each once."""
    image = await shop.image("signed")
    subject = {"mediaType": OCI, "digest": str(Digest.of(image)), "size": len(image)}
    text = "x" * MEBIBYTE
    more: dict[str, Any] = {"annotations": {"a": text}} if where == "annotations" else {"artifactType": f"a/b;{text}"}
    bodies = [await shop.image(f"sbom{n}", subject=subject, **more) for n in range(20)]
    for body in bodies:
        await shop.push(body, Digest.of(body))
    pages = [await shop.registry.pulls.referrers(SHOP, Digest.of(image), None)]
    while pages[-1].more:
        after = str(pages[-1].rows[-1].digest)
        pages.append(await shop.registry.pulls.referrers(SHOP, Digest.of(image), None, after=after))
    listed = [row.digest for page in pages for row in page.rows]

    assert max(len(page.rows) for page in pages) < len(bodies) / 2
    assert listed == sorted(map(Digest.of, bodies))


@pytest.mark.files_only("it counts the steps of SQLite")
async def test_many_tags_of_a_big_index_cost_little_more_than_one(shop: BareRegistry) -> None:
    """A push of an index with many tags checks the closure once, not once per tag."""
    config, layer = await shop.blob(b"{}"), await shop.blob(b"layer")
    children = [
        json.dumps(
            {"schemaVersion": 2, "mediaType": OCI, "config": config, "layers": [layer], "annotations": {"n": str(n)}}
        ).encode()
        for n in range(CHILDREN)
    ]

    def fill(tx: UnitOfWork) -> None:
        place = queries.ensure_repository(tx, SHOP, "somebody")
        links = [(config["digest"], "config"), (layer["digest"], "layer")]
        for child in children:
            queries.add_manifest(tx, place, row_of(child), child, links)

    await shop.database.write(fill)
    entries = [{"mediaType": OCI, "digest": str(Digest.of(child)), "size": len(child)} for child in children]
    index = json.dumps({"schemaVersion": 2, "mediaType": INDEX, "manifests": entries}).encode()
    await shop.push(index, Digest.of(index), media_type=INDEX)
    one = await steps(shop, index, ["1.0"])
    many = await steps(shop, index, [f"2.{n}" for n in range(TAGS)])

    assert many < 2 * one


async def steps(shop: BareRegistry, index: bytes, tags: list[str]) -> int:
    """Return how many hundred database steps a push of an existing index with these tags takes."""
    gone = 0

    def count() -> int:
        nonlocal gone
        gone += 1
        return 0

    await shop.database.write(lambda tx: driver(tx).set_progress_handler(count, 100))
    await shop.push(index, Digest.of(index), *tags, media_type=INDEX)
    await shop.database.write(lambda tx: driver(tx).set_progress_handler(None, 0))
    return gone


def row_of(raw: bytes) -> ManifestRow:
    digest = str(Digest.of(raw))
    return ManifestRow(
        digest=digest,
        canonical=digest,
        media_type=OCI,
        size=len(raw),
        subject=None,
        artifact_type=None,
        annotations=json.dumps(json.loads(raw)["annotations"]),
        pushed_us=0,
        pushed_by="somebody",
    )
