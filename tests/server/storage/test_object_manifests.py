"""The objects of manifests: written before a push counts, dropped when it is refused, dead when the manifest is deleted."""

from __future__ import annotations

from pathlib import Path

import obstore
import pytest

from boltseal.oci.digest import Digest
from boltseal.server.settings import Settings
from boltseal.server.storage.blobs.object_upkeep import ObjectUpkeep
from boltseal.server.storage.full_collection import FullCollection
from boltseal.server.storage.object_manifests import ManifestCopy, ManifestObjectInvalid, decode, encode
from boltseal.server.store_factory import open_store, prepare
from tests.images import image, push
from tests.object_faults import Fault, faulty, no_fault, on
from tests.object_stores import now_us
from tests.serving import serving_as
from tests.storage_servers import ACCESS_KEY, BUCKET, SECRET_KEY, ObjectServer

COPY = ManifestCopy("shop/app", Digest.of(b"{}"), "application/json", 1, "ci", b"{}")
SEALED = [{"repository": "**", "tag": "*", "mode": "sealed"}]


def test_an_object_is_parsed_as_it_was_written() -> None:
    """Repository, digest, media type, time, user and bytes come back, also bytes with line breaks."""
    raw = b'{"a":\n1}\n'
    copy = COPY._replace(raw=raw, digest=Digest.of(raw, "sha512"))

    assert decode(encode(copy)) == copy


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\n",
        b"[]\n{}",
        b'{"format":2}\n{}',
        encode(COPY) + b" ",
        encode(COPY).replace(b'"format":1', b'"format":2'),
        encode(COPY).replace(b"shop/app", b"../app"),
        encode(COPY).replace(b'"pushed_us":1', b'"pushed_us":true'),
        encode(COPY).replace(b'"pushed_by":"ci"', b'"pushed_by":1'),
        encode(COPY).replace(b'"format"', b'"more":1,"format"'),
        encode(COPY).replace(b"sha256:4", b"sha256:5"),
    ],
)
def test_anything_else_is_refused(content: bytes) -> None:
    """Other bytes than the digest's, unknown keys, wrong types and names that are no repository are not used."""
    with pytest.raises(ManifestObjectInvalid):
        decode(content)


async def test_each_push_has_one_object_whatever_failed_before(
    object_server: ObjectServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A push whose object can't be written, or whose answer is lost, gets 503 and stores nothing; a refused one leaves no object."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", ACCESS_KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET_KEY)
    prefix = tmp_path.name.replace("_", "-")
    with faulty(object_server) as proxy:
        storage = {"blobs": f"s3://{BUCKET}/{prefix}", "s3": {"endpoint": proxy.endpoint}}
        settings = Settings.model_validate({"server": {"data": tmp_path / "data"}, "storage": storage, "rule": SEALED})
        one, other, gone = image("one"), image("other"), image("gone")
        failed = []
        prepare(settings)
        async with serving_as(settings) as registry:
            for fault in (Fault.REFUSED, Fault.LOST):
                proxy.plan = on("PUT", "/manifests/", fault)
                failed.append((await push(registry.client, "shop/app", "v1", one)).status_code)
                failed.append((await registry.client.get("/v2/shop/app/manifests/v1")).status_code)
            proxy.plan = no_fault
            pushed = await push(registry.client, "shop/app", "v1", one)
            again = await push(registry.client, "shop/app", "v1", one)
            refused = await push(registry.client, "shop/app", "v1", other)
            await push(registry.client, "shop/app", gone.digest, gone)
            deleted = await registry.client.delete(f"/v2/shop/app/manifests/{gone.digest}")
        with open_store(settings) as store:
            upkeep = store.blobs.upkeep
            assert isinstance(upkeep, ObjectUpkeep)
            upkeep.run(now_us())
            later_us = now_us() + 2 * 24 * 3600 * 1_000_000
            list(FullCollection(store.database, store.blobs.maintenance, upkeep, later_us).find_all(dry_run=False))
            upkeep.delete_dead(later_us)
        bucket = object_server.store(prefix)
        left = [
            bytes(obstore.get(bucket, each["path"]).bytes())
            for page in obstore.list(bucket, "manifests/")
            for each in page
        ]

    assert failed == [503, 404] * 2
    assert [answer.status_code for answer in (pushed, again, refused, deleted)] == [201, 201, 409, 202]
    assert [str(decode(content).digest) for content in left] == [one.digest]
