"""Starts the servers of tests and benchmarks: boltseal as users start it, and other registries and engines.

Each function is a context manager that yields a running `Server` and ends it. Rules:

* A server has its own folder, port and log, and none of the caller's settings.
* A server that does not start, or does not end on request, is a failure that shows the end of its log.
* Only processes started here are ended, by their id.

`server` is the fixture most tests want. As a plugin (`pytest_plugins`) this file also adds the log of every
server a failed test has used to the report of that test.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.boltseal_process import COMMAND, BoltsealProcess
from tests.ports import free_port
from tests.programs import program
from tests.storage_choice import storage_variables

START_TIMEOUT_S = 120.0  # far more than a start takes; a server that ends is reported at once
STOP_TIMEOUT_S = 20.0
LOG_TAIL_BYTES = 8_000


class ServerFailed(RuntimeError):
    """A server did not start, died, or did not end on request. The message has the end of its log."""


@dataclass(frozen=True, slots=True)
class Server:
    """A running server. `address`: `host:port` as in a reference, or a socket's path."""

    name: str
    address: str
    pid: int
    log: Path
    folder: Path

    @property
    def url(self) -> str:
        """Return the address as a URL."""
        return f"http://{self.address}"

    def log_tail(self) -> str:
        """Return the end of the server's log so far."""
        return _tail(self.log)


@contextlib.contextmanager
def boltseal(
    data: Path,
    *,
    config: str | None = None,
    workers: int = 1,
    settings: Mapping[str, str] | None = None,
    before: Sequence[str] = (),
    port: int | None = None,
    path: str = "/readyz",
    own_interpreter: bool = False,
    host: str = "127.0.0.1",
) -> Iterator[Server]:
    """Run `boltseal serve` on its own port. Its log and its configuration are files beside `data`.

    Args:
        data: the data folder, which may have content of an earlier run.
        config: text of a `boltseal.toml`. Its `[storage]` replaces what `--storage` says.
        workers: the number of worker processes.
        settings: variables for the environment, such as `BOLTSEAL_SERVER__PUBLIC_URL`.
        before: the command prefix, such as `("taskset", "-c", "0")`.
        port: the port of a restarted server; by default a free one.
        path: the path that answers 200 after the start: `/healthz` for a server that is not ready because its ledger is in doubt.
        own_interpreter: start a new interpreter, as users do: for tests of what a server needs, such as its memory. So does `before`.
        host: the address on which it listens.
    """
    address = f"{host}:{port or free_port()}"
    arguments = ["serve", "--data", str(data), "--listen", address, "--workers", str(workers)]
    if config is not None:
        written = data.with_name(f"{data.name}.toml")
        written.write_text(config, encoding="utf-8")
        arguments += ["--config", str(written)]
    clean = {name: value for name, value in os.environ.items() if not name.startswith("BOLTSEAL_")}
    chosen = {} if "[storage" in (config or "") else storage_variables(arguments)
    tls = "BOLTSEAL_SERVER__TLS_CERT" in (settings or {})
    with _started(
        "boltseal",
        [*before, *COMMAND, *arguments],
        address=address,
        folder=data,
        log=data.with_name(f"{data.name}.log"),
        # Cheapest first, as this is asked fifty times a second. Each worker has a listener of its own; the first one answers
        # before the last one is there.
        ready=lambda: (
            _listens(address)
            and (workers == 1 or _listeners(address) >= workers)
            and (tls or answers(f"http://{address}{path}"))
        ),
        environment=clean | chosen | dict(settings or {}),
        forked=not (before or own_interpreter),
    ) as server:
        yield server


@contextlib.contextmanager
def asgi(app: str, folder: Path, settings: Mapping[str, str], *, before: Sequence[str] = ()) -> Iterator[Server]:
    """Run granian with one worker and any application, named as `module:name`, without anything of boltseal."""
    port = free_port()
    with _started(
        "granian",
        [
            *(*before, sys.executable, "-m", "granian", "--interface", "asgi", "--loop", "uvloop", "--no-access-log"),
            *("--host", "127.0.0.1", "--port", str(port), "--workers", "1", app),
        ],
        address=f"127.0.0.1:{port}",
        folder=folder,
        log=folder / "granian.log",
        ready=lambda: _listens(f"127.0.0.1:{port}"),
        environment=os.environ | dict(settings),
    ) as server:
        yield server


@contextlib.contextmanager
def docker_registry(
    folder: Path, *, mirror_of: str | None = None, driver: str | None = None, before: Sequence[str] = ()
) -> Iterator[Server]:
    """Run Debian's docker-registry (CNCF distribution 2.8) on files under `folder`, with its defaults.

    `mirror_of`: the address of a registry that it mirrors, such as `http://127.0.0.1:5000`. `driver`: the line of its
    configuration with another storage driver.
    """
    folder.mkdir(parents=True, exist_ok=True)
    proxy = "" if mirror_of is None else f"proxy: {{remoteurl: {mirror_of}}}\n"
    address = f"127.0.0.1:{free_port()}"
    config = folder / "config.yml"
    config.write_text(
        f"""\
version: 0.1
log: {{level: warn, accesslog: {{disabled: true}}}}
storage:
  {driver or f"filesystem: {{rootdirectory: {folder / 'data'}}}"}
  delete: {{enabled: true}}
http: {{addr: {address}}}
{proxy}""",
        encoding="utf-8",
    )
    with _started(
        "docker-registry",
        [*before, program("docker-registry"), "serve", str(config)],
        address=address,
        folder=folder,
        log=folder / "log",
        ready=lambda: _listens(address) and answers(f"http://{address}/v2/"),
        # its S3 driver does not start with a bundle of certificates
        environment={name: value for name, value in os.environ.items() if name != "AWS_CA_BUNDLE"},
    ) as server:
        yield server


@contextlib.contextmanager
def olareg(folder: Path, *, before: Sequence[str] = ()) -> Iterator[Server]:
    """Start olareg on files under `folder`, with its own defaults; for benchmarks on machines that have it on PATH."""
    folder.mkdir(parents=True, exist_ok=True)
    port = free_port()
    with _started(
        "olareg",
        [*before, "olareg", "serve", "--addr", "127.0.0.1", "--port", str(port), "--dir", str(folder / "data")],
        address=f"127.0.0.1:{port}",
        folder=folder,
        log=folder / "log",
        ready=lambda: answers(f"http://127.0.0.1:{port}/v2/"),
    ) as server:
        yield server


@contextlib.contextmanager
def nginx(folder: Path, root: Path, *, before: Sequence[str] = ()) -> Iterator[Server]:
    """Run nginx with one worker that serves the files under `root`, as its documentation describes for static files."""
    folder.mkdir(parents=True, exist_ok=True)
    address = f"127.0.0.1:{free_port()}"
    config = folder / "nginx.conf"
    user = "user root;" if os.geteuid() == 0 else ""  # otherwise its worker could not read a folder of root
    config.write_text(
        f"""\
{user}
daemon off;
worker_processes 1;
pid {folder}/pid;
error_log {folder}/error.log;
events {{ worker_connections 1024; }}
http {{
  access_log off;
  sendfile on;
  tcp_nopush on;
  keepalive_requests 100000000;
  open_file_cache max=10000 inactive=60s;
  client_body_temp_path {folder}/body;
  proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi;
  scgi_temp_path {folder}/scgi;
  default_type application/octet-stream;
  server {{ listen {address}; root {root}; }}
}}
""",
        encoding="utf-8",
    )
    with _started(
        "nginx",
        [*before, program("nginx"), "-c", str(config), "-e", str(folder / "error.log"), "-p", str(folder)],
        address=address,
        folder=folder,
        log=folder / "log",
        ready=lambda: _listens(address),
    ) as server:
        yield server


@contextlib.contextmanager
def dockerd(
    folder: Path,
    *,
    containerd_store: bool = False,
    driver: str | None = None,
    more: Sequence[str] = (),
    before: Sequence[str] = (),
    settings: Mapping[str, Any] | None = None,
) -> Iterator[Server]:
    """Run a separate Docker daemon without a network; `address` is the path of its socket.

    It uses the storage driver that works on this machine. `containerd_store` keeps images in containerd's store, as
    new installations of Docker do: another implementation then pushes, with other requests and other messages.
    `driver`: this storage driver or snapshotter and no other. `more`: further options. `before`: the command prefix.
    `settings`: more of its `daemon.json`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    config = folder / "daemon.json"
    features = {"features": {"containerd-snapshotter": True}} if containerd_store else {}
    config.write_text(json.dumps({**features, **(settings or {})}))
    at = folder / "d.sock"
    with (
        _nothing_stays_mounted(folder),
        _short_folder() as sockets,
        _started(
            "dockerd",
            [
                *(*before, program("dockerd"), *more),
                *(
                    "--config-file",
                    str(config),
                    "--data-root",
                    str(folder / "data"),
                    "--exec-root",
                    str(sockets),
                ),
                *("-H", f"unix://{at}", "--pidfile", str(folder / "pid")),
                *("--bridge=none", "--iptables=false", "--ip6tables=false"),
                *(("--storage-driver", driver or "native") if driver or containerd_store else ()),
            ],
            address=str(at),
            folder=folder,
            log=folder / "log",
            ready=lambda: _listens_at(at) and _socket_answers(at, "/_ping"),
        ) as server,
    ):
        yield server


@contextlib.contextmanager
def podman(
    folder: Path, *, plain_http: Sequence[str] = (), driver: str = "vfs", conmon: Path | None = None
) -> Iterator[Server]:
    """Run podman's API service on its own storage; `address` is the path of its socket.

    `folder`/podman is podman on that storage, `folder`/temporary its folder for temporary files. `plain_http`: registries that it may contact without TLS. Its
    containers are run by runc, because crun needs newer cgroups than some machines have. It sees an empty list of Debian's
    packages: for each request for its version it looks up the packages of its helpers, which takes a third of a second of
    processor time on a machine with 1,200 packages. `conmon`: a program that it runs in place of conmon.
    """
    folder.mkdir(parents=True, exist_ok=True)
    at, client = folder / "p.sock", folder / "podman"
    monitor = f"--conmon {conmon} " if conmon else ""
    (folder / "temporary").mkdir(exist_ok=True)  # else a killed podman leaves its files in /var/tmp
    (folder / "packages").mkdir(exist_ok=True)
    registries = folder / "registries.conf"
    registries.write_text("".join(f'[[registry]]\nlocation = "{each}"\ninsecure = true\n' for each in plain_http))
    limits = folder / "containers.conf"
    limits.write_text("[containers]\npids_limit = 0\n")  # the cgroups of some machines can't limit anything
    client.write_text(
        f"""\
#!/bin/sh
export CONTAINERS_REGISTRIES_CONF={registries} CONTAINERS_CONF_OVERRIDE={limits} TMPDIR={folder}/temporary
export DPKG_ADMINDIR={folder}/packages
exec {program("podman")} --root {folder}/root --runroot {folder}/run --tmpdir {folder}/tmp --storage-driver {driver} \\
  --cgroup-manager cgroupfs --events-backend file --runtime runc {monitor}--log-level error "$@"
"""
    )
    client.chmod(0o755)
    with (
        _nothing_stays_mounted(folder),
        _started(
            "podman",
            [str(client), "system", "service", "--time", "0", f"unix://{at}"],
            address=str(at),
            folder=folder,
            log=folder / "log",
            ready=lambda: _listens_at(at) and _socket_answers(at, "/_ping"),
        ) as server,
    ):
        yield server


@contextlib.contextmanager
def containerd(folder: Path, *, before: Sequence[str] = ()) -> Iterator[Server]:
    """Run a separate containerd, for `ctr`; `address` is the path of its socket. `before`: the command prefix."""
    folder.mkdir(parents=True, exist_ok=True)
    at = folder / "c.sock"
    config = folder / "config.toml"
    config.write_text(
        f"""\
version = 2
root = "{folder / "root"}"
state = "{folder / "state"}"
disabled_plugins = ["io.containerd.grpc.v1.cri"]
[grpc]
address = "{at}"
""",
        encoding="utf-8",
    )
    with (
        _nothing_stays_mounted(folder),
        _started(
            "containerd",
            [*before, program("containerd"), "--config", str(config)],
            address=str(at),
            folder=folder,
            log=folder / "log",
            ready=lambda: _listens_at(at),
        ) as server,
    ):
        yield server


@contextlib.contextmanager
def sshd(folder: Path, *, programs: Sequence[str] | None = None) -> Iterator[Server]:
    """Run an ssh server that accepts the key `folder`/key. `folder`/bin/ssh is the system's ssh with that key.

    With `folder`/bin first in PATH, ssh connects without a question and does not use ~/.ssh.
    `programs`: the only programs behind it, such as `("cat",)`; by default all of this machine.
    """
    folder.mkdir(parents=True, exist_ok=True)
    address = f"127.0.0.1:{free_port()}"
    port = address.rpartition(":")[2]
    for name in ("host", "key"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / name], check=True)
    (folder / "authorized").write_bytes((folder / "key.pub").read_bytes())
    (folder / "known").write_text(f"[127.0.0.1]:{port} {(folder / 'host.pub').read_text()}")
    Path("/run/sshd").mkdir(exist_ok=True)  # the folder in which sshd confines itself before a login
    (folder / "sshd_config").write_text(
        f"""\
ListenAddress {address}
HostKey {folder}/host
AuthorizedKeysFile {folder}/authorized
PidFile {folder}/pid
StrictModes no
PasswordAuthentication no
KbdInteractiveAuthentication no
UsePAM no
PermitRootLogin prohibit-password
{"" if programs is None else f"SetEnv PATH={_only(folder / 'there', programs)}"}
"""
    )
    (folder / "config").write_text(
        f"IdentityFile {folder}/key\nUserKnownHostsFile {folder}/known\nIdentityAgent none\n"
    )
    (folder / "bin").mkdir(exist_ok=True)
    client = folder / "bin/ssh"
    client.write_text(f'#!/bin/sh\nexec {program("ssh")} -F {folder}/config "$@"\n')
    client.chmod(0o755)
    with _started(
        "sshd",
        [program("sshd"), "-D", "-e", "-f", str(folder / "sshd_config")],
        address=address,
        folder=folder,
        log=folder / "log",
        ready=lambda: _listens(address),
    ) as server:
        yield server


def _only(folder: Path, programs: Sequence[str]) -> Path:
    """Return a folder with these programs and no others."""
    folder.mkdir()
    for name in programs:
        (folder / name).symlink_to(program(name))
    return folder


@contextlib.contextmanager
def _short_folder() -> Iterator[Path]:
    """Return a short folder for sockets, because a socket's path has at most 104 characters."""
    folder = Path(tempfile.mkdtemp(prefix="d"))
    folder.chmod(0o711)
    try:
        yield folder
    finally:
        unmounted(folder)
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def _nothing_stays_mounted(folder: Path) -> Iterator[None]:
    try:
        yield
    finally:
        unmounted(folder)


def unmounted(folder: Path) -> None:
    """Unmount what engines leave mounted below their folders, which otherwise can't be removed."""
    for mount in _mounts(folder):
        # An engine that is ending may unmount the same path.
        if subprocess.run(["umount", "--lazy", mount], check=False, stderr=subprocess.DEVNULL).returncode:
            assert mount not in _mounts(folder), f"{mount} can't be unmounted"


def _mounts(folder: Path) -> list[str]:
    """Return the mounts below a folder, the innermost first. A path of another test may have a carriage return."""
    table = os.fsdecode(Path("/proc/self/mountinfo").read_bytes())
    mounts = [line.split(" ")[4] for line in table.split("\n") if line]
    return sorted((each for each in mounts if each.startswith(f"{folder}/")), reverse=True)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    """An empty boltseal with the built-in rules."""
    with boltseal(tmp_path / "data") as running:
        yield running


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show the logs of the servers of a failed test."""
    report = yield
    if report.failed:
        used = getattr(item, "funcargs", {}).values()
        report.sections += [(f"log of {s.name}", s.log_tail()) for s in used if isinstance(s, Server)]
    return report


@contextlib.contextmanager
def _started(
    name: str,
    argv: Sequence[str],
    *,
    address: str,
    folder: Path,
    log: Path,
    ready: Callable[[], bool],
    environment: Mapping[str, str] | None = None,
    forked: bool = False,
) -> Iterator[Server]:
    """Start a process in its own session, wait until `ready`, and end it by SIGTERM, later by SIGKILL."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as out:
        process = (BoltsealProcess if forked else subprocess.Popen)(
            argv[len(COMMAND) :] if forked else argv,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=True,
        )
    try:
        deadline = time.monotonic() + START_TIMEOUT_S
        while not ready():
            if process.poll() is not None:
                raise ServerFailed(f"{name} ended with {process.returncode} at its start:\n{_tail(log)}")
            if time.monotonic() > deadline:
                raise ServerFailed(f"{name} does not answer after {START_TIMEOUT_S:.0f} s:\n{_tail(log)}")
            time.sleep(0.02)  # not `wait_until`: the error shows the log, and an early end is reported at once
        yield Server(name, address, process.pid, log, folder)
    finally:
        _end(name, process, log)


def _end(name: str, process: subprocess.Popen[bytes], log: Path) -> None:
    """Ask a process to end. A process that the test killed is only waited for."""
    if process.poll() is None:
        process.terminate()
    try:
        process.wait(STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        raise ServerFailed(f"{name} did not end {STOP_TIMEOUT_S:.0f} s after SIGTERM:\n{_tail(log)}") from None


def _tail(log: Path) -> str:
    """Return the last lines of a log as text, whatever bytes it has."""
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - LOG_TAIL_BYTES))
        return file.read().decode("utf-8", "replace")


def answers(url: str) -> bool:
    """Return whether a server answers GET of a URL with 200."""
    try:
        return httpx2.get(url, timeout=2.0, trust_env=False).status_code == 200
    except httpx2.TransportError:
        return False


def _socket_answers(path: Path, target: str) -> bool:
    try:
        with httpx2.Client(transport=httpx2.HTTPTransport(uds=str(path)), timeout=2.0) as client:
            return client.get(f"http://socket{target}").status_code == 200
    except httpx2.TransportError:
        return False


def _listens(address: str) -> bool:
    host, _, port = address.rpartition(":")
    try:
        with socket.create_connection((host, int(port)), timeout=2.0):
            return True
    except OSError:
        return False


def _listeners(address: str) -> int:
    """Return how many sockets of this machine listen on a port."""
    port = int(address.rpartition(":")[2])
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return sum(row[3] == "0A" and row[1].endswith(f":{port:04X}") for row in rows)


def _listens_at(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(str(path))
        except OSError:
            return False
        return True
