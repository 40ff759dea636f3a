"""A process that tells one receiver through Apprise, and can do nothing else. Started by `apprise_call`.

stdin: JSON {"url", "networks": [...], "messages": [[title, body], ...]}; the exit code says how it ended. An address of
Apprise may lead anywhere, by hundreds of plugins with clients of their own; so the bound is where they all pass: Python
tells a hook of every connection before it is made, and of every program that is to be started.
"""

from __future__ import annotations

import ipaddress
import json
import logging
import resource
import sys
from typing import Any, Final

from boltseal.notify.webhook import ReceiverReach

TOLD, FAILED, NOT_UNDERSTOOD, BLOCKED = range(10, 14)
MEMORY_BYTES: Final = 1024**3
_SENDING: Final = frozenset({"socket.connect", "socket.sendto", "socket.sendmsg"})
_NEVER: Final = ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.fork", "os.forkpty", "pty.spawn")


class Blocked(BaseException):
    """An address, or a program, that is not to be reached. No `Exception`: plugins catch those and go on."""


def main() -> int:
    """Tell it; how it went."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    asked = json.load(sys.stdin)
    import apprise

    logging.disable(logging.CRITICAL)  # what Apprise says may have the address in it
    asset = apprise.AppriseAsset(http_redirects=False, async_mode=False, plugin_paths=[], app_id="boltseal")
    receiver = apprise.Apprise.instantiate(asked["url"], asset=asset)
    if receiver is None:
        return NOT_UNDERSTOOD
    networks = tuple(ipaddress.ip_network(one) for one in asked["networks"])
    blocked = _bound(ReceiverReach(str(getattr(receiver, "host", None) or ""), networks))
    told = True
    for title, body in asked["messages"]:
        try:
            told = bool(receiver.notify(body=body, title=title)) and told
        except Blocked:
            return BLOCKED
        except Exception:  # noqa: BLE001 - the outermost shell of this process: a plugin's defect is not ours
            told = False
    return BLOCKED if blocked else TOLD if told else FAILED


def _bound(reach: ReceiverReach) -> list[str]:
    """From now on no connection leaves where it may not; the events that were stopped."""
    blocked: list[str] = []

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event in _SENDING and arguments[-1] is not None and not _allowed(reach, arguments[-1]):
            blocked.append(event)
            raise Blocked
        if event.startswith(_NEVER):
            blocked.append(event)
            raise Blocked

    sys.addaudithook(hook)
    return blocked


def _allowed(reach: ReceiverReach, address: Any) -> bool:
    try:
        host = address[0] if isinstance(address, tuple) else ""
        ipaddress.ip_address(str(host).partition("%")[0])
    except ValueError:
        return False  # a socket in the file system, or a name: nothing that was looked at
    return reach.allows(str(host))


if __name__ == "__main__":
    sys.exit(main())
