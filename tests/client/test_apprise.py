"""A receiver that Apprise knows, told by a process that can do nothing else."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import socket
import sys
import time
from pathlib import Path

import pytest

from boltseal.notify.apprise_receiver import AppriseReceiver
from boltseal.notify.webhook import Network, NotDelivered
from tests.notify.receivers import ENDLESS, HANGS, OK, answer, inbox

pytestmark = pytest.mark.slow

SAID = [("boltseal: tag.moved", "it moved")]


async def send(url: str, networks: tuple[Network, ...] = (), within_s: float = 30.0) -> None:
    await AppriseReceiver("chat", url, networks, within_s).send(SAID)


async def test_people_read_the_sentence() -> None:
    """Apprise's own JSON receiver stands for the hundred others."""
    async with inbox(answer("200 OK")) as box:
        await send(f"json://127.0.0.1:{box.port}/hunter2")

    assert box.events[0]["title"] == "boltseal: tag.moved"
    assert box.events[0]["message"] == "it moved"


async def test_a_receiver_that_fails_is_told_later() -> None:
    """The message names the receiver and neither address nor answer."""
    async with inbox(answer("500 hunter2")) as box:
        with pytest.raises(NotDelivered, match="no delivery to chat") as raised:
            await send(f"json://127.0.0.1:{box.port}/hunter2")

    assert "hunter2" not in raised.value.message


@pytest.mark.parametrize("follows", ["", "?redirect=yes"])
async def test_no_redirect_leads_into_our_network(follows: str) -> None:
    """Also where the address itself asks for it: the connection is refused when it is made."""
    async with inbox(OK) as inside:
        host = f"127.0.0.2:{inside.port}" if not follows else f"[::ffff:169.254.169.254]:{inside.port}"
        async with inbox(answer("302 Found", f"location: http://{host}/\r\n")) as box:
            with pytest.raises(NotDelivered):
                await send(f"json://127.0.0.1:{box.port}/{follows}")

    assert inside.bodies == []


@pytest.mark.parametrize(
    ("url", "networks"),
    [
        ("json://10.255.255.1:8/", ()),
        ("json://169.254.169.254/", ()),
        ("json://[fd00::1]/", ()),
        ("json://10.255.255.1:8/", ("10.1.0.0/16",)),
        ("mailto://u:p@10.255.255.1?smtp=10.255.255.1", ()),
    ],
)
async def test_an_address_inside_some_network_is_not_asked(url: str, networks: tuple[str, ...]) -> None:
    """SSRF: refused before anything is sent, by whatever plugin, within a moment."""
    began = time.monotonic()
    with pytest.raises(NotDelivered, match=r"networks|not support|Apprise failed"):
        await send(url, tuple(ipaddress.ip_network(one) for one in networks))

    assert time.monotonic() - began < 25


async def test_a_name_of_the_world_that_leads_to_this_machine_is_not_asked() -> None:
    """DNS rebinding: this machine is reached only under its own names."""
    async with inbox(OK) as box:
        with pytest.raises(NotDelivered, match="networks"):
            await send(f"json://{socket.gethostname()}:{box.port}/")

    assert box.bodies == []


@pytest.mark.parametrize("url", ["nonsense", "nonsense://x", "file:///etc/passwd", "dbus://"])
async def test_what_apprise_does_not_know_is_said(url: str) -> None:
    """Without showing it."""
    with pytest.raises(NotDelivered, match="does not support") as raised:
        await send(url)

    assert url not in raised.value.message


async def test_a_python_that_an_upgrade_took_away_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The event waits and is told later, as with any receiver that can't be told; the address is in no message."""
    monkeypatch.setattr(sys, "executable", str(tmp_path / "gone"))

    with pytest.raises(NotDelivered, match=r"no delivery to chat: .*/gone: No such file") as raised:
        await send("json://127.0.0.1/hunter2")

    assert "hunter2" not in raised.value.message


async def test_a_receiver_that_hangs_or_never_ends_is_left() -> None:
    """Its process is ended, and its memory with it."""
    async with inbox(HANGS) as hanging:
        with pytest.raises(NotDelivered, match="within 4 seconds"):
            await send(f"json://127.0.0.1:{hanging.port}/", within_s=4)
    async with inbox(ENDLESS) as endless:
        with pytest.raises(NotDelivered):
            await send(f"json://127.0.0.1:{endless.port}/", within_s=15)


def what_others_see() -> bytes:
    """Arguments and environment of the processes that tell through Apprise."""
    seen = b""
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            arguments = (process / "cmdline").read_bytes()
            if b"apprise_process" in arguments:
                seen += arguments + (process / "environ").read_bytes()
    return seen


async def test_the_address_is_in_no_argument_and_no_environment() -> None:
    """Other users of the machine see the one, and root's tools the other."""
    async with inbox(HANGS) as box:
        sending = asyncio.create_task(send(f"json://127.0.0.1:{box.port}/hunter2", within_s=5))
        await box.until(1)
        seen = await asyncio.to_thread(what_others_see)
        with pytest.raises(NotDelivered):
            await sending

    assert b"apprise_process" in seen
    assert b"hunter2" not in seen
