"""Reads the secret of this registry at the identity provider, for each login: a file that was replaced takes effect at once."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import structlog

from boltseal.config import ConfigInvalid, secret_variable
from boltseal.errors import Unavailable

MAX_SECRET_BYTES: Final = 4096

_log = structlog.get_logger(__name__)


class SecretUnreadable(Unavailable):
    """The secret cannot be read, so no person can log in at the provider. The message does not show where it should be."""


def client_secret(file: Path | None, variable: str | None) -> str:
    """Return the secret, "" of a public client. Raises: SecretUnreadable; the log has the reason."""
    try:
        if variable is not None:
            return secret_variable(variable)
        if file is None:
            return ""
        with file.open("rb") as opened:
            text = opened.read(MAX_SECRET_BYTES).decode("ascii").strip()
    except (ConfigInvalid, OSError, UnicodeDecodeError) as error:
        raise _unreadable(file, str(error) if isinstance(error, ConfigInvalid) else type(error).__name__) from error
    if not text or not text.isprintable():
        raise _unreadable(file, "expected one line of printable ASCII")
    return text


def _unreadable(file: Path | None, reason: str) -> SecretUnreadable:
    _log.error("the client's secret of [auth.oidc] cannot be read", file=str(file), reason=reason)
    return SecretUnreadable(
        "logins at the identity provider are not possible now; the log of the registry has the reason"
    )
