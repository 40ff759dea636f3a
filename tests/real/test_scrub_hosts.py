"""`boltseal scrub --host ssh://...`: hosts with boltseal, behind real ssh servers."""

from __future__ import annotations

import getpass
import json
import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from boltseal.engines.address import EngineAddress
from boltseal.engines.ssh_command import run_there
from boltseal.engines.ssh_tunnel import SshFailed
from tests import servers
from tests.cli import program
from tests.docs.pages import ROOT
from tests.host.scrub.made_stores import DockerStore
from tests.polling import wait_until
from tests.ports import free_port
from tests.real.tools import run

pytestmark = pytest.mark.real

REAL = f"PYTHONPATH={shlex.quote(str(ROOT / 'src'))} exec {shlex.quote(sys.executable)} -m boltseal"
HOLDS = '{"schema":"boltseal.scrub/1","outcome":"holds","results":[{"ref":"a","status":"holds"}],"errors":[]}'


class Hosts:
    """Hosts behind ssh, each with the `boltseal` that a test gives it."""

    def __init__(self, folder: Path, opened: ExitStack) -> None:
        self._folder = folder
        self._opened = opened
        self.path = ""

    def add(self, script: str) -> str:
        """Start a host whose `boltseal` is this shell script, and return its address; "": it has none."""
        number = len(list(self._folder.iterdir()))
        server = self._opened.enter_context(servers.sshd(self._folder / f"host{number}", programs=["cat"]))
        if script:
            boltseal = server.folder / "there/boltseal"
            boltseal.write_text(f"#!/bin/sh\n{script}\n")
            boltseal.chmod(0o755)
        self._trust(server)
        return f"ssh://{getpass.getuser()}@{server.address}"

    def _trust(self, server: servers.Server) -> None:
        """Have one `ssh` know the keys of all hosts."""
        first = self._folder / "host0"
        if server.folder != first:
            with (first / "known").open("a") as known:
                known.write((server.folder / "known").read_text())
            with (first / "config").open("a") as config:
                config.write(f"IdentityFile {server.folder}/key\n")
        self.path = f"{first}/bin:{os.environ['PATH']}"

    def scrub(self, *words: str | Path) -> program.Run:
        """Run `boltseal scrub`."""
        return program.run("scrub", *words, cwd=self._folder, environment={"PATH": self.path})


@pytest.fixture
def hosts(tmp_path: Path) -> Iterator[Hosts]:
    """No hosts yet."""
    (tmp_path / "hosts").mkdir()
    with ExitStack() as opened:
        yield Hosts(tmp_path / "hosts", opened)


@pytest.fixture
def store(tmp_path: Path) -> DockerStore:
    """A store with one image."""
    made = DockerStore.at(tmp_path)
    made.image("shop/app:1.4.2", {"etc/passwd": b"root"})
    return made


def real(store: DockerStore, more: str = "") -> str:
    """Return the script of a host on which boltseal checks this store, whatever else it is asked."""
    return f'shift\n{REAL} scrub --root {shlex.quote(str(store.root))} {more} "$@"'


def test_the_results_of_several_hosts_are_one_result(hosts: Hosts, store: DockerStore, tmp_path: Path) -> None:
    """Each host's results are printed with the host, and the worst of them is the exit code."""
    other = DockerStore.at(tmp_path / "other")
    other.image("shop/db:2", {"f": b"f"})
    (other.layer() / "f").chmod(0o4755)
    clean, differs = hosts.add(real(store)), hosts.add(real(other))
    one = hosts.scrub("--host", clean)
    both = hosts.scrub("--host", clean, "--host", differs)

    assert (one.code, both.code) == (0, 1)
    assert one.out.startswith("holds L0: shop/app:1.4.2 sha256:")
    assert one.out.endswith(f" (docker on {clean}): 1 layer, 2 entries\n1 of 1 hosts hold\n")
    assert f"(docker on {differs}): 1 difference\n  mode f [layer sha256:" in both.out
    assert both.out.endswith("1 of 2 hosts hold\n")


def test_a_host_that_can_not_be_checked_hides_no_other(hosts: Hosts, store: DockerStore) -> None:
    """Hosts that can't be reached, lack boltseal, or answer nonsense are "could not check" beside the results of others."""
    clean = hosts.add(real(store))
    without, nonsense = hosts.add(""), hosts.add("echo hello")
    away = f"ssh://127.0.0.1:{free_port()}"
    done = hosts.scrub("--json", *(word for each in (away, clean, without, nonsense) for word in ("--host", each)))
    found = {each["host"]: each for each in done.json["results"]}

    assert (done.code, done.json["outcome"]) == (3, "unknown")
    assert [found[each]["status"] for each in (away, clean, without, nonsense)] == ["unknown", "holds"] + [
        "unknown"
    ] * 2
    assert "Connection refused" in found[away]["reason"]
    assert "install boltseal there" in found[without]["reason"]
    assert "not the object of `boltseal scrub --json`" in found[nonsense]["reason"]


def test_each_host_has_its_own_metrics(hosts: Hosts, store: DockerStore, tmp_path: Path) -> None:
    """One file has the last success of each host, and keeps that of a host which can't be reached later."""
    file, clean = tmp_path / "scrub.prom", hosts.add(real(store))
    away = f"ssh://127.0.0.1:{free_port()}"
    hosts.scrub("--host", clean, "--metrics-file", file)
    file.write_text(re.sub(r"(last_success_timestamp_seconds\{.*\}) \d+", r"\1 1700000000", file.read_text()))
    (store.layer() / "etc/passwd").chmod(0o4755)
    hosts.scrub("--host", clean, "--host", away, "--metrics-file", file)
    text = file.read_text()

    assert f'last_success_timestamp_seconds{{host="{clean}",mode="full"}} 1700000000\n' in text
    assert f'last_success_timestamp_seconds{{host="{away}",mode="full"}} 0\n' in text
    assert f'results{{host="{clean}",mode="full",status="differs",what="image"}} 1\n' in text
    assert run("promtool", "check", "metrics", stdin=text.encode()).text == ""


def test_a_hosts_file_names_hosts_beside_the_option(hosts: Hosts, store: DockerStore, tmp_path: Path) -> None:
    """Hosts of a file are checked as those of --host are; one that can't be reached is "could not check" with its reason."""
    clean, away = hosts.add(real(store)), f"127.0.0.1:{free_port()}"
    file = tmp_path / "hosts.txt"
    file.write_text(f"# web servers\n{clean.removeprefix('ssh://')}\nroot@{away}\n")
    done = hosts.scrub("--hosts-file", file, "--host", clean)

    assert done.code == 3
    assert done.out.endswith("1 of 2 hosts hold\n")
    assert f"could not check: ssh://root@{away}: " in done.out


def test_a_hosts_file_with_a_bad_line_is_a_usage_error(tmp_path: Path) -> None:
    """A line that ssh could read as an option refuses the file, before any host is asked."""
    file = tmp_path / "hosts.txt"
    file.write_text("root@web1\n-oProxyCommand=x@web2\n")
    done = [program.call(command, "--hosts-file", file) for command in ("scrub", "ps")]
    absent = [program.call(command, "--hosts-file", tmp_path / "absent") for command in ("scrub", "ps")]

    assert [each.code for each in done] == [2, 2]
    assert all(f"{file}:2: " in each.err for each in done)
    assert all(each.code in (2, 3) and "absent" in each.err and "Traceback" not in each.err for each in absent)


def test_a_host_named_twice_is_checked_once(hosts: Hosts, store: DockerStore) -> None:
    """One host that is named twice has one result."""
    clean = hosts.add(real(store))

    assert hosts.scrub("--host", clean, "--host", clean).out.endswith("1 of 1 hosts hold\n")


def test_arguments_reach_the_host_as_they_are(hosts: Hosts, tmp_path: Path) -> None:
    """No argument is read by a shell on the way, and a lock in the login's home is not used."""
    got = tmp_path / "got"
    image = "a; touch evil $(id) 'b' \"c\" -x"
    held = json.loads(HOLDS)
    held["results"][0]["ref"] = image
    host = hosts.add(f'for each; do echo "$each"; done > {got}; echo {shlex.quote(json.dumps(held))}')
    more = ("--offline", "--complete", "--allow", "registry.example", "--anonymous")
    done = hosts.scrub("--host", host, "--share", "1/7", "--root", "/no such/folder", image, "--nice", *more)

    assert done.code == 0, done.err
    assert got.read_text().splitlines() == [
        *("scrub", "--json", "--no-lock", "--end-with-stdin", "--share=1/7", "--nice", "--offline", "--complete"),
        *("--anonymous", "--allow=registry.example", "--root", "/no such/folder", "--", image),
    ]


def test_a_share_is_partial_there_too(hosts: Hosts, store: DockerStore, tmp_path: Path) -> None:
    """The rotation of a host is its own, and what it did not read is printed here."""
    store.image("shop/db:2", {"f": b"f" * 9000})
    host = hosts.add(f"export BOLTSEAL_STATE={tmp_path}/there\n{real(store)}")
    done = hosts.scrub("--host", host, "--share", "1/50")

    assert done.code == 0, done.err
    assert f"partial: share 1/50 (on {host}): read 1 of 2 parts" in done.out
    assert list((tmp_path / "there/scrub").iterdir())


def test_an_answer_without_end_is_not_read(hosts: Hosts, store: DockerStore) -> None:
    """A host that answers without end costs neither memory nor the results of others."""
    clean, endless = hosts.add(real(store)), hosts.add("exec cat /dev/zero")
    done = hosts.scrub("--host", endless, "--host", clean)

    assert done.code == 3
    assert "holds L0: shop/app:1.4.2" in done.out
    assert "answered with more than 33554432 bytes" in done.out


def test_a_host_that_does_not_answer_is_given_up(hosts: Hosts, store: DockerStore) -> None:
    """A host that does not answer in time is "could not check", and no ssh remains."""
    clean, silent = hosts.add(real(store)), hosts.add("exec cat")
    done = hosts.scrub("--host", silent, "--host", clean, "--host-timeout", "10s")

    assert done.code == 3
    assert "did not answer within 10 s" in done.out
    assert "holds L0: shop/app:1.4.2" in done.out


def test_no_scrub_remains_on_a_host_that_was_given_up(hosts: Hosts, store: DockerStore, tmp_path: Path) -> None:
    """The scrub of a host, and its worker processes, end with the connection."""
    store.image("large:1", {"f": os.urandom(16 << 20)})
    slow = hosts.add(f"echo $$ > {tmp_path}/pid\n{real(store, '--bytes-per-second 64K')}")
    given_up: list[str] = []

    def with_workers() -> list[str]:
        pid = (tmp_path / "pid").read_text().strip() if (tmp_path / "pid").exists() else ""
        children = Path(f"/proc/{pid or 'none'}/task/{pid}/children")
        return [pid, *children.read_text().split()] if children.exists() and children.read_text() else []

    argv = [sys.executable, "-m", "boltseal", "scrub", "--host", slow]
    with subprocess.Popen(argv, env=program.clean_environment({"PATH": hosts.path})) as running:
        given_up += wait_until(with_workers, "the workers there run")
        running.kill()
    wait_until(lambda: not any(Path(f"/proc/{each}").exists() for each in given_up), "all of them ended")

    assert len(given_up) >= 2


def test_a_scrub_whose_standard_input_has_ended_before_ends(store: DockerStore) -> None:
    """A connection that ended before the scrub began ends it as well."""
    argv = [sys.executable, "-m", "boltseal", "scrub", "--end-with-stdin", "--root", str(store.root)]
    done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, check=False)

    assert (done.returncode, done.stdout) == (-signal.SIGIO, b"")


def test_an_interrupt_ends_ssh(hosts: Hosts) -> None:
    """Ctrl-C ends boltseal and its ssh at once."""
    silent = hosts.add("exec cat")
    argv = ["env", "--default-signal=INT", sys.executable, "-m", "boltseal", "scrub", "--host", silent]
    environment = program.clean_environment({"PATH": hosts.path})
    with subprocess.Popen(
        argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment, process_group=0
    ) as running:
        children = Path(f"/proc/{running.pid}/task/{running.pid}/children")
        wait_until(lambda: children.read_text().split(), "ssh runs")
        (ssh,) = children.read_text().split()
        os.killpg(running.pid, signal.SIGINT)
        running.communicate()

    assert running.returncode == 130
    assert not Path(f"/proc/{ssh}").exists()


@pytest.mark.parametrize(
    "address", ["web1", "tcp://web1", "unix:///run/docker.sock", "ssh://web1/run/x", "ssh://-oX=y"]
)
def test_an_address_that_is_not_of_ssh_is_a_usage_error(address: str) -> None:
    """An address of an engine, or one that ssh could take for an option, is refused before any host is asked."""
    done = program.call("scrub", f"--host={address}")

    assert done.code == 2
    assert "ssh://" in done.err
    assert "tcp://HOST" not in done.err
    assert "unix:///PATH" not in done.err


@pytest.mark.parametrize(
    "option", ["--lock", "--receipt", "--documents", "--baseline", "--write-baseline", "--ca-file", "--registry-config"]
)
def test_a_file_of_this_host_is_refused(option: str, tmp_path: Path) -> None:
    """Options with a file of this host are refused with --host, and not ignored."""
    file, key = tmp_path / "file", tmp_path / "key"
    file.touch()
    more = {"--baseline": ("--trusted-key", "KEY"), "--write-baseline": ("--signing-key", key)}.get(option, ())
    done = program.call("scrub", "--host", "ssh://web1", option, file, *more)

    assert done.code == 2
    assert f"{option}: a file of this host" in done.err


async def test_the_limit_of_an_answer_is_exact(hosts: Hosts, monkeypatch: pytest.MonkeyPatch) -> None:
    """An answer of exactly the limit is read, one byte more is not."""
    address = EngineAddress.parse(hosts.add("printf 12345678"))
    monkeypatch.setenv("PATH", hosts.path)
    answer = await run_there(address, ("boltseal",), max_bytes=8, timeout_s=60)
    with pytest.raises(SshFailed, match="more than 7 bytes"):
        await run_there(address, ("boltseal",), max_bytes=7, timeout_s=60)

    assert (answer.code, answer.out) == (0, b"12345678")
