"""Runs two replicas of a registry behind nginx, with PostgreSQL and an S3 server, all on 127.0.0.1, to try that out.

    python -m scripts.serve_replicas [--listen 127.0.0.1:5000] [--data ./data-replicas]

nginx listens on the address; it is configured by `packaging/nginx/proxy.conf`, as in `packaging/compose.replicas.yaml`. A replica that
ends, such as by `kill -9`, is started again after a few seconds. Ctrl-C ends everything; the next start continues with the data.

    FOLDER/replica1.pid  the process to kill     FOLDER/replica1.log  what it prints     FOLDER/replica1/  its data folder: spool
    FOLDER/keys/         the keys, which all replicas share             FOLDER/nginx/    nginx's settings and log

The other files are those of `scripts.serve_postgres`. For trying out only: one machine has everything, the database has no password,
and the mark is on the same S3 server as the blobs.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import pwd
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from scripts.serve_postgres import (
    STOP_S,
    CannotStart,
    interrupted_by_sigterm,
    postgresql,
    prepared,
    running,
    s3_server,
    storage,
)
from scripts.storage_programs import ProgramMissing, unprivileged

NAMES: Final = ("replica1", "replica2")
POSTGRES_PORT: Final = 28_341
S3_PORT: Final = 28_342
FIRST_PORT: Final = 28_361
"""The port of the first replica."""
READY_S: Final = 180.0
PAUSE_S: Final = 5.0
"""How long after its end a replica is started again, as a service manager does."""
LOOK_S: Final = 0.1
PROXY: Final = Path(__file__).parents[1] / "packaging/nginx/proxy.conf"


@dataclass(slots=True)
class Replica:
    """One server. `due_s`: when it is started again, by the monotonic clock; None while it runs."""

    folder: Path
    name: str
    port: int
    command: Sequence[str]
    variables: Mapping[str, str]
    due_s: float | None = None
    process: subprocess.Popen[bytes] = field(init=False)

    def start(self) -> None:
        """Start the process, and note its ID in a file."""
        arguments = ["--data", str(self.folder / self.name), "--listen", f"127.0.0.1:{self.port}"]
        with (self.folder / f"{self.name}.log").open("ab") as log:
            self.process = subprocess.Popen(
                [*self.command, *arguments], env={**os.environ, **self.variables}, start_new_session=True,
                stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            )  # fmt: skip
        (self.folder / f"{self.name}.pid").write_text(f"{self.process.pid}\n")
        self.due_s = None

    def look_after(self) -> None:
        """Start the replica again some seconds after it ended."""
        code = self.process.poll()
        if code is None:
            return
        if self.due_s is None:
            self.due_s = time.monotonic() + PAUSE_S
            how = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
            _say(f"{self.name} ended ({how}); it is started again in {PAUSE_S:g} seconds")
        elif time.monotonic() > self.due_s:
            self.start()
            _say(f"{self.name} was started again: {self}")

    def answers(self) -> bool:
        """Return whether the replica is ready."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/readyz", timeout=5) as answer:
                return bool(answer.status == 200)
        except (urllib.error.URLError, OSError):
            return False

    def last_line(self) -> str:
        """Return the last line of what the replica printed."""
        lines = (self.folder / f"{self.name}.log").read_text(errors="replace").splitlines()
        return lines[-1] if lines else "it has printed nothing"

    def __str__(self) -> str:
        return f"process {self.process.pid}, port {self.port}, log {self.folder / self.name}.log"


def main(arguments: Sequence[str]) -> int:
    """Run the servers until Ctrl-C. Return the exit code."""
    parser = argparse.ArgumentParser(
        description="Run two replicas of a registry on PostgreSQL and an S3 server, behind nginx."
    )
    parser.add_argument("--listen", default="127.0.0.1:5000", help="address of nginx")
    parser.add_argument("--data", type=Path, default=Path("data-replicas"))
    options = parser.parse_args(arguments)
    folder = options.data.resolve()
    interrupted_by_sigterm()
    try:
        nginx_program()
        folder.mkdir(parents=True, exist_ok=True)
        with postgresql(folder, POSTGRES_PORT) as database, s3_server(folder, S3_PORT) as login:
            public = options.listen.replace("127.0.0.1:", "localhost:")
            of_server = (
                f"data = {json.dumps(str(folder / NAMES[0]))}\nkeys = {json.dumps(str(folder / 'keys'))}\n"
                f"public_url = {json.dumps(f'http://{public}')}"
            )
            command, variables = prepared(folder, of_server, storage(folder, database, S3_PORT), login)
            with replicas(folder, command, variables) as started, nginx(folder, options.listen):
                _say(f"the registry is ready at {public}, behind nginx")
                for each in started:
                    _say(f"{each.name}: {each}")
                while True:
                    for each in started:
                        each.look_after()
                    time.sleep(LOOK_S)
    except (CannotStart, ProgramMissing) as error:
        _say(str(error))
        return 1
    except KeyboardInterrupt:
        return 0


@contextlib.contextmanager
def replicas(folder: Path, command: Sequence[str], variables: Mapping[str, str]) -> Iterator[Sequence[Replica]]:
    """Run the replicas until the block is left, and enter it when they are ready."""
    made = [Replica(folder, name, FIRST_PORT + at, command, variables) for at, name in enumerate(NAMES)]
    started: list[Replica] = []
    try:
        for each in made:
            each.start()
            started.append(each)
        ends_s = time.monotonic() + READY_S
        for each in made:
            while not each.answers():
                if each.process.poll() is not None or time.monotonic() > ends_s:
                    raise CannotStart(f"{each.name} does not start: {each.last_line()}; see {folder / each.name}.log")
                time.sleep(LOOK_S)
        yield made
    finally:
        for each in started:
            each.process.terminate()
        for each in started:
            try:
                each.process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                each.process.kill()
                each.process.wait()


@contextlib.contextmanager
def nginx(folder: Path, listen: str) -> Iterator[None]:
    """Run nginx before the replicas until the block is left."""
    own = folder / "nginx"
    own.mkdir(exist_ok=True)
    shutil.copyfile(
        PROXY, own / "proxy.conf"
    )  # the unprivileged user may not be able to enter the folder of the repository
    servers = [f"127.0.0.1:{FIRST_PORT + at}" for at in range(len(NAMES))]
    (own / "nginx.conf").write_text(nginx_settings(own, listen, servers))
    if os.geteuid() == 0:
        account = pwd.getpwnam("nobody")
        for path in (own, *own.iterdir()):
            shutil.chown(path, account.pw_uid, account.pw_gid)
    argv = [
        *unprivileged(),
        nginx_program(),
        "-e",
        str(own / "error.log"),
        "-p",
        str(own),
        "-c",
        str(own / "nginx.conf"),
    ]
    with running("nginx", argv, folder / "nginx.log", int(listen.rpartition(":")[2]), signal.SIGTERM):
        yield


def nginx_settings(folder: Path, listen: str, servers: Sequence[str]) -> str:
    """Return nginx's settings: `packaging/nginx/replicas.conf` for these addresses, without TLS. `folder`: for nginx's files."""
    upstream = "".join(f"    server {each} max_fails=1 fail_timeout=5s;\n" for each in servers)
    upstream += "".join(f"    server {each} backup max_fails=0;\n" for each in servers)
    temporary = "".join(
        f"  {name}_temp_path {folder}/{name};\n" for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    return f"""\
daemon off;
pid {folder}/nginx.pid;
events {{}}
http {{
  access_log off;
{temporary}  upstream boltseal {{
    zone boltseal 64k;
{upstream}    keepalive 32;
    keepalive_timeout 15s;
  }}
  server {{
    listen {listen};
    include {folder}/proxy.conf;
  }}
}}
"""


def nginx_program() -> str:
    """Return the path of nginx. Raises: ProgramMissing."""
    found = shutil.which("nginx", path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/usr/local/sbin")
    if found is None:
        raise ProgramMissing("nginx is missing; on Debian: apt-get install nginx-light")
    return found


def _say(text: str) -> None:
    print(f"serve-replicas: {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
