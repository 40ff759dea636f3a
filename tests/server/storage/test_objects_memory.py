"""The memory of a server that receives many uploads for an object store at the same time."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from boltseal.server.storage.metadata.migrate import prepare_data
from tests.server.storage import object_memory
from tests.soak.scale import IS_FULL
from tests.storage_servers import ObjectServer

pytestmark = pytest.mark.slow

MIB = 1024 * 1024
UPLOADS, SIZE = (200, 64 * MIB) if IS_FULL else (60, 4 * MIB)


def test_many_uploads_grow_the_process_by_a_fixed_amount(object_server: ObjectServer, tmp_path: Path) -> None:
    """However many uploads there are and however large, the process grows by at most 64 MiB: bodies wait on disk."""
    data = tmp_path / "data"
    prepare_data(data)
    ran = subprocess.run(
        [sys.executable, object_memory.__file__, data, object_server.endpoint, "memory", str(UPLOADS), str(SIZE)],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=True,
    )

    assert int(ran.stdout) <= 64 * MIB
