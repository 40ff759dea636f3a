"""Authentication for tests whose subject is not authentication."""

from __future__ import annotations

from pathlib import Path

from boltseal.policy.grants import Grants
from boltseal.server.api.auth import RequestAuth
from boltseal.server.auth.access import Access
from boltseal.server.auth.logins import Logins
from boltseal.server.auth.tokens import Tokens
from boltseal.server.auth.user_directory import UserDirectory
from boltseal.server.storage.key_file import KeyFile
from boltseal.server.storage.users import UserFile

NOWHERE = Path("/nonexistent/boltseal")


def anonymous_auth() -> RequestAuth:
    """Return the authentication of a registry without users: every request is allowed, as anonymous."""
    logins = Logins(UserDirectory(UserFile(NOWHERE / "htpasswd")))
    tokens = Tokens(KeyFile(NOWHERE / "token.json"), "boltseal", lambda: 0)
    return RequestAuth(Access(Grants(), logins, tokens, configured=False), None)
