"""`update` of a project that `boltseal pin` pinned, on a real engine: files, lock and containers move together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest

from boltseal.cli.context import client_context
from boltseal.commands.deploy import DeployableProject, DeployOptions, deploy_project, open_deployable, project_files
from boltseal.commands.registry_access import RegistryOptions
from boltseal.commands.update import UpdateRequest, update_project
from boltseal.project.replace_files import FileChanged
from tests.cli.program import clean_environment
from tests.real.compose_project import HEALTHY, ILL, ComposeProject, ProjectOn
from tests.real.tools import Docker, run

pytestmark = pytest.mark.real


@pytest.fixture
def shop(docker: Docker, project_on: ProjectOn) -> ComposeProject:
    """A pinned project with a version in the Compose file, the same one in `.env`, and a floating tag, all deployed."""
    made = project_on(docker)
    made.publish("1.4.2")
    made.publish("edge", "edge 1")
    services(made)
    (made.root / ".env").write_text(f"# images\nWORKER='{made.image('1.4.2')}' # 1.4.2\n")
    (made.root / ".boltseal.toml").write_text('[update]\npolicy = "revision"\n')
    made.locked()
    pinned = made.run("pin", "--write")
    done = made.run("deploy")

    assert (pinned.code, done.code) == (0, 0), pinned.err + done.err
    assert done.out.count("sha256:") == 3  # the digest of each service once
    return made


def services(shop: ComposeProject, web: str = "", **check: object) -> None:
    """Write the Compose file. `web`: the image of that service; default: without a digest."""
    tail = {"healthcheck": HEALTHY}
    shop.write(
        {
            "web": {"image": web or shop.image("1.4.2"), **tail, **check},
            "worker": {"image": "${WORKER}", **tail},
            "edge": {"image": shop.image("edge"), **tail},
        }
    )


def texts(shop: ComposeProject) -> dict[str, str]:
    return {name: (shop.root / name).read_text() for name in ("compose.yaml", ".env", "boltseal.lock")}


def digest(shop: ComposeProject, tag: str) -> str:
    [found] = shop.run("digest", shop.image(tag), "--json").json["results"]
    return str(found["digest"])


def without_digests(shop: ComposeProject) -> dict[str, str]:
    """Remove the digests that the lock records; return the files."""
    done = shop.run("pin", "--unpin", "--write")

    assert done.code == 0, done.err
    return {name: text for name, text in texts(shop).items() if name != "boltseal.lock"}


def test_an_update_moves_tags_and_digests_of_a_pinned_project(shop: ComposeProject) -> None:
    """Versions and floating tags are updated with their digests; what runs is what `docker compose up` would start, and
    unpinning gives the unpinned files with the new tag."""
    before = texts(shop)
    shop.publish("1.4.2.1")
    shop.publish("edge", "edge 2")
    done = shop.run("update")
    after = texts(shop)
    dry = run("docker", "compose", "up", "--detach", "--dry-run", env=clean_environment(shop.variables), cwd=shop.root)
    verified, deployed, again = shop.run("verify"), shop.run("deploy"), shop.run("update")
    running = shop.words()
    unpinned = without_digests(shop)

    assert done.code == 0, done.err
    for name in ("compose.yaml", ".env"):
        assert f"{shop.image('1.4.2.1')}@{digest(shop, '1.4.2.1')}" in after[name]
    assert f"{shop.image('edge')}@{digest(shop, 'edge')}" in after["compose.yaml"]
    assert after["boltseal.lock"].count("replaced") == before["boltseal.lock"].count("replaced") == 0
    assert running == {"web": "1.4.2.1", "worker": "1.4.2.1", "edge": "edge 2"}
    assert not {"Recreate", "Create", "Started"} & set(dry.checked().split())
    assert (verified.code, deployed.code, again.code) == (0, 0, 0), verified.out + verified.err
    assert "runs already" in deployed.out
    services(shop, shop.image("1.4.2.1"))
    assert unpinned == {
        "compose.yaml": (shop.root / "compose.yaml").read_text(),
        ".env": f"# images\nWORKER='{shop.image('1.4.2.1')}' # 1.4.2\n",
    }


def test_an_update_that_does_not_become_healthy_leaves_the_pins(shop: ComposeProject) -> None:
    """If a new image does not become healthy, files and lock have the former tags and digests, and the next update takes it
    only for the other service."""
    pinned = f"{shop.image('1.4.2')}@{digest(shop, '1.4.2')}"
    services(shop, pinned, healthcheck=ILL)
    (shop.root / "compose.yaml").write_text(
        (shop.root / "compose.yaml")
        .read_text()
        .replace(f'"{shop.image("edge")}"', f'"{shop.image("edge")}@{digest(shop, "edge")}"')
    )
    before = texts(shop)
    shop.publish("1.4.2.1")
    done, restored, ran = shop.run("update"), texts(shop), shop.words()
    again = shop.run("update", "--json")

    assert done.code == 1
    assert restored == before
    assert ran == {"web": "1.4.2", "worker": "1.4.2", "edge": "edge 1"}
    assert again.code == 0
    left = next(each["reason"] for each in again.json["results"] if each.get("service") == "web")
    assert left.startswith("1.4.2.1 was deployed here before and failed")
    assert texts(shop)["compose.yaml"] == before["compose.yaml"]
    assert shop.words() == {"web": "1.4.2", "worker": "1.4.2.1", "edge": "edge 1"}


def test_a_digest_that_pin_did_not_write_is_left(shop: ComposeProject) -> None:
    """A digest that another tool wrote stays, with the reason, while the others are updated."""
    before = texts(shop)
    foreign = before["boltseal.lock"]
    (shop.root / "boltseal.lock").write_text(without_record(foreign, "services.web.image"))
    shop.publish("1.4.2.1")
    done = shop.run("update")

    assert done.code == 0, done.err
    assert "`boltseal pin` did not write" in " ".join(done.out.split())
    assert f"{shop.image('1.4.2')}@" in texts(shop)["compose.yaml"]
    assert shop.words() == {"web": "1.4.2", "worker": "1.4.2.1", "edge": "edge 1"}


def without_record(lock: str, at: str) -> str:
    """Return a lock without the record of the digest at a place."""
    before, _, pins = lock.partition("pins = [")
    return f"{before}pins = [{''.join(line for line in pins.splitlines(keepends=True) if at not in line)}"


@pytest.mark.parametrize(
    ("after", "suffix"),
    [
        (1, ".json"),
        (1, ".env"),
        (1, "compose.yaml"),
        (2, ".json"),
        (1, "boltseal.lock"),
        (1, ".release"),
        (3, ".release"),
    ],
)
def test_a_killed_update_leaves_all_or_nothing(shop: ComposeProject, after: int, suffix: str) -> None:
    """After a kill at any stage of an update, the next command leaves files, lock and records all as before."""
    before = texts(shop)
    shop.publish("1.4.2.1")
    shop.killed(after, "update", suffix=suffix)
    pinned = shop.run("pin", "--write")  # it undoes the interrupted update, and has nothing to pin then
    restored = texts(shop)
    deployed = shop.run("deploy")
    done = shop.run("update")

    assert pinned.code == 0, pinned.err
    assert restored == before
    assert (deployed.code, done.code) == (0, 0), deployed.err + done.err
    assert shop.words() == {"web": "1.4.2.1", "worker": "1.4.2.1", "edge": "edge 1"}
    assert f"{shop.image('1.4.2.1')}@{digest(shop, '1.4.2.1')}" in texts(shop)[".env"]


def updated(project: DeployableProject) -> None:
    update_project(
        UpdateRequest(),
        project,
        lambda services, _: replace(opened(project.options, services), allowed=project.allowed),
        project.options.registries,
        lambda *_: None,
    )


def deployed(project: DeployableProject) -> None:
    deploy_project(project, update=True, build=False)


def opened(options: DeployOptions, services: Sequence[str] = ()) -> DeployableProject:
    return open_deployable(options, project_files(None, None, None, None, None), services, [])


@pytest.mark.parametrize("deploy", [updated, deployed])
def test_a_lock_that_another_program_wrote_meanwhile_is_not_replaced(
    shop: ComposeProject, monkeypatch: pytest.MonkeyPatch, deploy: Callable[[DeployableProject], None]
) -> None:
    """If another program writes the lock while registries are asked, `update` and `deploy --update` fail, and all files stay."""
    shop.publish("edge", "edge 2")
    before = texts(shop)
    theirs = before["boltseal.lock"] + "# theirs\n"
    for name, value in shop.variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(shop.root)
    options = DeployOptions(None, RegistryOptions(client_context()), wait_s=60.0)

    def written_meanwhile(_registry: str) -> bool:
        (shop.root / "boltseal.lock").write_text(theirs)
        return True

    with pytest.raises(FileChanged, match=r"boltseal\.lock changed while boltseal worked on it; run the command again"):
        deploy(replace(opened(options), allowed=written_meanwhile))
    assert texts(shop) == {**before, "boltseal.lock": theirs}
    assert shop.words()["edge"] == "edge 1"
