"""Ceph's radosgw as the S3 server: what it lacks is refused. Blobs on it: `pytest --s3-server=radosgw tests/contracts/test_blob_store.py`."""

from __future__ import annotations

import pytest

from boltseal.server.storage.ledger_mark import MarkUnfit, ObjectMark
from boltseal.server.storage.object_client import ObjectPlace, open_objects
from tests.storage_servers import ACCESS_KEY, BUCKET, SECRET_KEY, radosgw


@pytest.mark.real
def test_a_server_without_conditional_writes_keeps_no_mark() -> None:
    """radosgw on `dbstore` ignores If-Match and If-None-Match of a PUT, so that two servers could sign two histories."""
    with radosgw() as server:
        place = ObjectPlace(f"s3://{BUCKET}", server.endpoint, "us-east-1", (ACCESS_KEY, SECRET_KEY))
        with pytest.raises(MarkUnfit, match="conditional writes"):
            ObjectMark(open_objects(place), "ledger.mark").check()
