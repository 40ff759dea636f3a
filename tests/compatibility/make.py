"""Makes a set of fixtures with the present program: data, ledger, state, locks, releases, receipts and a backup.

    PYTHONPATH=src:. python -m tests.compatibility.make REVISION

writes `tests/data/compatibility/REVISION/`. It needs Docker with Compose, and root. It is run once for a revision, by hand; what it
wrote is never written again. Only the program's own commands and its HTTP API are used.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, closing, contextmanager
from pathlib import Path
from typing import Any, Final

import httpx2
import uvicorn
from starlette.types import ASGIApp

from boltseal.ledger.note import VerifierKey
from tests import servers
from tests.cli import program
from tests.cli.program import Run
from tests.compatibility.fixtures import (
    COMMANDS,
    CONFIG,
    DEPLOY_PORT,
    ENGINE,
    HERE,
    MIRROR,
    PASSWORDS,
    PORT,
    REGISTRY,
    UPSTREAM,
    UPSTREAM_PORT,
    WITNESS_PORT,
    contents,
    login,
    packed,
    receiver_table,
    witness_table,
)
from tests.fakes.upstream import Asked, FakeUpstream, status
from tests.fakes.witness import FakeWitness
from tests.images import Document, artifact, image, index, push, push_parts, put, signature, signature_tag, start_upload
from tests.polling import is_signed, until_answer, wait_until
from tests.project.bases.layered import layered
from tests.real.compose_project import HEALTHY, ILL, ComposeProject
from tests.real.tools import Docker

WORK: Final = ENGINE.parent.parent
STATE: Final = WORK / "state"
DATA: Final = WORK / "server" / "data"
KEYS: Final = WORK / "server" / "data.keys"
REFUSED: Final = 409

COMPOSE: Final = f"""\
services:
  web:
    image: {REGISTRY}/shop/app:1.4.2  # the sealed one
  worker:
    image: {REGISTRY}/shop/app:latest
  made:
    build: .
    image: {REGISTRY}/shop/made:1.0.0
"""
KUBERNETES: Final = f"""\
apiVersion: apps/v1
kind: Deployment
metadata:
  name: web
spec:
  template:
    spec:
      containers:
        - name: web
          image: {REGISTRY}/shop/app:1.4.2
        - name: sidecar
          image: "{REGISTRY}/shop/app:1.4.3"
"""
DOCKERFILE: Final = f"ARG BASE={REGISTRY}/shop/base:latest\nFROM ${{BASE}} AS build\nFROM {REGISTRY}/shop/app:1.4.2\n"
WORKFLOW: Final = f"""\
on: push
jobs:
  test:
    runs-on: ubuntu-latest
    container:
      image: {REGISTRY}/shop/app:1.4.3
    steps:
      - uses: docker://{REGISTRY}/shop/app:1.4.2
"""
PROJECTS: Final[Mapping[str, Mapping[str, str]]] = {
    "compose": {
        "compose.yaml": COMPOSE,
        "Dockerfile": "FROM scratch\n",
        ".boltseal.toml": '[lock]\nexclude = ["old/**"]\n\n[verify]\nplatforms = ["linux/amd64"]\n',
    },
    "kubernetes": {"deploy/web.yaml": KUBERNETES},
    "dockerfile": {"Dockerfile": DOCKERFILE},
    "actions": {".github/workflows/test.yml": WORKFLOW},
}


def environment() -> dict[str, str]:
    """Return an environment with the settings of this run only."""
    return {
        "BOLTSEAL_STATE": str(STATE),
        "HOME": str(WORK / "home"),
        "XDG_CONFIG_HOME": str(WORK / "home/.config"),
        "DOCKER_CONFIG": str(WORK / "home/.docker"),
        "DOCKER_HOST": f"unix://{ENGINE}",
        "USER": "operator",
        "LOGNAME": "operator",
    }


async def boltseal(name: str, *arguments: str | Path, code: int = 0, cwd: Path | None = None) -> Run:
    """Run one command to its end, while listeners in this process continue."""
    words = (*COMMANDS[name], *arguments)
    done = await asyncio.to_thread(program.run, *words, environment=environment(), cwd=cwd)
    if done.code != code:
        raise AssertionError(f"{name} {arguments}: {done.code}\n{done.out}\n{done.err}")
    return done


@contextmanager
def witnessing(app: ASGIApp) -> Iterator[None]:
    """Run an application on the witness's port."""
    server = uvicorn.Server(uvicorn.Config(app, port=WITNESS_PORT, log_level="warning"))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        wait_until(lambda: server.started, "the witness listens")
        yield
    finally:
        server.should_exit = True
        thread.join()


@asynccontextmanager
async def serving(data: Path, config: str) -> AsyncIterator[None]:
    """Run the server on its port beside this process's own listeners."""
    context = servers.boltseal(data, config=config, port=PORT)
    await asyncio.to_thread(context.__enter__)
    try:
        yield
    finally:
        await asyncio.to_thread(context.__exit__, None, None, None)


def client(user: str = "ci") -> httpx2.AsyncClient:
    return httpx2.AsyncClient(base_url=f"http://{REGISTRY}", auth=(user, PASSWORDS[user]), trust_env=False, timeout=30)


async def signed() -> int:
    """Wait until every entry is signed and cosigned; return their number."""
    with closing(sqlite3.connect(DATA / "boltseal.db")) as database:
        (size,) = database.execute("SELECT count(*) FROM entry").fetchone()
    async with client("boss") as http:

        async def cosigned() -> bool:
            answer = await http.get("/ledger/checkpoint")
            return is_signed(answer, size) and "witness.test" in answer.text

        await until_answer(cosigned, f"the checkpoint of {size} entries is cosigned")
    return int(size)


class Story:
    """The requests to the registry, and the answers expected from then on."""

    def __init__(self, upstream: FakeUpstream) -> None:
        self.upstream = upstream
        self.tags: dict[str, str] = {}
        self.refused: dict[str, str] = {}
        self.more: dict[str, Any] = {}

    async def push(self, repository: str, tag: str, document: Document, user: str = "ci") -> None:
        async with client(user) as http:
            answer = await push(http, repository, tag, document)
        answer.raise_for_status()
        self.tags[f"{repository}:{tag}"] = document.digest

    async def beginning(self) -> None:
        """Create the first entries, of which a client stores a checkpoint."""
        self.app = index(image("app amd64"), image("app arm64", architecture="arm64"))
        self.latest = image("latest, the first"), image("latest, the second")
        await self.push("shop/app", "1.4.2", self.app)
        await self.push("shop/app", "latest", self.latest[0])
        await self.push("shop/base", "latest", layered("ab"))
        await signed()
        await boltseal("digest", f"{REGISTRY}/shop/app:1.4.2")

    async def images(self) -> None:
        """Create every kind of tag, and every change that a tag can have."""
        first, second = self.latest
        await self.push("shop/app", "latest", second)
        self.more["overwritten"] = first.digest
        await self.push("shop/app", "1.4.3", image("1.4.3", docker=True))
        await self.push("shop/app", "main", first)
        await self.push("shop/app", "main", second)
        local = ("--data", DATA, "--reason", "a test")
        await boltseal("restore tag", f"{REGISTRY}/shop/app:main", "--to", first.digest, *local)
        self.tags["shop/app:main"] = first.digest
        await self.push("shop/app", "edge", second)
        await boltseal("seal", f"{REGISTRY}/shop/app:edge", *local)
        await self.push("shop/app", signature_tag(self.app), signature(self.app, "ann"))
        await self.push("shop/app", signature_tag(self.app), signature(self.app, "ann", "bob"))
        self.more["signature tag"] = f"shop/app:{signature_tag(self.app)}"
        sbom = artifact("sbom", subject=self.app)
        strong = image("sha512", algorithm="sha512")
        async with client() as http:
            (await push(http, "shop/app", sbom.digest, sbom)).raise_for_status()
            (await push(http, "shop/app", strong.digest, strong)).raise_for_status()
        self.more |= {"subject": self.app.digest, "referrer": sbom.digest, "by digest": [sbom.digest, strong.digest]}
        await self.push("shop/app", "1.0.0", image("1.0.0"))
        await boltseal("unseal", f"{REGISTRY}/shop/app:1.0.0", *local)
        for name in ("1.0.1", "1.0.2"):
            await self.push("shop/app", name, image(name))
        await boltseal("unseal", f"{REGISTRY}/shop/app:1.0.1", *local)
        await self.push("archive/app", "0.9.0", image("0.9.0"))
        async with client("boss") as http:
            for path in ("shop/app/manifests/1.0.1", "archive/app/manifests/0.9.0"):
                (await http.delete(f"/v2/{path}")).raise_for_status()
        await boltseal("purge", f"{REGISTRY}/shop/app:1.0.2", "--yes", *local)
        gone = {name: self.tags.pop(name) for name in ("shop/app:1.0.1", "shop/app:1.0.2", "archive/app:0.9.0")}
        self.more["tombstones"] = gone
        async with client() as http:
            other = image("another")
            await push_parts(http, "shop/app", other)
            assert (await put(http, "shop/app", "1.4.2", other)).status_code == REFUSED  # and the receiver is notified
        base = layered("ab")
        names = {
            "org.opencontainers.image.base.name": f"{REGISTRY}/shop/base:latest",
            "org.opencontainers.image.base.digest": base.digest,
        }
        await self.push("shop/app", "2.0.0", layered("abX", annotations=names))
        await self.push("shop/base", "latest", layered("acd"))
        self.refused = {name: self.tags[name] for name in ("shop/app:1.4.2", "shop/app:edge", "shop/app:1.0.0")} | gone
        async with client() as http:
            labels = {"base.name": f"{REGISTRY}/shop/base:latest", "base.digest": base.digest}
            for kind in ("built", "rebuild.requested", "released"):
                record = {"kind": kind, "digest": self.app.digest, "tag": "1.4.2", "reason": "a test", "extra": labels}
                (await http.post("/v2/shop/app/_boltseal/records", json=record)).raise_for_status()

    async def mirrored(self) -> None:
        """Create mirrored tags: one that moved, one that is held, and one deleted upstream."""
        for tag in ("2.0.0", "reviewed", "withdrawn"):
            self.upstream.publish("team/app", tag, image(f"upstream {tag}"))
        async with client() as http:
            for tag in ("2.0.0", "reviewed", "withdrawn"):
                path = "/v2/up.example/team/app"
                found = (await http.get(f"{path}/manifests/{tag}")).raise_for_status()
                self.tags[f"up.example/team/app:{tag}"] = found.headers["docker-content-digest"]
                parts = found.json()
                for each in (parts["config"], *parts["layers"]):
                    (await http.get(f"{path}/blobs/{each['digest']}")).raise_for_status()
            moved = self.upstream.publish("team/app", "2.0.0", image("upstream 2.0.0, moved"))
            held = self.upstream.publish("team/app", "reviewed", image("upstream reviewed, moved"))
            del self.upstream.manifests["team/app"]["withdrawn"]
            for tag in ("2.0.0", "reviewed", "withdrawn"):
                found = (await http.get(f"{path}/manifests/{tag}")).raise_for_status()
                parts = found.json()
                for each in (parts["config"], *parts["layers"]):
                    (await http.get(f"{path}/blobs/{each['digest']}")).raise_for_status()
        self.tags["up.example/team/app:2.0.0"] = moved.digest
        self.more["held"] = held.digest
        await boltseal(
            "accept", "--data", DATA, "--config", DATA.with_name("data.toml"), code=1
        )  # the list has one entry

    async def push_through_without_an_answer(self) -> None:
        """Push through the proxy so that upstream stores it but its answer is lost: the tag stays reserved."""

        async def break_down(asked: Asked, writer: asyncio.StreamWriter) -> None:
            self.upstream.answers["*"] = status(503)
            await status(500)(asked, writer)

        self.upstream.takes = True
        self.upstream.after["PUT /v2/team/app/manifests/3.0.0"] = break_down
        gated = image("pushed through")
        async with client() as http:
            await push_parts(http, "up.example/team/app", gated)
            answer = await put(http, "up.example/team/app", "3.0.0", gated)
        assert answer.status_code == httpx2.codes.SERVICE_UNAVAILABLE, answer.text
        self.more["reserved"] = gated.digest

    async def upload(self) -> None:
        """Begin an upload and leave it unfinished."""
        content = b"".join(b"%06d " % number for number in range(1000))
        async with client() as http:
            location = await start_upload(http, "shop/app")
            answer = await http.patch(
                location,
                content=content[:4000],
                headers={"content-type": "application/octet-stream", "content-range": "0-3999"},
            )
            answer.raise_for_status()
        self.more["upload"] = {"location": answer.headers["location"], "received": 4000}

    async def client_side(self, target: Path) -> None:
        """Create locks, receipts, watched tags, a monitor's progress, and rebuild requests."""
        for name, files in PROJECTS.items():
            root = WORK / "projects" / name
            for path, text in files.items():
                (root / path).parent.mkdir(parents=True, exist_ok=True)
                (root / path).write_text(text)
            await boltseal("lock", cwd=root)
            if name == "kubernetes":
                await boltseal("pin", "--write", cwd=root)
                await boltseal("lock", cwd=root)
        (target / "receipts").mkdir(parents=True)
        file = target / "receipts" / "app-1.4.2.tlog-proof"
        await boltseal("receipt", f"{REGISTRY}/shop/app:1.4.2", "-o", file)
        looked = await boltseal("ledger monitor", f"http://{REGISTRY}", "--json")
        self.more["entries monitored"] = looked.json["results"][0]["size"]
        self.more["histories"] = {}
        for name in ("shop/app:latest", "shop/app:1.4.2", "up.example/team/app:2.0.0"):
            result = await boltseal("history", f"{REGISTRY}/{name}", "--json")
            self.more["histories"][name] = [(one["status"], one["digest"]) for one in result.json["results"]]
        await boltseal("outdated", f"{REGISTRY}/shop/app:2.0.0", "--rebuild", code=1)
        await self.watched()

    async def watched(self) -> None:
        refs = [f"{UPSTREAM}/team/tool:{tag}" for tag in ("1.0.0", "2.0.0", "latest")]
        steps: list[dict[str, Any]] = []
        for words in ("first", "second"):
            for tag in ("1.0.0", "latest"):
                self.upstream.publish("team/tool", tag, image(f"tool {words} {tag}"))
            self.upstream.publish("team/tool", "2.0.0", image("tool 2.0.0"))
            if words == "second":
                del self.upstream.manifests["team/tool"]["2.0.0"]
            looked = await boltseal("watch", *refs, "--json", code=0 if words == "first" else 1)
            steps += looked.json["results"]
        self.more["watched"] = {
            ref: [(one["status"], one.get("digest")) for one in steps if one["ref"] == ref] for ref in refs
        }
        (log,) = [one for one in steps if one["status"] == "log"][-1:]
        self.more["watch log"] = log
        await boltseal("digest", refs[0])


def deployed(story: Story) -> None:
    """Create releases of two projects, and kept images, on a separate engine."""
    data = WORK / "deployed" / "data"
    with servers.boltseal(data, port=DEPLOY_PORT) as registry, servers.dockerd(ENGINE.parent) as engine:
        docker = Docker(engine.address, "docker")
        env = {name: value for name, value in environment().items() if name not in ("BOLTSEAL_STATE", "DOCKER_HOST")}
        shop = ComposeProject(WORK / "shop", docker, registry, STATE, "demo/shop", env)
        sole = ComposeProject(WORK / "sole", docker, registry, STATE, "demo/sole", env)
        try:
            for tag in ("1.0.0", "1.1.0"):
                shop.publish(tag)
            shop.root.mkdir()
            (shop.root / "secret.txt").write_text("a test's secret")
            _deploy(shop, "1.0.0", {"MODE": "one"})
            _deploy(shop, "1.1.0", {"MODE": "two"}, check=ILL, code=1)
            _deploy(shop, "1.1.0", {"MODE": "two"})
            back = shop.run("rollback", "1")
            assert back.code == 0, back.err
            _web(shop, "1.1.0", {"MODE": "three"}, HEALTHY)
            shop.locked()
            shop.killed(3, "deploy")
            sole.publish("1.0.0")
            _deploy(sole, "1.0.0", {}, check=ILL, code=1)
            for words in ("kept one", "kept two"):
                shop.publish("latest", words)
                pulled = shop.run("pull", shop.image("latest"))
                assert pulled.code == 0, pulled.err
            listed = shop.run("keep", "ls", "--json")
            story.more["kept images"] = listed.json["results"]
            story.more["engine images"] = _images(docker)
            story.more["releases"] = {each.name: _ends(each) for each in (shop, sole)}
        finally:
            shop.down()
            sole.down()


def _web(shop: ComposeProject, tag: str, environment: Mapping[str, str], check: Mapping[str, Any]) -> None:
    service = {"image": shop.image(tag), "healthcheck": check, "environment": environment, "secrets": ["key", "token"]}
    (shop.root / "secret.txt").write_text(f"a test's secret of {tag}")
    (shop.root / ".env").write_text(f"TOKEN=a test's token of {tag}\n")
    secrets = {"key": {"file": "./secret.txt"}, "token": {"environment": "TOKEN"}}
    shop.write({"web": service}, secrets=secrets)


def _deploy(
    shop: ComposeProject, tag: str, environment: Mapping[str, str], *, check: Mapping[str, Any] = HEALTHY, code: int = 0
) -> None:
    shop.root.mkdir(exist_ok=True)
    _web(shop, tag, environment, check)
    shop.locked()
    done = shop.run("deploy")
    assert done.code == code, done.out + done.err


def _ends(shop: ComposeProject) -> list[tuple[int, str, Any, str]]:
    found = shop.releases()
    return [(int(one["ref"].rpartition("/")[2]), one["status"], one["of"], one["services"][0]["id"]) for one in found]


def _images(docker: Docker) -> list[Any]:
    """Return ID, names and digests of the engine's images."""
    ids = sorted(set(docker.run("image", "ls", "--quiet", "--no-trunc").checked().split()))
    found = json.loads(docker.run("inspect", *ids).checked())
    kept = ("Id", "RepoTags", "RepoDigests", "Os", "Architecture", "Created")
    return [{key: one[key] for key in kept} for one in found]


def _user(name: str, password: str) -> None:
    words = (*COMMANDS["user add"], name, "--data", str(DATA))
    typed = f"{password}\n"
    argv = [sys.executable, "-m", "boltseal", *words]
    subprocess.run(argv, input=typed, text=True, check=True, env=os.environ | environment())


async def make(target: Path) -> None:
    """Write the fixtures."""
    login(WORK / "home/.docker", "boss")
    settings = WORK / "home/.config/boltseal/boltseal.toml"
    settings.parent.mkdir(parents=True)
    settings.write_text(f'[[on_outdated]]\ncommand = ["/bin/true", "{{image}}", "{{base_digest}}"]\n{receiver_table()}')
    DATA.parent.mkdir(parents=True)
    for name, password in PASSWORDS.items():
        _user(name, password)
    async with FakeUpstream().listening(port=UPSTREAM_PORT) as upstream:
        story = Story(upstream)
        async with serving(DATA, CONFIG):
            pass
        key = (await boltseal("ledger key", "--data", DATA)).out.strip()
        witness = FakeWitness(VerifierKey.parse(key))
        config = CONFIG + MIRROR + receiver_table() + witness_table(str(witness.key.verifier))
        with witnessing(witness.transport().app):
            await boltseal("trust", REGISTRY, key)
            async with serving(DATA, config):
                await story.beginning()
            for folder in (DATA, KEYS):
                shutil.copytree(folder, WORK / "old" / folder.name)
            async with serving(DATA, config):
                await story.images()
                await story.mirrored()
                await story.upload()
                await signed()
                await story.client_side(target)
                await boltseal("backup", WORK / "backup", "--data", DATA)
                await story.push("shop/app", "1.5.0", image("1.5.0"))
                await story.push_through_without_an_answer()
                story.more["entries"] = await signed()
                async with client("boss") as http:
                    (target / "ledger").mkdir()
                    for path, name in (
                        ("checkpoint", "checkpoint"),
                        (f"tile/entries/000.p/{story.more['entries']}", "entries"),
                    ):
                        answer = (await http.get(f"/ledger/{path}")).raise_for_status()
                        (target / "ledger" / name).write_bytes(answer.content)
                await asyncio.sleep(2)  # so that the event is written to the outbox
        story.more["made_us"] = time.time_ns() // 1000
        async with serving(WORK / "old" / "data", CONFIG):
            await boltseal(
                "digest", f"{REGISTRY}/shop/app:1.4.2", code=1
            )  # the ledger was truncated, which is stored as evidence
    await asyncio.to_thread(deployed, story)
    assert witness.seen is not None
    (target / "ledger" / "witness.note").write_bytes(witness.seen)
    for beside in ("data.log", "data.toml"):
        DATA.with_name(beside).unlink()
    shutil.rmtree(DATA / "run")
    packed(DATA.parent, target / "server.tar.gz")
    packed(WORK / "backup", target / "backup.tar.gz")
    packed(STATE, target / "state.tar.gz")
    (seen,) = (STATE / "checkpoints").glob(f"*{PORT}.note")
    story.more["entries seen"] = int(seen.read_text().split("\n")[1])
    shutil.copytree(WORK / "projects", target / "projects")
    found = {"key": key, "tags": story.tags, "refused": story.refused, **story.more}
    (target / "expected.json").write_text(json.dumps(found, indent=2, sort_keys=True) + "\n")


if __name__ == "__main__":
    shutil.rmtree(WORK, ignore_errors=True)
    WORK.mkdir()
    asyncio.run(make(HERE / sys.argv[1]))
    print(sum(path.stat().st_size for path in (HERE / sys.argv[1]).rglob("*")), contents(HERE / sys.argv[1]).keys())  # noqa: T201
