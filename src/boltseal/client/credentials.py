"""Logins for registries: the user's settings, the credential files of Docker and Podman, and credential helpers.

The first login that is found is used:

1. `username` and `password_file` of `[[client.registry]]`.
2. Each of `credential-helpers` in registries.conf; by default the credential files only.
3. In each credential file, by precedence: the helper of the registry (`credHelpers`); an entry (`auths`) for the longest
   path of the registry that contains the repository, which Podman may store; an entry for the registry; the helper for
   all registries (`credsStore`, which only Docker reads).

A helper is run as `docker-credential-NAME get` with the registry on its standard input. A failing helper is an error
and not "no credentials": an anonymous pull could spend another quota or hide a mistake. So is a file that can't be read.

The files are trusted, as the user's own. A secret is never in an error, a log or a repr.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Protocol

import msgspec

from boltseal.client.config_files import FileUnusable, read_file, read_password, shown
from boltseal.client.hosts import HUB_NAMES
from boltseal.client.registries_conf import CREDENTIAL_FILES, RegistriesConf
from boltseal.client.registry_settings import RegistrySettings
from boltseal.errors import Unavailable, quote
from boltseal.oci.jsontext import decode
from boltseal.oci.reference import HUB

HELPER_TIMEOUT_S: Final = 30.0
_HUB_KEYS: Final = ("https://index.docker.io/v1/", "index.docker.io", "docker.io", "registry-1.docker.io")
_TOKEN_USER: Final = "<token>"  # noqa: S105 - the helper protocol's mark for an identity token
_NOT_FOUND: Final = "credentials not found in native keychain"


class CredentialsInvalid(FileUnusable):
    """A credentials file can't be parsed."""


class HelperFailed(Unavailable):
    """A credential helper is missing, failed, or printed something other than credentials."""


@dataclass(frozen=True, slots=True)
class Credentials:
    """A login. `identity_token`: the secret is an OAuth2 refresh token, and the user name is empty."""

    username: str
    secret: str = field(repr=False)
    identity_token: bool = False


class _Auth(msgspec.Struct, rename="lower"):
    auth: str = ""
    username: str = ""
    password: str = ""
    identitytoken: str = ""


class _File(msgspec.Struct, rename="camel"):
    auths: dict[str, _Auth] = {}
    creds_store: str = ""
    cred_helpers: dict[str, str] = {}


class _Helped(msgspec.Struct, rename="pascal"):
    username: str
    secret: str


class LoginSource(Protocol):
    """Provides the logins for registries."""

    async def find(self, registry: str, repository: str | None = None) -> Credentials | None:
        """Return the login for a registry, or for the longest path of it that contains the repository; None: anonymous."""

    def below(self, registry: str) -> Mapping[str, Credentials]:
        """Return the logins that are for one path of a registry, by path."""


@dataclass(frozen=True, slots=True)
class SingleLogin:
    """A login for one registry; every other registry is asked anonymously."""

    registry: str
    credentials: Credentials | None = None

    async def find(self, registry: str, repository: str | None = None) -> Credentials | None:
        return self.credentials if registry == self.registry else None

    def below(self, registry: str) -> Mapping[str, Credentials]:
        return {}


class CredentialStore:
    """Looks logins up. `paths`: the credential files, by precedence; missing files are skipped.

    `settings`: the user's `[[client.registry]]`. `registries_conf`: names credential helpers.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        settings: Sequence[RegistrySettings] = (),
        registries_conf: RegistriesConf | None = None,
    ) -> None:
        self._paths = tuple(paths)
        self._settings = {one.host: one for one in settings}
        self._registries_conf = registries_conf or RegistriesConf(None)
        self._found: dict[tuple[str, str | None], Credentials | None] = {}
        self._helped: dict[tuple[str, str], Credentials | None] = {}
        self._below: dict[str, Mapping[str, Credentials]] = {}
        self._lookup_lock = asyncio.Lock()

    async def find(self, registry: str, repository: str | None = None) -> Credentials | None:
        """Return the login for a registry (`docker.io`, `ghcr.io`, `localhost:5000`), or None.

        Each registry is looked up once; if some of its paths have their own logins, each repository is.
        """
        wanted = registry, repository if self.below(registry) else None
        async with self._lookup_lock:  # a helper may prompt the user: run it once for all waiting requests
            if wanted not in self._found:
                self._found[wanted] = await self._look(*wanted)
        return self._found[wanted]

    def below(self, registry: str) -> Mapping[str, Credentials]:
        """Return the logins for paths of a registry, by path: Podman stores them under keys like `localhost:5000/shop`."""
        if registry not in self._below:
            found: dict[str, Credentials] = {}
            for path in self._paths:
                held = _read(path)
                for key in held.auths if held is not None else ():
                    if held is None or not key.startswith(f"{registry}/"):
                        continue
                    login = _from_file(held, [key], path)
                    if login is not None:
                        found.setdefault(key.removeprefix(f"{registry}/").rstrip("/"), login)
            self._below[registry] = found
        return self._below[registry]

    def named(self) -> frozenset[str]:
        """Return the registries that the files name, whether or not a login for them can be read. No helper is run."""
        found: set[str] = set()
        for path in self._paths:
            held = _read(path)
            if held is not None:
                found.update(_host(key) for key in (*held.auths, *held.cred_helpers))
        return frozenset(found)

    async def _look(self, registry: str, repository: str | None) -> Credentials | None:
        settings = self._settings.get(registry.lower())
        if settings is not None and settings.username is not None and settings.password_file is not None:
            return Credentials(settings.username, read_password(settings.password_file))
        if not self._paths:  # anonymous
            return None
        helpers = self._registries_conf.helpers()
        for helper in helpers if CREDENTIAL_FILES in helpers else (*helpers, CREDENTIAL_FILES):
            if helper == CREDENTIAL_FILES:
                found = await self._look_in_files(registry, repository)
            else:
                found = await self._ask_helper(helper, registry)
            if found is not None:
                return found
        return None

    async def _look_in_files(self, registry: str, repository: str | None) -> Credentials | None:
        keys = _HUB_KEYS if registry == HUB else (registry,)
        for path in self._paths:
            held = _read(path)
            if held is None:
                continue
            for key in keys:
                helper = held.cred_helpers.get(key)
                if helper:
                    return await self._ask_helper(helper, key)
            found = _from_file(held, _paths_of(registry, repository), path) or _from_file(held, keys, path)
            if found is None:
                found = _from_file(held, [key for key in held.auths if "://" in key and _host(key) == registry], path)
            if found is None and held.creds_store:
                found = await self._ask_helper(held.creds_store, keys[0])
            if found is not None:
                return found
        return None

    async def _ask_helper(self, name: str, key: str) -> Credentials | None:
        if (name, key) not in self._helped:
            self._helped[name, key] = await _ask_helper(name, key)
        return self._helped[name, key]


def _paths_of(registry: str, repository: str | None) -> list[str]:
    """Return the keys of a repository and of the paths that contain it, the longest first, without the registry's own."""
    parts = repository.split("/") if repository else []
    return ["/".join([registry, *parts[:length]]) for length in range(len(parts), 0, -1)]


def _host(key: str) -> str:
    """Return the registry of a key in a credentials file: `https://ghcr.io/v1/` is `ghcr.io`."""
    host = key.partition("://")[2].partition("/")[0] or key.partition("/")[0]
    return HUB if host in HUB_NAMES else host


def _read(path: Path) -> _File | None:
    raw = read_file(path)
    if raw is None:
        return None
    try:
        return decode(raw, _File)
    except ValueError as error:
        raise CredentialsInvalid(f"{shown(path)} is not a credentials file of Docker or Podman: {error}") from None


def _from_file(held: _File, keys: Sequence[str], path: Path) -> Credentials | None:
    """Return the login in the first of these entries that has one."""
    for key in keys:
        entry = held.auths.get(key)
        if entry is None:
            continue
        if entry.identitytoken:
            return Credentials("", entry.identitytoken, identity_token=True)
        if entry.auth:
            try:
                user, colon, secret = base64.b64decode(entry.auth, validate=True).decode().partition(":")
            except (binascii.Error, UnicodeDecodeError):
                raise CredentialsInvalid(
                    f"{shown(path)}: the login for {quote(key)} can't be decoded; log in again"
                ) from None
            if colon:
                return Credentials(user, secret.rstrip("\0"))
        if entry.username:
            return Credentials(entry.username, entry.password)
    return None


async def _ask_helper(name: str, key: str) -> Credentials | None:
    program = f"docker-credential-{name}"
    if not re.fullmatch(r"[A-Za-z0-9_.-]+", name):
        raise HelperFailed(f"the credential helper {name[:40]!r} is not a valid program name")
    try:
        process = await asyncio.create_subprocess_exec(
            program,
            "get",
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
        )
    except OSError as error:
        raise HelperFailed(f"{program} can't be run: {error.strerror}; is it installed?") from error
    try:
        async with asyncio.timeout(HELPER_TIMEOUT_S):
            out, _ = await process.communicate(key.encode())
    except TimeoutError as error:
        process.kill()
        await process.wait()
        raise HelperFailed(f"{program} did not answer in {HELPER_TIMEOUT_S:.0f} s") from error
    if process.returncode != 0:
        if _NOT_FOUND in out.decode(errors="replace"):
            return None
        raise HelperFailed(f"{program} failed (exit {process.returncode}) for {key}")
    try:
        helped = decode(out, _Helped)
    except ValueError:
        raise HelperFailed(f"{program} printed no credentials for {key}") from None
    return Credentials(helped.username, helped.secret, identity_token=helped.username == _TOKEN_USER)
