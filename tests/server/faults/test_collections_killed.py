"""Garbage collection is killed (SIGKILL) at each of its writes, beside two server processes that take pushes."""

from __future__ import annotations

import asyncio
import multiprocessing
import signal
from dataclasses import dataclass
from typing import Self

import httpx2
import pytest

from boltseal.server.storage.garbage_collection import collect
from boltseal.server.store_factory import open_store
from tests.cli import program
from tests.images import Document, error_of, image, push, push_parts, put
from tests.server.faults.installation import LOGIN, Installation
from tests.server.faults.killed_collector import collect_and_die
from tests.soak.traffic import client_of
from tests.storage_servers import Postgres

pytestmark = [pytest.mark.real, pytest.mark.slow]

APP = "shop/app"
MOST_WRITES = 12


@dataclass(slots=True)
class Collections:
    """Collections of one installation, and time that passes for some blobs in its database."""

    installed: Installation
    database: Postgres

    def pass_hours(self, hours: int, *images: Document) -> None:
        """Let time pass for the blobs of images."""
        address = self.installed.settings.storage.database
        assert address is not None
        name = address.with_password.rpartition("/")[2]
        digests = ", ".join(f"'{blob.digest}'" for each in images for blob in each.blobs)
        us = hours * 3600 * 1_000_000
        for table, column in (
            ("blob", "hidden_us"),
            ("blob_review", "due_us"),
            ("released", "released_us"),
            ("stored_blob", "stored_us"),
        ):
            self.database.execute(
                f"UPDATE {table} SET {column} = {column} - {us} WHERE digest IN ({digests})",  # noqa: S608
                name,
            )

    async def collect(self) -> list[str]:
        """Collect, and return what was done."""

        def work() -> list[str]:
            with open_store(self.installed.settings) as store:
                blobs, now_us = store.blobs, store.database.now_us()
                found = collect(store.database, blobs.maintenance, blobs.upload_cleanup, now_us, dry_run=False)
                return [item.what for item in found]

        return await asyncio.to_thread(work)

    async def collect_killed(self, number: int, when: str) -> int | None:
        """Collect in a process that is killed at a write. Return its exit code."""
        start = multiprocessing.get_context("forkserver")  # its imports are done once
        process = start.Process(
            target=collect_and_die, args=(self.installed.config_file, self.installed.data, number, when)
        )
        process.start()
        await asyncio.to_thread(process.join)
        return process.exitcode


async def test_a_collection_that_is_killed_at_any_write_takes_nothing_that_is_needed(
    installed: Installation, database: Postgres
) -> None:
    """After a kill at any write, each accepted image is complete, and a refused push is accepted when it is repeated."""
    collections, code = Collections(installed, database), None
    rounds = [Round.of(number, when) for number in range(1, MOST_WRITES + 1) for when in ("before", "after")]
    with installed.serve(workers=2):
        async with client_of(installed.url) as client:
            await prepare(client, collections, rounds)
            done = []
            for each in rounds:
                code = await each.run(client, collections)
                done.append(each)
                if code == 0:
                    break
            await collections.collect()
            for image_of in (image_of for each in done for image_of in each.images):
                for blob in image_of.blobs:
                    assert (await client.get(f"/v2/{APP}/blobs/{blob.digest}")).content == blob.data
    server = ("--config", installed.config_file, "--data", installed.data)
    examined = program.run("admin", "fsck", "--json", *server, environment=LOGIN, timeout_s=600.0)

    assert code == 0, "a collection makes more writes than were tried"
    assert len(done) > 14
    assert examined.json["outcome"] == "holds", examined.out + examined.err


@dataclass(frozen=True, slots=True)
class Round:
    """A kill before or after the write `number`, and the images whose blobs are hidden, removed and deleted by the collection."""

    number: int
    when: str
    to_hide: Document
    to_remove: Document
    to_delete: Document

    @classmethod
    def of(cls, number: int, when: str) -> Self:
        """Return a round with images of its own."""
        return cls(number, when, *(image(f"{number} {when} {each}") for each in ("hide", "remove", "delete")))

    @property
    def images(self) -> tuple[Document, ...]:
        """All three images."""
        return self.to_hide, self.to_remove, self.to_delete

    async def run(self, client: httpx2.AsyncClient, collections: Collections) -> int | None:
        """Collect until the kill, then push. Return the exit code of the collection."""
        await push_parts(client, APP, self.to_hide)
        collections.pass_hours(26, self.to_hide, self.to_delete)
        collections.pass_hours(2, self.to_remove)
        found = [(await client.head(f"/v2/{APP}/blobs/{blob.digest}")).status_code for blob in self.to_hide.blobs]
        code = await collections.collect_killed(self.number, self.when)
        in_time, late = [await put(client, APP, "latest", each) for each in (self.to_hide, self.to_remove)]
        again = [await push(client, APP, "latest", each) for each in (self.to_remove, self.to_delete)]

        assert set(found) == {200}
        assert code in (0, -signal.SIGKILL)
        assert in_time.status_code == 201
        assert late.status_code == 201 or error_of(late)[0] == "MANIFEST_BLOB_UNKNOWN"
        assert [each.status_code for each in again] == [201] * 2
        return code


async def prepare(client: httpx2.AsyncClient, collections: Collections, rounds: list[Round]) -> None:
    """Hide and remove the blobs of all rounds."""
    removed = [each.to_delete for each in rounds]
    hidden = [each.to_remove for each in rounds] + removed
    for each in hidden:
        await push_parts(client, APP, each)
    collections.pass_hours(26, *hidden)
    await collections.collect()
    collections.pass_hours(2, *removed)
    await collections.collect()
