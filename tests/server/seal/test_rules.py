"""Which tags are sealed and which float: the built-in rules, and the user's before them."""

from __future__ import annotations

from pathlib import Path

import httpx2
import pytest

from tests.images import image, push
from tests.serving import Rule, serving

FIRST, SECOND = image("first"), image("second")


async def moves(client: httpx2.AsyncClient, repository: str, tag: str) -> bool:
    """Does this tag move when something else is pushed?"""
    first = await push(client, repository, tag, FIRST)
    second = await push(client, repository, tag, SECOND)
    if first.status_code != 201 or second.status_code not in (201, 409):
        raise AssertionError(f"{first.text} {second.text}")
    return second.status_code == 201


@pytest.mark.parametrize("tag", ["latest", "edge", "nightly", "main", "master", "dev", "stable"])
async def test_these_tags_float(client: httpx2.AsyncClient, tag: str) -> None:
    """Names that move by custom float without any configuration."""
    assert await moves(client, "shop/app", tag)


@pytest.mark.parametrize(
    "tag", ["1", "1.4", "1.4.2", "v2", "Latest", "latest-1", "my-latest", "stable-alpine", "develop", "prod", "a" * 64]
)
async def test_every_other_tag_is_sealed(client: httpx2.AsyncClient, tag: str) -> None:
    """A tag without a rule is sealed, such as 1.4."""
    assert not await moves(client, "shop/app", tag)


async def test_the_users_rules_come_first(data: Path) -> None:
    """The first rule that matches decides, the user's before the built-in ones."""
    rules: list[Rule] = [
        {"repository": "shop/*", "tag": "latest", "mode": "sealed"},
        {"repository": "shop/app", "tag": "1.*", "mode": "floating"},
        {"repository": "shop/*", "tag": "1.4*", "mode": "sealed"},
    ]
    async with serving(data, rules) as registry:
        assert not await moves(registry.client, "shop/app", "latest")
        assert await moves(registry.client, "other/app", "latest")
        assert await moves(registry.client, "shop/app", "1.4.2")
        assert not await moves(registry.client, "shop/web", "1.4.2")


async def test_a_star_stops_at_a_slash_and_two_do_not(data: Path) -> None:
    """`*` is within one component of a name, `**` across them; both match the whole name."""
    rules: list[Rule] = [
        {"repository": "one/*", "mode": "floating"},
        {"repository": "deep/**", "mode": "floating"},
    ]
    async with serving(data, rules) as registry:
        assert await moves(registry.client, "one/a", "1.0.0")
        assert not await moves(registry.client, "one/a/b", "1.0.0")
        assert not await moves(registry.client, "one", "1.0.0")
        assert await moves(registry.client, "deep/a", "1.0.0")
        assert await moves(registry.client, "deep/a/b", "1.0.0")
        assert not await moves(registry.client, "very/deep/a", "1.0.0")


async def test_globs_know_upper_and_lower_case(data: Path) -> None:
    """Globs are case-sensitive."""
    async with serving(data, [{"tag": "rc*", "mode": "floating"}]) as registry:
        assert await moves(registry.client, "shop/app", "rc1")
        assert not await moves(registry.client, "shop/app", "RC1")


async def test_a_rule_that_can_never_be_reached_stops_the_start(data: Path) -> None:
    """A mistake in the rules is found before the first push, and reported with the rule's number."""
    rules: list[Rule] = [{"repository": "shop/**", "mode": "floating"}, {"repository": "shop/app", "mode": "sealed"}]

    with pytest.raises(Exception, match="rule 2"):
        async with serving(data, rules):
            pass


async def test_a_mode_that_is_unknown_stops_the_start(data: Path) -> None:
    """Doubt refuses: a rule that can't be understood is not skipped."""
    with pytest.raises(Exception, match="rule 1"):
        async with serving(data, [{"tag": "*", "mode": "immutable"}]):
            pass
