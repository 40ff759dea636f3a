"""What a person sees while a command waits for a registry."""

from __future__ import annotations

from stamina.instrumentation import RetryDetails

from boltseal.client.errors import RemoteBusy
from boltseal.commands.wait_notices import WaitNotices


def retry(wait_s: float, error: Exception) -> RetryDetails:
    return RetryDetails("request", (), {}, 1, wait_s, 0.0, error)


BUSY = RemoteBusy("localhost:5000 has a rate limit", 30.0)


def test_a_long_wait_is_announced_with_its_reason() -> None:
    """A command that waits half a minute says why, and for how long."""
    printed: list[str] = []
    WaitNotices(printed.append, lambda: 0)(retry(30.0, BUSY))

    assert printed == ["localhost:5000 has a rate limit; asking again in 30 s"]


def test_short_waits_and_defects_are_not_announced() -> None:
    """A repetition within two seconds, or after an error without a message for users, is silent."""
    printed: list[str] = []
    notices = WaitNotices(printed.append, lambda: 0)
    notices(retry(0.5, BUSY))
    notices(retry(30.0, ValueError("no message for users")))

    assert printed == []


def test_requests_that_wait_at_once_are_announced_once() -> None:
    """A hundred tags of a registry with a rate limit give one line, and the next wait another one."""
    printed: list[str] = []
    times = iter([0, 1_000_000, 29_000_000, 31_000_000])
    notices = WaitNotices(printed.append, lambda: next(times))
    for _ in range(4):
        notices(retry(30.0, BUSY))

    assert len(printed) == 2
