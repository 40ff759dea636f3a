"""A database whose next durable transactions fail, before they are done or after: the answer to a COMMIT is lost."""

from __future__ import annotations

from typing import Any

from boltseal.errors import Unavailable
from boltseal.server.storage.metadata.protocol import Job, Metadata


class FailingDatabase:
    """A `Metadata` over a real one. `failures`: for each of the next durable writes whether it is done before it fails."""

    def __init__(self, real: Metadata) -> None:
        self._real = real
        self.failures: list[bool] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    async def write(self, job: Job[Any], *, durable: bool = True, repository: str = "") -> Any:
        """Run a job, unless it is to fail before."""
        done = self.failures.pop(0) if durable and self.failures else None
        if done is False:
            raise Unavailable("the database failed: nothing was changed")
        result = await self._real.write(job, durable=durable, repository=repository)
        if done:
            raise Unavailable("the answer of the database was lost")
        return result
