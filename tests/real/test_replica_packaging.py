"""The Compose file of two replicas: what Compose and boltseal read in it, and its nginx before real replicas that are killed."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import ssl
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import httpx2
import pytest
import yaml

from tests import servers
from tests.cli import program as boltseal
from tests.docs.pages import ROOT
from tests.ports import free_port
from tests.real import replica_packaging
from tests.real.image_settings import settings_in_force, settings_of_image
from tests.real.load_through_proxy import load
from tests.real.replica_packaging import USER_OF_IMAGE, Project, project

pytestmark = pytest.mark.real

REPLICAS = ("replica1", "replica2")
MIB = 1024 * 1024


@pytest.fixture(scope="module")
def packaged(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """The Compose file with its secrets, which the commands of the page created."""
    return project(tmp_path_factory.mktemp("packaged"))


def test_the_compose_file_is_valid_and_its_settings_are_known(packaged: Project) -> None:
    """docker-compose reads the file, and boltseal knows every setting in it; the replicas differ in nothing but data and address."""
    services = packaged.services
    differ = {key for key in services["replica1"] if services["replica1"][key] != services["replica2"][key]}
    given = {name: settings_in_force(settings_of_image() | services[name]["environment"]) for name in REPLICAS}
    one, two = (given[name] for name in REPLICAS)
    address = services["nginx"]["networks"]["registry"]["ipv4_address"]

    assert set(services) == {"nginx", "postgres", "objects", *REPLICAS}
    assert differ == {"environment", "networks"}
    assert {key for key in one if one[key] != two[key]} == {"[server] data"}
    for service in services.values():
        assert service["restart"] == "unless-stopped"
        assert service["healthcheck"]["test"][0] == "CMD"
        assert set(service["networks"]) == {"registry"}
    for name in REPLICAS:
        assert services[name]["read_only"] is True
        assert services[name]["cap_drop"] == ["ALL"]
        assert services[name]["healthcheck"]["test"] == ["CMD", "boltseal", "health"]
        assert "ports" not in services[name]
        assert [mount["target"] for mount in services[name]["volumes"]] == ["/var/lib/boltseal"]
        assert {str(Path(given[name][f"[server] {key}"]).parent) for key in ("data", "keys")} == {"/var/lib/boltseal"}
        assert services[name]["stop_grace_period"] == "1m0s"
        assert int(given[name]["[server] shutdown_timeout_s"]) < 60
        assert list(given[name]["[server] trusted_proxies"]) == [f"{address}/32"]


def test_passwords_are_in_files_only(packaged: Project) -> None:
    """No password is in the Compose file; replicas and PostgreSQL read theirs from mounted files that exist."""
    compose = (ROOT / "packaging/compose.replicas.yaml").read_text()
    secrets = {each["source"] for service in packaged.services.values() for each in service.get("secrets", [])}
    used = set(re.findall(r"/run/secrets/([\w.]+)", compose + (ROOT / "packaging/nginx/replicas.conf").read_text()))
    written = yaml.safe_load(compose)["services"].values()
    variables = {name: value for each in written for name, value in each.get("environment", {}).items()}
    password = (packaged.secrets / "postgres.password").read_text().strip()

    assert secrets == used == {path.name for path in packaged.secrets.iterdir()} - {"s3.env"}
    assert {name for name in variables if re.search("PASSWORD|SECRET|ACCESS_KEY", name)} == {
        "POSTGRES_PASSWORD_FILE",
        "BOLTSEAL_STORAGE__MARK__ACCESS_KEY_FILE",
    }
    assert urlsplit(variables["BOLTSEAL_STORAGE__DATABASE"]).password is None
    assert len(password) >= 32
    assert password in (packaged.secrets / "pgpass").read_text()
    assert (packaged.secrets / "pgpass").stat().st_mode & 0o777 == 0o600  # libpq ignores a file that others may read
    assert (packaged.secrets / "pgpass").stat().st_uid in (USER_OF_IMAGE, os.geteuid())
    assert packaged.secrets.stat().st_mode & 0o777 == 0o700
    assert set(packaged.access_key()) == {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"}


def test_addresses_of_nginx_are_those_of_the_replicas(packaged: Project) -> None:
    """nginx names each replica's fixed address twice: once with passive health checks, once as the last resort."""
    configured = re.findall(
        r"^ *server ([\d.]+):5000 (.*);", (packaged.folder / "nginx/replicas.conf").read_text(), re.MULTILINE
    )
    addresses = [packaged.services[name]["networks"]["registry"]["ipv4_address"] for name in REPLICAS]

    assert configured == [(each, "max_fails=1 fail_timeout=5s") for each in addresses] + [
        (each, "backup max_fails=0") for each in addresses
    ]


@pytest.mark.slow
async def test_a_replica_is_killed_behind_nginx(packaged: Project, tmp_path: Path) -> None:
    """With the project's settings, its PostgreSQL password and its S3 server, clients of nginx push and pull while one replica is killed."""
    port, health = free_port(), free_port()
    folder = tmp_path / "lib"
    folder.mkdir()
    own = {**packaged.access_key(), "PGPASSFILE": str(packaged.secrets / "pgpass")}
    with (
        replica_packaging.database(packaged) as database,
        replica_packaging.objects(packaged, tmp_path / "objects") as objects,
        ExitStack() as stack,
    ):
        replica_packaging.answers(objects, packaged.services["objects"]["healthcheck"]["test"][-1])
        variables = {
            name: own | replica_packaging.settings(packaged, name, folder, database, objects) for name in REPLICAS
        }
        added = boltseal.call("admin", "user", "add", "ci", environment=variables["replica1"], typed="sesame-sesame\n")
        assert added.code == 0, added.err
        started = [
            stack.enter_context(servers.boltseal(folder / name, settings=variables[name], path="/readyz"))
            for name in REPLICAS
        ]
        stack.enter_context(replica_packaging.nginx(packaged, [each.address for each in started], port, health))
        trusted = ssl.create_default_context(cafile=str(packaged.certificates.ca))
        async with httpx2.AsyncClient(
            base_url=f"https://localhost:{port}", verify=trusted, auth=("ci", "sesame-sesame"), timeout=120
        ) as client:
            anonymous = httpx2.get(f"https://localhost:{port}/v2/", verify=trusted)
            async with load(client) as seen:
                await seen.goes_on()
                os.kill(started[0].pid, signal.SIGKILL)
                await seen.goes_on()
            lost = await seen.lost(client)
        alive = httpx2.get(f"http://127.0.0.1:{health}/")
    logged = started[1].log.read_text()

    assert lost == []
    assert set(seen.pulls) <= {"200", "RemoteProtocolError"}, seen.pulls
    assert (anonymous.status_code, alive.status_code) == (401, 204)
    assert anonymous.headers["www-authenticate"].startswith(('Bearer realm="https://registry.example.com/', "Basic"))
    assert '"address":"127.0.0.1"' in logged


class Broken:
    """A server that reads each request and ends the connection without an answer. `seen`: how often each method and path came."""

    def __init__(self) -> None:
        self.seen: Counter[str] = Counter()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        length = re.search(r"(?i)content-length: (\d+)", head)
        await reader.readexactly(int(length[1]) if length else 0)
        self.seen[" ".join(head.split(" ", 2)[:2])] += 1
        writer.close()


@asynccontextmanager
async def broken() -> AsyncIterator[tuple[Broken, str]]:
    """Run such a server, and yield it with its address."""
    made = Broken()
    server = await asyncio.start_server(made.serve, "127.0.0.1", 0)
    async with server:
        host, port = server.sockets[0].getsockname()
        yield made, f"{host}:{port}"


@contextmanager
def proxy(packaged: Project, addresses: list[str]) -> Iterator[httpx2.AsyncClient]:
    """Run nginx before two servers, and yield a client of it."""
    port = free_port()
    trusted = ssl.create_default_context(cafile=str(packaged.certificates.ca))
    with replica_packaging.nginx(packaged, addresses, port):
        yield httpx2.AsyncClient(base_url=f"https://localhost:{port}", verify=trusted, timeout=30)


async def test_nginx_repeats_only_what_reads(packaged: Project) -> None:
    """A GET or HEAD whose server breaks off is sent to the other one; everything else was sent once, also with an empty body."""
    async with broken() as (one, first), broken() as (other, second):
        with proxy(packaged, [first, second]) as client:
            async with client:
                statuses = {
                    method: (await client.request(method, f"/v2/a%2Fb/{method}?digest=x%3Ay", content=content)).status_code
                    for method, content in (
                        ("GET", None), ("HEAD", None), ("POST", b""), ("PATCH", bytes(MIB)), ("PUT", b""), ("DELETE", None)
                    )
                }  # fmt: skip
                large = await client.put("/v2/large", content=bytes(2 * MIB))
                hidden = await client.put("/.sent-once", content=b"1")
    sent = one.seen + other.seen

    assert set(statuses.values()) | {large.status_code} == {502}
    assert {method: sent[f"{method} /v2/a%2Fb/{method}?digest=x%3Ay"] for method in ("POST", "PATCH", "PUT", "DELETE")} == {
        "POST": 1, "PATCH": 1, "PUT": 1, "DELETE": 1,
    }  # fmt: skip
    assert min(sent[f"{method} /v2/a%2Fb/{method}?digest=x%3Ay"] for method in ("GET", "HEAD")) >= 2
    assert sent["PUT /v2/large"] == 1
    assert hidden.status_code in (404, 502)


async def test_nginx_sends_nothing_to_a_server_that_refuses_connections(packaged: Project, tmp_path: Path) -> None:
    """While one server is down, the other one gets all requests; a PUT or DELETE fails at most once in 5 seconds."""
    with ExitStack() as stack:
        alive = stack.enter_context(servers.boltseal(tmp_path / "data"))
        client = stack.enter_context(proxy(packaged, [f"127.0.0.1:{free_port()}", alive.address]))
        async with client:
            uploads = [await client.post("/v2/shop/app/blobs/uploads/") for _ in range(20)]
            patched = [
                (await client.patch(each.headers["location"], content=bytes(MIB))).status_code for each in uploads
            ]
            got = [(await client.get("/v2/")).status_code for _ in range(20)]
            deleted = [(await client.delete(each.headers["location"])).status_code for each in uploads]

    assert {each.status_code for each in uploads} == {202}
    assert set(patched) == {202}
    assert set(got) == {200}
    assert Counter(deleted)[204] >= len(deleted) - 2
    assert set(deleted) <= {204, 502}
