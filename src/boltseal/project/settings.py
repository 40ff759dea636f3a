"""What a project and its user say to the verbs that read a project: `.boltseal.toml` in it, and the user's own file.

The two are trusted differently, and so are two files:

- `.boltseal.toml` comes with the checked-out project. It holds `[lock]`, `[pin]`, `[verify]` and `[deploy]`, and has no
  key for a command, an address or a credential: it can't run anything, or name a host to talk to.
- The user's `boltseal.toml` (`[client] registries`) says which registries a project may make us talk to. Without it:
  Docker Hub and the other public registries, this machine, and those that the user has logged in to. It also says who is
  told of what is found (`[[notify]]`).

A key that is not known is an error that names the nearest one. Nothing is ignored.
"""

from __future__ import annotations

import difflib
import os
import re
import stat
import tomllib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Final

from boltseal.client.hosts import is_loopback
from boltseal.errors import Invalid, quote
from boltseal.oci.reference import HUB, Repository
from boltseal.policy.notifications import NotifyInvalid, NotifySettings, parse_notify
from boltseal.policy.rebuild_actions import OnOutdatedInvalid, RebuildAction, parse_on_outdated

PROJECT_FILE: Final = ".boltseal.toml"
MAX_FILE_BYTES: Final = 1024 * 1024
MAX_LISTED: Final = 500

PUBLIC_REGISTRIES: Final = (
    HUB,
    "cgr.dev",
    "codeberg.org",
    "gcr.io",
    "ghcr.io",
    "mcr.microsoft.com",
    "nvcr.io",
    "public.ecr.aws",
    "quay.io",
    "registry.access.redhat.com",
    "registry.gitlab.com",
    "registry.k8s.io",
)
"""Registries that anybody may ask, and that a project may name without the user having said so."""

_is_registry = re.compile(
    r"\*|(?:\*\.)?[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?(?::[0-9]+)?|\[[0-9A-Fa-f:]+\](?::[0-9]+)?"
).fullmatch


class ProjectInvalid(Invalid):
    """A `.boltseal.toml`, or the user's own file, that can't be read or says what can't be."""


@dataclass(frozen=True, slots=True)
class ClientSettings:
    """The user's `[client]`. `registries`: exact names, `*.example.com`, or `*`; None where nothing is said.

    `mirrors`: for a registry, where its images can be had by digest too: a host, and what their names begin with there.
    `receivers`: the `[[notify]]` tables beside it, who is told of what the user's verbs find. `on_outdated`: what
    `boltseal outdated --rebuild` runs, of no other file than the user's own.
    """

    registries: tuple[str, ...] | None = None
    mirrors: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    receivers: tuple[NotifySettings, ...] = ()
    on_outdated: tuple[RebuildAction, ...] = ()


@dataclass(frozen=True, slots=True)
class ProjectSettings:
    """A project's own words. `exclude`: globs of files that are not looked at; `strict`: `verify --strict` always.

    `platforms`: the machines that its images are used on, as `verify --platform` has them. `crds`: where resources of a kind
    name images, as `project.references.kubernetes` has it.
    """

    exclude: tuple[str, ...] = ()
    strict: bool = False
    platforms: tuple[str, ...] = ()
    crds: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def excludes(self, path: str) -> bool:
        """Whether a file or folder of the project (`deploy/compose.yaml`) is left out. `*` matches across `/` too."""
        globs = [glob.rstrip("/") for glob in self.exclude]
        return any(fnmatchcase(path, glob) or fnmatchcase(path, f"{glob}/*") for glob in globs)


_PROJECT: Final[Mapping[str, Mapping[str, type]]] = {
    "lock": {"exclude": list},
    "pin": {"crds": dict},
    "verify": {"strict": bool, "platforms": list},
    "deploy": {},
}
_CLIENT: Final[Mapping[str, Mapping[str, type]]] = {
    "client": {"registries": list, "mirrors": list},
    "notify": {},
    "on_outdated": {},
}
_LISTS: Final = frozenset({"notify", "on_outdated"})
"""The tables of which there may be several; what stands in them is looked at by whoever knows them."""
_WORDS: Final = {bool: "true or false", list: "a list of texts", dict: "a list of paths for each kind"}


def project_settings(root: Path) -> ProjectSettings:
    """What `.boltseal.toml` of a project says; nothing where there is none. ProjectInvalid."""
    said = _read(root / PROJECT_FILE, PROJECT_FILE, _PROJECT, os.O_NOFOLLOW)
    crds = said.get("pin", {}).get("crds", {})
    exclude, platforms = (
        said.get(table, {}).get(key, ()) for table, key in (("lock", "exclude"), ("verify", "platforms"))
    )
    listed = {"[lock] exclude": exclude, "[verify] platforms": platforms}
    for key, values in (listed | {f"[pin.crds] {quote(kind)}": paths for kind, paths in crds.items()}).items():
        if len(values) > MAX_LISTED:  # each is tried on every file, or on every resource
            raise ProjectInvalid(f"{PROJECT_FILE}: {key} has {len(values)} entries; at most {MAX_LISTED} are taken")
    return ProjectSettings(
        tuple(exclude),
        said.get("verify", {}).get("strict", False),
        tuple(platforms),
        {kind: tuple(paths) for kind, paths in crds.items()},
    )


def client_settings(path: Path) -> ClientSettings:
    """What the user's own file says; nothing where there is none. ProjectInvalid."""
    tables = _read(path, str(path), _CLIENT)
    said = tables.get("client", {})
    listed = said.get("registries")
    for name in listed or ():
        check_registry(name, f"{path}: [client] registries")
    mirrors = dict(_mirror(text, f"{path}: [client] mirrors") for text in said.get("mirrors", ()))
    try:
        receivers = parse_notify(tables.get("notify", ()))
        actions = parse_on_outdated(tables.get("on_outdated", ()))
    except (NotifyInvalid, OnOutdatedInvalid) as error:
        raise ProjectInvalid(f"{path}: {error.message}") from error
    return ClientSettings(None if listed is None else tuple(listed), mirrors, receivers, actions)


def _mirror(text: str, where: str) -> tuple[str, tuple[str, str]]:
    """What `docker.io=localhost:5000/hub` says. ProjectInvalid."""
    registry, equals, place = text.partition("=")
    host, _, prefix = place.partition("/")
    try:
        if not equals or "*" in text:
            raise ProjectInvalid("")
        check_registry(registry, where)
        check_registry(host, where)
        return registry, (host, Repository(prefix) if prefix else "")
    except Invalid as error:
        raise ProjectInvalid(
            f"{where}: {quote(text)} is no mirror; expected a registry and where its images are, such as "
            '"docker.io=localhost:5000/hub"'
        ) from error


def check_registry(name: str, where: str) -> None:
    """Refuse what is no name of a registry. ProjectInvalid."""
    if _is_registry(name) is None:
        raise ProjectInvalid(
            f"{where}: {quote(name)} is no registry; expected a host, perhaps with a port, *.example.com, or *"
        )


def allowed_registries(client: ClientSettings, logins: Iterable[str], more: Iterable[str]) -> Callable[[str], bool]:
    """Which registries a project may make us talk to. `logins`: where the user has logged in; `more`: named in the call."""
    always = tuple(more)
    named = client.registries
    known = frozenset((*PUBLIC_REGISTRIES, *logins))

    def allowed(registry: str) -> bool:
        if any(_matches(registry, pattern) for pattern in always):
            return True
        if named is not None:
            return any(_matches(registry, pattern) for pattern in named)
        return registry in known or is_loopback(registry)

    return allowed


def _matches(registry: str, pattern: str) -> bool:
    name, wanted = registry.lower(), pattern.lower()
    return name == wanted or wanted == "*" or (wanted.startswith("*.") and name.endswith(wanted[1:]))


def _read(path: Path, origin: str, known: Mapping[str, Mapping[str, type]], flags: int = 0) -> Mapping[str, Any]:
    """What a file says. A pipe is not waited for, and a project's file is not followed anywhere else."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | flags)
    except FileNotFoundError:
        return {}
    except OSError as error:
        reason = "it is a link, which is not followed" if flags and path.is_symlink() else error.strerror
        raise ProjectInvalid(f"{origin} can't be read: {reason}") from error
    mode = os.fstat(fd).st_mode
    if not stat.S_ISREG(mode):
        os.close(fd)
        raise ProjectInvalid(f"{origin} can't be read: {'Is a directory' if stat.S_ISDIR(mode) else 'it is no file'}")
    with os.fdopen(fd, "rb") as file:
        raw = file.read(MAX_FILE_BYTES + 1)
    if len(raw) > MAX_FILE_BYTES:
        raise ProjectInvalid(f"{origin}: it has more than {MAX_FILE_BYTES} bytes; expected a few lines of TOML")
    try:
        said = tomllib.loads(raw.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:  # UnicodeDecodeError and TOMLDecodeError are ValueErrors
        raise ProjectInvalid(f"{origin}: not TOML: {quote(str(error), 200)[1:-1]}") from error
    _check_tables(said, origin, known)
    return said


def _check_tables(said: Mapping[str, Any], origin: str, known: Mapping[str, Mapping[str, type]]) -> None:
    for name, table in said.items():
        keys = known.get(name)
        if keys is None:
            raise ProjectInvalid(f"{origin}: unknown table {quote(name)}{_nearest(name, known)}")
        if name in _LISTS:
            if not isinstance(table, list) or not all(isinstance(each, dict) for each in table):
                raise ProjectInvalid(f"{origin}: there may be several of {name}, so write [[{name}]]")
            continue
        if not isinstance(table, dict):
            raise ProjectInvalid(f"{origin}: {name} is no table; expected [{name}]")
        for key, value in table.items():
            _check(f"{origin}: ", name, key, value, keys)


def _check(origin: str, table: str, key: str, value: Any, keys: Mapping[str, type]) -> None:
    expected = keys.get(key)
    if expected is None:
        near = _nearest(key, keys) if keys else "; the table has none yet"
        raise ProjectInvalid(f"{origin}unknown key {quote(key)} in [{table}]{near}")
    lists = [value] if expected is list else value.values() if isinstance(value, dict) else []
    listed = all(isinstance(each, list) and all(isinstance(one, str) for one in each) for each in lists)
    if type(value) is not expected or not listed:
        raise ProjectInvalid(f"{origin}[{table}] {key} is {quote(str(value))}; expected {_WORDS[expected]}")


def _nearest(name: str, known: Iterable[str]) -> str:
    return f"; the nearest known one is {difflib.get_close_matches(name, sorted(known), n=1, cutoff=0.0)[0]}"
