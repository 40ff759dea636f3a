"""Which tags are sealed and which are mutable: the built-in rules, and the operator's before them."""

from __future__ import annotations

from pathlib import Path

import httpx2
import pytest

from tests.images import image, push
from tests.serving import Rule, serving

FIRST, SECOND = image("first"), image("second")


async def moves(client: httpx2.AsyncClient, repository: str, tag: str) -> bool:
    """Return whether this tag moves when other content is pushed."""
    first = await push(client, repository, tag, FIRST)
    second = await push(client, repository, tag, SECOND)
    if first.status_code != 201 or second.status_code not in (201, 409):
        raise AssertionError(f"{first.text} {second.text}")
    return second.status_code == 201


@pytest.mark.parametrize("tag", ["latest", "edge", "nightly", "main", "master", "dev", "stable"])
async def test_these_tags_float(client: httpx2.AsyncClient, tag: str) -> None:
    """Tags such as `latest` are mutable without any configuration."""
    assert await moves(client, "shop/app", tag)


@pytest.mark.parametrize(
    "tag", ["1", "1.4", "1.4.2", "v2", "Latest", "latest-1", "my-latest", "stable-alpine", "develop", "prod", "a" * 64]
)
async def test_every_other_tag_is_sealed(client: httpx2.AsyncClient, tag: str) -> None:
    """A tag without a rule, such as 1.4, is sealed."""
    assert not await moves(client, "shop/app", tag)


async def test_the_operators_rules_come_first(data: Path) -> None:
    """The first matching rule decides, and the operator's rules come before the built-in ones."""
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
    """`*` matches within one component of a name and `**` across them, for the whole name."""
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


async def test_globs_are_case_sensitive(data: Path) -> None:
    """Globs in rules are case-sensitive."""
    async with serving(data, [{"tag": "rc*", "mode": "floating"}]) as registry:
        assert await moves(registry.client, "shop/app", "rc1")
        assert not await moves(registry.client, "shop/app", "RC1")


async def test_an_unreachable_rule_prevents_the_start(data: Path) -> None:
    """A rule that no tag can reach prevents the start, with the rule's number in the error."""
    rules: list[Rule] = [{"repository": "shop/**", "mode": "floating"}, {"repository": "shop/app", "mode": "sealed"}]

    with pytest.raises(Exception, match="rule 2"):
        async with serving(data, rules):
            pass


async def test_an_unknown_mode_prevents_the_start(data: Path) -> None:
    """A rule with an unknown mode prevents the start, and is not skipped."""
    with pytest.raises(Exception, match="rule 1"):
        async with serving(data, [{"tag": "*", "mode": "immutable"}]):
            pass
