"""A receiver that Apprise supports: mail, chats, phones. A restricted process of its own sends the messages.

The URL is passed over a pipe, since other users of the machine can see arguments and sometimes the environment.
Whatever a plugin does, the process ends after a timeout, has at most 1 GiB of memory, and reaches only public addresses
and configured networks.
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
from boltseal.notify.apprise_process import BLOCKED, DELIVERED, FAILED, NOT_UNDERSTOOD
from boltseal.notify.webhook import Network, NotDelivered

TIMEOUT_S: Final = 30.0
_WHY: Final = {
    FAILED: "Apprise failed",
    NOT_UNDERSTOOD: "Apprise does not support this URL",
    BLOCKED: "the URL addresses an internal network or a program: blocked; if that is intended, configure networks",
}


class AppriseReceiver:
    """One receiver. `name`: used in errors, since the URL is a secret. `python`: runs the process that delivers."""

    def __init__(
        self,
        name: str,
        url: str,
        networks: tuple[Network, ...] = (),
        within_s: float = TIMEOUT_S,
        python: str = sys.executable,
    ) -> None:
        self._name = name
        self._url = url
        self._networks = networks
        self._within_s = within_s
        self._python = python

    async def send(self, messages: Sequence[tuple[str, str]]) -> None:
        """Deliver titles and texts, in order. Raises: NotDelivered."""
        request = {
            "url": self._url,
            "networks": [str(network) for network in self._networks],
            "messages": list(messages),
        }
        code = await asyncio.to_thread(self._run, json.dumps(request).encode())
        if code is None:
            raise NotDelivered(f"no delivery to {self._name} within {self._within_s:g} seconds")
        if code != DELIVERED:
            raise NotDelivered(f"no delivery to {self._name}: {_WHY.get(code, f'its process ended with {code}')}")

    def _run(self, request: bytes) -> int | None:
        root = str(Path(boltseal.__file__).parents[1])
        try:
            child = subprocess.Popen(  # noqa: S603 - a list of words, no shell
                [self._python, "-m", "boltseal.notify.apprise_process"],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env={"PATH": "/usr/bin:/bin", "PYTHONPATH": root, "LANG": "C.UTF-8"},
                cwd="/",
            )
        except OSError as error:  # no memory, no process, or an upgrade removed this Python
            raise NotDelivered(f"no delivery to {self._name}: {self._python}: {error.strerror}") from None
        try:
            child.communicate(request, timeout=self._within_s)
        except subprocess.TimeoutExpired:
            child.kill()
            child.communicate()
            return None
        return child.returncode
