"""`packaging/compose.replicas.yaml` and its nginx, run on this machine without containers: same settings, other addresses and paths."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scripts.storage_programs import PARTS, unprivileged
from tests.authority import Authority, authority
from tests.docs.pages import ROOT, text
from tests.polling import wait_until
from tests.ports import free_port
from tests.programs import program
from tests.real.tools import run
from tests.storage_servers import START_S, ObjectServer, Postgres, StorageServer, postgres

PAGE = "docs/operations/replicas.md"
USER_OF_IMAGE = 10001
MAIN = """\
daemon off;
pid {folder}/nginx.pid;
events {{}}
http {{
  access_log off;
  client_body_temp_path {folder}/body;
  proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi;
  scgi_temp_path {folder}/scgi;
  include {folder}/replicas.conf;
}}
"""


@dataclass(frozen=True, slots=True)
class Project:
    """A copy of the Compose file with its files, and what Compose reads in it."""

    folder: Path
    services: Mapping[str, Any]
    certificates: Authority

    @property
    def secrets(self) -> Path:
        """The folder of secrets, which the commands of the page filled."""
        return self.folder / "secrets"

    def access_key(self) -> dict[str, str]:
        """Return the variables with the access key of the S3 server."""
        return dict(line.split("=", 1) for line in (self.secrets / "s3.env").read_text().splitlines())


def commands_of_page(beginning: str) -> str:
    """Return the block of commands of the page that begins with a text."""
    (block,) = (
        found
        for found in re.findall(r"^```\n(.*?)^```", text(PAGE), re.DOTALL | re.MULTILINE)
        if found.startswith(beginning)
    )
    return str(block)


def project(folder: Path) -> Project:
    """Copy the files, and create the secrets as the page says."""
    folder.mkdir(parents=True, exist_ok=True)
    made = authority(folder)
    packaging = folder / "packaging"
    packaging.mkdir()
    shutil.copytree(ROOT / "packaging/nginx", packaging / "nginx")
    shutil.copy(ROOT / "packaging/compose.replicas.yaml", packaging)
    for found, name in ((made.cert, "tls.crt"), (made.key, "tls.key")):
        shutil.copy(found, packaging / name)
    run("sh", "-e", "-c", commands_of_page("mkdir -m 700 secrets"), cwd=packaging).checked()
    output = run("docker-compose", "-f", packaging / "compose.replicas.yaml", "config", "--format", "json").checked()
    return Project(packaging, json.loads(output)["services"], made)


@contextmanager
def database(project: Project) -> Iterator[Postgres]:
    """Run PostgreSQL with the password of the project."""
    with postgres() as server:
        server.execute("CREATE DATABASE boltseal TEMPLATE template0 ENCODING 'UTF8'")
        server.execute(f"ALTER USER boltseal PASSWORD '{(project.secrets / 'postgres.password').read_text().strip()}'")
        rules = server.folder / "data/pg_hba.conf"
        rules.write_text("host all all 127.0.0.1/32 scram-sha-256\n")
        run("kill", "-HUP", str(server.pid)).checked()
        yield server


@contextmanager
def objects(project: Project, folder: Path) -> Iterator[ObjectServer]:
    """Run SeaweedFS by the command of the project."""
    folder.mkdir()
    ports = {name: free_port() for part in PARTS for name in (part, f"{part}.grpc")}
    command = [
        word.replace("/data", str(folder)).replace("=objects", "=127.0.0.1").replace("0.0.0.0", "127.0.0.1")  # noqa: S104 - replaced
        for word in project.services["objects"]["command"]
        if not word.startswith("-s3.port=")
    ]
    own = [f"-{part}.port={ports[part]}" for part in PARTS] + [
        f"-{part}.port.grpc={ports[f'{part}.grpc']}" for part in PARTS
    ]
    sockets = [f"-filer.localSocket={folder}/f.sock", f"-s3.localSocket={folder}/s.sock"]
    environment = {"PATH": os.environ["PATH"], "HOME": str(folder)} | project.services["objects"]["environment"]
    weed = str(Path(sys.executable).with_name("weed"))
    server = ObjectServer([weed, *command, *own, *sockets], ports["s3"], folder, signal.SIGTERM, environment)
    try:
        server.start()
        yield server
    finally:
        server.stop()


def settings(project: Project, name: str, folder: Path, database: Postgres, objects: ObjectServer) -> dict[str, str]:
    """Return the variables of a replica, with the addresses and paths of this machine."""
    here = {
        "/run/secrets": str(project.secrets),
        "/var/lib/boltseal": str(folder),
        "@postgres/": f"@127.0.0.1:{database.port}/",
        "http://objects:8333": objects.endpoint,
        "10.89.24.10": "127.0.0.1",
    }
    variables = dict(project.services[name]["environment"])
    for key, value in variables.items():
        for old, new in here.items():
            value = value.replace(old, new)
        variables[key] = value
    return variables


@contextmanager
def nginx(project: Project, servers: Sequence[str], port: int, health: int = 0) -> Iterator[StorageServer]:
    """Run nginx with the project's configuration before two servers, with TLS on a port of this machine."""
    with tempfile.TemporaryDirectory(prefix="boltseal-nginx-") as name:
        folder = Path(name)
        changed = (project.folder / "nginx/replicas.conf").read_text()
        for old, new in (
            ("10.89.24.11:5000", servers[0]),
            ("10.89.24.12:5000", servers[1]),
            ("listen 443 ssl", f"listen 127.0.0.1:{port} ssl"),
            ("127.0.0.1:8080", f"127.0.0.1:{health or free_port()}"),
            ("/run/secrets", name),
            ("/etc/nginx/boltseal", name),
        ):
            assert old in changed
            changed = changed.replace(old, new)
        (folder / "replicas.conf").write_text(changed)
        (folder / "nginx.conf").write_text(MAIN.format(folder=folder))
        for source in (project.folder / "nginx/proxy.conf", project.secrets / "tls.crt", project.secrets / "tls.key"):
            shutil.copy(source, folder)
        if os.geteuid() == 0:
            for path in (folder, *folder.iterdir()):
                shutil.chown(path, "nobody")
        argv = [*unprivileged(), program("nginx"), "-e", f"{name}/error.log", "-p", name, "-c", f"{name}/nginx.conf"]
        checked = run(*argv, "-t", cwd=Path("/"))
        assert checked.ok, checked.text
        server = StorageServer(argv, port, folder, signal.SIGTERM)
        try:
            server.start()
            yield server
        finally:
            server.stop()


def answers(server: ObjectServer, url: str) -> None:
    """Wait until the health check of the project's S3 server succeeds. `url`: as in the Compose file."""
    here = url.replace("127.0.0.1:8333", f"127.0.0.1:{server.port}")
    wait_until(
        lambda: run("curl", "--fail", "--silent", here).ok, "the health check of the S3 server succeeds", START_S
    )
