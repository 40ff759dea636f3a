"""Ceph's radosgw on `dbstore` as the S3 server: why `make test-postgres` leaves out parts of the contract of blobs on it."""

from __future__ import annotations

import os
from pathlib import Path

import obstore
import pytest

from boltseal.server.storage.ledger_mark import MarkUnfit
from boltseal.server.storage.mark_factory import check_mark
from boltseal.server.storage.object_client import PART_BYTES
from boltseal.server.storage_settings import MarkSettings, StorageSettings
from tests.storage_servers import ACCESS_KEY, BUCKET, SECRET_KEY, radosgw


@pytest.mark.real
def test_a_server_without_conditional_writes_keeps_no_mark(tmp_path: Path) -> None:
    """radosgw ignores If-Match and If-None-Match of a PUT, so two servers could sign two histories: a start refuses it."""
    key = tmp_path / "mark.key"
    key.write_text(f"{ACCESS_KEY}\n{SECRET_KEY}\n")
    with radosgw() as server:
        mark = MarkSettings(url=f"s3://{BUCKET}/ledger.mark", endpoint=server.endpoint, access_key_file=key)
        with pytest.raises(MarkUnfit, match="conditional writes"):
            check_mark(StorageSettings(mark=mark))


@pytest.mark.real
def test_an_object_that_was_written_in_parts_has_other_bytes() -> None:
    """radosgw returns the parts of an object in another order, so the contract runs on it without objects of more than one part."""
    content = os.urandom(PART_BYTES + 1000)
    with radosgw() as server:
        store = server.store()
        obstore.put(store, "whole", content, use_multipart=False)
        obstore.put(store, "parts", content, use_multipart=True, chunk_size=PART_BYTES)
        whole, parts = (bytes(obstore.get(store, key).bytes()) for key in ("whole", "parts"))

    assert whole == content
    assert len(parts) == len(content)
    assert parts != content
