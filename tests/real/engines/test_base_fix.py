"""The way of a base's fix to a host: it moves, images are rebuilt in order, and the project takes the revision. On real Docker."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests import servers
from tests.cli import program
from tests.polling import wait_until
from tests.programs import program as installed
from tests.real.compose_project import HEALTHY, ComposeProject
from tests.real.tools import Docker
from tests.servers import Server

pytestmark = [pytest.mark.real, pytest.mark.slow]

REBUILD = """#!/bin/sh
# build the sources of an image again, and push the tag that boltseal names
repository="${BOLTSEAL_REBUILD_NEW_IMAGE%:*}"
exec PYTHON -m boltseal build "SOURCES/${repository##*/}" --builder docker --build-arg "BASE=$BOLTSEAL_REBUILD_BASE" \\
  --repository "$repository" --tag "$BOLTSEAL_REBUILD_NEW_TAG"
"""


@dataclass
class Story:
    """A registry with an image on a base on a base, and a project that runs it."""

    shop: ComposeProject
    folder: Path

    def repository(self, name: str) -> str:
        return f"{self.shop.registry.address}/{self.shop.repository}/{name}"

    def os(self, words: str, tag: str = "latest") -> str:
        """Build and push the lowest base with docker alone; return its digest."""
        folder = self.folder / "os"
        folder.mkdir(exist_ok=True)
        (folder / "busybox").write_bytes(Path(installed("busybox")).read_bytes())
        (folder / "busybox").chmod(0o755)
        (folder / "words").write_text(words)
        lines = ("FROM scratch", "COPY busybox /busybox", "COPY busybox /bin/true", "COPY words /words",
                 f'LABEL words="{words}"', 'CMD ["/busybox", "sleep", "100000"]')  # fmt: skip
        (folder / "Dockerfile").write_text("\n".join(lines) + "\n")
        image = f"{self.repository('os')}:{tag}"
        self.shop.docker.run("build", "--tag", image, str(folder)).checked()
        self.shop.docker.run("push", image).checked()
        [found] = self.results("digest", image)
        return str(found["digest"])

    def source(self, name: str, base: str) -> Path:
        """Write the sources of an image. `base`: the base's name and tag, which a build can replace by another."""
        folder = self.folder / name
        folder.mkdir()
        (folder / "own").write_text(name)
        (folder / "Dockerfile").write_text(f"ARG BASE={self.repository(base)}\nFROM $BASE\nCOPY own /own-{name}\n")
        return folder

    def build(self, name: str, base: str, tag: str) -> str:
        """Build and push an image; return its digest."""
        arguments = ("--builder", "docker", "--repository", self.repository(name), "--tag", tag)
        done = program.run("build", self.source(name, base), *arguments, environment=self.shop.variables)
        assert done.code == 0, done.err
        return done.out.strip().partition("@")[2]

    def results(self, *arguments: str) -> list[dict[str, Any]]:
        """Return the results of a command."""
        found: list[dict[str, Any]] = self.shop.run(*arguments, "--json").json["results"]
        return found

    def statuses(self) -> dict[str, str]:
        """Return the status of each tag of the registry."""
        found = self.results("outdated", "--registry", self.shop.registry.address, "--window", "0s")
        prefix = f"{self.shop.registry.address}/{self.shop.repository}/"
        return {each["ref"].removeprefix(prefix): each["status"] for each in found if each["ref"].startswith(prefix)}


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The registry of this module."""
    with servers.boltseal(tmp_path_factory.mktemp("own") / "data") as server:
        yield server


@pytest.fixture
def story(docker: Docker, own: Server, repository: str, tmp_path: Path) -> Iterator[Story]:
    yield from stories(docker, own, repository, tmp_path)


@pytest.fixture
def sealed(docker: Docker, repository: str, tmp_path: Path) -> Iterator[Story]:
    """The story at a registry in which all tags but those of the lowest base are sealed."""
    with servers.boltseal(tmp_path / "data", config='[[rule]]\nrepository = "**/os"\nmode = "floating"\n') as server:
        yield from stories(docker, server, repository, tmp_path)


def stories(docker: Docker, own: Server, repository: str, tmp_path: Path) -> Iterator[Story]:
    """Yield a story with its command for rebuilds in the user's settings, and remove its containers."""
    rebuild = tmp_path / "rebuild"
    rebuild.write_text(REBUILD.replace("PYTHON", sys.executable).replace("SOURCES", str(tmp_path)))
    rebuild.chmod(0o755)
    settings = tmp_path / "config" / "boltseal" / "boltseal.toml"
    settings.parent.mkdir(parents=True)
    settings.write_text(f'[[on_outdated]]\ncommand = ["{rebuild}"]\nattempts = 1\n')
    environment = {"XDG_CONFIG_HOME": str(tmp_path / "config"), "DOCKER_BUILDKIT": "0"}
    shop = ComposeProject(tmp_path / "shop", docker, own, tmp_path / "state", repository, environment)
    shop.root.mkdir()
    yield Story(shop, tmp_path)
    shop.down()


def project(story: Story, cooldown: str) -> None:
    """Write the project: the tag is in `.env`, with its digest once it is pinned, and only revisions are taken."""
    shop = story.shop
    shop.write({"web": {"image": f"{story.repository('app')}:${{WEB_TAG}}", "healthcheck": HEALTHY}})
    settings = f'[update]\npolicy = "revision"\ncooldown = "{cooldown}"\n'
    (shop.root / ".boltseal.toml").write_text(settings)


def test_a_fix_of_the_base_reaches_the_host_and_a_rollback_holds(story: Story) -> None:
    """A base's fix is found, rebuilt through three levels into a revision, explained, deployed after its cooldown, shown by
    `ps`, and not taken again after a rollback."""
    shop, host = story.shop, story.shop.docker.host
    was = story.os("the old base")
    story.build("rt", "os:latest", "latest")
    first = story.build("app", "rt:latest", "1.4.2")
    project(story, "1h")
    (shop.root / ".env").write_text("WEB_TAG=1.4.2\n")
    shop.locked()
    pinned = shop.run("pin", "--write")
    deployed = shop.run("deploy")
    current = story.statuses()

    now = story.os("the fixed base")  # the base moves
    outdated = story.statuses()
    running = story.results("outdated", "--running", "--host", host, "--window", "0s")
    rebuilt = story.results("outdated", "--registry", shop.registry.address, "--rebuild", "--window", "0s")
    after = story.statuses()
    [record] = built(story, "app", "1.4.2.1")
    [inspected] = story.results("inspect", f"{story.repository('app')}:1.4.2.1")

    assert (pinned.code, deployed.code) == (0, 0), pinned.err + deployed.err
    assert (current["rt:latest"], current["app:1.4.2"]) == ("current", "current")
    assert (outdated["rt:latest"], outdated["app:1.4.2"]) == ("outdated", "outdated")
    assert [each["runs_on"] for each in running if each["status"] == "outdated"] == [[f"{shop.name}-web-1"]]
    assert requested(rebuilt) == ["rt:latest", "app:1.4.2"]
    assert (after["rt:latest"], after["app:1.4.2.1"]) == ("current", "current")
    assert after["app:1.4.2"] == "superseded"
    assert record["extra"]["revision.of"] == "1.4.2"
    assert record["extra"]["base.was"] != record["extra"]["base.digest"]
    assert inspected["labels"]["boltseal.revision-of"] == "1.4.2"
    assert inspected["labels"]["boltseal.base.was"] == record["extra"]["base.was"]

    waiting = story.results("update", "--dry-run")
    project(story, "1s")
    explained = shop.run("update", "--explain", "md", "--dry-run")
    wait_until(lambda: story.results("update", "--dry-run")[0]["status"] == "take", "the cooldown is over")
    taken = shop.run("update")

    assert (waiting[0]["status"], waiting[0]["tag"]) == ("wait", "1.4.2.1")
    assert "| tag | `1.4.2 -> 1.4.2.1` |" in explained.out
    assert f"| base now | `{record['extra']['base.digest']}` |" in explained.out
    assert f"{shop.name} web, release 1" in explained.out
    assert taken.code == 0, taken.err
    assert (shop.root / ".env").read_text() == f"WEB_TAG=1.4.2.1@{record['digest']}\n"
    assert shop.words() == {"web": "the fixed base"}

    [row] = [each for each in story.results("ps", "--host", host) if each.get("project") == shop.name]
    shown = shop.run("ps", "--host", host)
    fresh = story.results("outdated", "--running", "--host", host, "--window", "0s")

    assert row["built"]["revision_of"] == "1.4.2"
    assert (row["built"]["was"], row["built"]["digest"]) == (
        record["extra"]["base.was"],
        record["extra"]["base.digest"],
    )
    assert "a revision of 1.4.2, base" in " ".join(shown.out.split())
    assert [each["status"] for each in fresh if shop.name in str(each["runs_on"])] == ["current"]

    back = shop.run("rollback", "--project-name", shop.name)
    held = shop.run("update")

    assert back.code == 0, back.err
    assert shop.words() == {"web": "the old base"}
    assert held.code == 0
    assert "held since release" in " ".join(held.out.split())
    assert shop.words() == {"web": "the old base"}
    assert (was, first) != (now, record["digest"])


def test_a_fix_passes_a_sealed_middle_image(sealed: Story) -> None:
    """With a sealed image in the middle, one run makes a revision of it and then one of the image above, on that revision."""
    sealed.os("the old base", "1")
    middle = sealed.build("rt", "os:1", "1.4")
    sealed.build("app", "rt:1.4", "1.4.2")
    current = sealed.statuses()

    now = sealed.os("the fixed base", "1")
    outdated = sealed.statuses()
    rebuild = ("outdated", "--registry", sealed.shop.registry.address, "--rebuild", "--window", "0s")
    rebuilt, again = sealed.results(*rebuild), sealed.results(*rebuild)
    after = sealed.statuses()
    [rt], [app] = built(sealed, "rt", "1.4.0.1"), built(sealed, "app", "1.4.2.1")
    sealed.shop.docker.run("pull", f"{sealed.repository('app')}:1.4.2.1").checked()
    label = '{{index .Config.Labels "words"}}'
    words = sealed.shop.docker.run("inspect", "--format", label, f"{sealed.repository('app')}:1.4.2.1").checked()

    assert [current.pop("os:1"), outdated.pop("os:1"), after.pop("os:1")] == [
        "cannot tell"
    ] * 3  # docker records no base
    assert current == {"rt:1.4": "current", "app:1.4.2": "current"}
    assert outdated == {"rt:1.4": "outdated", "app:1.4.2": "outdated"}
    assert requested(rebuilt) == ["rt:1.4", "app:1.4.2"]
    assert requested(again) == []
    assert after == {
        "rt:1.4": "superseded",
        "rt:1.4.0.1": "current",
        "app:1.4.2": "superseded",
        "app:1.4.2.1": "current",
    }
    assert (rt["extra"]["revision.of"], rt["extra"]["base.digest"]) == ("1.4", now)
    assert app["extra"]["revision.of"] == "1.4.2"
    assert app["extra"]["base.name"] == f"{sealed.repository('rt')}:1.4.0.1"
    assert (app["extra"]["base.was"], app["extra"]["base.digest"]) == (middle, rt["digest"])
    assert words.strip() == "the fixed base"


def requested(results: list[dict[str, Any]]) -> list[str]:
    """Return the images that were rebuilt, in their order."""
    return [each["ref"].rpartition("/")[2] for each in results if each["status"] == "rebuild done"]


def built(story: Story, name: str, tag: str) -> list[dict[str, Any]]:
    """Return the `built` entries of a tag in the ledger."""
    url = f"{story.shop.registry.url}/v2/{story.shop.repository}/{name}/_boltseal/records"
    entries = httpx2.get(url, trust_env=False).raise_for_status().json()["entries"]
    lines = [json.loads(each["line"]) for each in entries]
    return [each for each in lines if each["kind"] == "built" and each["tag"] == tag]
