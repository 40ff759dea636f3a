"""Gates for tests that are about something else than who may come in."""

from __future__ import annotations

from pathlib import Path

from boltseal.api.gate import Gate
from boltseal.policy.grants import Grants
from boltseal.registry.access import Access
from boltseal.registry.logins import Logins
from boltseal.registry.tokens import Tokens
from boltseal.storage.keyfile import KeyFile
from boltseal.storage.users import UserFile

NOWHERE = Path("/nonexistent/boltseal")


def open_gate() -> Gate:
    """Lets everybody in, as a registry without users does."""
    logins = Logins(UserFile(NOWHERE / "htpasswd"))
    tokens = Tokens(KeyFile(NOWHERE / "token.json"), "boltseal", lambda: 0)
    return Gate(Access(Grants(), logins, tokens, configured=False), None)
