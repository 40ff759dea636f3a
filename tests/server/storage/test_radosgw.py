"""Ceph's radosgw on `dbstore` as the S3 server. `make test-postgres` runs the contract of blobs on it, without ranges."""

from __future__ import annotations

from pathlib import Path

import pytest

from boltseal.server.storage.ledger_mark import MarkUnfit
from boltseal.server.storage.mark_factory import check_mark
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
