"""The cookies of pages: one for the session, one for the login form before there is a session.

With TLS their names begin with `__Host-`: browsers accept such a cookie only from this very host, over TLS, for all paths, so
neither another host of the domain nor a plain-HTTP answer can place one (cookie tossing). The name without prefix is then never
read. Of two cookies with one name neither is used, since it is not certain which of them is ours.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from starlette.types import Scope

from boltseal.server.api.responses import Headers

SESSION: Final = "boltseal-session"
LOGIN: Final = "boltseal-login"
_PREFIX: Final = "__Host-"


@dataclass(frozen=True, slots=True)
class Cookies:
    """Reads and writes cookies. `encrypted`: browsers reach this server by TLS."""

    encrypted: bool

    def read(self, scope: Scope, name: str) -> str:
        """Return the value of a cookie, "" if there is none or more than one."""
        wanted = self._name(name)
        found = [
            value.strip()
            for header, line in scope["headers"]
            if header == b"cookie"
            for pair in line.decode("latin-1").split(";")
            for key, equals, value in [pair.partition("=")]
            if equals and key.strip() == wanted
        ]
        return found[0] if len(found) == 1 else ""

    def put(self, name: str, value: str) -> Headers:
        """Return the header that sets a cookie until the browser is closed. `value`: from our own random texts."""
        return self._header(name, value, "")

    def remove(self, name: str) -> Headers:
        """Return the header that removes a cookie."""
        return self._header(name, "", "; Max-Age=0")

    def _header(self, name: str, value: str, more: str) -> Headers:
        secure = "; Secure" if self.encrypted else ""
        text = f"{self._name(name)}={value}; Path=/; HttpOnly; SameSite=Lax{secure}{more}"
        return ((b"set-cookie", text.encode("ascii")),)

    def _name(self, name: str) -> str:
        return f"{_PREFIX}{name}" if self.encrypted else name
