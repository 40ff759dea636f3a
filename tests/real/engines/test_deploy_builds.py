"""Services with `build:` on a real engine: locked ones are never built, others start only with `--build`."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.program import clean_environment
from tests.programs import program
from tests.real.compose_project import HEALTHY, ComposeProject, ProjectOn
from tests.real.tools import Docker, run

pytestmark = pytest.mark.real


@pytest.fixture
def shop(docker: Docker, project_on: ProjectOn) -> ComposeProject:
    """A project with a Dockerfile, whose registry has the tag 1.0.0."""
    made = project_on(docker)
    (made.root / "Dockerfile").write_text(
        'FROM scratch\nCOPY busybox /busybox\nLABEL words=built\nCMD ["/busybox", "sleep", "1000"]\n'
    )
    (made.root / "busybox").write_bytes(Path(program("busybox")).read_bytes())
    (made.root / "busybox").chmod(0o755)
    made.publish("1.0.0")
    return made


def both(shop: ComposeProject, tag: str) -> None:
    """Return a project of one service with an image and a build."""
    shop.write({"web": {"image": shop.image(tag), "build": ".", "healthcheck": HEALTHY}})


@pytest.mark.parametrize("flag", ["--require-scrub", "--no-scrub"])
def test_an_image_beside_a_build_that_is_not_locked_is_refused(shop: ComposeProject, flag: str) -> None:
    """An unlocked image beside a build is refused, whether the engine has an image of that name or not."""
    shop.web("1.0.0")
    shop.locked()
    both(shop, "2.0.0")
    missing = shop.run("deploy", flag)
    shop.docker.run("pull", shop.image("1.0.0")).checked()
    shop.docker.run("tag", shop.image("1.0.0"), shop.image("2.0.0")).checked()
    there = shop.run("deploy", flag)

    assert (missing.code, there.code) == (2, 2)
    for result in (missing, there):
        assert f"web: {shop.image('2.0.0')}: it is not in boltseal.lock" in result.err
        assert "build it with `boltseal deploy --build`" in result.err
    assert "got no such image" in missing.err
    assert "got sha256:" in there.err
    assert shop.ids() == {}
    assert shop.releases() == []


def test_a_locked_service_is_not_built(shop: ComposeProject) -> None:
    """A locked service is not built, even with --build, and its tag on the engine does not move."""
    both(shop, "1.0.0")
    shop.locked()
    done = shop.run("deploy", "--build")

    assert done.code == 0, done.err
    assert "web: not built, boltseal.lock has sha256:" in done.err
    assert shop.words() == {"web": "1.0.0"}
    assert shop.releases()[0]["services"][0]["digest"].startswith("sha256:")


def test_a_locked_service_with_a_build_takes_revisions(shop: ComposeProject) -> None:
    """`update` takes the revision of a locked service with a build, and changes the variable in `.env` that supplies its tag."""
    shop.write({"web": {"image": shop.image("${WEB_TAG}"), "build": ".", "healthcheck": HEALTHY}})
    (shop.root / ".env").write_text("OTHER=1\nWEB_TAG=1.0.0\n")
    (shop.root / ".boltseal.toml").write_text('[update]\npolicy = "revision"\n')
    shop.deployed()
    shop.publish("1.0.0.1")
    shop.publish("1.0.1")
    done = shop.run("update")

    assert done.code == 0, done.err
    assert "1.0.0 -> 1.0.0.1" in done.out
    assert (shop.root / ".env").read_text() == "OTHER=1\nWEB_TAG=1.0.0.1\n"
    assert shop.words() == {"web": "1.0.0.1"}


def test_a_build_is_recorded_by_its_id_as_unproven(shop: ComposeProject) -> None:
    """A local build is recorded by its ID as unproven; without --build the same image continues, another is refused."""
    both(shop, "2.0.0")
    done = shop.run("deploy", "--build", "--require-scrub")
    image = shop.docker.run("image", "inspect", "--format", "{{.Id}}", shop.image("2.0.0")).checked().strip()
    recorded = shop.releases()[0]["services"][0]
    same = shop.run("deploy")
    web = {"image": shop.image("2.0.0"), "build": ".", "healthcheck": HEALTHY}
    shop.write({"web": {**web, "environment": {"A": "b"}}})
    changed = shop.run("deploy")
    before = shop.ids()
    shop.docker.run("pull", shop.image("1.0.0")).checked()
    shop.docker.run("tag", shop.image("1.0.0"), shop.image("2.0.0")).checked()
    other = shop.run("deploy")

    assert done.code == 0, done.err
    assert "web: built here: not locked, and not scrubbed, as no digest is expected" in done.err
    assert (recorded["id"], recorded["digest"]) == (image, None)
    assert f"release 1 of {shop.name} runs already" in same.out
    assert changed.code == 0, changed.err
    assert other.code == 2
    assert "expected the image of release 2, sha256:" in other.err
    assert shop.ids() == before
    assert shop.words() == {"web": "built"}


def test_a_build_without_an_image_is_refused_unless_it_is_built(shop: ComposeProject) -> None:
    """A build without an image name is refused without --build, even if the engine has Compose's default tag for it."""
    shop.write(
        {"web": {"build": ".", "healthcheck": HEALTHY}, "db": {"image": shop.image("1.0.0"), "healthcheck": HEALTHY}}
    )
    shop.locked()
    shop.docker.run("pull", shop.image("1.0.0")).checked()
    shop.docker.run("tag", shop.image("1.0.0"), f"{shop.name}-web").checked()
    refused = shop.run("deploy")
    nothing = shop.ids()
    built = shop.run("deploy", "--build")

    assert refused.code == 2
    assert "web: " in refused.err
    assert "it is not in boltseal.lock (got sha256:" in refused.err
    assert nothing == {}
    assert built.code == 0, built.err
    assert shop.words() == {"web": "built", "db": "1.0.0"}


def test_a_locked_image_beside_a_build_is_pinned_and_deployed(shop: ComposeProject) -> None:
    """`pin --write` and `lock --emit` take a locked image beside a build, and `docker compose up` starts it without a build."""
    both(shop, "1.0.0")
    shop.locked()
    first = shop.run("deploy")
    before = shop.ids()
    override = shop.run("lock", "--emit", "compose-override")
    (shop.root / "generated.yaml").write_text(override.out)
    by_override = up(shop, "--file", "compose.yaml", "--file", "generated.yaml")
    between = shop.ids()
    written = shop.run("pin", "--write")
    again = shop.run("deploy")
    by_pin = up(shop)

    assert (first.code, override.code, written.code, again.code) == (0, 0, 0, 0), written.err + again.err
    assert f"{shop.image('1.0.0')}@sha256:" in (shop.root / "compose.yaml").read_text()
    assert (by_override, by_pin) == ("1.0.0", "1.0.0")
    assert "runs already" in again.out
    assert (between, shop.ids()) == (before, before)


def test_an_update_takes_a_newer_version_of_an_image_beside_a_build(shop: ComposeProject) -> None:
    """`update --write` deploys a newer version of a locked image beside a build, without a build."""
    both(shop, "1.0.0")
    shop.deployed()
    shop.publish("1.1.0")
    proposed = shop.run("update")
    written = shop.run("update", "--write")

    assert "1.0.0 -> 1.1.0" in proposed.out
    assert written.code == 0, written.err
    assert '"build": "."' in (shop.root / "compose.yaml").read_text()
    assert shop.words() == {"web": "1.1.0"}


def test_an_update_leaves_an_image_beside_a_build_that_is_not_locked(shop: ComposeProject) -> None:
    """`update` never replaces an image that was built here by one of a registry."""
    both(shop, "2.0.0")
    shop.locked()
    built = shop.run("deploy", "--build")
    shop.publish("2.1.0")
    left = shop.run("update", "--write")

    assert (built.code, left.code) == (0, 0), left.err
    assert "it is built here" in " ".join(left.out.split())
    assert shop.words() == {"web": "built"}


def up(shop: ComposeProject, *options: str) -> str:
    """Run `docker compose up` on the project's files; return the label text of what runs then."""
    run("docker", "compose", *options, "up", "--detach", env=clean_environment(shop.variables), cwd=shop.root).checked()
    return shop.words()["web"]
