"""`deploy`, `rollback` and `release ls` over several hosts: one Docker on this machine and one behind ssh."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from tests import servers
from tests.cli.program import Run
from tests.polling import wait_until
from tests.real.compose_project import ComposeProject, ProjectOn, started
from tests.real.tools import Docker

pytestmark = pytest.mark.real

ENDS_LATER = ("/busybox", "sh", "-c", "/busybox sleep 3; exit 3")


@dataclass
class Hosts:
    """A project and two hosts. `local`: at the socket of this machine; `remote`: behind ssh, off while the file `off` exists."""

    shop: ComposeProject
    local: str
    remote: str
    far: ComposeProject
    off: Path

    @property
    def words(self) -> tuple[str, ...]:
        """The options that name both."""
        return ("--host", self.local, "--host", self.remote)

    def deploy(self, *more: str) -> Run:
        """Deploy to both hosts."""
        return self.shop.run("deploy", *self.words, *more)

    def resume(self, done: Run) -> Run:
        """Run the command that a run printed to continue it."""
        command = next(line for line in done.err.splitlines() if "boltseal deploy --resume" in line)
        return self.shop.run(*command.split("`")[1].split()[1:])

    def publish(self, tag: str, **more: Any) -> None:
        """Publish a version, write the project's file for it, and lock it."""
        self.shop.publish(tag, **more)
        self.write(tag)

    def write(self, tag: str, **more: Any) -> None:
        """Write the project's file, and lock it."""
        web = {"image": self.shop.image(tag), "healthcheck": self.shop.healthy, **more}
        self.shop.write({"web": web})
        self.shop.locked()

    def running(self) -> list[str]:
        """Return the version that runs on each host."""
        return [each.words().get("web", "") for each in (self.shop, self.far)]

    def releases(self) -> dict[str, list[tuple[str, int | None]]]:
        """Return how each release ended, and which it restored, by host."""
        found: dict[str, list[tuple[str, int | None]]] = {self.local: [], self.remote: []}
        for each in self.shop.run("release", "ls", *self.words, "--project-name", self.shop.name, "--json").json[
            "results"
        ]:
            found[each["host"]].append((each["status"], each["of"]))
        return found


@pytest.fixture
def hosts(project_on: ProjectOn, docker: Docker, docker_containerd: Docker, tmp_path: Path) -> Iterator[Hosts]:
    """A project of which version 1.0.0 is locked, and two hosts on which nothing runs."""
    shop = project_on(docker)
    with servers.sshd(tmp_path / "sshd") as far:
        client, off = far.folder / "bin/ssh", tmp_path / "off"
        text = client.read_text().replace(
            "#!/bin/sh\n", f"#!/bin/sh\ntest -e {off} && echo the host is off >&2 && exit 255\n"
        )
        client.write_text(text)
        shop.environment["PATH"] = f"{far.folder}/bin:{os.environ['PATH']}"
        shop.environment["DOCKER_HOST"] = "unix:///nowhere.sock"
        remote = f"ssh://root@{far.address}{docker_containerd.host.removeprefix('unix://')}"
        made = Hosts(shop, docker.host, remote, replace(shop, docker=docker_containerd), off)
        made.publish("1.0.0")
        yield made
        off.unlink(missing_ok=True)
        made.far.down()


@pytest.fixture
def running(hosts: Hosts) -> Hosts:
    """Hosts on which version 1.0.0 runs, and of which 2.0.0 is locked."""
    done = hosts.deploy("--parallel", "2")
    assert done.code == 0, done.err + done.out
    hosts.publish("2.0.0")
    return hosts


def taken(hosts: Hosts) -> str:
    """Return a container's name that is taken on the second host only: a release with it can't start there."""
    name = f"taken-{hosts.shop.name}"
    hosts.far.docker.run("create", "--name", name, hosts.far.containers()["web"]["Image"]).checked()
    return name


def ends(done: Run) -> dict[str, str]:
    """Return how the run ended on each host."""
    return {each["ref"]: each["status"] for each in done.json["results"] if each["ref"] == each.get("host")}


def test_a_project_is_deployed_to_every_host_and_is_then_unchanged(hosts: Hosts, tmp_path: Path) -> None:
    """Hosts of the option and of a file get the release, each with releases of its own; once more nothing is changed."""
    file = tmp_path / "hosts"
    file.write_text(f"# web servers\n{hosts.remote}\n")
    words = ("--host", hosts.local, "--hosts-file", str(file))
    first = hosts.shop.run("deploy", *words)
    again = hosts.shop.run("deploy", *words, "--json")
    listed = hosts.shop.run("release", "ls", *words)

    assert first.code == 0, first.err
    assert first.out.splitlines()[-1] == "2 of 2 hosts run it"
    assert hosts.running() == ["1.0.0", "1.0.0"]
    assert ends(again) == {hosts.local: "unchanged", hosts.remote: "unchanged"}
    assert listed.out.count(f"* {hosts.shop.name}/1") == 2
    assert hosts.local in "".join(listed.out.split())
    assert not list(hosts.shop.state.glob("host-runs/*.json"))


def test_a_failure_on_the_second_host_takes_the_first_one_back(running: Hosts) -> None:
    """If the second host fails, both run what ran before, and the same release can be deployed again when the cause is gone."""
    name = taken(running)
    running.write("2.0.0", container_name=name)
    failed = running.deploy("--json")
    after = running.running()
    running.far.docker.run("rm", name).checked()
    again = running.deploy()

    assert failed.code == 1
    assert ends(failed) == {running.local: "went-back", running.remote: "put-back"}
    assert after == ["1.0.0", "1.0.0"]
    assert running.releases()[running.local][:3] == [("healthy", None), ("healthy", None), ("healthy", 1)]
    assert again.code == 0, again.err
    assert running.running() == ["2.0.0", "2.0.0"]


def test_a_host_that_is_off_refuses_the_run_before_any_is_touched(running: Hosts) -> None:
    """If one host can't be reached before the run, nothing is changed on the other one, and the exit code is 3."""
    running.off.touch()
    refused = running.deploy()
    ran = running.shop.words()

    assert refused.code == 3
    assert "not-begun" in refused.out
    assert "the host is off" in refused.out
    assert ran == {"web": "1.0.0"}
    running.off.unlink()
    assert running.releases() == {running.local: [("healthy", None)], running.remote: [("healthy", None)]}


def test_a_canary_that_does_not_stay_healthy_goes_back_and_the_others_are_not_begun(running: Hosts) -> None:
    """A service that becomes healthy and ends soon after is found while its host is watched."""
    running.publish("3.0.0", command=ENDS_LATER)
    failed = running.deploy("--canary", "1", "--canary-for", "1m", "--json")

    assert failed.code == 1
    assert ends(failed) == {running.local: "went-back", running.remote: "not-begun"}
    assert "did not stay healthy: web: " in next(
        each["reason"] for each in failed.json["results"] if each["ref"] == running.local
    )
    assert running.running() == ["1.0.0", "1.0.0"]
    assert len(running.releases()[running.remote]) == 1


def test_the_other_hosts_follow_a_canary_that_stays_healthy(running: Hosts) -> None:
    """After the time in which the canary is watched, the other hosts get the release."""
    done = running.deploy("--canary", "1", "--canary-for", "2s")

    assert done.code == 0, done.err
    assert f"watching {running.local} for 2 s" in done.err
    assert running.running() == ["2.0.0", "2.0.0"]


def test_a_host_that_is_off_while_it_should_go_back_is_could_not_check(running: Hosts) -> None:
    """A host that is off is reported with the command that continues, and that command takes it back when the host is on again."""
    running.publish("3.0.0", command=ENDS_LATER)
    words = ("--host", running.remote, "--host", running.local)
    process = started(running.shop, "deploy", *words, "--canary", "1", "--canary-for", "1m")
    assert process.stderr is not None
    err = b""
    while b"watching" not in err:
        line = process.stderr.readline()
        assert line, err.decode()
        err += line
    running.off.touch()
    out, rest = process.communicate(timeout=120)
    failed = Run(process.returncode, out.decode(), (err + rest).decode())
    without = running.resume(failed)
    running.off.unlink()
    resumed = running.resume(failed)

    assert failed.code == 3
    assert "could not check whether it runs what ran before" in " ".join(failed.out.split())
    assert without.code == 1
    assert resumed.code == 1
    assert "went-back" in resumed.out
    assert running.running() == ["1.0.0", "1.0.0"]
    assert not list(running.shop.state.glob("host-runs/*.json"))


def test_a_killed_run_is_continued_by_one_command(running: Hosts) -> None:
    """After kill -9 in the middle, one command deploys to the hosts that are left, or takes all back if one fails."""
    process = started(running.shop, "deploy", *running.words)
    pattern = f"engines/*/releases/{running.shop.name}/2.release"
    wait_until(lambda: len(list(running.shop.state.glob(pattern))) == 2, "the second host is begun")
    process.send_signal(signal.SIGKILL)
    process.communicate()
    resumed = running.shop.run("deploy", "--resume", "--project-name", running.shop.name, *running.words)

    assert resumed.code == 0, resumed.err
    assert running.running() == ["2.0.0", "2.0.0"]
    assert running.deploy().out.splitlines()[-1] == "2 of 2 hosts run it"


def test_a_run_that_was_killed_goes_back_on_hosts_of_before_the_kill(running: Hosts) -> None:
    """A continued run that fails takes back also what the killed process had deployed."""
    name = taken(running)
    running.write("2.0.0", container_name=name)
    process = started(running.shop, "deploy", *running.words)
    pattern = f"engines/*/releases/{running.shop.name}/2.release"
    wait_until(lambda: len(list(running.shop.state.glob(pattern))) == 2, "the second host is begun")
    process.send_signal(signal.SIGKILL)
    process.communicate()
    resumed = running.shop.run("deploy", "--resume", "--project-name", running.shop.name, *running.words, "--json")

    assert resumed.code == 1
    assert ends(resumed)[running.local] == "went-back"
    assert running.running() == ["1.0.0", "1.0.0"]


def test_a_run_that_was_killed_while_going_back_goes_on(running: Hosts) -> None:
    """After kill -9 while the first host goes back, the command that continues takes it back, and deploys nothing."""
    name = taken(running)
    running.write("2.0.0", container_name=name)
    running.shop.killed(1, "deploy", *running.words, suffix="/3.release")
    resumed = running.shop.run("deploy", "--resume", "--project-name", running.shop.name, *running.words)

    assert resumed.code == 1
    assert running.running() == ["1.0.0", "1.0.0"]
    assert "went-back" in resumed.out


def test_ctrl_c_leaves_a_run_that_the_printed_command_continues(running: Hosts) -> None:
    """Ctrl-C ends with 130 and prints the command; a new run says that it replaces the unfinished one."""
    process = started(running.shop, "deploy", *running.words)
    pattern = f"engines/*/releases/{running.shop.name}/2.release"
    wait_until(lambda: len(list(running.shop.state.glob(pattern))) == 1, "the first host is begun")
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    left = Run(process.returncode, "", err.decode())
    again = running.deploy()

    assert left.code == 130
    assert "the run over 2 hosts was left unfinished" in left.err
    assert "was unfinished; this one replaces it" in again.err
    assert again.code == 0, again.err
    assert running.running() == ["2.0.0", "2.0.0"]


def test_a_rollback_of_every_host_holds_what_it_took_back(running: Hosts) -> None:
    """Each host goes back to what ran before on it; a second rollback is refused before any host is touched."""
    running.deploy("--parallel", "2")
    back = running.shop.run("rollback", *running.words, "--parallel", "2", "--project-name", running.shop.name)
    after = running.running()
    second = running.shop.run("rollback", *running.words, "--project-name", running.shop.name)
    held = running.deploy()

    assert back.code == 0, back.err
    assert after == ["1.0.0", "1.0.0"]
    assert second.code == 1
    assert "is a rollback already" in second.err
    assert held.code == 1
    assert running.running() == ["1.0.0", "1.0.0"]


def test_two_names_of_one_engine_are_refused(hosts: Hosts, tmp_path: Path) -> None:
    """A host that is named twice, by two addresses, is a usage error: nothing is touched."""
    link = tmp_path / "link.sock"
    link.symlink_to(hosts.local.removeprefix("unix://"))
    done = hosts.shop.run("deploy", "--host", hosts.local, "--host", f"unix://{link}")

    assert done.code == 2
    assert "are one engine; name it once" in done.err
    assert hosts.shop.ids() == {}


def test_options_for_one_host_are_refused_for_several(hosts: Hosts) -> None:
    """Options that are about one host, or need several, are usage errors."""
    several = [hosts.deploy("--update"), hosts.deploy("--build"), hosts.deploy("--canary", "2")]
    named = hosts.deploy("--report", "127.0.0.1:1", "--report-as", "all")
    numbered = hosts.shop.run("rollback", "1", *hosts.words, "--project-name", hosts.shop.name)
    single = hosts.shop.run("deploy", "--host", hosts.local, "--canary", "1")

    assert [each.code for each in (*several, named, numbered, single)] == [2] * 6
    assert hosts.shop.ids() == {}


def test_one_service_is_deployed_to_every_host(running: Hosts) -> None:
    """Only the named service changes, also when a killed run is continued; a run with a canary finds it unchanged."""
    service = {"image": running.shop.image("1.0.0"), "healthcheck": running.shop.healthy}
    newer = {"image": running.shop.image("2.0.0"), "healthcheck": running.shop.healthy}
    running.shop.write({"web": service, "api": service})
    running.shop.locked()
    assert running.deploy().code == 0
    running.shop.write({"web": newer, "api": newer})
    running.shop.locked()
    running.shop.killed(2, "deploy", "web", *running.words, suffix=".json")
    done = running.shop.run("deploy", "--resume", "--project-name", running.shop.name, *running.words)
    words = [each.words() for each in (running.shop, running.far)]
    again = running.deploy("web", "--canary", "1", "--canary-for", "2s", "--json")

    assert done.code == 0, done.err
    assert words == [{"web": "2.0.0", "api": "1.0.0"}] * 2
    assert again.code == 0, again.err
    assert set(ends(again).values()) == {"unchanged"}


def test_each_host_is_reported_by_its_name(running: Hosts) -> None:
    """A registry that can't be asked is reported in the row of each host, and does not change the exit code."""
    done = running.deploy("--report", "127.0.0.1:1", "--json")
    rows = {each["ref"]: each["report"] for each in done.json["results"] if "report" in each}

    assert done.code == 0, done.err
    assert list(rows) == [running.local, running.remote]
    assert rows[running.remote]["host"] == "127.0.0.1"
    assert rows[running.local]["host"] != "127.0.0.1"
    assert [each["error"] is None for each in rows.values()] == [False, False]


def test_the_run_over_several_hosts_is_recorded_for_the_user_alone(running: Hosts) -> None:
    """The record names hosts and files, and only its user can read it."""
    running.shop.killed(1, "deploy", *running.words, suffix=".json")
    (record,) = running.shop.state.glob("host-runs/*.json")
    parsed = json.loads(record.read_bytes())

    assert record.stat().st_mode & 0o777 == 0o600
    assert [each["host"] for each in parsed["hosts"]] == [running.local, running.remote]
    assert parsed["files"]["files"] == [str(running.shop.root / "compose.yaml")]
