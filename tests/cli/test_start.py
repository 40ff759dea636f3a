"""How commands start: without importing modules that they do not need."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Final

import pytest

from tests.cli import program
from tests.host.scrub.made_stores import DockerStore

HEAVY: Final = {"cryptography", "pydantic", "rich", "sqlalchemy", "structlog"}
"""Libraries that neither help nor `digest` may load: each takes a quarter of the time that the command has."""
UNUSED_BY_DIGEST: Final = {
    "_sqlite3",
    "boltseal.engines.address",
    "boltseal.events",
    "boltseal.policy.notifications",
    "boltseal.policy.rebuild_actions",
    "boltseal.project.scan",
}
"""Modules that `digest` does not use, and their time is a tenth of its own."""
NETWORK: Final = {"anyio", "asyncio", "httpx2", "msgspec", "ssl", "stamina", "uvloop"}
UNUSED_BY_SCRUB: Final = {"anyio", "asyncio", "httpx2", "rich", "ssl", "stamina", "uvloop", "yaml"}
"""Modules that a scrub without an expected digest, a lock or a baseline does not use; they took half of its start."""
DIGEST: Final = f"sha256:{'0' * 64}"


class PlainRegistry(BaseHTTPRequestHandler):
    """A registry without a ledger, which has every tag."""

    def do_HEAD(self) -> None:
        self.send_response(200 if "/manifests/" in self.path else 404)
        self.send_header("Content-Type", "application/vnd.oci.image.manifest.v1+json")
        self.send_header("Docker-Content-Digest", DIGEST)
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_GET = do_HEAD  # noqa: N815 - as http.server calls it

    def log_message(self, format: str, *args: object) -> None:
        """Print nothing."""


@contextmanager
def plain_registry() -> Iterator[str]:
    """Serve the registry; yield its address."""
    with ThreadingHTTPServer(("127.0.0.1", 0), PlainRegistry) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def loaded_by(*arguments: str, state: Path) -> set[str]:
    """Return the modules that a successful command has loaded at its end, and their top-level packages."""
    code = (
        "import atexit, sys\n"
        "from boltseal.cli.root import run\n"
        "atexit.register(lambda: print('loaded', *sys.modules, file=sys.stderr))\n"
        f"run({arguments!r})"
    )
    environment = program.clean_environment({"BOLTSEAL_STATE": str(state), "HOME": str(state)})
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, env=environment)

    assert ran.returncode == 0, ran.stderr
    modules = set(ran.stderr.rpartition("loaded ")[2].split())
    return modules | {name.partition(".")[0] for name in modules}


@pytest.mark.parametrize("arguments", [["--help"], ["help"], ["help", "which", "image", "runs"], ["tag", "--help"]])
def test_help_loads_neither_libraries_nor_the_network(arguments: list[str], tmp_path: Path) -> None:
    """`--help` imports neither libraries nor network modules, within its budget of 0.14 s of processor time."""
    assert loaded_by(*arguments, state=tmp_path) & (HEAVY | NETWORK) == set()


def test_digest_loads_only_what_a_request_needs(tmp_path: Path) -> None:
    """`digest` of a registry without a ledger imports only what it needs, within 0.27 s of processor time."""
    with plain_registry() as address:
        loaded = loaded_by("digest", f"{address}/shop/app:1.4.2", state=tmp_path)

    assert "httpx2" in loaded
    assert loaded & (HEAVY | UNUSED_BY_DIGEST) == set()


def test_scrub_of_images_without_an_expected_digest_loads_no_client_of_registries(tmp_path: Path) -> None:
    """`scrub` of images without an expected digest imports neither the network, nor YAML, nor what reads locks and baselines."""
    store = DockerStore.at(tmp_path)
    store.image("shop/app:1", {"etc/app.conf": b"port = 80"})
    loaded = loaded_by("scrub", "--root", str(store.root), state=tmp_path)

    assert "boltseal.host.scrub.fast_path" in loaded
    assert loaded & UNUSED_BY_SCRUB == set()
    assert {name for name in loaded if name.startswith(("boltseal.client", "boltseal.project"))} == set()


def test_a_registry_without_tls_costs_no_reading_of_certificates(tmp_path: Path) -> None:
    """The certificate authorities of the system are read when the first connection with TLS is made."""
    code = (
        "import sys\n"
        "from boltseal.cli.root import run\n"
        "def called(frame, event, function):\n"
        "    if event == 'c_call' and function.__name__ == 'set_default_verify_paths':\n"
        "        print('read the authorities', file=sys.stderr)\n"
        "sys.setprofile(called)\n"
        "run(sys.argv[1:])"
    )
    environment = program.clean_environment({"BOLTSEAL_STATE": str(tmp_path), "HOME": str(tmp_path)})
    with plain_registry() as address:
        plain, tls = (
            subprocess.run(
                [sys.executable, "-c", code, "digest", ref],
                capture_output=True,
                text=True,
                check=False,
                env=environment,
            )
            for ref in (f"{address}/shop/app:1.4.2", "registry.invalid/shop/app:1.4.2")
        )

    assert (plain.returncode, plain.stderr) == (0, "")
    assert (tls.returncode, "read the authorities" in tls.stderr) == (3, True)


@pytest.mark.slow
def test_a_client_command_does_not_import_the_server() -> None:
    """A client command imports no server module, which would take longer than its request."""
    ran = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "boltseal", "check", "127.0.0.1:1/shop/app:1.4.2"],
        capture_output=True,
        text=True,
        check=False,
    )
    loaded = {line.rpartition("|")[2].strip() for line in ran.stderr.splitlines() if line.startswith("import time:")}

    assert "boltseal.client.transport" in loaded
    assert not loaded & {
        "boltseal.server.settings",
        "pydantic_settings",
        "sqlalchemy",
        "granian",
        "starlette",
        "alembic",
        "prometheus_client",
    }


@pytest.mark.slow
def test_a_health_check_loads_no_library_but_the_command_lines() -> None:
    """`health`, which a container engine runs several times a minute, imports only the command line library."""
    ran = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "boltseal", "health", "--url", "http://127.0.0.1:1"],
        capture_output=True,
        text=True,
        check=False,
    )
    loaded = {line.rpartition("|")[2].strip() for line in ran.stderr.splitlines() if line.startswith("import time:")}
    packages = {name.partition(".")[0] for name in loaded}

    assert ran.returncode == 3
    assert "boltseal.commands.health" in loaded
    assert not packages & {"asyncio", "cryptography", "httpx2", "pydantic", "rich", "sqlalchemy", "structlog", "uvloop"}
    assert not {name for name in loaded if name.startswith(("boltseal.server", "boltseal.client"))}


@pytest.mark.parametrize(
    "arguments", [["serve"], ["admin", "fsck"], ["ledger", "key"], ["admin", "rules"], ["ratelimit"]]
)
def test_an_admin_command_without_the_server_extra_says_what_to_install(arguments: list[str]) -> None:
    """Without the server extra an admin command is one line with exit code 2, without a traceback."""
    code = f"import sys; sys.modules['pydantic'] = None; from boltseal.cli.root import run; run({arguments!r})"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)

    assert ran.returncode == 2
    assert ran.stderr.count("\n") == 1
    assert 'needs the server extra: pip install "boltseal[server]"' in ran.stderr


@pytest.mark.parametrize(
    "arguments", [["ledger", "monitor", "--help"], ["ledger", "trust"], ["ratelimit", "--help"], ["version"]]
)
def test_a_client_command_needs_no_server_extra(arguments: list[str]) -> None:
    """A client command needs no server extra, even in a group with admin commands."""
    code = f"import sys; sys.modules['pydantic'] = None; from boltseal.cli.root import run; run({arguments!r})"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)

    assert ran.returncode == 0, ran.stderr


def test_modules_of_commands_are_imported_without_garbage_collection(tmp_path: Path) -> None:
    """While the module of a command is imported the collector is off, and afterwards it is on again."""
    (tmp_path / "imported_once.py").write_text("import gc\nCOLLECTS = gc.isenabled()\n")
    code = (
        f"import gc, sys; sys.path.insert(0, {str(tmp_path)!r})\n"
        "from boltseal.cli.loading import load_module\n"
        "module = load_module('imported_once', command='x')\n"
        "print(module.COLLECTS, gc.isenabled(), load_module('imported_once', command='x') is module)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout.split() == ["False", "True", "True"]
