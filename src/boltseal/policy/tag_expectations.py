"""Decide whether the tags of a repository may move by its publisher's custom: the `[[tags]]` tables. Pure.

    immutable   never moves: another digest is an alarm
    rebuilt     names a release, and moves when its publisher builds it again on a newer base: no alarm, a note
    moving      moves to the next release: no alarm, a note

The first table that matches a repository decides. What none matches is decided by the tag's form (`policy.release_tags`): a
release is immutable, any other tag moves.

Docker rebuilds its official images (`docker.io/library`, and copies of them) when their base image changes, so
`python:3.12.4-slim` is rebuilt by custom; only tags with a date, such as `debian:bookworm-20240513`, are immutable.
OFFICIAL_IMAGES says so for `verify` and `outdated`, where pinned projects and built images do not depend on the tag. `watch` and the mirror, which
exist to report moves, have no table but the user's.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

from boltseal.errors import Invalid, quote
from boltseal.oci.reference import Reference, Repository, Tag
from boltseal.policy.globs import Glob, parse_repository_glob
from boltseal.policy.release_tags import has_date, looks_like_release
from boltseal.policy.setting_keys import SettingKey

MAX_TABLES: Final = 500
TAGS_KEYS: Final[Mapping[str, SettingKey]] = {
    "repository": SettingKey(
        "", "Glob of complete names: `docker.io/library/**`. `*` in the registry stands for any characters."
    ),
    "expect": SettingKey("", "`immutable`: a move is an alarm; `rebuilt` or `moving`: by custom, without an alarm."),
}
"""The keys of `[[tags]]`."""
_is_host_glob: Final = re.compile(r"[A-Za-z0-9.:*\[\]-]+").fullmatch


class Expect(StrEnum):
    """How the tags of a repository move."""

    IMMUTABLE = "immutable"
    REBUILT = "rebuilt"
    MOVING = "moving"


class TagsInvalid(Invalid):
    """A `[[tags]]` table with an invalid value."""


@dataclass(frozen=True, slots=True)
class TagRule:
    """One `[[tags]]` table. `dated`: whether it also applies to tags with a date."""

    host: re.Pattern[str]
    repository: Glob
    expect: Expect
    dated: bool = True

    def matches(self, registry: str, repository: Repository, tag: Tag) -> bool:
        """Return whether it decides for this tag."""
        return (
            self.host.fullmatch(registry) is not None
            and self.repository.matches(repository)
            and (self.dated or not has_date(tag))
        )


@dataclass(frozen=True, slots=True)
class TagExpectations:
    """The tables in their order."""

    rules: tuple[TagRule, ...] = ()

    def of(self, reference: Reference) -> Expect:
        """Return how the tag of a reference (default: `latest`) moves."""
        return self.of_tag(reference.registry, reference.repository, reference.tag or Tag("latest"))

    def of_tag(self, registry: str, repository: Repository, tag: Tag) -> Expect:
        """Return how a tag of a registry moves."""
        rule = next((rule for rule in self.rules if rule.matches(registry, repository, tag)), None)
        release = looks_like_release(tag)
        if rule is None:
            return Expect.IMMUTABLE if release else Expect.MOVING
        return Expect.MOVING if rule.expect is Expect.REBUILT and not release else rule.expect

    def alarm(self, registry: str, repository: Repository, tag: Tag, *, gone: bool) -> bool:
        """Return whether a move of a tag is an alarm. `gone`: it was deleted, which a rebuild does not explain."""
        expect = self.of_tag(registry, repository, tag)
        return expect is Expect.IMMUTABLE or (gone and expect is Expect.REBUILT)


def parse_tags(tables: Sequence[Any]) -> tuple[TagRule, ...]:
    """Parse the `[[tags]]` tables. Raises: TagsInvalid."""
    if len(tables) > MAX_TABLES:
        raise TagsInvalid(f"{len(tables)} tables [[tags]]; expected at most {MAX_TABLES}")
    return tuple(_rule(f"[[tags]] {number}", table) for number, table in enumerate(tables, 1))


def _rule(where: str, table: Any) -> TagRule:
    if not isinstance(table, Mapping):
        raise TagsInvalid(f"{where} is {quote(str(table))}; expected a table")
    unknown = set(table) - TAGS_KEYS.keys()
    if unknown:
        raise TagsInvalid(f"{where}: unknown key {quote(min(unknown))}; known keys: {', '.join(TAGS_KEYS)}")
    repository, expect = table.get("repository"), table.get("expect")
    if expect not in tuple(Expect):
        raise TagsInvalid(f"{where}: expect is {quote(str(expect))}; expected one of: {', '.join(Expect)}")
    if not isinstance(repository, str):
        raise TagsInvalid(f"{where}: repository is {quote(str(repository))}; expected a glob of complete names")
    try:
        return _parsed(repository, Expect(expect))
    except Invalid as error:
        raise TagsInvalid(f"{where}: repository: {error.message}") from error


def _parsed(text: str, expect: Expect, *, dated: bool = True) -> TagRule:
    """Parse `docker.io/library/**`: the host, in which `*` stands for any characters, and a glob of repositories."""
    host, slash, repository = text.partition("/")
    if text == "**":
        host, repository = "*", "**"
    elif not slash or _is_host_glob(host) is None:
        raise TagsInvalid(
            f"{quote(text)} is not a complete name; expected a registry and a repository, such as docker.io/library/**"
        )
    pattern = "[^/]*".join(map(re.escape, re.split(r"\*+", host)))
    return TagRule(re.compile(pattern), parse_repository_glob(repository), expect, dated)


OFFICIAL_IMAGES: Final = tuple(
    _parsed(name, Expect.REBUILT, dated=False)
    for name in ("docker.io/library/**", "public.ecr.aws/docker/library/**", "mirror.gcr.io/library/**")
)
"""The tables for Docker's official images."""
