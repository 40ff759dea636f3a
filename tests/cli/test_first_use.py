"""Three typical projects from nothing to a green `verify --strict`, and to a red one, with a listening registry."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import httpx2
import pytest

from tests.cli import program
from tests.cli.program import Run
from tests.images import Document, image, push
from tests.project.projects import written
from tests.servers import Server

pytestmark = pytest.mark.slow

COMPOSE = {
    "compose.yaml": """\
services:
  web:
    build: {{context: ., args: {{BASE: "{host}/base:3.1.0"}}}}
    image: {host}/shop-web
  db:
    image: {host}/db:${{DB_TAG:-16.2.0}}
  job:
    image: {host}/tools:${{TOOLS}}
    profiles: [jobs]
""",
    ".env": "TOOLS=1.0.0\n",
    "Dockerfile": "ARG BASE\nFROM $BASE\nRUN make\n",
}
KUBERNETES = {
    "base/kustomization.yaml": "resources: [web.yaml]\n",
    "base/web.yaml": """\
apiVersion: apps/v1
kind: Deployment
metadata: {{name: web}}
spec:
  template:
    spec:
      initContainers:
      - {{name: wait, image: "{host}/tools:1.0.0"}}
      containers:
      - name: web
        image: web  # set by the overlays
""",
    "prod/kustomization.yaml": """\
resources: [../base]
images:
- name: web
  newName: {host}/base
  newTag: 3.1.0
""",
}
PIPELINE = {
    ".github/workflows/ci.yaml": """\
on: push
jobs:
  test:
    runs-on: ubuntu-latest
    container: {host}/tools:1.0.0
    services:
      db: {{image: "{host}/db:16.2.0"}}
    steps:
    - uses: docker://{host}/base:3.1.0
""",
    ".gitlab-ci.yml": """\
variables: {{TAG: 1.0.0}}
test:
  image: {host}/tools:$TAG
  services: ["{host}/db:16.2.0"]
  script: [make]
""",
}
PROJECTS = {"compose": COMPOSE, "kubernetes": KUBERNETES, "pipeline": PIPELINE}
IMAGES = {"base": "3.1.0", "db": "16.2.0", "tools": "1.0.0"}


async def publish(server: Server, repository: str, tag: str, document: Document) -> None:
    async with httpx2.AsyncClient(base_url=server.url, trust_env=False) as client:
        assert (await push(client, repository, tag, document)).status_code == 201


@pytest.fixture
async def server_with_images(server: Server) -> Server:
    """A registry with the images of the projects."""
    for repository, tag in IMAGES.items():
        await publish(server, repository, tag, image(f"{repository} {tag}"))
    return server


def call(project: Path, *words: str) -> Run:
    return program.call(*words, cwd=project)


def filled(files: Mapping[str, str], host: str) -> dict[str, str]:
    return {name: text.format(host=host) if "{host}" in text or "{{" in text else text for name, text in files.items()}


@pytest.mark.parametrize("name", PROJECTS)
async def test_a_new_project_becomes_green(server_with_images: Server, tmp_path: Path, name: str) -> None:
    """lock, pin --write and what pin names beside it make `verify --strict` green; --unpin gives back the exact bytes."""
    host = server_with_images.address
    root = written(tmp_path / "project", filled(PROJECTS[name], host))
    before = {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}
    begun = call(root, "verify")
    assert "run `boltseal lock`, then `boltseal pin --write`" in begun.out
    assert "boltseal ledger trust" in begun.err  # --strict needs the registry's key
    key = program.call("ledger", "key", "--data", tmp_path / "data").out.strip()
    assert program.call("ledger", "trust", host, key).code == 0
    locked, first, pinned = (call(root, *words) for words in (("lock",), ("verify", "--strict"), ("pin", "--write")))

    assert (locked.code, first.code) == (0, 1), locked.err
    assert "boltseal pin" in first.out + first.err
    if name == "compose":  # what a build argument selects has no place: pin says so, and how to go on
        assert pinned.code == 1
        assert "`boltseal lock --emit buildkit-source-policy`" in pinned.err
        compose = root / "compose.yaml"
        digest = next(row["digest"] for row in call(root, "lock", "--json").json["results"] if "/base:" in row["ref"])
        compose.write_text(compose.read_text().replace("base:3.1.0", f"base:3.1.0@{digest}"))
        before[compose] = before[compose].replace(b"base:3.1.0", f"base:3.1.0@{digest}".encode())
    elif name == "pipeline":  # a variable that scripts see gets no digest: pin says what to write instead
        assert "write the tag into the image" in pinned.err
        pipeline = root / ".gitlab-ci.yml"
        pipeline.write_text(pipeline.read_text().replace("tools:$TAG", "tools:1.0.0"))
        before[pipeline] = before[pipeline].replace(b"tools:$TAG", b"tools:1.0.0")
        call(root, "lock")
        assert call(root, "pin", "--write").code == 0
    else:
        assert pinned.code == 0, pinned.err
    green = call(root, "verify", "--strict")
    call(root, "pin", "--unpin", "--write")

    assert green.code == 0, green.out + green.err
    assert {path: path.read_bytes() for path in before} == before


@pytest.mark.parametrize("name", PROJECTS)
async def test_a_new_image_makes_it_red_until_it_is_locked(
    server_with_images: Server, tmp_path: Path, name: str
) -> None:
    """An image that someone adds to a file is not in the lock: exit code 1, with file, line and what to do."""
    host = server_with_images.address
    await publish(server_with_images, "tools", "1.1.0", image("tools 1.1.0"))
    root = written(tmp_path / "project", filled(PROJECTS[name], host))
    call(root, "lock")
    for path in root.rglob("*"):
        if path.is_file() and path.name != "boltseal.lock":
            path.write_text(path.read_text().replace("tools:1.0.0", "tools:1.1.0").replace(": 1.0.0", ": 1.1.0"))
    (root / ".env").write_text("TOOLS=1.1.0\n")
    red = call(root, "verify")
    call(root, "lock")
    again = call(root, "verify")

    assert red.code == 1
    assert "not-in-the-lock: it is not in boltseal.lock; add it with `boltseal lock`" in red.out
    assert again.code == 0, again.out + again.err
