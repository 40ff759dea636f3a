"""Two versions of boltseal on one database: a rolling upgrade, and one that is refused, with real processes of both."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx2
import psycopg
import pytest

import boltseal
from boltseal.server.storage.metadata.migrate import HEAD_REVISION
from tests.images import image, meaning, push, put
from tests.polling import until_answer, wait_until
from tests.ports import free_port
from tests.replicas import LOGIN, Replicas, replicas, stopped
from tests.storage_servers import ObjectServer

pytestmark = [pytest.mark.real, pytest.mark.slow]

APP = "shop/app"
NEXT = f"{int(HEAD_REVISION) + 1:04}"
EXPANDS = "op.add_column('repository', sa.Column('note', sa.Text(collation='C'), nullable=True))"
CONTRACTS = "op.drop_column('repository', 'created_by')"
MIGRATION = """
import sqlalchemy as sa
from alembic import op

from boltseal.server.storage.metadata.schema_support import Change

revision = "{revision}"
down_revision = "{before}"
change = Change.{change}


def upgrade() -> None:
    {statement}
"""
START_S = 90.0


@dataclass(frozen=True, slots=True)
class Version:
    """A version of boltseal, as a folder for PYTHONPATH."""

    source: Path

    def serve(self, registry: Replicas, name: str, port: int) -> subprocess.Popen[str]:
        """Start a server of this version."""
        settings = registry.folder / f"{name}.toml"
        settings.write_text(registry.config)
        words = [
            "serve",
            "--data",
            str(registry.folder / name),
            "--listen",
            f"127.0.0.1:{port}",
            "--config",
            str(settings),
        ]
        clean = {key: value for key, value in os.environ.items() if not key.startswith("BOLTSEAL_")}
        return subprocess.Popen(
            [sys.executable, "-m", "boltseal", *words],
            env={**clean, **LOGIN, "PYTHONPATH": str(self.source), "PYTHONDONTWRITEBYTECODE": "1"},
            cwd=registry.folder,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )

    @contextlib.contextmanager
    def running(self, registry: Replicas, name: str) -> Iterator[str]:
        """Run a server of this version inside the block. Yields its address."""
        port = free_port()
        process = self.serve(registry, name, port)
        url = f"http://127.0.0.1:{port}"

        def is_ready() -> bool:
            assert process.poll() is None, process.stderr.read() if process.stderr else ""
            with contextlib.suppress(httpx2.HTTPError):
                return httpx2.get(f"{url}/readyz").status_code == 200
            return False

        try:
            wait_until(is_ready, "the server is ready", START_S)
            yield url
        finally:
            process.terminate()
            process.communicate(timeout=60)


def newer(folder: Path, change: str, statement: str) -> Version:
    """Return the next version: this one with one more migration."""
    source = folder / f"{change}.version"
    shutil.copytree(Path(boltseal.__file__).parent, source / "boltseal", ignore=shutil.ignore_patterns("__pycache__"))
    metadata = source / "boltseal/server/storage/metadata"
    (metadata / f"migrations/versions/{NEXT}_next.py").write_text(
        MIGRATION.format(revision=NEXT, before=HEAD_REVISION, change=change, statement=statement)
    )
    replaced(metadata / "migrate.py", r'HEAD_REVISION: Final = "\d+"', f'HEAD_REVISION: Final = "{NEXT}"')
    if change == "CONTRACTS":
        replaced(metadata / "schema_support.py", r'OLDEST_SERVER: Final = "\d+"', f'OLDEST_SERVER: Final = "{NEXT}"')
        replaced(metadata / "schema.py", r'    Column\("created_by", TEXT\),.*\n', "")
    return Version(source)


def replaced(path: Path, pattern: str, by: str) -> None:
    text, count = re.subn(pattern, by, path.read_text())
    assert count == 1
    path.write_text(text)


@pytest.fixture
def registry(tmp_path: Path, new_database: Callable[[], str], object_server: ObjectServer) -> Iterator[Replicas]:
    with replicas(tmp_path / "registry", new_database(), object_server) as prepared:
        yield prepared


def revisions(registry: Replicas) -> list[str]:
    with psycopg.connect(registry.database) as connection:
        return [row[0] for row in connection.execute("SELECT revision FROM replica ORDER BY revision")]


async def test_two_versions_serve_one_registry_after_a_schema_was_expanded(registry: Replicas, tmp_path: Path) -> None:
    """During a rolling upgrade both versions take pushes, see each other's, and an older server can be restarted."""
    after = newer(tmp_path, "EXPANDS", EXPANDS)
    found: list[object] = []
    with registry.serve("old") as old, after.running(registry, "new") as new:
        running = revisions(registry)
        async with httpx2.AsyncClient(base_url=old.url) as one, httpx2.AsyncClient(base_url=new) as other:
            for number, (here, there) in enumerate(((one, other), (other, one))):
                document = image(f"image {number}")
                pushed = await push(here, APP, f"1.{number}", document)
                again = await push(there, APP, f"1.{number}", image("another"))
                found += [
                    pushed.status_code,
                    await meaning(there, APP, f"1.{number}") == document.digest,
                    again.status_code,
                ]
        with registry.serve("restarted") as third:
            async with httpx2.AsyncClient(base_url=third.url) as client:
                restarted = (await push(client, APP, "2.0", image("after the restart"))).status_code

    assert running == [HEAD_REVISION, NEXT]
    assert found == [201, True, 409] * 2
    assert restarted == 201


async def test_a_schema_is_not_contracted_while_an_older_server_lives(registry: Replicas, tmp_path: Path) -> None:
    """The newer server exits with 3 and one line, and nothing is changed; when the older one has ended, it starts."""
    after = newer(tmp_path, "CONTRACTS", CONTRACTS)
    with registry.serve("old") as old:
        async with httpx2.AsyncClient(base_url=old.url) as client:
            before = (await push(client, APP, "1.0", image("before"))).status_code
            refused = after.serve(registry, "new", free_port())
            _, errors = refused.communicate(timeout=START_S)
            still = (await push(client, APP, "1.1", image("still"))).status_code
    with after.running(registry, "new") as new:
        async with httpx2.AsyncClient(base_url=new) as client:
            later = (await push(client, APP, "1.2", image("later"))).status_code

    assert (before, still, later) == (201, 201, 201)
    assert refused.returncode == 3
    assert len(errors.strip().splitlines()) == 1
    assert "a server of boltseal" in errors


async def test_a_stopped_older_server_that_goes_on_after_a_contraction_works_no_more(
    registry: Replicas, tmp_path: Path
) -> None:
    """A server that was stopped for so long that the schema was contracted refuses every change when it goes on, and says why."""
    after = newer(tmp_path, "CONTRACTS", CONTRACTS)
    with registry.serve("old") as old:
        async with httpx2.AsyncClient(base_url=old.url, timeout=60.0) as client:
            await push(client, APP, "1.0", image("before"))
            with stopped(old), after.running(registry, "new"):
                pass

            async def is_refused() -> httpx2.Response | None:
                answer = await put(client, APP, "1.1", image("before"))
                return answer if "start the newer boltseal here" in answer.text else None

            refused = await until_answer(is_refused, "a push is refused")

    assert refused is not None
    assert refused.status_code == 503
