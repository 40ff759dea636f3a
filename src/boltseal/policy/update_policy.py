"""Which newer versions `update` takes by itself: `[update]` in a project's `.boltseal.toml`. Pure.

    [update]
    policy = "revision"          the largest step that is taken: revision, patch, minor or major; default "none"
    cooldown = "3d"              how long we must know an image before it is taken; default "0s"
    revision = "."               what is between a version and the number of its rebuild (`policy.tag_revisions`)

    [update.services.db]         other values for one service
    policy = "patch"
    cooldown = "14d"

A tag is known since the ledger of our own registry recorded it, else since this machine first saw it. The creation time in
an image is never used, since its publisher can choose it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Final, NamedTuple

from boltseal.errors import Invalid, quote
from boltseal.oci.reference import Tag
from boltseal.policy.durations import DurationInvalid, parse_duration
from boltseal.policy.tag_revisions import DOT, RevisionInvalid, parse_separator
from boltseal.policy.version_order import VersionStep, newest_within

NONE: Final = "none"
MAX_CANDIDATES: Final = 5
"""How many versions of a service are considered, the newest first: each needs a request."""
MAX_SERVICES: Final = 1000
_KEYS: Final = ("policy", "cooldown")


class UpdateInvalid(Invalid):
    """An invalid `[update]` table."""


@dataclass(frozen=True, slots=True)
class UpdateRule:
    """The rule of a service. `policy`: the largest step that is taken; None: no version is. `cooldown_us`: microseconds."""

    policy: VersionStep | None = None
    cooldown_us: int = 0


@dataclass(frozen=True, slots=True)
class UpdateRules:
    """The rules of a project. `default`: of services without an own one. `separator`: of revisions."""

    default: UpdateRule = UpdateRule()
    services: Mapping[str, UpdateRule] = field(default_factory=dict)
    separator: str = DOT

    def of(self, service: str) -> UpdateRule:
        """Return the rule of a service."""
        return self.services.get(service, self.default)

    def with_cooldown(self, cooldown_us: int) -> UpdateRules:
        """Return the rules with one cooldown for all services."""
        own = {name: replace(rule, cooldown_us=cooldown_us) for name, rule in self.services.items()}
        return replace(self, default=replace(self.default, cooldown_us=cooldown_us), services=own)


class ChosenVersion(NamedTuple):
    """The version to take, and how long it must still wait: 0 if it can be taken now."""

    tag: Tag
    wait_us: int


def parse_update(table: Mapping[str, object]) -> UpdateRules:
    """Read the `[update]` table. Raises: UpdateInvalid."""
    services = table.get("services", {})
    if not isinstance(services, Mapping) or len(services) > MAX_SERVICES:
        raise UpdateInvalid(f"[update.services] has one table for each service; expected at most {MAX_SERVICES}")
    default = _rule("[update]", {key: value for key, value in table.items() if key in _KEYS}, UpdateRule())
    try:
        separator = parse_separator(_text("[update]", "revision", table.get("revision", DOT)))
    except RevisionInvalid as error:
        raise UpdateInvalid(f"[update] {error.message}") from error
    return UpdateRules(
        default,
        {name: _rule(f"[update.services.{name}]", own, default) for name, own in services.items()},
        separator,
    )


def candidates(tag: Tag, available: Iterable[Tag], policy: VersionStep, separator: str = DOT) -> list[Tag]:
    """Return the versions after `tag` that a policy takes, the newest first, at most MAX_CANDIDATES."""
    left = set(available)
    found: list[Tag] = []
    while len(found) < MAX_CANDIDATES:
        newest = newest_within(tag, left, policy, separator)
        if newest is None:
            break
        found.append(newest)
        left.discard(newest)
    return found


def choose(
    wanted: Iterable[Tag], known_since_us: Mapping[Tag, int], *, now_us: int, cooldown_us: int
) -> ChosenVersion | None:
    """Return the newest version whose cooldown is over, else the one whose cooldown ends first; None without a version.

    `wanted`: the newest first. `known_since_us`: since when we know each, in microseconds; one that is missing could not be
    resolved and is not chosen.
    """
    waits = [
        ChosenVersion(tag, max(0, known_since_us[tag] + cooldown_us - now_us))
        for tag in wanted
        if tag in known_since_us
    ]
    return min(waits, key=lambda each: each.wait_us, default=None)


def _rule(where: str, table: object, default: UpdateRule) -> UpdateRule:
    if not isinstance(table, Mapping):
        raise UpdateInvalid(f"{where} is not a table")
    unknown = sorted(set(table) - set(_KEYS))
    if unknown:
        raise UpdateInvalid(f"{where}: unknown key {quote(str(unknown[0]))}; expected {' or '.join(_KEYS)}")
    policy, cooldown_us = default.policy, default.cooldown_us
    if "policy" in table:
        text = _text(where, "policy", table["policy"])
        if text not in (NONE, *VersionStep):
            raise UpdateInvalid(
                f"{where} policy is {quote(text)}; expected {', '.join((NONE, *VersionStep))}: the largest step to take"
            )
        policy = None if text == NONE else VersionStep(text)
    if "cooldown" in table:
        try:
            cooldown_us = parse_duration(_text(where, "cooldown", table["cooldown"]))
        except DurationInvalid as error:
            raise UpdateInvalid(f"{where} cooldown is {error.message}") from error
    return UpdateRule(policy, cooldown_us)


def _text(where: str, key: str, value: object) -> str:
    if not isinstance(value, str):
        raise UpdateInvalid(f"{where} {key} is {quote(str(value))}; expected a text in quotes")
    return value
