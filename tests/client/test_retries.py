"""A request is repeated after errors that may pass, as often and as long as the caller says."""

from __future__ import annotations

import pytest

from boltseal.client.errors import RemoteMismatch, RemoteNotFound, RemoteUnavailable
from boltseal.client.retries import retried


class Flaky:
    """Fails with each of these errors in turn, then returns the number of calls."""

    def __init__(self, *errors: Exception) -> None:
        self.errors = [*errors]
        self.calls = 0

    async def __call__(self) -> int:
        self.calls += 1
        if self.errors:
            raise self.errors.pop(0)
        return self.calls


def at_once(error: Exception) -> bool | float:
    """Repeat without a wait what may pass."""
    return 0.0 if not isinstance(error, RemoteMismatch) else False


@pytest.mark.parametrize(("failures", "attempts"), [(0, 1), (0, 3), (1, 3), (2, 3), (1, 2)])
async def test_an_error_that_passes_costs_one_more_call(failures: int, attempts: int) -> None:
    """What fails fewer times than it may be called is called once more than it failed."""
    flaky = Flaky(*(RemoteUnavailable(str(number)) for number in range(failures)))

    assert await retried(flaky, at_once, attempts) == failures + 1


@pytest.mark.parametrize("attempts", [1, 2, 3])
async def test_the_last_error_is_raised_after_all_attempts(attempts: int) -> None:
    """What always fails is called as often as it may be, and its last error is raised."""
    flaky = Flaky(*(RemoteUnavailable(str(number)) for number in range(10)))
    with pytest.raises(RemoteUnavailable, match=f"^{attempts - 1}$"):
        await retried(flaky, at_once, attempts)

    assert flaky.calls == attempts


@pytest.mark.parametrize("error", [RemoteNotFound("gone"), RemoteMismatch("other bytes"), ValueError("defect")])
async def test_an_error_that_stays_is_not_repeated(error: Exception) -> None:
    """An error that another call would only repeat, and a defect, are raised after the first call."""
    flaky = Flaky(error)
    with pytest.raises(type(error)):
        await retried(flaky, at_once, 5)

    assert flaky.calls == 1
