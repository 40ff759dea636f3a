"""Repeat a request after an error that may pass. The waits are stamina's, which costs a tenth of a request that succeeds."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

import stamina

from boltseal.client.errors import RemoteBusy
from boltseal.errors import Unavailable

RETRIED: Final = (Unavailable, RemoteBusy)
WHOLE_S: Final = 120.0
LONGEST_WAIT_S: Final = 8.0

T = TypeVar("T")


async def retried(once: Callable[[], Awaitable[T]], delay: Callable[[Exception], bool | float], attempts: int) -> T:
    """Call `once` up to `attempts` times. `delay`: whether to repeat it after an error, or after how many seconds."""
    try:
        return await once()
    except RETRIED as error:
        failed: Exception | None = error
    async for attempt in stamina.retry_context(on=delay, attempts=attempts, timeout=WHOLE_S, wait_max=LONGEST_WAIT_S):
        with attempt:
            if failed is not None:  # the first attempt, made above
                first, failed = failed, None
                raise first
            return await once()
    raise AssertionError("stamina returns or raises")
