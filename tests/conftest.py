"""Fixtures that every kind of test may use: registries inside this process, each with an empty folder of its own."""

from __future__ import annotations

import gc
import signal
import sys
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory

import httpx2
import hypothesis
import pytest
import structlog

from boltseal.server.storage.blobs.local_store import LocalBlobs
from boltseal.server.storage.fsck import examine
from boltseal.server.storage.metadata.migrate import DATABASE_NAME
from boltseal.server.storage.metadata.sqlite import open_snapshot
from boltseal.server.store_factory import prepare
from tests.serving import FIRST_START_US, FLOATING, Clock, Serving, copy_of, serving, settings_of

pytest_plugins = ["tests.environment", "tests.scheduling", "tests.selection", "tests.servers", "tests.shop"]

MEMORY = Path("/dev/shm")
FAR_FUTURE_US = 4_000_000_000_000_000  # later than any clock of a test

# How long an example takes says how busy the machine is, and nothing of the code.
hypothesis.settings.register_profile("boltseal", deadline=None)
# For `make check`: fewer examples, and the same ones each time, since the pure rooms' coverage counts on them.
hypothesis.settings.register_profile("quick", deadline=None, max_examples=20, derandomize=True)
hypothesis.settings.load_profile("boltseal")

# A shell lets what it starts in the background ignore Ctrl-C, and so would every verb that is started by a test from there.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# httpx2 looks for this module, which nobody here needs, at every request inside this process, and Python remembers no
# absence: what is None here is absent without a look at the disk.
sys.modules.setdefault("sniffio", None)  # type: ignore[arg-type]  # None is how Python itself says "absent"


def pytest_collection_finish() -> None:
    """What was imported and collected stays to the end: the collector of garbage need not walk it again and again."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def _own_state(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """What one test's registries showed means nothing to another test, nor to the person at this machine."""
    monkeypatch.setenv("BOLTSEAL_STATE", str(tmp_path_factory.getbasetemp() / f"state-{uuid.uuid4().hex}"))


@pytest.fixture(autouse=True)
def _plain_tracebacks() -> None:
    """A log entry takes no time to render, and is no output of a command that runs in this process.

    structlog's default, rich, takes a second for the exception of one request.
    """
    structlog.reset_defaults()  # a command that ran in this process may have configured it
    *others, _ = structlog.get_config()["processors"]
    renderer = structlog.dev.ConsoleRenderer(colors=False, exception_formatter=structlog.dev.plain_traceback)
    structlog.configure(processors=[*others, renderer], logger_factory=structlog.PrintLoggerFactory(sys.stdout))


@pytest.fixture(scope="session")
def fresh_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder after its first start and nothing else; made once, since making one takes longer than a test."""
    folder = tmp_path_factory.mktemp("fresh") / "data"
    prepare(settings_of(folder), clock=Clock(FIRST_START_US))
    return folder


@pytest.fixture
def data(fresh_data: Path) -> Iterator[Path]:
    """Where a registry of this test keeps its data: a folder of its own, to which nothing was pushed yet.

    In memory where the machine has a place for that: what survives a power cut is tested on disks (`tests/server/storage`).
    """
    with TemporaryDirectory(dir=MEMORY if MEMORY.is_dir() else None, prefix="boltseal-test-") as folder:
        yield copy_of(fresh_data, Path(folder))


@pytest.fixture
def whole_store(data: Path) -> Iterator[None]:
    """Whatever the test did: at its end the store must be whole, as `boltseal admin fsck` sees rows, bytes, ledger and seals."""
    yield
    with closing(LocalBlobs(data)) as blobs:
        examined = examine(open_snapshot(data / DATABASE_NAME), blobs)

    assert not examined.findings


@pytest.fixture
async def registry(data: Path) -> AsyncIterator[Serving]:
    """A registry with the built-in rules: tags are sealed, but for `latest` and its like."""
    async with serving(data) as running:
        yield running


@pytest.fixture
async def client(registry: Serving) -> httpx2.AsyncClient:
    """A client of a registry with the built-in rules."""
    return registry.client


@pytest.fixture
async def floating_registry(data: Path) -> AsyncIterator[Serving]:
    """A registry in which every tag floats."""
    async with serving(data, FLOATING) as running:
        yield running


@pytest.fixture
async def floating_client(floating_registry: Serving) -> httpx2.AsyncClient:
    """A client of a registry in which every tag floats."""
    return floating_registry.client
