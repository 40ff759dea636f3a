"""A process that collects garbage as `admin gc` does, and kills itself (SIGKILL) before or after one of its writes to the database."""

from __future__ import annotations

import itertools
import os
import signal
from pathlib import Path
from typing import Any

from boltseal.server.configuration import load
from boltseal.server.storage.garbage_collection import collect
from boltseal.server.store_factory import open_store


def collect_and_die(config: Path, data: Path, number: int, when: str) -> None:
    """Collect. `when`: "before" or "after" the write with this number; ends in order if there are fewer writes."""
    settings = load(config)
    settings = settings.model_copy(update={"server": settings.server.model_copy(update={"data": data})})
    with open_store(settings) as store:
        whole, numbers = store.database.write_and_wait, itertools.count(1)

        def write_and_wait(job: Any, **more: Any) -> Any:
            mine = next(numbers)  # several threads write at once, and each write has its own number
            if mine == number and when == "before":
                os.kill(os.getpid(), signal.SIGKILL)
            result = whole(job, **more)
            if mine == number:
                os.kill(os.getpid(), signal.SIGKILL)
            return result

        store.database.write_and_wait = write_and_wait  # type: ignore[method-assign]  # for every user of the database
        list(
            collect(
                store.database,
                store.blobs.maintenance,
                store.blobs.upload_cleanup,
                store.database.now_us(),
                dry_run=False,
            )
        )
