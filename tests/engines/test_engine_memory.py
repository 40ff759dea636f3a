"""How the sockets of a running service are found, although other users choose the paths of their own sockets."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from boltseal.engines.engine_locks import EngineProcess
from boltseal.engines.engine_memory import ServiceUnavailable, ask_service
from tests.programs import program

UNPRIVILEGED = 65534


@pytest.fixture
def listening(short_folder: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(f"{short_folder}/r.sock")
        made.listen(0)
        yield made


@pytest.fixture
def short_folder(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Yield an empty current folder with a short path: that of a socket has at most 107 bytes."""
    with TemporaryDirectory(prefix="b", dir="/tmp") as made:
        folder = Path(made)
        monkeypatch.chdir(folder)
        yield folder


@pytest.fixture
def service(listening: socket.socket) -> Iterator[EngineProcess]:
    """Yield a process that has inherited the socket and does not answer."""
    with inheriting(listening.fileno()) as made:
        yield made


@contextmanager
def inheriting(descriptor: int) -> Iterator[EngineProcess]:
    with subprocess.Popen([program("sleep"), "600"], pass_fds=[descriptor]) as process:
        try:
            yield EngineProcess(process.pid, "podman")
        finally:
            process.kill()


def asked(service: EngineProcess, root: Path) -> str:
    with pytest.raises(ServiceUnavailable) as caught:
        ask_service(service, root, [])
    return caught.value.message


@pytest.mark.parametrize("text", ["\na b c zz e f g /x", "\n\xff: 1 2 3 4 5 6 /x", "\r1: 0 0 00010000 1 1 1 /x"])
def test_the_path_of_a_foreign_socket_does_not_end_the_search(
    text: str, listening: socket.socket, service: EngineProcess, short_folder: Path
) -> None:
    """A socket of any user whose path imitates a malformed line of the kernel's table changes nothing."""
    (short_folder / text.rpartition("/")[0]).mkdir(parents=True)
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(f"{short_folder}/{text}")
        other.listen()
        Path("r.sock").unlink()

        reason = asked(service, short_folder)

    assert "No such file" in reason


def test_a_forged_path_of_a_service_is_not_connected(
    listening: socket.socket, service: EngineProcess, short_folder: Path
) -> None:
    """A socket whose path imitates the line of another one, with another path, makes the service one that can't be asked."""
    inode = os.fstat(listening.fileno()).st_ino
    text = f"\n1: 00000002 00000000 00010000 0001 01 {inode} {short_folder}/docker.sock"
    Path(text).parent.mkdir(parents=True)
    with socket.socket(socket.AF_UNIX) as forged, socket.socket(socket.AF_UNIX) as other:
        forged.bind(text)
        forged.listen()
        other.bind("docker.sock")
        other.listen()
        other.setblocking(False)

        reason = asked(service, short_folder)

        with pytest.raises(BlockingIOError):
            other.accept()
    assert "has several paths of its socket" in reason


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can start a process of another user")
def test_the_socket_of_another_user_is_not_asked(short_folder: Path) -> None:
    """A process of root that has inherited another user's socket, as a program with the setuid bit does, is not asked."""
    short_folder.chmod(0o777)
    parent, child = socket.socketpair()
    with parent, child:
        code = (
            "import os, socket, sys; os.setuid(int(sys.argv[3])); "  # here: the user may be unable to read the interpreter
            "made = socket.socket(socket.AF_UNIX); made.bind(sys.argv[1]); made.listen(); "
            "socket.send_fds(socket.socket(fileno=int(sys.argv[2])), [b'x'], [made.fileno()])"
        )
        command = [sys.executable, "-Sc", code, f"{short_folder}/n.sock", str(child.fileno()), str(UNPRIVILEGED)]
        subprocess.run(command, pass_fds=[child.fileno()], check=True)
        _, (descriptor,), _, _ = socket.recv_fds(parent, 1, 1)
    with inheriting(descriptor) as service:
        os.close(descriptor)

        reason = asked(service, short_folder)

    assert reason == f"user {UNPRIVILEGED} listens on its socket (expected user 0 or root)"
