"""Releases as people use them on real engines: several administrators, files that go back, what is kept."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from boltseal.deploy.release_copy import EngineCopy, LockOwner
from boltseal.engines.address import EngineAddress
from tests import servers
from tests.real.compose_project import HEALTHY, ComposeProject
from tests.real.sleeper import publish, sleeper

pytestmark = pytest.mark.real


def with_settings(shop: ComposeProject, value: str, tag: str = "1.0.0") -> None:
    """Write a project with an environment file, a secret and a configuration file that have this value."""
    web = {
        "image": shop.image(tag),
        "healthcheck": HEALTHY,
        "env_file": ["${STAGE:-app}.env"],
        "secrets": ["token"],
        "configs": [{"source": "conf", "target": "/conf"}],
        "volumes": ["./data:/data"],
    }
    tops: dict[str, Any] = {"secrets": {"token": {"file": "./token.txt"}}, "configs": {"conf": {"file": "./web.conf"}}}
    shop.write({"web": web, "db": {"image": shop.image(tag), "healthcheck": HEALTHY}}, **tops)
    (shop.root / "data").mkdir(exist_ok=True)
    for name in ("app.env", "token.txt", "web.conf"):
        (shop.root / name).write_text(f"VALUE={value}\n")


def texts(shop: ComposeProject) -> list[str]:
    """Return what the files of `with_settings` have."""
    return [(shop.root / name).read_text() for name in ("app.env", "token.txt", "web.conf")]


def test_the_lock_of_another_machine_is_removed_by_a_command(shop: ComposeProject) -> None:
    """`release unlock` removes the lock of a deploy on a machine that is gone, names its owner, and is exit code 1 without one."""
    shop.publish("1.0.0")
    shop.web("1.0.0")
    shop.locked()
    owner = LockOwner("ann@laptop", "deploy", 1, "laptop/1/1/1/1")
    EngineCopy(EngineAddress.parse(shop.docker.host), shop.name, owner, print, authoritative=False).lock()
    refused = shop.run("deploy")
    unlocked, again = (shop.run("release", "unlock", "--project-name", shop.name) for _ in range(2))
    done = shop.run("deploy")

    assert refused.code == 3
    assert f"`boltseal release unlock --project-name {shop.name}`" in refused.err
    assert unlocked.code == 0, unlocked.err
    assert f"{shop.name} is unlocked: it was being deployed by ann@laptop since 1970-01-01" in unlocked.out
    assert again.code == 1
    assert done.code == 0, done.err


def test_the_releases_of_an_engine_behind_ssh_are_listed(shop: ComposeProject, tmp_path: Path) -> None:
    """`release ls --host ssh://...` on another machine lists and shows the releases that the engine has, and no others."""
    shop.publish("1.0.0")
    shop.web("1.0.0")
    shop.deployed()
    with servers.sshd(tmp_path / "sshd") as far:
        path = {"PATH": f"{far.folder}/bin:{os.environ['PATH']}", "DOCKER_HOST": "unix:///nowhere.sock"}
        laptop = replace(shop, state=tmp_path / "laptop", environment=path)
        host = f"ssh://root@{far.address}{shop.docker.host.removeprefix('unix://')}"
        listed = laptop.run("release", "ls", "--host", host, "--project-name", shop.name, "--json")

    assert listed.code == 0, listed.err
    assert [(each["ref"], each["status"], each["runs"]) for each in listed.json["results"]] == [
        (f"{shop.name}/1", "healthy", True)
    ]


def test_another_administrator_deploys_an_unchanged_project_without_a_change(
    shop: ComposeProject, tmp_path: Path
) -> None:
    """A second administrator with folders of their own deploys the same files: nothing is pulled, recorded or restarted."""
    shop.publish("1.0.0")
    with_settings(shop, "one")
    shop.deployed()
    before = shop.ids()
    second = replace(shop, state=tmp_path / "second")
    same = second.run("deploy")
    between = shop.ids()
    with_settings(shop, "two")
    other = second.run("deploy")
    first = shop.run("deploy")

    assert same.code == 0, same.err
    assert f"release 1 of {shop.name} runs already" in same.out
    assert between == before
    assert other.code == 0, other.err
    assert f"release 2 of {shop.name} runs already" in first.out
    assert shop.ids()["db"] == before["db"]


def test_an_unchanged_project_is_not_changed_by_ssh(shop: ComposeProject, tmp_path: Path) -> None:
    """An administrator by ssh deploys what root deployed on the engine's host: no container is replaced, and root goes on."""
    shop.publish("1.0.0")
    with_settings(shop, "one")
    shop.deployed()
    before = shop.ids()
    with servers.sshd(tmp_path / "sshd") as far:
        by_ssh = {
            "PATH": f"{far.folder}/bin:{os.environ['PATH']}",
            "DOCKER_HOST": f"ssh://root@{far.address}{shop.docker.host.removeprefix('unix://')}",
        }
        laptop = replace(shop, state=tmp_path / "laptop", environment=by_ssh)
        same = laptop.run("deploy")
    again = shop.run("deploy")

    assert same.code == 0, same.err
    assert f"release 1 of {shop.name} runs already" in same.out
    assert "archived the images of the last releases on this machine: " in same.err
    assert f"release 1 of {shop.name} runs already" in again.out
    assert shop.ids() == before


def test_files_are_as_before_if_the_rollback_does_not_run(shop: ComposeProject) -> None:
    """`rollback --restore-files` undoes the restoration of files if the release does not run; what ran before runs again."""
    script = "/busybox test -e /data/newer && exit 3; exec /busybox sleep 1000"
    old = sleeper("old", commands=("true",), command=("/busybox", "sh", "-c", script))
    publish(shop.registry.address, shop.repository, "1.0.0", old)
    shop.publish("2.0.0")
    with_settings(shop, "one")
    shop.deployed()
    with_settings(shop, "two", "2.0.0")
    (shop.root / "more.env").write_text("A=b\n")
    shop.deployed()
    (shop.root / "data/newer").touch()
    names = ("compose.yaml", "boltseal.lock", "app.env", "token.txt", "web.conf", "more.env")
    before = {name: ((shop.root / name).read_bytes(), (shop.root / name).stat().st_mode) for name in names}
    back = shop.run("rollback", "--restore-files")
    after = {name: ((shop.root / name).read_bytes(), (shop.root / name).stat().st_mode) for name in names}

    assert back.code == 1, back.out
    assert f"release 3 of {shop.name} failed; release 2 runs again" in back.out
    assert after == before
    assert shop.words()["web"] == "2.0.0"


def test_files_that_compose_names_by_a_variable_go_back(shop: ComposeProject) -> None:
    """A file of `env_file` whose path has a variable is restored with the others."""
    shop.publish("1.0.0")
    with_settings(shop, "one")
    shop.deployed()
    with_settings(shop, "two")
    shop.deployed()
    back = shop.run("rollback", "--restore-files")

    assert back.code == 0, back.err
    assert texts(shop) == ["VALUE=one\n"] * 3


def test_a_project_can_keep_its_images_by_tags_only(shop: ComposeProject) -> None:
    """With `keep = "tags"` in the project's settings no image is archived; the default archives them and prints the size."""
    shop.publish("1.0.0")
    shop.publish("2.0.0")
    shop.web("1.0.0")
    (shop.root / ".boltseal.toml").write_text('[deploy]\nkeep = "tags"\n')
    tags = shop.deployed()
    archived = list(shop.state.glob("engines/*/archive/blobs/sha256/*"))
    shop.web("2.0.0")
    (shop.root / ".boltseal.toml").unlink()
    both = shop.deployed()

    assert "archived" not in tags.err
    assert archived == []
    assert "archived the images of the last releases: " in both.err
    assert list(shop.state.glob("engines/*/*/blobs/sha256/*"))


def test_kept_images_are_listed_with_what_they_are_kept_for(shop: ComposeProject) -> None:
    """`keep ls` names the newest release that needs an image and counts the others, and says of which images an archive is left."""
    shop.publish("1.0.0")
    for value in ("one", "two", "three"):
        with_settings(shop, value)
        shop.deployed()
    listed = shop.run("keep", "ls", shop.image("1.0.0"))
    shop.down()
    ids = shop.docker.run("image", "ls", "--quiet", "--no-trunc", "--filter", "label=words=1.0.0").checked().split()
    shop.docker.run("image", "rm", "--force", *dict.fromkeys(ids)).checked()
    gone = shop.run("keep", "ls", shop.image("1.0.0"))

    assert listed.code == 0, listed.err
    assert f"kept; has the name now; for release {shop.name}/3 and 2 earlier" in " ".join(listed.out.split())
    assert "archived with its releases: `boltseal rollback` restores it" in " ".join(gone.out.split())


def test_the_running_release_is_shown_without_a_number(shop: ComposeProject) -> None:
    """The release that runs is shown without a number."""
    shop.publish("1.0.0")
    shop.web("1.0.0")
    shop.deployed()
    shown = shop.run("release", "show", "--project-name", shop.name)

    assert shown.code == 0, shown.err
    assert shown.out.startswith(f"release   {shop.name}/1, running")
