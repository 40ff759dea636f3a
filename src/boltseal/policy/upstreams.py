"""The `[[upstream]]` tables: which registries are mirrored, and on which terms. Pure; requests are made by `server.mirror`.

`parse_upstreams` is the only way from a configuration to `UpstreamTerms`. An error names the
table's number (the first is 1), what was found and what was expected. The values hold no secret, only the name of the
file or variable from which a password is read.

Name resolution: `name_resolution`. Tags that look like a release and should not move: `release_tags`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Final, TypeVar
from urllib.parse import urlsplit

from boltseal.errors import Invalid, quote
from boltseal.oci.reference import HUB, Repository, Tag
from boltseal.policy.config_table import ConfigTable
from boltseal.policy.durations import DurationInvalid, parse_duration
from boltseal.policy.globs import Glob, GlobInvalid, parse_repository_glob, parse_tag_glob
from boltseal.policy.requirements import KeyReader, Requirement, RequirementInvalid, parse_requirements
from boltseal.policy.rules import BUILT_IN_SIGNATURES, no_key_files
from boltseal.policy.setting_keys import SettingKey
from boltseal.policy.sizes import EXPECTED as SIZE_EXPECTED
from boltseal.policy.sizes import SizeInvalid, parse_size
from boltseal.policy.tag_expectations import TagExpectations

MAX_UPSTREAMS: Final = 100
MAX_RULES: Final = 1000
MAX_RESERVE: Final = 1_000_000
FRESH_US: Final = 600_000_000
RESERVE: Final = 20
UPSTREAM_KEYS: Final = {
    "name": SettingKey(
        "", "The registry that is mirrored, such as `docker.io`: the first part of the names, and the value of `?ns=`."
    ),
    "url": SettingKey("", "Scheme and host of the upstream; default: `https://` and the name."),
    "username": SettingKey("", "User name at the upstream; default: anonymous."),
    "password_file": SettingKey("", "File that contains the password or token, and nothing else."),
    "password_env": SettingKey("", "Environment variable that contains the password, instead of `password_file`."),
    "ca_file": SettingKey("", "Certificate authority of the upstream, PEM; default: those of the system."),
    "root": SettingKey(
        "false",
        (
            "This upstream also answers names without a prefix that do not exist locally, as dockerd's "
            "`registry-mirrors` requests; at most one upstream."
        ),
    ),
    "push": SettingKey("false", "Accept pushes to the upstream's names, check them by the rules, and pass them on."),
    "fresh": SettingKey("10m", "How long the digest of a tag is used before the upstream is asked again."),
    "on_gone": SettingKey(
        "alert",
        (
            "What to do with a tag that the upstream deleted: `serve` it, `alert` (serve it and send a notification), "
            "or `stop` serving it."
        ),
    ),
    "reserve": SettingKey(
        "20", "When the upstream's limit leaves so few requests, contact it only for clients that wait."
    ),
    "keep_for": SettingKey("", "Delete images that were not pulled for so long, such as `90d`; default: keep them."),
    "keep_bytes": SettingKey(
        "", "Delete the least recently pulled images above this size, such as `200 GiB`; default: no limit."
    ),
    "allow_redirects_to": SettingKey(
        "[]",
        (
            "Hosts in internal networks to which the upstream may redirect, and token services outside its domain that"
            " may get the login. It may always redirect to public hosts, without the login."
        ),
    ),
    "rule": SettingKey("[]", "The rules of its tags, as `[[upstream.rule]]` tables."),
}
UPSTREAM_RULE_KEYS: Final = {
    "repository": SettingKey(
        "**", "Repositories of the rule, by their names at the upstream; the first match decides."
    ),
    "tag": SettingKey("*", "Tags of the rule."),
    "on_move": SettingKey(
        "",
        (
            "When a tag moves: `follow`, `alert` (follow and send a notification) or `hold` (serve the old image); "
            "default: `alert` for tags that never move by custom (`[[tags]]`), else `follow`."
        ),
    ),
    "cooldown": SettingKey("", "A hold ends by itself after so long, such as `7d`."),
    "first_seen": SettingKey("serve", "`hold`: a tag that was never seen here is not served until it is accepted."),
    "require": SettingKey(
        "[]",
        (
            "Evidence that an image needs before a tag of the rule is served, such as "
            '`[{ key = "vendor.pub" }]`; without it the tag is held. See docs/guides/mirrored-tags.md.'
        ),
    ),
}

# The name is the first part of repository names, so it has no port and no slash.
_is_name = re.compile(r"[a-z0-9]+(?:[.-][a-z0-9]+)*", re.ASCII).fullmatch
_is_variable = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,99}", re.ASCII).fullmatch
_is_host = re.compile(r"[a-z0-9](?:[a-z0-9.-]*[a-z0-9])?|[0-9a-f:.]+", re.ASCII).fullmatch


class UpstreamInvalid(Invalid):
    """An `[[upstream]]` table that is invalid or contradicts another. The server does not start."""


class OnGone(StrEnum):
    """What to do when an upstream reports that a tag no longer exists."""

    SERVE = "serve"
    """Serve the digest that was seen last, as if the upstream were down."""
    ALERT = "alert"
    """Serve the digest that was seen last, and report it."""
    STOP = "stop"
    """Serve nothing: the image may have been withdrawn because it does harm."""


class OnMove(StrEnum):
    """What to do when an upstream's tag moved."""

    FOLLOW = "follow"
    """Serve the new digest; record the move."""
    ALERT = "alert"
    """Serve the new digest, and report the move."""
    HOLD = "hold"
    """Serve the old digest until an administrator accepts the new one, or the cooldown is over."""


class FirstSeen(StrEnum):
    """What to do with a tag that was never seen before."""

    SERVE = "serve"
    HOLD = "hold"


Word = TypeVar("Word", bound=StrEnum)


@dataclass(frozen=True, slots=True)
class MoveTerms:
    """The terms for one upstream tag. `cooldown_us`: a held digest is served this long after it was first seen.

    None: only after an administrator accepted it. `require`: the evidence that a digest needs before it is served. `lacks`:
    what of that the upstream's present digest does not have, "" if it was not asked for or lacks nothing.
    """

    on_move: OnMove
    first_seen: FirstSeen = FirstSeen.SERVE
    cooldown_us: int | None = None
    require: tuple[Requirement, ...] = ()
    lacks: str = ""

    @property
    def effective(self) -> MoveTerms:
        """The terms for the present digest: one that lacks evidence is held, and no cooldown ends that."""
        if not self.lacks:
            return self
        return replace(self, on_move=OnMove.HOLD, first_seen=FirstSeen.HOLD, cooldown_us=None)


@dataclass(frozen=True, slots=True)
class UpstreamRule:
    """One `[[upstream.rule]]`. The globs match the upstream's names. `on_move` None: depends on the form of the tag.

    `require`: the evidence that an image needs; tags of signature tools are not of such a rule.
    """

    repository: Glob
    tag: Glob
    on_move: OnMove | None = None
    first_seen: FirstSeen = FirstSeen.SERVE
    cooldown_us: int | None = None
    require: tuple[Requirement, ...] = ()

    def matches(self, repository: Repository, tag: Tag) -> bool:
        """Return whether both globs match. A rule that requires signatures does not match the tags that have them."""
        if not (self.repository.matches(repository) and self.tag.matches(tag)):
            return False
        return not (self.require and BUILT_IN_SIGNATURES.tag.matches(tag))


@dataclass(frozen=True, slots=True, kw_only=True)
class UpstreamTerms:
    """One `[[upstream]]` table. The README's table of settings describes the keys.

    `authority`: host and optional port (`docker.io` for Docker Hub; `client` knows its address). `plain_http`: without TLS.
    `fresh_us`: how long an answer of the upstream is valid. `reserve`: when the upstream's rate limit leaves only this many
    requests, boltseal sends only those that clients wait for. `keep_for_us`, `keep_bytes`: None for no limit. `tags`: the
    `[[tags]]` tables, which apply where no rule decides.
    """

    name: str
    authority: str
    plain_http: bool = False
    username: str | None = None
    password_file: str | None = None
    password_env: str | None = None
    ca_file: str | None = None
    root: bool = False
    push: bool = False
    fresh_us: int = FRESH_US
    on_gone: OnGone = OnGone.ALERT
    reserve: int = RESERVE
    keep_for_us: int | None = None
    keep_bytes: int | None = None
    allow_redirects_to: frozenset[str] = frozenset()
    rules: tuple[UpstreamRule, ...] = ()
    tags: TagExpectations = field(default_factory=TagExpectations)

    def alarm(self, repository: Repository, tag: Tag, *, gone: bool) -> bool:
        """Return whether a move of an upstream tag is an alarm; `gone`: whether it was deleted."""
        return self.tags.alarm(self.authority, repository, tag, gone=gone)

    def decide(self, repository: Repository, tag: Tag) -> MoveTerms:
        """Return the terms for an upstream tag, by the first rule that matches. `repository`: the upstream's name."""
        default = OnMove.ALERT if self.alarm(repository, tag, gone=False) else OnMove.FOLLOW
        for rule in self.rules:
            if rule.matches(repository, tag):
                return MoveTerms(rule.on_move or default, rule.first_seen, rule.cooldown_us, rule.require)
        return MoveTerms(default)


def parse_upstreams(
    tables: Sequence[Mapping[str, object]], read_key: KeyReader = no_key_files
) -> tuple[UpstreamTerms, ...]:
    """Read the `[[upstream]]` tables of a configuration. `read_key`: reads the key files of `require`.

    Raises: UpstreamInvalid for the first fault.
    """
    if len(tables) > MAX_UPSTREAMS:
        raise UpstreamInvalid(f"{len(tables)} upstreams; at most {MAX_UPSTREAMS} are allowed")
    found: list[UpstreamTerms] = []
    for number, table in enumerate(tables, start=1):
        terms = _parse(_Table(f"upstream {number}", table, UPSTREAM_KEYS), read_key)
        for other in found:
            _refuse_both(f"upstream {number}", terms, other)
        found.append(terms)
    return tuple(found)


def _refuse_both(where: str, terms: UpstreamTerms, other: UpstreamTerms) -> None:
    if terms.name == other.name:
        raise UpstreamInvalid(f"{where}: name {quote(terms.name)} appears twice; expected a name of its own for each")
    if terms.authority == other.authority:
        raise UpstreamInvalid(f"{where}: {terms.name} and {other.name} have one url, so `?ns=` could mean either")
    if terms.root and other.root:
        raise UpstreamInvalid(
            f"{where}: {terms.name} and {other.name} both have root = true; only one can answer there"
        )


class _Table(ConfigTable):
    """One table of the configuration, with typed access to its values."""

    def __init__(self, where: str, table: Mapping[str, object], keys: Collection[str]) -> None:
        super().__init__(where, table, keys, UpstreamInvalid)

    def text(self, key: str) -> str | None:
        value = self.values.get(key)
        if value is not None and (not isinstance(value, str) or not value or not value.isprintable()):
            raise self.wrong(key, "a text in quotes")
        return value

    def number(self, key: str, default: int, most: int) -> int:
        value = self.values.get(key, default)
        if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= most:
            raise self.wrong(key, f"a whole number from 0 to {most}")
        return value

    def duration(self, key: str) -> int | None:
        text = self.text(key)
        try:
            return None if text is None else parse_duration(text)
        except DurationInvalid as error:
            raise UpstreamInvalid(f"{self.where}: {key} is {error.message}") from error

    def size(self, key: str) -> int | None:
        value = self.values.get(key)
        try:
            size_bytes = None if value is None else parse_size(value)
        except SizeInvalid as error:
            raise UpstreamInvalid(f"{self.where}: {key} is {error.message}") from error
        if size_bytes == 0:
            raise self.wrong(key, f"{SIZE_EXPECTED}, above zero")
        return size_bytes

    def word(self, key: str, kind: type[Word]) -> Word | None:
        text = self.text(key)
        try:
            return None if text is None else kind(text)
        except ValueError:
            raise self.wrong(key, f"one of {', '.join(kind)}") from None

    def glob(self, key: str, parse: Callable[[str], Glob], default: str) -> Glob:
        try:
            return parse(self.text(key) or default)
        except GlobInvalid as error:
            raise UpstreamInvalid(f"{self.where}: {key}: {error.message}") from error

    def hosts(self, key: str) -> frozenset[str]:
        value = self.values.get(key, ())
        if not isinstance(value, list | tuple) or not all(isinstance(host, str) and _is_host(host) for host in value):
            raise self.wrong(key, 'a list of host names without ports, in lower case, such as ["cdn.example.com"]')
        return frozenset(value)

    def tables(self, key: str) -> Sequence[Mapping[str, object]]:
        value = self.values.get(key, ())
        if not isinstance(value, list | tuple) or not all(isinstance(table, Mapping) for table in value):
            raise self.wrong(key, f"tables, each written as [[upstream.{key}]]")
        return value


def _parse(table: _Table, read_key: KeyReader) -> UpstreamTerms:
    name = table.text("name")
    if name is None:
        raise UpstreamInvalid(f'{table.where}: name is missing; expected one such as "{HUB}"')
    if not _is_name(name):
        raise table.wrong("name", f'the first part of names here, in lower case and without a port, such as "{HUB}"')
    authority, plain_http = _address(table, name)
    fresh_us = table.duration("fresh")
    login = {key: table.text(key) for key in ("username", "password_file", "password_env")}
    _check_login(table, login)
    return UpstreamTerms(
        name=name,
        authority=authority,
        plain_http=plain_http,
        username=login["username"],
        password_file=login["password_file"],
        password_env=login["password_env"],
        ca_file=table.text("ca_file"),
        root=table.flag("root"),
        push=table.flag("push"),
        fresh_us=FRESH_US if fresh_us is None else fresh_us,
        on_gone=table.word("on_gone", OnGone) or OnGone.ALERT,
        reserve=table.number("reserve", RESERVE, MAX_RESERVE),
        keep_for_us=table.duration("keep_for"),
        keep_bytes=table.size("keep_bytes"),
        allow_redirects_to=table.hosts("allow_redirects_to"),
        rules=_rules(table, read_key),
    )


def _address(table: _Table, name: str) -> tuple[str, bool]:
    """Return the host with an optional port, and whether requests go without TLS."""
    url = table.text("url")
    if url is None:
        return name, False
    expected = "a scheme and a host without a path, such as https://registry.example.com"
    try:
        parts = urlsplit(url)
        valid = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        raise table.wrong("url", expected) from None
    if "@" in parts.netloc:  # not shown: there may be a password in it
        raise UpstreamInvalid(f"{table.where}: url has a login in it; expected username and password_file beside it")
    if not valid or parts.path.strip("/") or parts.query or parts.fragment or not url.isascii() or " " in url:
        raise table.wrong("url", expected)
    return parts.netloc.lower(), parts.scheme == "http"


def _check_login(table: _Table, login: Mapping[str, str | None]) -> None:
    secrets = [key for key in ("password_file", "password_env") if login[key] is not None]
    if len(secrets) > 1:
        raise UpstreamInvalid(f"{table.where}: password_file and password_env are both there; expected one of them")
    if (login["username"] is None) != (not secrets):
        raise UpstreamInvalid(
            f"{table.where}: a login is a username and a password_file or password_env; one is missing"
        )
    variable = login["password_env"]
    if variable is not None and not _is_variable(variable):
        raise table.wrong("password_env", "the name of a variable of the environment")


def _rules(table: _Table, read_key: KeyReader) -> tuple[UpstreamRule, ...]:
    tables = table.tables("rule")
    if len(tables) > MAX_RULES:
        raise UpstreamInvalid(f"{table.where}: {len(tables)} rules; at most {MAX_RULES} are allowed")
    return tuple(
        _rule(_Table(f"{table.where}, rule {number}", each, UPSTREAM_RULE_KEYS), read_key)
        for number, each in enumerate(tables, start=1)
    )


def _rule(table: _Table, read_key: KeyReader) -> UpstreamRule:
    on_move = table.word("on_move", OnMove)
    cooldown_us = table.duration("cooldown")
    first_seen = table.word("first_seen", FirstSeen) or FirstSeen.SERVE
    if cooldown_us is not None and on_move is not OnMove.HOLD and first_seen is not FirstSeen.HOLD:
        raise UpstreamInvalid(
            f'{table.where}: a cooldown ends a hold, and nothing is held; expected on_move = "hold" or first_seen = "hold"'
        )
    return UpstreamRule(
        repository=table.glob("repository", parse_repository_glob, "**"),
        tag=table.glob("tag", parse_tag_glob, "*"),
        on_move=on_move,
        first_seen=first_seen,
        cooldown_us=cooldown_us,
        require=_require(table, read_key),
    )


def _require(table: _Table, read_key: KeyReader) -> tuple[Requirement, ...]:
    if "require" not in table.values:
        return ()
    try:
        return parse_requirements(table.values["require"], read_key)
    except RequirementInvalid as error:
        raise UpstreamInvalid(f"{table.where}: {error.message}") from error
