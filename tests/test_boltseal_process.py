"""A forked command is what `python -m boltseal` is: the same output, exit status, signals, streams and state of the process."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import pytest

from tests.boltseal_process import COMMAND, READ_AT_START, ROOT, BoltsealProcess
from tests.cli.program import TIMEOUT_S, clean_environment
from tests.polling import wait_until

pytestmark = pytest.mark.slow

COMMANDS: Final = {
    "version": ["--version"],
    "version in full": ["version"],
    "help": ["--help"],
    "help of a command": ["admin", "gc", "--help"],
    "no arguments": [],
    "unknown command": ["lokc"],
    "unknown option": ["lock", "--nonsense"],
    "unreachable registry": ["digest", "127.0.0.1:1/shop/app:1"],
    "unreachable registry as JSON": ["digest", "127.0.0.1:1/shop/app:1", "--json"],
    "missing project": ["lock", "--project", "missing"],
    "project": ["lock", "--project", "."],
    "project as JSON": ["pin", "--project", ".", "--json"],
    "a command of the server": ["admin", "rules", "test", "shop/app", "1.4.2"],
    "a new data folder": ["admin", "user", "add", "ci", "--data", "missing/data"],
    "unusable settings": ["--debug", "serve", "--listen", "0.0.0.0:0", "--data", "data"],
    "text that is no ASCII": ["lock", "--project", "größe\u2028"],
    "bytes that are no text": ["lock", "--project", "a\udcff"],
    "the state is a file": ["--debug", "watch", "127.0.0.1:1/shop/app:1", "--once"],
}
WRITERS: Final = [["version"], ["--version"], ["--help"], ["lock", "--help"], ["admin", "user", "add", "-h"], ["help"]]
DIFFERENT_VARIABLES: Final = {
    "LANG": "C",
    "LC_ALL": "POSIX",
    "PYTHONOPTIMIZE": "1",
    "PYTHONHASHSEED": "7",
    "TZ": "Asia/Tokyo",
}

READ_BY_IMPORTS: Final = """
import os
class Recording(type(os.environ)):
    names = set()
    def __getitem__(self, name):
        self.names.add(name)
        return super().__getitem__(name)
    def __iter__(self):  # wsgiref copies all variables, for a server that boltseal does not run
        return iter(())
os.environ.__class__ = Recording
from tests.fork_server import import_modules
import_modules()
print(*Recording.names)
"""


def new_interpreter(words: list[str], **options: Any) -> subprocess.Popen[Any]:
    """Start a command as users do."""
    return subprocess.Popen([*COMMAND, *words], **options)


def both(words: list[str], folder: Path, **options: Any) -> Iterator[subprocess.Popen[Any]]:
    """Start a command in both ways, one after the other; yield its process."""
    started: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    for start in (BoltsealProcess, new_interpreter):
        with start(words, cwd=folder, env=clean_environment({"BOLTSEAL_DEBUG": ""}), **(started | options)) as process:
            try:
                yield process
            finally:
                process.kill()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A project with one image."""
    (tmp_path / "compose.yaml").write_text("services:\n  web:\n    image: 127.0.0.1:1/shop/app:1\n")
    return tmp_path


@pytest.fixture
def silent_registry() -> Iterator[str]:
    """The address of a registry that accepts connections and answers nothing."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield f"127.0.0.1:{listening.getsockname()[1]}"


@pytest.mark.parametrize("name", COMMANDS)
def test_output_and_exit_code_are_the_same(name: str, folder: Path) -> None:
    """A command prints the same bytes on both streams and ends with the same code, also for bad input and failures."""
    forked, new = ((*each.communicate(timeout=TIMEOUT_S), each.returncode) for each in both(COMMANDS[name], folder))

    assert forked == new
    assert forked[0] or forked[1]


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL, signal.SIGHUP, signal.SIGQUIT])
def test_signals_have_the_same_effect(sent: signal.Signals, silent_registry: str, folder: Path) -> None:
    """A command that waits for a registry ends in the same way by a signal."""
    ends = []
    for process in both(["digest", f"{silent_registry}/shop/app:1"], folder):
        wait_until(lambda pid=process.pid: connected(pid), "the command waits")  # type: ignore[misc]
        process.send_signal(sent)
        ends.append((*process.communicate(timeout=TIMEOUT_S), process.returncode))

    assert ends[0] == ends[1]
    assert ends[0][2] in (-sent, 130)


def test_the_state_of_the_process_is_the_same(silent_registry: str, folder: Path) -> None:
    """Open descriptors, folder, umask, process group, session, handled and ignored signals are those of a new interpreter."""
    states = []
    for new_session in (False, True):
        options = {"start_new_session": new_session, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        for process in both(["digest", f"{silent_registry}/shop/app:1"], folder, **options):
            wait_until(lambda pid=process.pid: connected(pid), "the command waits")  # type: ignore[misc]
            states.append(state_of(process.pid))

    assert states[0] == states[1]
    assert states[2] == states[3]
    assert states[0]["session"] != states[2]["session"]


@pytest.mark.parametrize("words", WRITERS, ids=" ".join)
def test_output_whose_reader_is_gone_has_the_same_exit_code(words: list[str], folder: Path) -> None:
    """A command that writes into a closed pipe ends silently with the code for that."""
    reader, writer = os.pipe()
    os.close(reader)  # before the start: a command may write sooner than this process continues
    started = both(words, folder, stdout=writer)
    ends = [(process.communicate(timeout=TIMEOUT_S)[1], process.returncode) for process in started]
    os.close(writer)

    assert ends == [(b"", 141)] * 2


@pytest.mark.parametrize("words", WRITERS, ids=" ".join)
def test_output_to_a_full_device_has_the_same_error(words: list[str], folder: Path) -> None:
    """A command that cannot write its output ends with the same error."""
    with Path("/dev/full").open("wb") as full:
        ends = [(each.communicate(timeout=TIMEOUT_S)[1], each.returncode) for each in both(words, folder, stdout=full)]

    assert ends == [(b"boltseal: the output is incomplete: writing it failed: No space left on device\n", 3)] * 2


def test_standard_input_and_one_stream_for_both_outputs(folder: Path) -> None:
    """A command reads its standard input, and both outputs may be one pipe."""
    words = ["admin", "user", "add", "ci", "--data", "data"]
    ends = []
    for number, process in enumerate(both(words, folder, stdin=subprocess.PIPE, stderr=subprocess.STDOUT)):
        ends.append((process.communicate(b"a long password 1\n", timeout=TIMEOUT_S), process.returncode))
        (folder / "data.keys").rename(folder / f"keys{number}")

    assert ends[0] == ends[1]
    assert ends[0][1] == 0


def test_an_ended_command_is_a_zombie_until_it_is_waited_for(folder: Path) -> None:
    """A pid is not used again before the caller has asked for the status, and then it is gone."""
    for process in both(["--version"], folder):
        stat = Path(f"/proc/{process.pid}/stat")
        wait_until(lambda stat=stat: ") Z " in stat.read_text(), "the command has ended")  # type: ignore[misc]

        assert process.wait(TIMEOUT_S) == 0
        wait_until(lambda stat=stat: not stat.exists(), "the zombie is gone")  # type: ignore[misc]


def test_a_time_limit_is_kept(silent_registry: str, folder: Path) -> None:
    """`communicate` raises after its time-out, and `poll` says that the command runs until it is killed."""
    for process in both(["digest", f"{silent_registry}/shop/app:1"], folder):
        with pytest.raises(subprocess.TimeoutExpired):
            process.communicate(timeout=0.2)

        assert process.poll() is None
        process.kill()
        assert process.wait(TIMEOUT_S) == -signal.SIGKILL


@pytest.mark.parametrize("variable", [*DIFFERENT_VARIABLES, None])
def test_a_variable_that_python_reads_at_its_start_needs_a_new_interpreter(variable: str | None, folder: Path) -> None:
    """A command with such a variable is not forked; any other one is."""
    environment = clean_environment({variable: DIFFERENT_VARIABLES[variable]} if variable else {"HOME": "/nowhere"})
    with BoltsealProcess(["--version"], stdout=subprocess.PIPE, env=environment, cwd=folder) as process:
        command = Path(f"/proc/{process.pid}/cmdline").read_bytes()
        process.communicate(timeout=TIMEOUT_S)

    assert process.returncode == 0
    assert (b"fork_server" in command) == (variable is None)


def test_what_imports_read_of_the_environment_is_compared() -> None:
    """Every variable that the modules of boltseal and their libraries read when they are imported is in READ_AT_START."""
    argv = [sys.executable, "-c", READ_BY_IMPORTS]
    read = subprocess.run(argv, check=True, stdout=subprocess.PIPE, text=True, cwd=ROOT).stdout.split()
    by_sysconfig = {"HOME"}  # the folder of packages of a user, which a virtual environment does not use

    assert len(read) > len(by_sysconfig)
    assert [name for name in read if not name.startswith(READ_AT_START) and name not in by_sysconfig] == []


def connected(pid: int) -> bool:
    """Return whether a process has an established TCP connection."""
    sockets = set()
    for each in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):  # closed meanwhile
            sockets.add(str(each.readlink()))
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return any(row[3] == "01" and f"socket:[{row[9]}]" in sockets for row in rows)


def state_of(pid: int) -> dict[str, object]:
    """Return what a process has from its start."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    status = {name: value.split() for name, _, value in (line.partition(":") for line in lines)}
    names = ("Umask", "Uid", "Gid", "Groups", "SigBlk", "SigIgn", "SigCgt", "NoNewPrivs", "CapEff", "Seccomp")
    own_group, own_session = os.getpgid(pid) == pid, os.getsid(pid) == pid
    return {name: status[name] for name in names} | {
        "descriptors": sorted(
            (each.name, str(each.readlink()).partition(":")[0]) for each in Path(f"/proc/{pid}/fd").iterdir()
        ),
        "folder": Path(f"/proc/{pid}/cwd").readlink(),
        "group": "own" if own_group else os.getpgid(pid),
        "session": "own" if own_session else os.getsid(pid),
        "program": Path(f"/proc/{pid}/exe").readlink(),
        "priority": os.getpriority(os.PRIO_PROCESS, pid),
    }
