"""A process that sends messages to one receiver through Apprise, and can do nothing else. `apprise_receiver` starts it.

stdin: JSON {"url", "networks": [...], "messages": [[title, body], ...]}; the exit code is the result. An Apprise URL
may lead anywhere, through hundreds of plugins with their own network clients. So the restriction is an audit hook,
which Python calls before every connection and every start of a program.
"""

from __future__ import annotations

import ipaddress
import json
import logging
import resource
import sys
from typing import TYPE_CHECKING, Any, Final

from boltseal.loading import deferred
from boltseal.notify.webhook import ReceiverAddresses

if TYPE_CHECKING:
    import apprise
else:  # imported under the limit of memory
    apprise = deferred("apprise")

DELIVERED, FAILED, NOT_UNDERSTOOD, BLOCKED = range(10, 14)
MEMORY_BYTES: Final = 1024**3
_SENDING: Final = frozenset({"socket.connect", "socket.sendto", "socket.sendmsg"})
_NEVER: Final = ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.fork", "os.forkpty", "pty.spawn")


class Blocked(BaseException):
    """A connection or program that is not allowed. Not an `Exception`, since plugins catch those and continue."""


def main() -> int:
    """Send the messages; return the exit code."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    request = json.load(sys.stdin)
    logging.disable(logging.CRITICAL)  # Apprise's log may contain the URL, which is a secret
    asset = apprise.AppriseAsset(http_redirects=False, async_mode=False, plugin_paths=[], app_id="boltseal")
    receiver = apprise.Apprise.instantiate(request["url"], asset=asset)
    if receiver is None:
        return NOT_UNDERSTOOD
    networks = tuple(ipaddress.ip_network(network) for network in request["networks"])
    blocked = _restrict(ReceiverAddresses(str(getattr(receiver, "host", None) or ""), networks))
    delivered = True
    for title, body in request["messages"]:
        try:
            delivered = bool(receiver.notify(body=body, title=title)) and delivered
        except Blocked:
            return BLOCKED
        except Exception:  # noqa: BLE001 - the process's outermost handler: a plugin may raise anything
            delivered = False
    return BLOCKED if blocked else DELIVERED if delivered else FAILED


def _restrict(reach: ReceiverAddresses) -> list[str]:
    """Install an audit hook that blocks connections outside of `reach` and programs; return the list of blocked events."""
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


def _allowed(reach: ReceiverAddresses, address: Any) -> bool:
    try:
        host = address[0] if isinstance(address, tuple) else ""
        ipaddress.ip_address(str(host).partition("%")[0])
    except ValueError:
        return False  # a Unix socket, or a name: not a checked IP address
    return reach.allows(str(host))


if __name__ == "__main__":
    sys.exit(main())
