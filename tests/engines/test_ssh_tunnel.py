"""An engine on another host, through a real sshd."""

from __future__ import annotations

import asyncio
import getpass
from collections.abc import Iterator
from pathlib import Path

import pytest

from boltseal.engines.address import EngineAddress
from boltseal.engines.api import connected
from boltseal.engines.ssh_tunnel import NoEngineThere, SshFailed, tunnel
from boltseal.errors import ExitCode, exit_code
from tests import servers
from tests.fakes.engine import FakeEngine

pytestmark = pytest.mark.real


@pytest.fixture(scope="module")
def sshd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[servers.Server]:
    """An sshd to log in to."""
    with servers.sshd(tmp_path_factory.mktemp("sshd")) as server:
        yield server


@pytest.fixture(autouse=True)
def _ssh(sshd: servers.Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """An ssh configuration with a key that the host accepts."""
    monkeypatch.setenv("PATH", f"{sshd.folder}/bin", prepend=":")


def _address(sshd: servers.Server, path: object) -> EngineAddress:
    return EngineAddress.parse(f"ssh://{getpass.getuser()}@{sshd.address}{path}")


async def test_an_engine_behind_ssh_answers(sshd: servers.Server, tmp_path: Path) -> None:
    """An engine through ssh answers like a local one, and no ssh process remains."""
    fake = FakeEngine()
    fake.image("app", "localhost:5000/shop/app:1.4.2")
    async with (
        fake.listening(tmp_path),
        connected(_address(sshd, tmp_path / "engine.sock")) as engine,
    ):
        found = await engine.images()

    assert len(found) == 1


async def test_the_socket_is_private_and_temporary(sshd: servers.Server, tmp_path: Path) -> None:
    """The tunnel's socket is temporary, and other users can't use it."""
    async with tunnel(_address(sshd, tmp_path / "engine.sock")) as way:
        modes = [oct(each.stat().st_mode & 0o777) for each in (way.socket, way.socket.parent)]

    assert modes == ["0o600", "0o700"]
    assert not way.socket.parent.exists()


async def test_a_host_without_an_engine_is_an_error(sshd: servers.Server, tmp_path: Path) -> None:
    """If the host has no engine, the error has ssh's own reason."""
    with pytest.raises(SshFailed, match=r"ssh to .* failed: .*open failed") as error:
        async with connected(_address(sshd, tmp_path / "none.sock")):
            pass
    assert exit_code(error.value) is ExitCode.UNKNOWN


@pytest.fixture
def other_socket(tmp_path: Path) -> Iterator[servers.Server]:
    """A host whose Docker context names another socket than the default one."""
    with servers.sshd(tmp_path / "far", programs=["cat"]) as server:
        docker = tmp_path / "far/there/docker"
        docker.write_text(f"#!/bin/sh\necho unix://{tmp_path}/engine.sock\n")
        docker.chmod(0o755)
        yield server


async def test_the_socket_of_the_other_hosts_docker_context_is_used(
    other_socket: servers.Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without an engine at the default socket, the Docker context of the other host names the socket."""
    monkeypatch.setenv("PATH", f"{other_socket.folder}/bin", prepend=":")
    address = _address(other_socket, "")
    fake = FakeEngine()
    fake.image("app", "localhost:5000/shop/app:1.4.2")
    async with fake.listening(tmp_path), connected(address) as engine:
        found = await engine.images()
        named = engine.address

    assert len(found) == 1
    assert named == address


async def test_a_host_without_an_engine_is_not_blamed_on_ssh(
    other_socket: servers.Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If nothing listens at the socket, the message names the socket, and does not say that the login must work."""
    monkeypatch.setenv("PATH", f"{other_socket.folder}/bin", prepend=":")
    with pytest.raises(NoEngineThere, match=r"failed to reach the engine's socket .*engine\.sock there") as caught:
        async with connected(_address(other_socket, "")):
            pass

    assert "password" not in caught.value.message


async def test_a_refused_login_is_an_error(sshd: servers.Server, tmp_path: Path) -> None:
    """A refused login is an error with the prerequisite; no password is asked for."""
    unknown_user = EngineAddress.parse(f"ssh://nobody-here@{sshd.address}{tmp_path}/engine.sock")
    with pytest.raises(SshFailed, match=r"Permission denied.*; `ssh -p \d+ nobody-here@127.0.0.1 true` must work"):
        async with connected(unknown_user):
            pass


async def test_a_missing_host_is_an_error() -> None:
    """An unknown host is an error at once."""
    with pytest.raises(SshFailed, match="Connection refused"):
        async with connected(EngineAddress.parse("ssh://127.0.0.1:1")):
            pass


async def test_a_missing_ssh_is_an_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A missing ssh program is an error with the package to install."""
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SshFailed, match="install openssh-client"):
        async with connected(EngineAddress.parse("ssh://web1")):
            pass


async def test_an_unknown_host_key_is_refused(
    sshd: servers.Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An unknown host key is refused, and never accepted automatically."""
    folder = tmp_path / "bin"
    folder.mkdir()
    (tmp_path / "known").write_text("")
    (folder / "ssh").write_text(f'#!/bin/sh\nexec {sshd.folder}/bin/ssh -o UserKnownHostsFile={tmp_path}/known "$@"\n')
    (folder / "ssh").chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=":")

    with pytest.raises(SshFailed, match="Host key verification failed"):
        async with connected(_address(sshd, tmp_path / "engine.sock")):
            pass


async def test_cancelling_ends_ssh(sshd: servers.Server, tmp_path: Path) -> None:
    """Cancelling leaves no ssh process."""
    open_ = asyncio.Event()
    sockets: list[Path] = []

    async def hold() -> None:
        async with tunnel(_address(sshd, tmp_path / "engine.sock")) as way:
            sockets.append(way.socket)
            open_.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(hold())
    await open_.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    assert not sockets[0].parent.exists()
