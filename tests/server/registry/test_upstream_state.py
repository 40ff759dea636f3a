"""The shared state of upstreams, when a process records an answer after another one has recorded a later answer."""

from __future__ import annotations

from boltseal.client.pull_limit import PullLimit
from boltseal.server.registry.upstream_state import in_force
from tests.bare_registry import Opener, open_shop

__all__ = ["open_shop"]

NAME, MINUTE_US = "docker.io", 60_000_000


async def test_an_older_statement_of_the_pull_limit_does_not_replace_a_newer_one(open_shop: Opener) -> None:
    """A process that was stopped after an answer leaves what another one has recorded since."""
    shop = open_shop()
    states, answered_us = shop.registry.upstreams, shop.clock.now_us
    shop.clock.now_us += MINUTE_US
    newer = await states.quota(NAME, PullLimit(100, 3, 21_600, "one"), shop.clock.now_us)
    late = await states.quota(NAME, PullLimit(100, 90, 21_600, "one"), answered_us)
    found = (await states.every())[NAME]

    assert newer is not None
    assert late is None
    assert found.quota_remaining == 3


async def test_an_older_answer_does_not_end_a_pause_that_began_after_it(open_shop: Opener) -> None:
    """Pulls that an answer allowed are paused still, if a later answer to another process ended them."""
    shop = open_shop()
    states, answered_us = shop.registry.upstreams, shop.clock.now_us
    shop.clock.now_us += MINUTE_US // 2
    until_us = shop.clock.now_us + MINUTE_US
    await states.pause_pulls(NAME, until_us)
    await states.pause_pulls(NAME, until_us - 1)
    await states.allow_pulls(NAME, answered_us + MINUTE_US)
    late = in_force(await states.pause_of(NAME), shop.clock.now_us)
    await states.allow_pulls(NAME, until_us)
    allowed = in_force(await states.pause_of(NAME), shop.clock.now_us)

    assert late.pulls_until_us == until_us
    assert allowed.pulls_until_us == 0


async def test_an_older_answer_does_not_end_a_later_failure(open_shop: Opener) -> None:
    """An upstream that was found down after it had answered another process stays down until it answers again."""
    shop = open_shop()
    states, answered_us = shop.registry.upstreams, shop.clock.now_us
    shop.clock.now_us += MINUTE_US
    await states.down(NAME, "it does not answer")
    await states.up(NAME, answered_us)
    late = (await states.every())[NAME]
    await states.up(NAME, shop.clock.now_us)
    answered = (await states.every())[NAME]

    assert late.down_us is not None
    assert answered.down_us is None
