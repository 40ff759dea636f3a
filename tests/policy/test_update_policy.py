"""Which versions `[update]` of a project takes."""

from __future__ import annotations

from typing import Any

import pytest

from boltseal.oci.reference import Tag
from boltseal.policy.update_policy import (
    MAX_CANDIDATES,
    ChosenVersion,
    UpdateInvalid,
    UpdateRule,
    UpdateRules,
    candidates,
    choose,
    parse_update,
)
from boltseal.policy.version_order import VersionStep

DAY_US = 86_400_000_000
OLDER, NEWER = Tag("1.4.2.1"), Tag("1.4.2.2")


def test_services_have_the_default_or_their_own_values() -> None:
    """A service's table replaces single values of the default, and `none` switches the policy off."""
    rules = parse_update(
        {
            "policy": "revision",
            "cooldown": "3d",
            "revision": "-r",
            "services": {"db": {"policy": "none"}, "web": {"cooldown": "1h", "policy": "minor"}},
        }
    )

    assert rules.of("other") == UpdateRule(VersionStep.REVISION, 3 * DAY_US)
    assert rules.of("db") == UpdateRule(None, 3 * DAY_US)
    assert rules.of("web") == UpdateRule(VersionStep.MINOR, DAY_US // 24)
    assert rules.separator == "-r"
    assert parse_update({}) == UpdateRules()


def test_an_option_replaces_all_cooldowns() -> None:
    """The cooldown of the command line applies to every service, and leaves the policies."""
    rules = parse_update({"cooldown": "3d", "services": {"web": {"cooldown": "9d", "policy": "patch"}}})

    assert rules.with_cooldown(5).of("web") == UpdateRule(VersionStep.PATCH, 5)
    assert rules.with_cooldown(5).of("db") == UpdateRule(None, 5)


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ({"policy": "everything"}, "expected none, revision, patch, minor, major"),
        ({"cooldown": "soon"}, "cooldown"),
        ({"cooldown": 3}, "a text in quotes"),
        ({"revision": "+"}, "expected one of"),
        ({"services": {"web": {"polcy": "minor"}}}, "unknown key"),
        ({"services": {"web": "minor"}}, "is not a table"),
        ({"services": 3}, "one table for each service"),
    ],
)
def test_an_invalid_table_is_refused_with_the_place(table: dict[str, Any], words: str) -> None:
    """An invalid table is refused with its place and what is expected."""
    with pytest.raises(UpdateInvalid, match=words):
        parse_update(table)


def test_the_newest_candidates_are_considered() -> None:
    """The newest versions within the policy are considered, at most as many as may be asked for."""
    there = [Tag(f"1.4.{number}") for number in range(20)]

    assert candidates(Tag("1.4.2"), [*there, Tag("1.5.0")], VersionStep.PATCH) == there[: -1 - MAX_CANDIDATES : -1]
    assert candidates(Tag("latest"), there, VersionStep.MAJOR) == []


@pytest.mark.parametrize(
    ("known", "chosen"),
    [
        ({NEWER: 0, OLDER: 0}, ChosenVersion(NEWER, 0)),
        ({NEWER: 9, OLDER: 0}, ChosenVersion(OLDER, 0)),
        ({NEWER: 9, OLDER: 8}, ChosenVersion(OLDER, 3)),
        ({NEWER: 9}, ChosenVersion(NEWER, 4)),
        ({}, None),
    ],
)
def test_the_newest_version_after_its_cooldown_is_chosen(known: dict[Tag, int], chosen: ChosenVersion | None) -> None:
    """The newest version whose cooldown is over is chosen, else the one that waits the shortest."""
    assert choose([NEWER, OLDER], known, now_us=10, cooldown_us=5) == chosen
