"""A receiver that Apprise knows: mail, chats, telephones. Told by a process of its own (`apprise_child`), bounded in all.

The address goes to it over a pipe, since other users of the machine see arguments and, some, the environment. Whatever a
plugin does, it ends after a while, in a gigabyte of memory, and reaches nothing but the world, or what was configured.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import boltseal
from boltseal.notify.apprise_process import BLOCKED, FAILED, NOT_UNDERSTOOD, TOLD
from boltseal.notify.webhook import Network, NotDelivered

WITHIN_S: Final = 30.0
_WHY: Final = {
    FAILED: "Apprise could not deliver it",
    NOT_UNDERSTOOD: "Apprise does not understand the address",
    BLOCKED: "the address leads into some network of ours, or to a program: not asked; if that is meant, say so with networks",
}


class AppriseReceiver:
    """One receiver. `name`: what errors call it, since its address is a secret."""

    def __init__(self, name: str, url: str, networks: tuple[Network, ...] = (), within_s: float = WITHIN_S) -> None:
        self._name = name
        self._url = url
        self._networks = networks
        self._within_s = within_s

    async def send(self, messages: Sequence[tuple[str, str]]) -> None:
        """Deliver titles and texts, in order. NotDelivered."""
        asked = {"url": self._url, "networks": [str(one) for one in self._networks], "messages": list(messages)}
        code = await asyncio.to_thread(self._run, json.dumps(asked).encode())
        if code is None:
            raise NotDelivered(f"{self._name} was not told within {self._within_s:g} seconds")
        if code != TOLD:
            raise NotDelivered(f"{self._name} was not told: {_WHY.get(code, f'its process ended with {code}')}")

    def _run(self, asked: bytes) -> int | None:
        root = str(Path(boltseal.__file__).parents[1])
        try:
            child = subprocess.Popen(
                [sys.executable, "-m", "boltseal.notify.apprise_process"],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env={"PATH": "/usr/bin:/bin", "PYTHONPATH": root, "LANG": "C.UTF-8"},
                cwd="/",
            )
        except OSError as error:  # no memory or process is left, or an upgrade has taken this Python away
            raise NotDelivered(f"{self._name} was not told: {sys.executable}: {error.strerror}") from None
        try:
            child.communicate(asked, timeout=self._within_s)
        except subprocess.TimeoutExpired:
            child.kill()
            child.communicate()
            return None
        return child.returncode
