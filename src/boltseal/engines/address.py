"""Addresses of engines: `unix:///PATH`, `tcp://HOST:PORT`, `ssh://[USER@]HOST[:PORT][/PATH-OF-THE-SOCKET]`.

A parsed address is safe in an argument list: a user or host that could be read as an option, or has characters that
names and addresses lack, is refused. An address contains no password.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from boltseal.errors import Invalid, quote

DOCKER_SOCKET: Final = "/var/run/docker.sock"
PORTS: Final = {"tcp": 2375, "tls": 2376}

_AUTHORITY: Final = re.compile(
    r"(?:(?P<user>[A-Za-z0-9_][A-Za-z0-9._-]*)@)?"
    r"(?P<host>[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?|\[[0-9A-Fa-f:.]+(?:%[A-Za-z0-9]+)?\])"
    r"(?::(?P<port>[0-9]{1,5}))?"
)
_PATH: Final = re.compile(r"/[A-Za-z0-9._/@+=,-]*")


class EngineAddressInvalid(Invalid):
    """A malformed engine address."""


@dataclass(frozen=True, slots=True)
class EngineAddress:
    """The address of an engine.

    `scheme`: unix, tcp or ssh. `path`: of the socket, here or behind ssh; "" for tcp. `user`: only for ssh.
    `certificates`: a folder with ca.pem, cert.pem and key.pem, which makes tcp TLS.
    """

    scheme: str
    host: str = ""
    port: int | None = None
    user: str = ""
    path: str = ""
    certificates: Path | None = None

    @classmethod
    def parse(cls, text: str, certificates: Path | None = None) -> EngineAddress:
        """Parse DOCKER_HOST or `--host`; `certificates` apply to tcp only. Raises: EngineAddressInvalid."""
        scheme, found, rest = text.partition("://")
        if found and scheme == "unix":
            if not rest.startswith("/") or not rest.isprintable():
                raise _invalid(text)
            return cls("unix", path=rest)
        if not found or scheme not in ("tcp", "http", "ssh"):
            raise _invalid(text)
        authority, slash, path = rest.partition("/")
        part = _AUTHORITY.fullmatch(authority)
        if part is None or (part["port"] and not 0 < int(part["port"]) < 65536):
            raise _invalid(text)
        port = int(part["port"]) if part["port"] else None
        host = part["host"].strip("[]")
        if scheme != "ssh":
            if path or part["user"]:
                raise _invalid(text)
            return cls("tcp", host, port, certificates=certificates)
        socket = slash + path if path else DOCKER_SOCKET
        if _PATH.fullmatch(socket) is None:
            raise _invalid(text)
        return cls("ssh", host, port, part["user"] or "", socket)

    @property
    def login(self) -> str:
        """Return `user@host` for ssh."""
        return f"{self.user}@{self.host}" if self.user else self.host

    @property
    def key(self) -> str:
        """Return the address with links resolved: /var/run/docker.sock and /run/docker.sock are one socket."""
        return f"unix://{Path(self.path).resolve()}" if self.scheme == "unix" else str(self)

    def environment(self) -> dict[str, str]:
        """Return the variables that point Docker's own programs to this engine."""
        found = {"DOCKER_HOST": str(self)}
        if self.certificates is not None:
            found |= {"DOCKER_TLS_VERIFY": "1", "DOCKER_CERT_PATH": str(self.certificates)}
        return found

    def __str__(self) -> str:
        if self.scheme == "unix":
            return f"unix://{self.path}"
        host = f"[{self.host}]" if ":" in self.host else self.host
        where = f"{self.user}@{host}" if self.user else host
        port = "" if self.port is None else f":{self.port}"
        path = "" if self.path in ("", DOCKER_SOCKET) else self.path
        return f"{self.scheme}://{where}{port}{path}"


def _invalid(text: str) -> EngineAddressInvalid:
    return EngineAddressInvalid(
        f"{quote(text)} is not an engine address; expected unix:///PATH, tcp://HOST:PORT or ssh://HOST[:PORT], with USER@ before HOST if needed"
    )
