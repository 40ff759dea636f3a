"""Registries inside this process: the real application on its own folder, without a socket.

`serving()` may be called again on the same folder, with other rules or another clock: that is a restart.
"""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx2

from boltseal.events import Event
from boltseal.ledger.note import VerifierKey
from boltseal.server.app import create_app
from boltseal.server.maintenance import JANITOR_EVERY_S
from boltseal.server.mirror_factory import UPSTREAM_TIMEOUT_S
from boltseal.server.settings import Settings
from boltseal.server.storage.ledger_key import LedgerKeys
from boltseal.server.store_factory import now_us
from tests.asgi import App, running
from tests.storage_choice import copy_storage, with_storage

ORIGIN = "http://localhost:5000"
FIRST_START_US = 1_600_000_000_000_000  # long ago, so that any clock of a test is later

Rule = Mapping[str, object]
FLOATING: Sequence[Rule] = ({"repository": "**", "tag": "*", "mode": "floating"},)


@dataclass(frozen=True, slots=True)
class Serving:
    """A running registry: its client, the application, and its data folder."""

    client: httpx2.AsyncClient
    app: App
    data: Path


def settings_of(data: Path, rules: Sequence[Rule] = (), **server: object) -> Settings:
    """Return settings as from a file with these rules and `[server]` settings, without the environment."""
    return with_storage(Settings.model_validate({"server": {"data": data, **server}, "rule": list(rules)}))


def copy_of(data: Path, folder: Path) -> Path:
    """Copy a data folder with its keys beside it to a folder that need not exist; return the copy's path."""
    shutil.copytree(data.with_name(f"{data.name}.keys"), folder / "data.keys")
    copy_storage(data, folder / "data")
    return Path(shutil.copytree(data, folder / "data"))


@asynccontextmanager
async def serving(
    data: Path, rules: Sequence[Rule] = (), *, clock: Callable[[], int] | None = None, **server: object
) -> AsyncIterator[Serving]:
    """Run a registry on `data` with these rules. `clock` gives the time in microseconds; `server`: settings."""
    async with serving_as(settings_of(data, rules, **server), clock=clock) as registry:
        yield registry


@asynccontextmanager
async def serving_as(
    settings: Settings,
    *,
    clock: Callable[[], int] | None = None,
    witness_app: httpx2.AsyncBaseTransport | None = None,
    on_event: Callable[[Event], None] | None = None,
    janitor_every_s: float = JANITOR_EVERY_S,
    upstream_timeout_s: float = UPSTREAM_TIMEOUT_S,
) -> AsyncIterator[Serving]:
    """Run a registry with these settings. `witness_app`: answers for every witness. `on_event`: receives the events."""
    app = create_app(
        with_storage(settings),
        clock=clock or now_us,
        witness_app=witness_app,
        on_event=on_event,
        janitor_every_s=janitor_every_s,
        upstream_timeout_s=upstream_timeout_s,
    )
    transport = httpx2.ASGITransport(app=app)
    async with running(app), httpx2.AsyncClient(transport=transport, base_url=ORIGIN) as client:
        yield Serving(client, app, settings.server.data)


class Clock:
    """A clock that starts at the given time, in microseconds, and that only `advance` moves."""

    def __init__(self, now_us: int) -> None:
        self.now_us = now_us

    def __call__(self) -> int:
        return self.now_us

    def advance(self, *, days: int = 0, hours: int = 0, seconds: int = 0) -> None:
        self.now_us += ((days * 24 + hours) * 3600 + seconds) * 1_000_000


def ledger_key(data: Path) -> VerifierKey:
    """Return the key that verifies the checkpoints of a data folder's ledger."""
    key = LedgerKeys(data.with_name("data.keys")).key()
    assert key is not None
    return key.verifier
