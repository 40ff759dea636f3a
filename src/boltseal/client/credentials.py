"""Logins for registries: the credential files of Docker and Podman, and the credential helpers that they name.

The files are read as Docker reads them (`auths`, `credHelpers`, `credsStore`, identity tokens) and as Podman does,
which may store a login for a path of a registry. The first file with an entry for a registry wins. A helper is run as
`docker-credential-NAME get` with the registry on its standard input. A failing helper is an error and not "no
credentials": an anonymous pull could spend another quota or hide a mistake.

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

from boltseal.errors import Invalid, Unavailable
from boltseal.oci.jsontext import decode
from boltseal.oci.reference import HUB

HELPER_TIMEOUT_S: Final = 30.0
_HUB_KEYS: Final = ("https://index.docker.io/v1/", "index.docker.io", "docker.io", "registry-1.docker.io")
_TOKEN_USER: Final = "<token>"  # noqa: S105 - the helper protocol's mark for an identity token
_NOT_FOUND: Final = "credentials not found in native keychain"


class CredentialsInvalid(Invalid):
    """A credentials file can't be read or parsed."""


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
    """Looks logins up in credential files. `paths`: the files, by precedence; missing files are skipped."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self._paths = tuple(paths)
        self._found: dict[str, Credentials | None] = {}
        self._below: dict[str, Mapping[str, Credentials]] = {}
        self._lookup_lock = asyncio.Lock()

    async def find(self, registry: str, repository: str | None = None) -> Credentials | None:
        """Return the login for a registry (`docker.io`, `ghcr.io`, `localhost:5000`), or None. Each registry is looked
        up once.

        Of several logins for paths of one registry, the one with the longest matching path wins.
        """
        below = self.below(registry)
        parts = repository.split("/") if repository and below else []
        for length in range(len(parts), 0, -1):
            held = below.get("/".join(parts[:length]))
            if held is not None:
                return held
        async with self._lookup_lock:  # a helper may prompt the user: run it once for all waiting requests
            if registry not in self._found:
                self._found[registry] = await self._look(registry)
        return self._found[registry]

    def below(self, registry: str) -> Mapping[str, Credentials]:
        """Return the logins for paths of a registry, by path: Podman stores them under keys like `localhost:5000/shop`."""
        if registry not in self._below:
            found: dict[str, Credentials] = {}
            for path in self._paths:
                held = _read(path)
                for key in held.auths if held is not None else ():
                    if held is None or not key.startswith(f"{registry}/"):
                        continue
                    login = _from_file(held, key, path)
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

    async def _look(self, registry: str) -> Credentials | None:
        keys = _HUB_KEYS if registry == HUB else (registry,)
        for path in self._paths:
            held = _read(path)
            if held is None:
                continue
            for key in keys:
                helper = held.cred_helpers.get(key)
                if helper:
                    return await _ask_helper(helper, key)
            for key in keys:
                found = _from_file(held, key, path)
                if found is not None:
                    return found
            if held.creds_store:
                for key in keys[:1]:
                    found = await _ask_helper(held.creds_store, key)
                    if found is not None:
                        return found
        return None


def _host(key: str) -> str:
    """Return the registry of a key in a credentials file: `https://ghcr.io/v1/` is `ghcr.io`."""
    return HUB if key in _HUB_KEYS else key.partition("://")[2].partition("/")[0] or key.partition("/")[0]


def _read(path: Path) -> _File | None:
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise CredentialsInvalid(f"{path} can't be read: {error.strerror}") from error
    try:
        return decode(raw, _File)
    except ValueError as error:
        raise CredentialsInvalid(f"{path} is not a credentials file of Docker or Podman: {error}") from None


def _from_file(held: _File, key: str, path: Path) -> Credentials | None:
    for name in (key, f"https://{key}", f"http://{key}", f"https://{key}/", f"https://{key}/v1/", f"https://{key}/v2/"):
        entry = held.auths.get(name)
        if entry is None:
            continue
        if entry.identitytoken:
            return Credentials("", entry.identitytoken, identity_token=True)
        if entry.auth:
            try:
                user, colon, secret = base64.b64decode(entry.auth, validate=True).decode().partition(":")
            except (binascii.Error, UnicodeDecodeError):
                raise CredentialsInvalid(f"{path}: the login for {key} can't be decoded; log in again") from None
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
