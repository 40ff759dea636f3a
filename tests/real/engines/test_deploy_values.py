"""Secrets and configs whose value comes from a variable: Compose copies the value into the container, and it goes back."""

from __future__ import annotations

import io
import subprocess
import tarfile
from dataclasses import replace
from typing import Any

import pytest

from boltseal.engines.address import EngineAddress
from boltseal.engines.api import connected
from boltseal.engines.container_control import ContainerControl
from boltseal.engines.container_files import MAX_FILE_BYTES, ContainerFile, read_files, write_files
from boltseal.oci.digest import Digest
from boltseal.oci.reference import Reference
from tests.programs import program
from tests.real.compose_project import ENDS, HEALTHY, ComposeProject
from tests.real.registry import Registry
from tests.real.sleeper import publish, sleepers

pytestmark = pytest.mark.real

FILES = ("/run/secrets/token", "/etc/shop.conf", "/inline.conf")
STATE = "/state.txt"
WRITES = f"/busybox echo written > {STATE}; exec /busybox sleep 1000"


def with_values(shop: ComposeProject, value: str, tag: str) -> ComposeProject:
    """Write a project with a secret and a config from a variable, and a config with its content in the file."""
    web: dict[str, Any] = {
        "image": shop.image(tag),
        "healthcheck": HEALTHY,
        "container_name": f"{shop.name}-named",  # stops first
        "secrets": [{"source": "token", "mode": 0o400, "uid": "7", "gid": "8"}],
        "configs": [
            {"source": "conf", "target": FILES[1]},
            {"source": "inline", "target": FILES[2]},
        ],
    }
    tops: dict[str, Any] = {
        "secrets": {"token": {"environment": "TOKEN"}},
        "configs": {"conf": {"environment": "CONF"}, "inline": {"content": f"inline {value}"}},
    }
    shop.write({"web": web}, **tops)
    return replace(shop, environment={"TOKEN": f"token {value}", "CONF": f"conf {value}"})


def file_of(shop: ComposeProject, path: str) -> tarfile.TarInfo | None:
    """Return what a container has at a path, None if nothing; the content is its `comment`."""
    argv = [program("docker"), "--host", shop.docker.host, "cp", f"{shop.ids()['web']}:{path}", "-"]
    done = subprocess.run(argv, capture_output=True, check=False)
    if done.returncode != 0:
        return None
    with tarfile.open(fileobj=io.BytesIO(done.stdout)) as archive:
        (member,) = archive.getmembers()
        content = archive.extractfile(member)
        assert content is not None
        member.pax_headers = {"content": content.read().decode()}
        return member


def values_of(shop: ComposeProject) -> list[tuple[str, int, int, int]]:
    """Return content, mode, user and group of each file that Compose copied into the container."""
    found = [file_of(shop, path) for path in FILES]
    return [(each.pax_headers["content"], each.mode & 0o777, each.uid, each.gid) for each in found if each is not None]


@pytest.fixture
def printed(shop: ComposeProject) -> ComposeProject:
    """The project, whose images are published."""
    shop.publish("1.0.0", command=("/busybox", "sh", "-c", WRITES))
    shop.publish("2.0.0")
    shop.publish("bad", command=ENDS)
    return shop


def test_values_of_variables_go_back_with_a_release(printed: ComposeProject) -> None:
    """A rollback starts with the values that the release had, whatever the variables have now; no value is printed."""
    first = with_values(printed, "one", "1.0.0")
    one = first.deployed()
    before = values_of(first)
    second = with_values(printed, "two", "2.0.0")
    two = second.deployed()
    between = values_of(second)
    back = replace(printed, environment={}).run("rollback")

    assert [each[0] for each in before] == ["token one", "conf one", "inline one"]
    assert [each[0] for each in between] == ["token two", "conf two", "inline two"]
    assert back.code == 0, back.err
    assert values_of(printed) == before
    for each in (one, two, back):
        assert "token one" not in each.out + each.err
        assert "token two" not in each.out + each.err


def test_values_of_what_compose_started_are_put_back(printed: ComposeProject) -> None:
    """After a failed first deploy, what `docker compose up` started has the values of variables that it had."""
    old = with_values(printed, "one", "1.0.0")
    argv = [program("docker"), "--host", printed.docker.host, "compose", "up", "--detach"]
    up = subprocess.run(
        argv,
        cwd=printed.root,
        env={"PATH": "/usr/bin:/bin", **old.variables},
        capture_output=True,
        text=True,
        check=False,
    )
    before = values_of(printed)
    new = with_values(printed, "two", "bad")
    new.locked()
    failed = new.run("deploy")
    after, state = values_of(printed), file_of(printed, STATE)

    assert up.returncode == 0, up.stderr
    assert [each[0] for each in before] == ["token one", "conf one", "inline one"]
    assert failed.code == 1, failed.err
    assert printed.words()["web"] == "1.0.0"
    assert after == before
    assert state is not None
    assert "token" not in failed.err.replace("token.txt", "")


async def test_files_of_a_container_are_read_and_written(
    engine_address: EngineAddress, registry: Registry, repository: str
) -> None:
    """Files are written into a container that does not run, and read with mode and owner (on Podman: the container's user)."""
    name = Reference.parse(f"{registry.host}/{repository}:1")
    digest = Digest.parse(publish(registry.host, repository, "1", sleepers("one")))
    small = ContainerFile("/run/secrets/token", b"secret", 0o400, 7, 8)
    large = ContainerFile("/run/secrets/sub/large", bytes(MAX_FILE_BYTES + 1), 0o644, 0, 0)
    async with connected(engine_address) as engine:
        image = await engine.pull(Reference(name.registry, name.repository, digest=digest))
        control = ContainerControl(engine)
        body = {"Image": str(image.id), "HostConfig": {"NetworkMode": "none"}}
        id_ = await control.create(repository.replace("/", "-"), body, {})
        await write_files(engine, id_, [small, large])
        folder = await read_files(engine, id_, "/run/secrets")
        single = await read_files(engine, id_, small.path)
        expected = replace(small, uid=0, gid=0) if engine.about.podman else small
        nothing = await read_files(engine, id_, "/run/none")
        await control.remove(id_)

    assert sorted(folder, key=lambda each: each.path) == [replace(large, content=None), expected]
    assert single == [expected]
    assert nothing == []
