"""Fixtures for every kind of test: registries inside this process, each with an empty folder."""

from __future__ import annotations

import gc
import logging
import signal
import sys
import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import httpx2
import hypothesis
import pytest
import structlog

from boltseal.server import logs
from boltseal.server.store_factory import examine_store, prepare
from tests.serving import FIRST_START_US, FLOATING, Clock, Serving, copy_of, serving, settings_of
from tests.storage_choice import drop_database

pytest_plugins = [
    "tests.boltseal_process",
    "tests.compiled_statements",
    "tests.environment",
    "tests.scheduling",
    "tests.selection",
    "tests.change_impact",
    "tests.servers",
    "tests.storage_option",
    "tests.bare_registry",
]

MEMORY = Path("/dev/shm")
FAR_FUTURE_US = 4_000_000_000_000_000  # later than any clock of a test

# The time of an example depends on the machine's load, not on the code.
hypothesis.settings.register_profile("boltseal", deadline=None)
# For `make check`: fewer examples, and the same ones each time, since the coverage of pure packages depends on them.
hypothesis.settings.register_profile("quick", deadline=None, max_examples=20, derandomize=True)
hypothesis.settings.load_profile("boltseal")

# A shell's background processes ignore Ctrl-C, and so would every command that a test starts from there.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
if signal.getsignal(signal.SIGQUIT) is signal.SIG_IGN:
    signal.signal(signal.SIGQUIT, signal.SIG_DFL)

# httpx2 looks for this module, which no test needs, at every request inside this process, and Python does not cache its
# absence: a None here makes it absent without reading the disk.
sys.modules.setdefault("sniffio", None)  # type: ignore[arg-type]  # None is how Python itself says "absent"


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[None]:
    """Exclude imported and collected objects from garbage collection, which would walk them again and again, also meanwhile."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()
        gc.collect()
        gc.freeze()


@pytest.fixture(autouse=True)
def _own_state(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Use a client state of this test only, neither another test's nor this machine's."""
    state = tmp_path_factory.getbasetemp() / f"state-{uuid.uuid4().hex}"
    monkeypatch.setenv("BOLTSEAL_STATE", str(state))
    monkeypatch.setenv("BOLTSEAL_ENGINES", str(state / "engines"))


@pytest.fixture(autouse=True)
def _logs_as_at_the_start() -> Iterator[None]:
    """A log entry takes no time to render, and is no output of a command that runs in this process.

    structlog's default, rich, takes a second for the exception of one request. What a test or its command configures ends with it:
    at the level debug, SQLAlchemy logs each row of all later tests.
    """
    structlog.reset_defaults()
    *others, _ = structlog.get_config()["processors"]
    renderer = structlog.dev.ConsoleRenderer(colors=False, exception_formatter=structlog.dev.plain_traceback)
    structlog.configure(processors=[*others, renderer], logger_factory=structlog.PrintLoggerFactory(sys.stdout))
    _reset_levels()
    handlers = logging.getLogger().handlers[:]
    yield
    logging.getLogger().handlers[:] = handlers
    _reset_levels()


def _reset_levels() -> None:
    """Set the levels of Python's start, also where a fixture of a module or session has configured others."""
    logging.getLogger().setLevel(logging.WARNING)
    for name in (*logs.QUIET, *logs.SECRETIVE):
        logging.getLogger(name).setLevel(logging.NOTSET)


@pytest.fixture(scope="session")
def fresh_data(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A data folder after its first start; made once because that takes longer than a test."""
    folder = tmp_path_factory.mktemp("fresh") / "data"
    prepare(settings_of(folder), clock=Clock(FIRST_START_US))
    yield folder
    drop_database(folder)


@pytest.fixture
def data(fresh_data: Path) -> Iterator[Path]:
    """A new, empty data folder for this test's registry.

    The folder is in memory where the machine has a file system for that: survival of a power cut is tested on disks
    (`tests/server/storage`).
    """
    with TemporaryDirectory(dir=MEMORY if MEMORY.is_dir() else None, prefix="boltseal-test-") as folder:
        copy = copy_of(fresh_data, Path(folder))
        yield copy
        drop_database(copy)


@pytest.fixture
def whole_store(data: Path) -> Iterator[None]:
    """Check with `boltseal admin fsck` at the end of the test that rows, bytes, ledger and seals are consistent."""
    yield
    examined = examine_store(settings_of(data), lambda *_: None, with_keys=False)

    assert not examined.findings


@pytest.fixture
async def registry(data: Path) -> AsyncIterator[Serving]:
    """A registry with the built-in rules: tags are sealed, except for `latest` and similar ones."""
    async with serving(data) as running:
        yield running


@pytest.fixture
async def client(registry: Serving) -> httpx2.AsyncClient:
    """A client of a registry with the built-in rules."""
    return registry.client


@pytest.fixture
async def floating_registry(data: Path) -> AsyncIterator[Serving]:
    """A registry in which every tag is mutable."""
    async with serving(data, FLOATING) as running:
        yield running


@pytest.fixture
async def floating_client(floating_registry: Serving) -> httpx2.AsyncClient:
    """A client of a registry in which every tag is mutable."""
    return floating_registry.client
