"""Builds by the real docker: tags for local images, labels, and the context that is sent."""

from __future__ import annotations

import io
import json
import os
import tarfile
from pathlib import Path

import pytest

from boltseal.build.dockerignore import parse_ignore
from boltseal.build.input_hash import files
from tests.cli import program
from tests.real.registry import Registry
from tests.real.tools import Docker, output, run

pytestmark = pytest.mark.real


@pytest.mark.parametrize("daemon", ["docker", "docker_containerd"])
def test_a_local_image_without_a_registrys_digest_gets_a_tag_of_its_content(
    daemon: str, request: pytest.FixtureRequest, registry: Registry, repository: str
) -> None:
    """A local image without a registry digest gets a tag from its content, which is applied and pushed as sealed."""
    docker: Docker = request.getfixturevalue(daemon)
    name = f"{registry.host}/{repository}"
    docker.run("tag", docker.image(os.urandom(1000)), f"{name}:dev").checked()
    ran = program.run(
        *("tag", "new", "--scheme", "content", "--apply", f"{name}:dev", "--check", name, "--json"),
        environment={"DOCKER_HOST": docker.host},
    )
    again = program.run(
        *("tag", "new", "--scheme", "content", "--image", f"{name}:dev"), environment={"DOCKER_HOST": docker.host}
    )
    (result,) = ran.json["results"]
    ids = [docker.run("inspect", "--format", "{{.Id}}", each).checked() for each in (f"{name}:dev", result["applied"])]
    docker.run("push", result["applied"]).checked()
    taken = program.run(
        *("tag", "new", "--scheme", "content", "--image", f"{name}:dev", "--check", name),
        environment={"DOCKER_HOST": docker.host},
    )

    assert ran.code == 0
    assert ids[0] == ids[1]
    assert result["applied"] == f"{name}:{result['tag']}"
    assert again.out.strip() == result["tag"]
    assert registry.has(repository, result["tag"])
    assert taken.code == 1


def test_another_content_has_another_tag(docker: Docker) -> None:
    """Other content has another tag, and a missing image is reported."""
    environment = {"DOCKER_HOST": docker.host}
    tags = {
        program.run(
            "tag", "new", "--scheme", "content", "--image", docker.image(os.urandom(100)), environment=environment
        ).out
        for _ in range(2)
    }
    missing = program.run("tag", "new", "--scheme", "content", "--image", "none:1", environment=environment)

    assert len(tags) == 2
    assert (missing.code, missing.out) == (1, "")


def test_docker_build_takes_the_labels(docker: Docker, registry: Registry, repository: str, tmp_path: Path) -> None:
    """`boltseal build --print-labels | xargs docker build .` sets labels with the base's name and digest."""
    base = f"{registry.host}/{repository}:1.0.0"
    docker.push(docker.image(os.urandom(100)), base).checked()
    (tmp_path / "Dockerfile").write_text(f"FROM {base}\nCOPY Dockerfile /\n")
    flags = program.run("build", "--print-labels", tmp_path, "--version", "1.0 beta's").out
    built = run("xargs", "docker", "-H", docker.host, "build", "-t", "labelled:1", tmp_path, stdin=flags.encode())
    shown = json.loads(docker.run("inspect", "--format", "{{json .Config.Labels}}", "labelled:1").checked())

    assert built.ok, built.text
    assert shown["org.opencontainers.image.version"] == "1.0 beta's"
    assert shown["org.opencontainers.image.base.name"] == base
    assert shown["org.opencontainers.image.base.digest"] == registry.digest(repository, "1.0.0")


PATTERNS = """\
# comment
*.log
!keep.log
docs
!docs/keep
**/*.tmp
node_modules/**
a/**/z
[x-y].txt
"""
NAMES = (
    *("a.log", "keep.log", "src/a.log", "docs/a", "docs/keep", "docs/keep2", "a.tmp", "src/deep/a.tmp", "b.tmpx"),
    *("node_modules/x/y", "a/z", "a/b/c/z", "a/b/z/q", "a/bz", "x.txt", "z.txt", "xy.txt", "# comment"),
)


def test_the_context_is_what_docker_is_sent(docker: Docker, tmp_path: Path) -> None:
    """The input hash covers exactly the files that docker sends with a `.dockerignore`."""
    for name in NAMES:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    (tmp_path / "Dockerfile").write_text("FROM scratch\nCOPY . /context/\n")
    (tmp_path / ".dockerignore").write_text(PATTERNS)
    run("docker", "-H", docker.host, "build", "-t", "context:1", tmp_path).checked()
    container = docker.run("create", "context:1", "/x").checked().split()[-1]
    with tarfile.open(fileobj=io.BytesIO(output("docker", "-H", docker.host, "export", container))) as tar:
        sent = {
            each.name.removeprefix("context/") for each in tar if each.isfile() and each.name.startswith("context/")
        }
    docker.run("rm", container).checked()

    assert {path for _, path, _ in files(tmp_path, parse_ignore(PATTERNS))} == sent
