"""Settings of a project (`.boltseal.toml`) and of its user, for the commands that read projects.

The two files have different trust levels:

- `.boltseal.toml` comes with the checked-out project. It has `[lock]`, `[pin]`, `[verify]`, `[deploy]` and `[update]`, and no key
  for a command, an address or a credential: it can't run anything or name a host to contact.
- The user's `boltseal.toml` (`[client] registries`) lists the registries that a project may make boltseal contact. The
  default: Docker Hub and other public registries, this machine, and those with a login or a `[[client.registry]]`.
  `[[client.registry]]` says how one registry is reached. The file also configures notifications (`[[notify]]`).

An unknown key is an error that names the nearest known one.
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
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from boltseal.client.hosts import is_loopback
from boltseal.client.registry_settings import RegistrySettings, parse_registries
from boltseal.errors import Invalid, quote
from boltseal.loading import deferred
from boltseal.oci.reference import HUB, Reference, Repository
from boltseal.policy.host_report import check_host_name
from boltseal.policy.ignored_images import is_ignored
from boltseal.project.ignored import IgnoreRule, parse_ignore

if TYPE_CHECKING:
    from boltseal.policy import notifications, rebuild_actions, tag_expectations
    from boltseal.policy.notifications import NotifySettings
    from boltseal.policy.rebuild_actions import RebuildAction
    from boltseal.policy.tag_expectations import TagRule
else:  # loading them takes a twentieth of the processor time of `boltseal digest`
    notifications = deferred("boltseal.policy.notifications")
    rebuild_actions = deferred("boltseal.policy.rebuild_actions")
    tag_expectations = deferred("boltseal.policy.tag_expectations")

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
"""Public registries, which a project may name without the user's permission."""

_is_registry = re.compile(
    r"\*|(?:\*\.)?[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?(?::[0-9]+)?|\[[0-9A-Fa-f:]+\](?::[0-9]+)?"
).fullmatch


class ProjectInvalid(Invalid):
    """A `.boltseal.toml`, or the user's own file, that can't be read or has an invalid value."""


class Mirror(NamedTuple):
    """Where a registry's images are also available by digest: a host, and the prefix of their names there, or ""."""

    host: str
    prefix: str


@dataclass(frozen=True, slots=True)
class ClientSettings:
    """The user's `[client]`. `registries`: exact names, `*.example.com`, or `*`; None: not configured.

    `reached`: the `[[client.registry]]` tables. `mirrors`: by registry. `receivers`: the `[[notify]]` tables.
    `on_outdated`: what `boltseal outdated --rebuild` runs; only the user's own file can set it. `tags`: the `[[tags]]`.
    `outdated_ignore`: `[outdated] ignore`, as of `policy.ignored_images`. `report`: the registry to which `deploy` and `rollback`
    report; `report_as`: the name of this host in reports.
    """

    registries: tuple[str, ...] | None = None
    mirrors: Mapping[str, Mirror] = field(default_factory=dict)
    receivers: tuple[NotifySettings, ...] = ()
    on_outdated: tuple[RebuildAction, ...] = ()
    reached: tuple[RegistrySettings, ...] = ()
    tags: tuple[TagRule, ...] = ()
    outdated_ignore: tuple[str, ...] = ()
    report: str | None = None
    report_as: str | None = None

    def ignores_outdated(self, image: Reference) -> bool:
        """Return whether `boltseal outdated` does not judge an image."""
        return is_ignored(self.outdated_ignore, image)


@dataclass(frozen=True, slots=True)
class ProjectSettings:
    """A project's own settings. `exclude`: globs of files to skip. `ignore`: references to leave out, with reasons.

    `strict`: the default of `verify --strict`. `tags`: which tags move by custom (`[[verify.tags]]`).

    `platforms`: as for `verify --platform`. `crds`: paths to images in resources, by kind (see
    `project.references.kubernetes`). `keep`: how the images of the last releases are kept: `archive`, or only by `tags`.
    `update`: the table `[update]`, which `policy.update_policy` parses.
    """

    exclude: tuple[str, ...] = ()
    ignore: tuple[IgnoreRule, ...] = ()
    tags: tuple[TagRule, ...] = ()
    strict: bool = False
    platforms: tuple[str, ...] = ()
    crds: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    keep: str = "archive"
    update: Mapping[str, object] = field(default_factory=dict)

    def excludes(self, path: str) -> bool:
        """Return whether a file or folder of the project (`deploy/compose.yaml`) is skipped. `*` also matches `/`."""
        globs = [glob.rstrip("/") for glob in self.exclude]
        return any(fnmatchcase(path, glob) or fnmatchcase(path, f"{glob}/*") for glob in globs)


class _Tables:
    """The type, in the tables below, of an array of tables; the module that uses it checks its content."""


_PROJECT: Final[Mapping[str, Mapping[str, type]]] = {
    "lock": {"exclude": list, "ignore": _Tables},
    "pin": {"crds": dict},
    "verify": {"strict": bool, "platforms": list, "tags": _Tables},
    "deploy": {"keep": str},
    "update": {"policy": str, "cooldown": str, "revision": str, "services": _Tables},
}
_CLIENT: Final[Mapping[str, Mapping[str, type]]] = {
    "client": {"registries": list, "mirrors": list, "registry": _Tables, "report": str, "report_as": str},
    "notify": {},
    "on_outdated": {},
    "outdated": {"ignore": list},
    "tags": {},
}
_LISTS: Final = frozenset({"notify", "on_outdated", "tags"})
"""Arrays of tables; their content is checked by the modules that use them."""
_KEEP: Final = ("archive", "tags")
_WORDS: Final = {bool: "true or false", str: "a text", list: "a list of texts", dict: "a list of paths for each kind"}


def project_settings(root: Path) -> ProjectSettings:
    """Read a project's `.boltseal.toml`; defaults if there is none. Raises: ProjectInvalid."""
    tables = _read(root / PROJECT_FILE, PROJECT_FILE, _PROJECT, os.O_NOFOLLOW)
    crds = tables.get("pin", {}).get("crds", {})
    exclude, platforms = (
        tables.get(table, {}).get(key, ()) for table, key in (("lock", "exclude"), ("verify", "platforms"))
    )
    listed = {"[lock] exclude": exclude, "[verify] platforms": platforms}
    for key, values in (listed | {f"[pin.crds] {quote(kind)}": paths for kind, paths in crds.items()}).items():
        if len(values) > MAX_LISTED:  # each is compared with every file or resource
            raise ProjectInvalid(f"{PROJECT_FILE}: {key} has {len(values)} entries; expected at most {MAX_LISTED}")
    keep = tables.get("deploy", {}).get("keep", "archive")
    if keep not in _KEEP:
        raise ProjectInvalid(f"{PROJECT_FILE}: [deploy] keep is {quote(keep)}; expected {' or '.join(_KEEP)}")
    ignore = tables.get("lock", {}).get("ignore", [])
    tags = tables.get("verify", {}).get("tags", [])
    for name, listed_tables in (("lock.ignore", ignore), ("verify.tags", tags)):
        if not isinstance(listed_tables, list):
            raise ProjectInvalid(f"{PROJECT_FILE}: {name} is no list of tables; write [[{name}]], in two brackets")
    if len(ignore) > MAX_LISTED:
        raise ProjectInvalid(
            f"{PROJECT_FILE}: it has {len(ignore)} tables [[lock.ignore]]; expected at most {MAX_LISTED}"
        )
    try:
        rules, expected = parse_ignore(ignore), tag_expectations.parse_tags(tags) if tags else ()
    except Invalid as error:
        raise ProjectInvalid(f"{PROJECT_FILE}: {error.message}") from error
    return ProjectSettings(
        exclude=tuple(exclude),
        ignore=rules,
        tags=expected,
        strict=tables.get("verify", {}).get("strict", False),
        platforms=tuple(platforms),
        crds={kind: tuple(paths) for kind, paths in crds.items()},
        keep=keep,
        update=tables.get("update", {}),
    )


def client_settings(path: Path) -> ClientSettings:
    """Read the user's own file; defaults if there is none. Raises: ProjectInvalid."""
    tables = _read(path, str(path), _CLIENT)
    if not tables:
        return ClientSettings()
    client = tables.get("client", {})
    listed = client.get("registries")
    for name in listed or ():
        check_registry(name, f"{path}: [client] registries")
    mirrors = dict(_mirror(text, f"{path}: [client] mirrors") for text in client.get("mirrors", ()))
    report, report_as = client.get("report"), client.get("report_as")
    if report is not None:
        check_registry(report.removeprefix("https://").rstrip("/"), f"{path}: [client] report")
    try:
        receivers = notifications.parse_notify(tables.get("notify", ()))
        actions = rebuild_actions.parse_on_outdated(tables.get("on_outdated", ()))
        reached = parse_registries(client.get("registry", []), path.parent)
        tags = tag_expectations.parse_tags(tables.get("tags", ()))
        if report_as is not None:
            check_host_name(report_as)
    except Invalid as error:
        raise ProjectInvalid(f"{path}: {error.message}") from error
    return ClientSettings(
        registries=None if listed is None else tuple(listed),
        mirrors=mirrors,
        receivers=receivers,
        on_outdated=actions,
        reached=reached,
        tags=tags,
        outdated_ignore=tuple(tables.get("outdated", {}).get("ignore", ())),
        report=report,
        report_as=report_as,
    )


def _mirror(text: str, where: str) -> tuple[str, Mirror]:
    """Parse `docker.io=localhost:5000/hub`. Raises: ProjectInvalid."""
    registry, equals, target = text.partition("=")
    host, _, prefix = target.partition("/")
    try:
        if not equals or "*" in text:
            raise ProjectInvalid("")
        check_registry(registry, where)
        check_registry(host, where)
        return registry, Mirror(host, Repository(prefix) if prefix else "")
    except Invalid as error:
        raise ProjectInvalid(
            f"{where}: {quote(text)} is not a mirror; expected a registry and where its images are, such as "
            '"docker.io=localhost:5000/hub"'
        ) from error


def check_registry(name: str, where: str) -> None:
    """Check that a text is a registry's name or a pattern. Raises: ProjectInvalid: it is not."""
    if _is_registry(name) is None:
        raise ProjectInvalid(
            f"{where}: {quote(name)} is not a registry; expected a host, perhaps with a port, *.example.com, or *"
        )


def allowed_registries(client: ClientSettings, logins: Iterable[str], more: Iterable[str]) -> Callable[[str], bool]:
    """Return which registries a project may contact. `logins`: those with a login. `more`: those named on the command line."""
    always = tuple(more)
    named = client.registries
    known = frozenset((*PUBLIC_REGISTRIES, *logins, *(one.host for one in client.reached)))

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
    """Read a TOML file. Does not wait for a pipe, and follows no link if `flags` has O_NOFOLLOW."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | flags)
    except FileNotFoundError:
        return {}
    except OSError as error:
        reason = "it is a symbolic link, which is not followed" if flags and path.is_symlink() else error.strerror
        raise ProjectInvalid(f"{origin} can't be read: {reason}") from error
    mode = os.fstat(fd).st_mode
    if not stat.S_ISREG(mode):
        os.close(fd)
        raise ProjectInvalid(
            f"{origin} can't be read: {'Is a directory' if stat.S_ISDIR(mode) else 'not a regular file'}"
        )
    with os.fdopen(fd, "rb") as file:
        raw = file.read(MAX_FILE_BYTES + 1)
    if len(raw) > MAX_FILE_BYTES:
        raise ProjectInvalid(f"{origin}: it has more than {MAX_FILE_BYTES} bytes; expected a few lines of TOML")
    try:
        tables = tomllib.loads(raw.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:  # UnicodeDecodeError and TOMLDecodeError are ValueErrors
        raise ProjectInvalid(f"{origin}: not TOML: {quote(str(error), 200)[1:-1]}") from error
    _check_tables(tables, origin, known)
    return tables


def _check_tables(tables: Mapping[str, Any], origin: str, known: Mapping[str, Mapping[str, type]]) -> None:
    for name, table in tables.items():
        keys = known.get(name)
        if keys is None:
            raise ProjectInvalid(f"{origin}: unknown table {quote(name)}{_nearest(name, known)}")
        if name in _LISTS:
            if not isinstance(table, list) or not all(isinstance(each, dict) for each in table):
                raise ProjectInvalid(f"{origin}: {name} is an array of tables; write [[{name}]]")
            continue
        if not isinstance(table, dict):
            raise ProjectInvalid(f"{origin}: {name} is not a table; expected [{name}]")
        for key, value in table.items():
            _check(f"{origin}: ", name, key, value, keys)


def _check(origin: str, table: str, key: str, value: Any, keys: Mapping[str, type]) -> None:
    expected = keys.get(key)
    if expected is None:
        hint = _nearest(key, keys) if keys else "; the table has no keys yet"
        raise ProjectInvalid(f"{origin}unknown key {quote(key)} in [{table}]{hint}")
    if expected is _Tables:
        return
    lists = [value] if expected is list else value.values() if isinstance(value, dict) else []
    listed = all(isinstance(each, list) and all(isinstance(item, str) for item in each) for each in lists)
    if type(value) is not expected or not listed:
        raise ProjectInvalid(f"{origin}[{table}] {key} is {quote(str(value))}; expected {_WORDS[expected]}")


def _nearest(name: str, known: Iterable[str]) -> str:
    return f"; the nearest known one is {difflib.get_close_matches(name, sorted(known), n=1, cutoff=0.0)[0]}"
