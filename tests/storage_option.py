"""`--storage=s3`: registries inside the tests' process keep their blobs on a real S3 server. Without it: in files."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from tests.serving import STORAGE
from tests.storage_servers import ACCESS_KEY, BUCKET, SECRET_KEY, ObjectServer


@pytest.fixture(scope="session", autouse=True)
def _storage(request: pytest.FixtureRequest) -> Iterator[None]:
    """Let the registries of `tests.serving` use the S3 server, if the option says so."""
    if "s3" not in request.config.getoption("--storage"):
        yield
        return
    server: ObjectServer = request.getfixturevalue("object_server")
    settings = {"blobs": f"s3://{BUCKET}", "s3": {"endpoint": server.endpoint}}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(STORAGE, json.dumps(settings))
        patch.setenv("AWS_ACCESS_KEY_ID", ACCESS_KEY)
        patch.setenv("AWS_SECRET_ACCESS_KEY", SECRET_KEY)
        yield


@pytest.fixture
def files_only(request: pytest.FixtureRequest) -> None:
    """Leave out a test that reads or damages the files of blobs in the data folder; `test_objects` has those of objects."""
    if "s3" in request.config.getoption("--storage"):
        pytest.skip("about files in the data folder")
