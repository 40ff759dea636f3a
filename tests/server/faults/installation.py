"""A whole installation: PostgreSQL, an S3 server behind a proxy that can fail requests, and `boltseal serve` as processes.

The mark is on the S3 server that all tests share and none ends, as the documentation asks for another one. A restarted
server has the same port, so a client just goes on.
"""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from boltseal.ledger.note import VerifierKey
from boltseal.server.configuration import load
from boltseal.server.settings import Settings
from tests import servers
from tests.object_faults import FaultyServer, faulty, no_fault
from tests.ports import free_port
from tests.servers import Server
from tests.serving import ledger_key
from tests.storage_servers import ACCESS_KEY, BUCKET, SECRET_KEY, ObjectServer

LOGIN = {"AWS_ACCESS_KEY_ID": ACCESS_KEY, "AWS_SECRET_ACCESS_KEY": SECRET_KEY}


@dataclass(slots=True)
class Installation:
    """The settings of a registry on PostgreSQL and S3, and its folder. `proxy`: in front of the S3 server."""

    folder: Path
    proxy: FaultyServer
    config: str
    port: int = field(default_factory=free_port)

    @property
    def data(self) -> Path:
        """The data folder."""
        return self.folder / "data"

    @property
    def config_file(self) -> Path:
        """The settings file, which `serve` writes."""
        return self.folder / "data.toml"

    @property
    def url(self) -> str:
        """The address of the registry."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def settings(self) -> Settings:
        """The settings as the server reads them."""
        settings = load(self.config_file)
        return settings.model_copy(update={"server": settings.server.model_copy(update={"data": self.data})})

    @property
    def key(self) -> VerifierKey:
        """The key of the ledger, as an operator hands it out."""
        return ledger_key(self.data)

    @contextlib.contextmanager
    def serve(self, *, workers: int = 1, path: str = "/readyz") -> Iterator[Server]:
        """Run `boltseal serve`. `path`: answers 200 after the start."""
        with servers.boltseal(
            self.data, config=self.config, workers=workers, settings=LOGIN, port=self.port, path=path
        ) as server:
            yield server


@contextlib.contextmanager
def installation(
    folder: Path, database: str, objects: ObjectServer, marks: ObjectServer, *, direct: str | None = None
) -> Iterator[Installation]:
    """Prepare an installation. `database`: its address. `direct`: the same past a pooler. `marks`: has the mark."""
    name = uuid.uuid4().hex
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "mark.key").write_text(f"{ACCESS_KEY}\n{SECRET_KEY}\n")
    with faulty(objects) as proxy, pytest.MonkeyPatch.context() as patch:
        for variable, value in LOGIN.items():  # for commands and the cleanup in this process
            patch.setenv(variable, value)
        past_pooler = "" if direct is None else f'database_direct = "{direct}"\n'
        config = (
            f'[storage]\ndatabase = "{database}"\n{past_pooler}blobs = "s3://{BUCKET}/{name}"\n'
            f'[storage.s3]\nendpoint = "{proxy.endpoint}"\n'
            f'[storage.mark]\nurl = "s3://{BUCKET}/{name}/boltseal.mark"\nendpoint = "{marks.endpoint}"\n'
            f'access_key_file = "{folder / "mark.key"}"\n'
        )
        try:
            yield Installation(folder, proxy, config)
        finally:
            proxy.plan = no_fault
