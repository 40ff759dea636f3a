"""The settings of pages and of the people who log in there: `[ui]` and `[auth.oidc]`.

Only the operator writes these settings, so they are trusted. The secret of the client at the provider is not among
them: they name the file or variable that has it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field

from boltseal.errors import Invalid
from boltseal.policy.durations import Duration
from boltseal.policy.person_claims import PersonTerms
from boltseal.server import setting_values
from boltseal.server.storage_settings import SettingsTable

_LOOPBACK: Final = frozenset({"localhost", "127.0.0.1", "::1"})
_MINUTE: Final = Duration.parse("1m")
_LONGEST: Final = Duration.parse("30d")


def _span(text: str) -> str:
    span = setting_values.duration(text)
    if not _MINUTE <= span <= _LONGEST:
        raise ValueError(f"{_MINUTE} to {_LONGEST}")
    return str(span)


def _issuer_url(text: str) -> str:
    expected = "the provider's https address, exactly as in its tokens, without user, query and fragment"
    try:
        parts = urlsplit(text)
        _ = parts.port
    except ValueError:
        raise ValueError(expected) from None
    encrypted = parts.scheme == "https" or (parts.scheme == "http" and parts.hostname in _LOOPBACK)
    if not encrypted or not parts.hostname or "@" in parts.netloc or set("?# ") & set(text) or not text.isascii():
        raise ValueError(expected)
    return text


@dataclass(frozen=True, slots=True)
class SessionTerms:
    """How long sessions of pages last, in microseconds: at most, and without a request."""

    life_us: int
    idle_us: int


class OidcInvalid(Invalid):
    """An `[auth.oidc]` table that lacks a setting or contradicts another one. The server does not start."""


class UiSettings(SettingsTable):
    """`[ui]`: the pages below `/ui/`, and how long a login there lasts."""

    enabled: bool | None = None
    """Serve pages. Default: on loopback, and elsewhere while callers must log in."""
    session_life: Annotated[str, AfterValidator(_span)] = "12h"
    """How long a login lasts at most."""
    session_idle: Annotated[str, AfterValidator(_span)] = "1h"
    """How long a login lasts without a request."""

    @property
    def terms(self) -> SessionTerms:
        """How long sessions last."""
        return SessionTerms(Duration.parse(self.session_life).us, Duration.parse(self.session_idle).us)


class OidcSettings(SettingsTable):
    """`[auth.oidc]`: the identity provider at which people log in to pages (OpenID Connect, authorization code with PKCE)."""

    url: Annotated[str, AfterValidator(_issuer_url)] | None = None
    """The provider's `iss`, such as `https://login.example.com/realms/acme`; without it there is no provider."""
    client_id: Annotated[str, Field(pattern=r"^[\x21-\x7e]{1,255}$")] | None = None
    """This registry's client ID at the provider. Its redirect address there is `<public_url>/ui/login/callback`."""
    client_secret_file: Path | None = None
    """File that contains the client's secret, and nothing else. Without a secret it is a public client."""
    client_secret_env: Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")] | None = None
    """Environment variable that contains the secret, instead of `client_secret_file`."""
    name: Annotated[str, Field(pattern=r"^[a-z0-9]+(-[a-z0-9]+)*$", max_length=20)] = "sso"
    """The provider's name here: people are users such as `alice@sso`."""
    name_claim: Annotated[str, Field(pattern=r"^[A-Za-z0-9_./:-]{1,100}$")] = "preferred_username"
    """The claim of the ID token that has a person's name, read at the first login."""
    groups_claim: Annotated[str, Field(pattern=r"^[A-Za-z0-9_./:-]{1,100}$")] = "groups"
    """The claim of the ID token that has the groups, a list; grants name them in `groups`."""
    scopes: tuple[Annotated[str, Field(pattern=r"^[\x21\x23-\x5b\x5d-\x7e]{1,100}$")], ...] = ("openid", "profile")
    """What is requested from the provider; some need `groups` besides."""
    ca_file: Path | None = None
    """Certificate authority of the provider, PEM; default: those of the system."""
    allow_hosts: tuple[Annotated[str, Field(pattern=r"^[a-z0-9]([a-z0-9.-]*[a-z0-9])?$")], ...] = ()
    """Hosts in internal networks that have the provider's keys or tokens, besides the host of `url`."""

    def terms(self) -> PersonTerms | None:
        """Return what tokens of people must be, None without a provider. Raises: OidcInvalid."""
        if self.url is None:
            if self.model_fields_set:
                raise OidcInvalid("[auth.oidc]: url is missing; expected the provider's https address")
            return None
        if self.client_id is None:
            raise OidcInvalid("[auth.oidc]: client_id is missing; expected this registry's client ID at the provider")
        if self.client_secret_file is not None and self.client_secret_env is not None:
            raise OidcInvalid(
                "[auth.oidc]: client_secret_file and client_secret_env are both there; expected one of them"
            )
        if "openid" not in self.scopes:
            raise OidcInvalid('[auth.oidc]: scopes lacks "openid", without which there is no ID token')
        return PersonTerms(self.name, self.url, self.client_id, self.name_claim, self.groups_claim)
