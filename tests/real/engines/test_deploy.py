"""`deploy`, `rollback`, `release ls` and `release diff` on real engines with Docker Compose."""

from __future__ import annotations

import contextlib
import json
import os
import signal
from pathlib import Path

import httpx2
import pytest

from tests import servers
from tests.cli.program import Run
from tests.polling import wait_until
from tests.ports import free_port
from tests.programs import program
from tests.real.compose_project import (
    ENDS,
    HEALTHY,
    ILL,
    ComposeProject,
    ProjectOn,
    started,
    succeeds_every,
    until_step,
)
from tests.real.registry import Registry
from tests.real.tools import Docker
from tests.servers import Server
from tests.small_disk import small_disk

pytestmark = pytest.mark.real


@pytest.fixture
def shop(project_on: ProjectOn, docker: Docker) -> ComposeProject:
    """A project on Docker's classic store."""
    return project_on(docker)


@pytest.fixture(params=["docker", "docker_containerd"])
def engine(request: pytest.FixtureRequest) -> Docker:
    """Docker with either store."""
    found: Docker = request.getfixturevalue(request.param)
    return found


def test_a_rollback_restores_the_first_release_without_the_registry(
    project_on: ProjectOn, engine: Docker, tmp_path: Path
) -> None:
    """After two deploys, a rollback restores the first image with the registry switched off, though its tag moved."""
    with servers.boltseal(tmp_path / "data") as server:
        shop = project_on(engine, server)
        first = shop.publish("edge", "the first")
        shop.web("edge")
        shop.deployed()
        assert shop.words() == {"web": "the first"}
        shop.publish("edge", "the second")
        result = shop.deployed()
        assert shop.words() == {"web": "the second"}
        assert "healthy" in result.out
    back = shop.run("rollback", "--project-name", shop.name)

    assert back.code == 0, back.err
    assert shop.words() == {"web": "the first"}
    assert f"release 3 of {shop.name} runs, as release 1 did" in back.out
    assert [(each["status"], each["of"], each["runs"]) for each in shop.releases()] == [
        ("healthy", None, False),
        ("healthy", None, False),
        ("healthy", 1, True),
    ]
    assert shop.releases()[2]["services"][0]["digest"] == first


def test_an_unchanged_deploy_does_nothing(project_on: ProjectOn, engine: Docker) -> None:
    """Deploying what already runs causes no pull, restart, release or registry request."""
    shop = project_on(engine)
    shop.publish("1.0.0")
    shop.web("1.0.0")
    shop.deployed()
    before = shop.ids()
    asked = _requests(shop.registry)
    again = shop.run("deploy")

    assert again.code == 0, again.err
    assert again.out == f"release 1 of {shop.name} runs already: nothing was pulled, started or stopped\n"
    assert shop.ids() == before
    assert len(shop.releases()) == 1
    assert _requests(shop.registry) == asked


def _requests(server: Server) -> str:
    """Return the number of requests to a registry so far."""
    text = httpx2.get(f"{server.url}/metrics", timeout=30, trust_env=False).raise_for_status().text
    lines = [line for line in text.splitlines() if line.startswith("boltseal_http_requests_total")]
    return "\n".join(line for line in lines if 'route="/metrics"' not in line and 'route="/readyz"' not in line)


def test_an_unhealthy_version_is_replaced_by_the_former_one(project_on: ProjectOn, engine: Docker) -> None:
    """If the new version fails its health check, the former one is restored exactly: exit code 1 with the reason."""
    shop = project_on(engine)
    shop.publish("1.0.0")
    shop.publish("1.1.0")
    shop.web("1.0.0")
    shop.deployed()
    shop.web("1.1.0", ILL)
    shop.locked()
    failed = shop.run("deploy")

    assert failed.code == 1
    assert "is unhealthy by its health check" in failed.err
    assert f"release 2 of {shop.name} failed; release 1 runs again" in failed.out
    assert shop.words() == {"web": "1.0.0"}
    assert [each["status"] for each in shop.releases()] == ["healthy", "put-back"]
    assert shop.run("deploy", "--json").json["outcome"] == "differs"  # an unchanged deploy


def test_a_service_that_can_not_start_is_shown_with_its_last_lines(shop: ComposeProject) -> None:
    """If a service can't start, the last log lines of its container are printed."""
    shop.publish("1.0.0")
    shop.publish("1.1.0", command=ENDS)
    shop.web("1.0.0")
    shop.deployed()
    shop.web("1.1.0")
    shop.locked()
    failed = shop.run("deploy")

    assert failed.code == 1
    assert "exited with code 3" in failed.err
    assert "    web | it can not start\n" in failed.err
    assert shop.words() == {"web": "1.0.0"}


def test_a_short_time_out_still_restores_the_former_release(shop: ComposeProject) -> None:
    """With a short time-out, the former release still gets the five seconds that a service without a health check
    needs."""
    shop.publish("1.0.0")
    shop.publish("1.1.0")
    plain = {"web": {"image": shop.image("1.0.0")}}
    shop.write(plain)
    shop.deployed()
    shop.write({"web": {"image": shop.image("1.1.0")}})
    shop.locked()
    failed = shop.run("deploy", "--wait", "4s")  # less than five, and enough for Compose on a busy machine

    assert failed.code == 1
    assert "of 5 s; not healthy after 4 s (--wait)" in failed.err
    assert f"release 2 of {shop.name} failed; release 1 runs again" in failed.out
    assert shop.words() == {"web": "1.0.0"}


def test_a_failed_first_release_leaves_its_containers(shop: ComposeProject) -> None:
    """A failed first release has no former one: that is printed, and its containers stay for inspection."""
    shop.publish("1.0.0")
    shop.web("1.0.0", ILL)
    shop.locked()
    failed = shop.run("deploy")

    assert failed.code == 1
    assert "there is no previous release to restore" in failed.out
    assert shop.words() == {"web": "1.0.0"}


def test_the_next_release_removes_what_a_failed_first_one_left(shop: ComposeProject) -> None:
    """The next release removes the containers of a failed first release."""
    shop.publish("1.0.0")
    image = shop.image("1.0.0")
    shop.write({"web": {"image": image, "healthcheck": ILL}, "extra": {"image": image, "healthcheck": HEALTHY}})
    shop.locked()
    failed = shop.run("deploy")
    left = set(shop.words())
    shop.web("1.0.0")
    shop.deployed()

    assert failed.code == 1
    assert left == {"web", "extra"}
    assert set(shop.words()) == {"web"}


@pytest.mark.parametrize(
    ("after", "step"), [(1, "recorded"), (2, "starting"), (3, "waiting")], ids=["recorded", "starting", "waiting"]
)
def test_a_killed_deploy_is_resumed(shop: ComposeProject, after: int, step: str) -> None:
    """A deploy killed at a step is unfinished there, and `--resume` completes it."""
    shop.publish("1.0.0")
    shop.publish("1.1.0")
    shop.web("1.0.0")
    shop.deployed()
    shop.web("1.1.0")
    shop.locked()
    shop.killed(after, "deploy")
    left = shop.releases()[1]
    result = shop.run("release", "ls")
    resumed = shop.run("deploy", "--resume")

    assert left["status"] == f"unfinished: {step}"
    assert f"release 2 of {shop.name} was left {step}: `boltseal deploy --resume" in result.err
    assert resumed.code == 0, resumed.err
    assert shop.words() == {"web": "1.1.0"}
    assert [each["status"] for each in shop.releases()] == ["healthy", "healthy"]


@pytest.mark.parametrize("after", [1, 2, 3], ids=["recorded", "starting", "waiting"])
def test_a_killed_deploy_is_rolled_back(shop: ComposeProject, after: int) -> None:
    """`rollback` after a killed deploy abandons it, and the former release runs."""
    shop.publish("1.0.0")
    shop.publish("1.1.0")
    shop.web("1.0.0")
    shop.deployed()
    shop.web("1.1.0")
    shop.locked()
    shop.killed(after, "deploy")
    back = shop.run("rollback")

    assert back.code == 0, back.err
    assert shop.words() == {"web": "1.0.0"}
    assert [each["status"] for each in shop.releases()] == ["healthy", "abandoned", "healthy"]


def test_a_killed_restoration_is_resumed(shop: ComposeProject) -> None:
    """After a kill during the restoration, `--resume` continues it, and does not try the failed release again."""
    shop.publish("1.0.0")
    shop.publish("1.1.0")
    shop.web("1.0.0")
    shop.deployed()
    shop.web("1.1.0", ILL)
    shop.locked()
    shop.killed(4, "deploy")
    left = shop.releases()[1]["status"]
    resumed = shop.run("deploy", "--resume")

    assert left == "unfinished: returning"
    assert resumed.code == 1
    assert f"release 2 of {shop.name} failed; release 1 runs again" in resumed.out
    assert shop.words() == {"web": "1.0.0"}


def test_a_kill_before_the_record_leaves_no_release(shop: ComposeProject) -> None:
    """After a kill before the record, no release exists, nothing that runs was changed, and the next deploy works."""
    shop.publish("1.0.0")
    shop.web("1.0.0")
    shop.deployed()
    before = shop.ids()
    shop.publish("1.1.0")
    shop.web("1.1.0")
    shop.locked()
    one = started(shop, "deploy")
    kept = shop.state / "kept.db"
    size = kept.stat().st_mtime_ns
    while kept.stat().st_mtime_ns == size and one.poll() is None:
        pass
    one.send_signal(signal.SIGKILL)
    one.communicate()
    found = shop.releases()
    if len(found) == 1:
        assert shop.ids() == before
    again = shop.run("deploy", *([] if len(found) == 1 else ["--resume"]))

    assert again.code == 0, again.err
    assert shop.words() == {"web": "1.1.0"}


def test_ctrl_c_prints_how_to_resume(shop: ComposeProject) -> None:
    """Ctrl-C ends with 130, prints the command that resumes, and leaves the release at its step."""
    shop.publish("1.0.0")
    shop.web("1.0.0", succeeds_every("30s"))
    shop.locked()
    one = started(shop, "deploy")
    until_step(shop, 1, "waiting")
    one.send_signal(signal.SIGINT)
    _, err = one.communicate(timeout=60)

    assert one.returncode == 130
    assert f"release 1 of {shop.name} was left waiting: `boltseal deploy --resume" in err.decode()


def test_of_two_deploys_at_once_one_is_refused(shop: ComposeProject) -> None:
    """Of two concurrent deploys, one is refused at once with exit code 3, and the other completes."""
    shop.publish("1.0.0")
    shop.publish("1.1.0")
    shop.web("1.0.0")
    shop.deployed()
    shop.web("1.1.0", succeeds_every("3s"))
    shop.locked()
    one = started(shop, "deploy")
    until_step(shop, 2, "starting")
    other = shop.run("deploy")
    _, err = one.communicate(timeout=60)

    assert other.code == 3
    assert f"{shop.name} is being deployed by another process" in other.err
    assert one.returncode == 0, err


def test_a_users_own_override_profiles_and_variables(shop: ComposeProject) -> None:
    """The override beside the file, `--profile`, `.env`, and `--env-file` in its place, count as in Compose."""
    for tag in ("1.0.0", "1.1.0"):
        shop.publish(tag)
    image = shop.image("${TAG}")
    shop.write(
        {
            "web": {"image": image, "healthcheck": HEALTHY},
            "extra": {"image": image, "profiles": ["more"], "healthcheck": HEALTHY},
        }
    )
    (shop.root / ".env").write_text("TAG=1.0.0\n")
    (shop.root / "other.env").write_text("TAG=1.1.0\n")
    (shop.root / "compose.override.yaml").write_text(
        json.dumps({"services": {"web": {"environment": {"FROM": "the override"}}}})
    )
    shop.deployed()
    first = shop.containers()
    other = shop.run("deploy", "--update", "--env-file", "other.env", "--profile", "more")
    second = shop.words()
    back = shop.run("rollback", "1")

    assert "FROM=the override" in first["web"]["Config"]["Env"]
    assert set(first) == {"web"}
    assert other.code == 0, other.err
    assert second == {"web": "1.1.0", "extra": "1.1.0"}
    assert back.code == 0, back.err
    assert shop.words() == {"web": "1.0.0"}


def test_a_local_build_is_deployed_and_rolled_back(shop: ComposeProject) -> None:
    """A local build needs --build, and a rollback restores its older image although its tag moved."""
    (shop.root / "Dockerfile").write_text(
        'FROM scratch\nCOPY busybox /busybox\nLABEL words=one\nCMD ["/busybox", "sleep", "1000"]\n'
    )
    (shop.root / "busybox").write_bytes(Path(program("busybox")).read_bytes())
    (shop.root / "busybox").chmod(0o755)
    shop.write({"made": {"build": ".", "healthcheck": HEALTHY}})
    missing = shop.run("deploy")
    shop.locked("--allow-empty")
    built = shop.run("deploy", "--build")
    (shop.root / "Dockerfile").write_text((shop.root / "Dockerfile").read_text().replace("words=one", "words=two"))
    again = shop.run("deploy", "--build")
    second = shop.words()
    back = shop.run("rollback")

    assert missing.code == 2
    assert "build it with `boltseal deploy --build`" in missing.err
    assert built.code == 0, built.err
    assert again.code == 0, again.err
    assert second == {"made": "two"}
    assert back.code == 0, back.err
    assert shop.words() == {"made": "one"}


def test_ten_services_of_which_one_fails(shop: ComposeProject) -> None:
    """If one of ten services fails, all are as before, and none was restarted: the new ones had started beside them."""
    shop.publish("1.0.0")
    shop.publish("1.1.0")
    names = [f"s{number}" for number in range(10)]
    service = {"image": shop.image("1.0.0"), "healthcheck": HEALTHY}
    shop.write(dict.fromkeys(names, service))
    shop.deployed()
    before = shop.ids()
    changed = {"image": shop.image("1.1.0"), "healthcheck": HEALTHY}
    shop.write({**dict.fromkeys(names, service), "s3": changed, "s7": {**changed, "healthcheck": ILL}})
    shop.locked()
    failed = shop.run("deploy", "--json")
    states = {each["service"]: each["status"] for each in failed.json["results"] if "service" in each}
    after = shop.ids()

    assert failed.code == 1
    assert states["s7"] == "failed"
    assert set(shop.words().values()) == {"1.0.0"}
    assert after == before


def test_one_of_several_services_is_deployed(shop: ComposeProject) -> None:
    """A deploy of one service leaves the others; the next whole deploy removes services that the files no longer have."""
    shop.publish("1.0.0")
    shop.publish("1.1.0")
    old, new = ({"image": shop.image(tag), "healthcheck": HEALTHY} for tag in ("1.0.0", "1.1.0"))
    shop.write({"web": old, "api": old, "gone": old})
    shop.deployed()
    shop.write({"web": new, "api": new})
    shop.locked()
    one = shop.run("deploy", "web")
    first = shop.words()
    whole = shop.run("deploy")
    second = shop.words()
    back = shop.run("rollback", "1")

    assert one.code == 0, one.err
    assert first == {"web": "1.1.0", "api": "1.0.0", "gone": "1.0.0"}
    assert whole.code == 0, whole.err
    assert second == {"web": "1.1.0", "api": "1.1.0"}
    assert back.code == 0, back.err
    assert shop.words() == {"web": "1.0.0", "api": "1.0.0", "gone": "1.0.0"}


def test_the_content_of_a_secret_is_part_of_a_release(shop: ComposeProject) -> None:
    """A changed secret restarts its service, a rollback restores the old one, and no value is shown or stored readably."""
    shop.publish("1.0.0")
    web = {
        "image": shop.image("1.0.0"),
        "healthcheck": HEALTHY,
        "secrets": ["file", "variable"],
        "environment": {"P": "hush-1"},
    }
    shop.write({"web": web}, secrets={"file": {"file": "secret.txt"}, "variable": {"environment": "TOKEN"}})
    (shop.root / "secret.txt").write_text("one")
    shop.environment["TOKEN"] = "hush-2"  # noqa: S105 - a secret of this test
    shop.deployed()
    (shop.root / "secret.txt").write_text("two")
    first = shop.ids()
    shop.deployed()
    second = shop.containers()
    shop.environment["TOKEN"] = "hush-3"  # noqa: S105 - a secret of this test
    back = shop.run("rollback")
    third = shop.containers()["web"]
    (mounted,) = (each["Source"] for each in third["Mounts"] if each["Destination"] == "/run/secrets/file")
    differs = shop.run("release", "diff", "1", "2")
    [file] = shop.state.glob(f"engines/*/releases/{shop.name}/2.release")
    record = str(json.loads(file.read_text().splitlines()[1])["release"])

    assert second["web"]["Id"] != first["web"]
    assert back.code == 0, back.err
    assert Path(mounted).read_text() == "one"
    assert "hush" not in record + differs.out + back.out + back.err
    assert differs.code == 1


def test_the_changes_between_two_releases_are_shown(shop: ComposeProject) -> None:
    """`release diff` lists changes of image, digest, labels, environment names and files."""
    shop.publish("1.0.0")
    shop.publish("1.1.0")
    shop.web("1.0.0")
    shop.deployed()
    shop.write({"web": {"image": shop.image("1.1.0"), "healthcheck": HEALTHY, "environment": {"KEY": "hush"}}})
    shop.deployed()
    found = {(each["ref"], each["status"]) for each in shop.run("release", "diff", "1", "2", "--json").json["results"]}
    same = shop.run("release", "diff", "2", "2")

    assert {("web", "image"), ("web", "digest"), ("web", "label words"), ("web", "environment KEY")} <= found
    assert (shop.name, "file compose.yaml") in found
    assert same.code == 0
    assert "are the same" in same.out


def test_a_rollback_names_what_it_does_not_restore(shop: ComposeProject) -> None:
    """A rollback prints that it does not restore volumes, nor the project's files without an option."""
    shop.publish("1.0.0")
    shop.publish("1.1.0")
    volumes = {"volumes": ["data:/data"]}
    shop.write({"web": {"image": shop.image("1.0.0"), "healthcheck": HEALTHY, **volumes}}, volumes={"data": {}})
    first = (shop.root / "compose.yaml").read_bytes()
    shop.deployed()
    shop.write({"web": {"image": shop.image("1.1.0"), "healthcheck": HEALTHY, **volumes}}, volumes={"data": {}})
    shop.deployed()
    back = shop.run("rollback")
    between = (shop.root / "compose.yaml").read_bytes()
    forward = shop.run("rollback", "2")
    again = shop.run("rollback", "1", "--restore-files")

    assert "data is unchanged: web has data at /data" in back.err
    assert "the project's files differ from the running release (boltseal.lock, compose.yaml)" in back.err
    assert between != first
    assert forward.code == 0, forward.err
    assert again.code == 0, again.err
    assert (shop.root / "compose.yaml").read_bytes() == first
    assert "runs already" in shop.run("deploy").out  # the lock is the former one, too


def test_project_files_can_be_restored_later(shop: ComposeProject) -> None:
    """The command that a rollback prints restores the project's files later."""
    shop.publish("1.0.0")
    shop.publish("1.1.0")
    shop.web("1.0.0")
    shop.deployed()
    first = (shop.root / "compose.yaml").read_bytes()
    shop.web("1.1.0")
    shop.deployed()
    output = shop.run("rollback").err
    later = shop.run("rollback", "3", "--project-name", shop.name, "--restore-files")

    assert f"`boltseal rollback 3 --project-name {shop.name} --restore-files`" in output
    assert "restored files: boltseal.lock, compose.yaml" in later.err
    assert (shop.root / "compose.yaml").read_bytes() == first


def test_two_projects_of_one_name_are_reported(shop: ComposeProject) -> None:
    """A second project with the same name replaces the first only with --take-over; a rollback brings the first back."""
    shop.publish("1.0.0")
    shop.publish("1.1.0")
    shop.web("1.0.0")
    shop.deployed()
    one, shop.root = shop.root, shop.root.with_name("other")
    shop.web("1.1.0")
    shop.locked()
    refused = shop.run("deploy")
    between = shop.words()
    shop.deployed("--take-over")
    second = shop.words()
    back = shop.run("rollback")

    assert refused.code == 2
    assert f"runs from another folder (got {shop.root}, expected {one})" in refused.err
    assert between == {"web": "1.0.0"}
    assert second == {"web": "1.1.0"}
    assert f"was deployed from {shop.root} before; release 1 was deployed from {one}" in back.err
    assert shop.words() == {"web": "1.0.0"}


def test_broken_files_do_not_prevent_a_rollback(shop: ComposeProject) -> None:
    """With broken project files, the message says how a rollback works without them."""
    shop.publish("1.0.0")
    shop.publish("1.1.0")
    for tag in ("1.0.0", "1.1.0"):
        shop.web(tag)
        shop.deployed()
    (shop.root / "compose.yaml").write_text("services: [")
    refused, done = shop.run("rollback"), shop.run("rollback", "--project-name", shop.name)

    assert refused.code == 2
    assert "name the project with --project" in refused.err
    assert done.code == 0, done.err
    assert shop.words() == {"web": "1.0.0"}


def test_the_images_of_a_release_survive_a_prune(shop: ComposeProject) -> None:
    """`docker image prune` deletes no image of a release that can be restored."""
    shop.publish("edge", "one")
    shop.web("edge")
    shop.deployed()
    shop.publish("edge", "two")
    shop.deployed()
    shop.docker.run("image", "prune", "--force").checked()
    shop.docker.run("image", "rm", "--force", shop.image("edge"))
    back = shop.run("rollback")

    assert back.code == 0, back.err
    assert shop.words() == {"web": "one"}


def test_a_removed_image_is_pulled_again_by_its_digest(shop: ComposeProject) -> None:
    """A removed image of a release is pulled by digest; if it can't be, nothing is stopped."""
    shop.publish("edge", "one")
    shop.web("edge")
    shop.deployed()
    shop.publish("edge", "two")
    shop.deployed()
    image = shop.releases()[0]["services"][0]["id"]
    shop.docker.run("image", "rm", "--force", image).checked()
    back = shop.run("rollback")

    assert back.code == 0, back.err
    assert shop.words() == {"web": "one"}


def test_a_modified_image_is_not_started(registry: Registry, repository: str, tmp_path: Path) -> None:
    """With --require-scrub a modified local image is not started."""
    with servers.dockerd(tmp_path / "engine", driver="overlay2") as engine:
        docker = Docker(engine.address, "own")
        shop = ComposeProject(tmp_path / "project", docker, registry.server, tmp_path / "state", repository)
        for tag in ("1.0.0", "1.1.0"):
            shop.publish(tag)
        shop.web("1.0.0")
        shop.locked()
        first = shop.run("deploy", "--require-scrub", "--json")
        before = shop.ids()
        shop.web("1.1.0")
        shop.locked()
        shop.run("pull", "--compose", "compose.yaml")
        for changed in (tmp_path / "engine/data/overlay2").glob("*/diff/busybox"):
            with changed.open("ab") as file:
                file.write(b"evil")
        second = shop.run("deploy", "--require-scrub")
        after = shop.ids()
        releases = shop.releases()
        shop.down()

    assert first.code == 0, first.err
    assert [each["reason"] for each in first.json["results"][1:]] == ["scrubbed"]
    assert second.code == 1
    assert "differs on disk: " in second.err
    assert after == before
    assert len(releases) == 1


def test_a_modified_image_of_the_running_release_is_reported(
    registry: Registry, repository: str, tmp_path: Path
) -> None:
    """With --require-scrub an unchanged deploy verifies the images that run already, and does not stop them."""
    with servers.dockerd(tmp_path / "engine", driver="overlay2") as engine:
        docker = Docker(engine.address, "own")
        shop = ComposeProject(tmp_path / "project", docker, registry.server, tmp_path / "state", repository)
        shop.publish("1.0.0")
        shop.web("1.0.0")
        shop.deployed()
        before = shop.ids()
        clean = shop.run("deploy", "--require-scrub", "--json")
        for changed in (tmp_path / "engine/data/overlay2").glob("*/diff/busybox"):
            with changed.open("ab") as file:
                file.write(b"evil")
        unasked, differs = shop.run("deploy"), shop.run("deploy", "--require-scrub")
        after = shop.ids()
        shop.down()

    assert clean.code == 0, clean.err
    assert [(each["status"], each["reason"]) for each in clean.json["results"][1:]] == [("unchanged", "scrubbed")]
    assert (unasked.code, differs.code) == (0, 1)
    assert differs.err.startswith("boltseal: web: image ")
    assert "differs on disk: " in differs.err
    assert "; nothing was started or stopped" in differs.err
    assert after == before


def test_invalid_input_is_one_line_and_nothing_has_changed(shop: ComposeProject) -> None:
    """A broken file, an outdated lock, an unknown service, no engine or no release is one line, and nothing changes."""
    shop.publish("1.0.0")
    shop.publish("1.1.0")
    shop.web("1.0.0")
    shop.deployed()
    before = shop.ids()
    shop.web("1.1.0")
    older = shop.run("deploy")
    (shop.root / "compose.yaml").write_text("services: [")
    broken = shop.run("deploy")
    shop.web("1.0.0")
    unknown = shop.run("deploy", "wbe")
    nowhere = shop.run("deploy", "--host", "unix:///nonexistent/docker.sock")
    none = shop.run("rollback", "7")
    nothing = shop.run("deploy", "-f", "nothing.yaml")

    assert (older.code, broken.code, unknown.code, nowhere.code, none.code, nothing.code) == (2, 2, 2, 3, 1, 2)
    assert "is not in boltseal.lock" in older.err
    assert "Compose can't read the project" in broken.err
    assert "no such service: wbe" in unknown.err
    assert "no engine listens" in nowhere.err
    assert "has no release 7" in none.err
    assert "nothing.yaml: no such file or folder" in nothing.err
    for each in (older, broken, unknown, nowhere, none, nothing):
        assert len([line for line in each.err.splitlines() if line.startswith("boltseal:")]) == 1
    assert shop.ids() == before
    assert len(shop.releases()) == 1


def test_a_full_disk_is_reported_before_anything_is_started(shop: ComposeProject, tmp_path: Path) -> None:
    """If the disk is full, the release can't be recorded, so that nothing is started."""
    shop.publish("1.0.0")
    shop.web("1.0.0")
    shop.locked()
    with small_disk(tmp_path / "small", "size=1m") as small:
        shop.state = small / "state"
        first = shop.run("deploy", "--no-scrub")
        before = shop.ids()
        shop.publish("1.1.0")
        shop.web("1.1.0")
        shop.locked()
        rest = os.open(small / "rest", os.O_WRONLY | os.O_CREAT)
        with contextlib.suppress(OSError):
            while os.write(rest, b"x" * 4096):
                pass
        os.close(rest)
        full = shop.run("deploy", "--no-scrub")

    assert first.code == 0, first.err
    assert full.code == 3
    assert "boltseal:" in full.err
    assert shop.ids() == before


def test_a_lost_connection_during_pulls_leaves_what_runs(shop: ComposeProject, tmp_path: Path) -> None:
    """If the registry goes away during the pulls, what runs is unchanged."""
    shop.publish("1.0.0")
    shop.web("1.0.0")
    shop.deployed()
    before = shop.ids()
    shop.publish("1.1.0")
    shop.web("1.1.0")
    shop.locked()
    gone = f"127.0.0.1:{free_port()}"
    for name in ("compose.yaml", "boltseal.lock"):
        path = shop.root / name
        path.write_text(path.read_text().replace(shop.registry.address, gone))
    lost = shop.run("deploy")

    assert lost.code == 3
    assert len([line for line in lost.err.splitlines() if line.startswith("boltseal:")]) == 1
    assert shop.ids() == before
    assert len(shop.releases()) == 1


def test_a_moved_floating_tag_is_deployed_and_rolled_back_on_failure(shop: ComposeProject) -> None:
    """A moved mutable tag is deployed by `update`; if it fails, it is rolled back and not tried again automatically."""
    shop.publish("edge", "one")
    shop.web("edge")
    shop.deployed()
    nothing = shop.run("update")
    shop.publish("edge", "two")
    waits = shop.run("update", "--cooldown", "1d")
    takes = shop.run("update")
    second = shop.words()
    shop.publish("edge", "ill", command=ENDS)
    lock = (shop.root / "boltseal.lock").read_bytes()
    fails = shop.run("update")
    again = shop.run("update")

    assert (nothing.code, waits.code, takes.code) == (0, 0, 0), takes.err
    assert "it resolves to" in nothing.out
    assert "wait" in waits.out
    assert second == {"web": "two"}
    assert fails.code == 1
    assert shop.words() == {"web": "two"}
    assert (shop.root / "boltseal.lock").read_bytes() == lock
    assert again.code == 0
    assert "failed here before" in " ".join(again.out.split())


def test_a_newer_version_is_proposed_and_written_with_write(shop: ComposeProject) -> None:
    """A newer version of the same form is proposed, and written with --write without other changes."""
    for tag in ("1.0.0-slim", "1.1.0", "1.2.0-slim", "2.0.0-slim"):
        shop.publish(tag)
    shop.web("1.0.0-slim")
    shop.deployed()
    before = (shop.root / "compose.yaml").read_text()
    proposed = shop.run("update")
    between = (shop.root / "compose.yaml").read_text()
    written = shop.run("update", "--write")

    assert proposed.code == 0
    assert "1.0.0-slim -> 1.2.0-slim" in proposed.out
    assert between == before
    assert written.code == 0, written.err
    assert (shop.root / "compose.yaml").read_text() == before.replace("1.0.0-slim", "1.2.0-slim")
    assert shop.words() == {"web": "1.2.0-slim"}


@pytest.mark.parametrize("after", [1, 3], ids=["recorded", "waiting"])
def test_an_update_that_is_killed_is_undone_by_the_next_deploy(shop: ComposeProject, after: int) -> None:
    """The next deploy undoes the file edits of a killed update, which were not deployed."""
    for tag in ("1.0.0", "1.1.0"):
        shop.publish(tag)
    shop.web("1.0.0")
    shop.deployed()
    names = ("compose.yaml", "boltseal.lock")
    before = [(shop.root / name).read_bytes() for name in names]
    shop.killed(after, "update", "--write")
    edited = [(shop.root / name).read_bytes() for name in names]
    rolled_back = shop.run("deploy")

    assert edited[0] == before[0].replace(b"1.0.0", b"1.1.0")
    assert edited[1] != before[1]
    assert "restored as before the update that failed" in rolled_back.err
    assert [(shop.root / name).read_bytes() for name in names] == before
    assert shop.words() == {"web": "1.0.0"}


def test_a_running_release_is_in_the_ledger(project_on: ProjectOn, docker: Docker, tmp_path: Path) -> None:
    """If the lock has the registry's ledger, a release is recorded in it without environment values."""
    with servers.boltseal(tmp_path / "data") as server:
        shop = project_on(docker, server)
        shop.publish("1.0.0")
        service = {"image": shop.image("1.0.0"), "healthcheck": HEALTHY, "environment": {"KEY": "hush"}}
        shop.write({"web": service})
        key = shop.run("ledger", "key", "--data", tmp_path / "data").out.strip()
        assert shop.run("ledger", "trust", server.address, key).code == 0
        shop.deployed()

        def recorded() -> Run | None:
            run = shop.run("history", shop.image("1.0.0"), "--json")
            return run if "released" in run.out else None

        result = wait_until(recorded, "the ledger's checkpoint covers the release")

    assert result is not None
    assert result.code == 0, result.err
    assert "hush" not in result.out
    assert f"release 1 of {shop.name}" in result.out
