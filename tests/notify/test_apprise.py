"""Receivers of Apprise, called in a restricted process."""

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

MESSAGES = [("boltseal: tag.moved", "it moved")]


async def send(
    url: str, networks: tuple[Network, ...] = (), within_s: float = 30.0, python: str = sys.executable
) -> None:
    await AppriseReceiver("chat", url, networks, within_s, python).send(MESSAGES)


async def test_a_receiver_gets_the_sentence_of_an_event() -> None:
    """An Apprise receiver gets the sentence of an event; its JSON plugin represents all plugins."""
    async with inbox(answer("200 OK")) as box:
        await send(f"json://127.0.0.1:{box.port}/hunter2")

    assert box.events[0]["title"] == "boltseal: tag.moved"
    assert box.events[0]["message"] == "it moved"


async def test_a_failing_receiver_raises_not_delivered() -> None:
    """If delivery fails, the message names the receiver, and neither its URL nor its answer."""
    async with inbox(answer("500 hunter2")) as box:
        with pytest.raises(NotDelivered, match="no delivery to chat") as raised:
            await send(f"json://127.0.0.1:{box.port}/hunter2")

    assert "hunter2" not in raised.value.message


@pytest.mark.parametrize("follows", ["", "?redirect=yes"])
async def test_a_redirect_to_an_internal_network_is_blocked(follows: str) -> None:
    """A connection to an internal network is blocked, also after a redirect that the URL asks for."""
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
async def test_an_internal_address_is_blocked(url: str, networks: tuple[str, ...]) -> None:
    """SSRF: whichever plugin connects, an internal address is blocked before anything is sent."""
    began = time.monotonic()
    with pytest.raises(NotDelivered, match=r"networks|not support|Apprise failed"):
        await send(url, tuple(ipaddress.ip_network(one) for one in networks))

    assert time.monotonic() - began < 25


async def test_a_public_name_that_resolves_to_loopback_is_blocked() -> None:
    """DNS rebinding: loopback is reachable only under its own names."""
    async with inbox(OK) as box:
        with pytest.raises(NotDelivered, match="networks"):
            await send(f"json://{socket.gethostname()}:{box.port}/")

    assert box.bodies == []


@pytest.mark.parametrize("url", ["nonsense", "nonsense://x", "file:///etc/passwd", "dbus://"])
async def test_an_unsupported_url_is_reported(url: str) -> None:
    """The error for an unsupported URL does not contain the URL."""
    with pytest.raises(NotDelivered, match="does not support") as raised:
        await send(url)

    assert url not in raised.value.message


async def test_a_missing_interpreter_is_reported(tmp_path: Path) -> None:
    """If the interpreter is missing, as after an upgrade, the event is retried later, and no message has the URL."""
    with pytest.raises(NotDelivered, match=r"no delivery to chat: .*/gone: No such file") as raised:
        await send("json://127.0.0.1/hunter2", python=str(tmp_path / "gone"))

    assert "hunter2" not in raised.value.message


async def test_a_receiver_that_hangs_times_out() -> None:
    """A receiver that hangs ends in a time-out, after which its process is killed."""
    async with inbox(HANGS) as hanging:
        with pytest.raises(NotDelivered, match="within 4 seconds"):
            await send(f"json://127.0.0.1:{hanging.port}/", within_s=4)
    async with inbox(ENDLESS) as endless:
        with pytest.raises(NotDelivered):
            await send(f"json://127.0.0.1:{endless.port}/", within_s=15)


def what_others_see() -> bytes:
    """Return arguments and environment of the processes that deliver through Apprise."""
    seen = b""
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            arguments = (process / "cmdline").read_bytes()
            if b"apprise_process" in arguments:
                seen += arguments + (process / "environ").read_bytes()
    return seen


async def test_the_url_is_in_no_argument_and_no_environment() -> None:
    """The receiver's URL is in no process argument, which other users can read, and in no environment."""
    async with inbox(HANGS) as box:
        sending = asyncio.create_task(send(f"json://127.0.0.1:{box.port}/hunter2", within_s=5))
        await box.until(1)
        seen = await asyncio.to_thread(what_others_see)
        with pytest.raises(NotDelivered):
            await sending

    assert b"apprise_process" in seen
    assert b"hunter2" not in seen
