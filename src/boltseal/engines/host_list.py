"""Hosts that a person names: `--host`, and the lines of a hosts file.

    # web servers
    root@web1
    ssh://deploy@web2:2222
    tcp://10.0.0.3:2375

A line is one host, a comment that begins with `#`, or empty. A file may come from an untrusted person: each line is parsed as an address
before any is used, and a parsed address can't be read as an option of ssh (`engines.address`). Pure, except for `read_hosts`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from boltseal.engines.address import EngineAddress, EngineAddressInvalid
from boltseal.errors import Invalid, quote

MAX_BYTES: Final = 256 * 1024
MAX_HOSTS: Final = 1000


class HostsFileInvalid(Invalid):
    """A hosts file that can't be used. No host was contacted."""


def with_scheme(text: str) -> str:
    """Return `USER@HOST[:PORT]` as an address of ssh, and anything else as it is."""
    return f"ssh://{text}" if "@" in text and "://" not in text else text


def in_command(address: str) -> str:
    """Return an address for a command that is printed: without the scheme if it has a user, since messages hide the user of a URL."""
    return address.removeprefix("ssh://") if "@" in address else address


def parse_hosts(raw: bytes, name: str) -> tuple[str, ...]:
    """Parse a hosts file: each host once, in the order of the lines. `name`: of the file, for messages.

    Raises: HostsFileInvalid.
    """
    if len(raw) > MAX_BYTES:
        raise HostsFileInvalid(f"{name}: the file is too large (expected at most {MAX_BYTES} bytes)")
    try:
        lines = raw.decode("ascii").split("\n")
    except UnicodeDecodeError as error:
        bad = raw.count(b"\n", 0, error.start) + 1
        raise HostsFileInvalid(f"{name}:{bad}: a character that no address has; expected ASCII") from error
    found: dict[str, None] = {}
    for number, line in enumerate(lines, 1):
        text = line.strip(" \t")
        if not text or text.startswith("#"):
            continue
        try:
            found[str(EngineAddress.parse(with_scheme(text)))] = None
        except EngineAddressInvalid as error:
            raise HostsFileInvalid(
                f"{name}:{number}: {quote(text)} is no host; expected one a line: USER@HOST[:PORT], ssh://HOST[:PORT], "
                "tcp://HOST:PORT or unix:///PATH"
            ) from error
    if not found:
        raise HostsFileInvalid(f"{name}: the file names no host; expected one a line, such as root@web1")
    if len(found) > MAX_HOSTS:
        raise HostsFileInvalid(f"{name}: too many hosts (got {len(found)}, expected at most {MAX_HOSTS})")
    return tuple(found)


def read_hosts(path: Path) -> tuple[str, ...]:
    """Read a hosts file. Raises: HostsFileInvalid; OSError: it can't be read."""
    with path.open("rb") as file:
        return parse_hosts(file.read(MAX_BYTES + 1), str(path))
