"""The `[[on_outdated]]` tables of a server or of the user's own file: actions for images with an outdated base. Pure.

    repository = "shop/**"                       repositories of the images; default "**"
    tag = "latest"                               tags of the images; default "*"; ignored for an image without a tag
    command = ["/usr/local/bin/rebuild", "{image}", "{base}", "{base_digest}"]
    url = "https://ci.example.com/hooks/rebuild" or a webhook, which receives the event `base.outdated` as a CloudEvent
    token_env = "CI_TOKEN"                       url: the environment variable with its bearer token
    attempts = 3                                 number of attempts, 1 to 10
    timeout = "1h"                               time limit of one attempt
    every = "6h"                                 server: interval of the checks; at least "5m"
    revision = "."                               how a rebuild of a sealed tag is named: `1.4.2.1`; also "-r", "-", "_"

The first table that matches an image applies. A command is a list of words, run without a shell; `{image}`, `{digest}`,
`{base}`, `{base_digest}`, `{new_image}` and `{new_tag}` in its words are replaced. It is never read from a project's files,
since these are untrusted. `new_image` is what to push: the image itself, or the next revision of a sealed tag.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

from boltseal.errors import Invalid, quote
from boltseal.policy.durations import DurationInvalid, parse_duration
from boltseal.policy.globs import Glob, GlobInvalid, parse_repository_glob, parse_tag_glob
from boltseal.policy.setting_keys import SettingKey
from boltseal.policy.tag_revisions import DOT, RevisionInvalid, parse_separator

KEYS: Final = {
    "repository": SettingKey(
        "**",
        ("Repositories of the images whose outdated base triggers the action; the first table that matches applies."),
    ),
    "tag": SettingKey("*", "Tags of the images."),
    "command": SettingKey(
        "",
        "Command as a list of words, run without a shell; `{image}`, `{digest}`, `{base}`, `{base_digest}`, `{new_image}`, "
        "`{new_tag}` are replaced.",
    ),
    "url": SettingKey("", "Webhook that receives the event `base.outdated`, instead of a command."),
    "token_env": SettingKey("", "Environment variable with the webhook's bearer token."),
    "attempts": SettingKey("3", "Number of attempts."),
    "timeout": SettingKey("1h", "Time limit of one attempt."),
    "every": SettingKey("6h", "How often the server checks; the shortest of all tables applies."),
    "revision": SettingKey(DOT, "What is between a sealed tag and the number of its rebuild: `.`, `-r`, `-` or `_`."),
}
PLACES: Final = ("image", "digest", "base", "base_digest", "new_image", "new_tag")
MAX_ACTIONS: Final = 1000
MAX_WORDS: Final = 100
MAX_ATTEMPTS: Final = 10
LEAST_EVERY_US: Final = 5 * 60_000_000
MOST_TIMEOUT_US: Final = 24 * 3_600_000_000
_place = re.compile(r"\{([^{}]*)\}")
_is_variable = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,200}").fullmatch
_LOOPBACK: Final = frozenset({"localhost", "127.0.0.1", "::1"})


class OnOutdatedInvalid(Invalid):
    """An invalid `[[on_outdated]]` table. The server does not start, and no command runs."""


@dataclass(frozen=True, slots=True)
class RebuildAction:
    """One `[[on_outdated]]` table. Exactly one of `command` and `url` is set. Times in microseconds."""

    repository: Glob
    tag: Glob
    command: tuple[str, ...] = ()
    url: str = ""
    token_env: str | None = None
    attempts: int = 3
    timeout_us: int = 3_600_000_000
    every_us: int = 6 * 3_600_000_000
    revision: str = DOT

    def words(self, values: Mapping[str, str]) -> list[str]:
        """Return the command's words with all `PLACES` replaced by their values."""
        return [_place.sub(lambda found: values[found[1]], word) for word in self.command]


def action_for(actions: Sequence[RebuildAction], repository: str, tag: str | None) -> RebuildAction | None:
    """Return the action for an image, None without one."""
    return next(
        (each for each in actions if each.repository.matches(repository) and (tag is None or each.tag.matches(tag))),
        None,
    )


def separator_for(actions: Sequence[RebuildAction], repository: str, tag: str | None) -> str:
    """Return what is between a tag and the number of its revision, for an image."""
    action = action_for(actions, repository, tag)
    return DOT if action is None else action.revision


def parse_on_outdated(tables: Sequence[Mapping[str, object]]) -> tuple[RebuildAction, ...]:
    """Read the `[[on_outdated]]` tables. Raises: OnOutdatedInvalid for the first fault."""
    if len(tables) > MAX_ACTIONS:
        raise OnOutdatedInvalid(f"{len(tables)} [[on_outdated]]; at most {MAX_ACTIONS} are allowed")
    return tuple(_parse(f"on_outdated {number}", table) for number, table in enumerate(tables, start=1))


def token_of(variable: str, text: str) -> str:
    """Return the bearer token of a variable's value, valid in a header. Raises: OnOutdatedInvalid, without the value."""
    token = text.strip()
    if not token or not all("!" <= character <= "~" for character in token):
        raise OnOutdatedInvalid(
            f"environment: {quote(variable)} holds no bearer token; expected one word of printable ASCII characters"
        )
    return token


def _parse(where: str, table: Mapping[str, object]) -> RebuildAction:
    unknown = sorted(set(table) - set(KEYS))
    if unknown:
        raise OnOutdatedInvalid(f"{where}: unknown key {quote(unknown[0])}; expected {', '.join(KEYS)}")
    if ("command" in table) == ("url" in table):
        raise OnOutdatedInvalid(f"{where}: expected either command or url")
    if "token_env" in table and "url" not in table:
        raise OnOutdatedInvalid(f"{where}: token_env is for a url")
    try:
        repository = parse_repository_glob(_text(where, "repository", table.get("repository", "**")))
        tag = parse_tag_glob(_text(where, "tag", table.get("tag", "*")))
    except GlobInvalid as error:
        raise OnOutdatedInvalid(f"{where}: {error.message}") from error
    return RebuildAction(
        repository,
        tag,
        _command(where, table["command"]) if "command" in table else (),
        _url(where, _text(where, "url", table["url"])) if "url" in table else "",
        _variable(where, _text(where, "token_env", table["token_env"])) if "token_env" in table else None,
        _attempts(where, table.get("attempts", 3)),
        _span(where, "timeout", table.get("timeout", "1h"), 1_000_000, MOST_TIMEOUT_US),
        _span(where, "every", table.get("every", "6h"), LEAST_EVERY_US, 365 * 86_400_000_000),
        _separator(where, _text(where, "revision", table.get("revision", DOT))),
    )


def _separator(where: str, text: str) -> str:
    try:
        return parse_separator(text)
    except RevisionInvalid as error:
        raise OnOutdatedInvalid(f"{where}: {error.message}") from error


def _text(where: str, key: str, value: object) -> str:
    if not isinstance(value, str):
        raise OnOutdatedInvalid(f"{where}: {key} is {quote(str(value))}; expected a text in quotes")
    return value


def _command(where: str, value: object) -> tuple[str, ...]:
    words = value if isinstance(value, Sequence) and not isinstance(value, str) else ()
    if not 0 < len(words) <= MAX_WORDS or not all(isinstance(word, str) and "\0" not in word for word in words):
        raise OnOutdatedInvalid(
            f'{where}: command is {quote(str(value))}; expected a list of words, such as ["/usr/local/bin/rebuild", '
            '"{image}"]; it is given to no shell'
        )
    for word in words:
        for name in _place.findall(word):
            if name not in PLACES:
                places = ", ".join(f"{{{place}}}" for place in PLACES)
                raise OnOutdatedInvalid(f"{where}: command has {quote('{' + name + '}')}; expected one of {places}")
    if not words[0] or _place.search(words[0]):
        raise OnOutdatedInvalid(f"{where}: the command begins with {quote(words[0])}; expected a program")
    return tuple(words)


def _url(where: str, text: str) -> str:
    expected = "expected https://HOST/PATH, or http:// on this machine, without a user in it"
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:
        raise OnOutdatedInvalid(f"{where}: url is not an address; {expected}") from None
    plain = parts.scheme == "http" and parts.hostname in _LOOPBACK
    whole = text.isascii() and text.isprintable() and " " not in text and port != 0
    if not whole or not parts.hostname or parts.username or not (parts.scheme == "https" or plain):
        raise OnOutdatedInvalid(f"{where}: url is not an address that can be called; {expected}")
    return text


def _variable(where: str, text: str) -> str:
    if not _is_variable(text):
        raise OnOutdatedInvalid(f"{where}: token_env is {quote(text)}; expected the name of a variable")
    return text


def _attempts(where: str, value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= MAX_ATTEMPTS:
        raise OnOutdatedInvalid(f"{where}: attempts is {quote(str(value))}; expected 1 to {MAX_ATTEMPTS}")
    return value


def _span(where: str, key: str, value: object, least_us: int, most_us: int) -> int:
    try:
        span_us = parse_duration(_text(where, key, value))
    except DurationInvalid as error:
        raise OnOutdatedInvalid(f"{where}: {key} is {error.message}") from error
    if not least_us <= span_us <= most_us:
        raise OnOutdatedInvalid(
            f"{where}: {key} is {quote(str(value))}; expected between {least_us // 1_000_000} s and {most_us // 1_000_000} s"
        )
    return span_us
