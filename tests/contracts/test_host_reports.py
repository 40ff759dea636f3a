"""Reports of hosts as all servers of a registry see them, on each metadata database, also where a write fails."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from boltseal.errors import Denied, Unavailable
from boltseal.oci.jsontext import decode
from boltseal.policy.host_report import HostReport, ReportDocument, parse_report
from boltseal.server.auth.actor import Actor
from boltseal.server.registry.host_reports import HostReports, ShownImage, ShownRelease
from boltseal.server.storage import metadata_factory
from boltseal.server.storage.metadata import host_table
from boltseal.server.storage.metadata.host_table import HISTORY, ImageFilter
from boltseal.server.storage.metadata.protocol import Metadata
from boltseal.server.storage_settings import DatabaseUrl, StorageSettings
from tests.fakes.failing_database import FailingDatabase
from tests.host_documents import release, report, running

OPS, OTHER = Actor("ops"), Actor("other")
FIRST = ("", "", "", 0)
DIGESTS = [f"sha256:{number:064x}" for number in range(2000)]


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.real)])
def servers(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Metadata, Metadata]]:
    """The database as two servers have opened it."""
    storage = StorageSettings()
    if request.param == "postgres":
        storage = StorageSettings(database=DatabaseUrl(request.getfixturevalue("new_database")()))
    metadata_factory.prepare_metadata(tmp_path / "data", storage)
    opened = [
        metadata_factory.open_metadata(tmp_path / "data", storage, lambda: time.time_ns() // 1000) for _ in range(2)
    ]
    yield opened[0], opened[1]
    for metadata in opened:
        metadata.close()


def parsed(document: dict[str, Any]) -> HostReport:
    return parse_report(decode(msgspec.json.encode(document), ReportDocument))


async def test_a_host_belongs_to_the_login_that_was_first_at_any_server(servers: tuple[Metadata, Metadata]) -> None:
    """Of two logins that report a new host at once, one has it and the other is refused, as it is afterwards."""
    both = [HostReports(each) for each in servers]
    answers = await asyncio.gather(
        *(each.accept(parsed(report("web-1")), who) for each, who in zip(both, (OPS, OTHER), strict=True)),
        return_exceptions=True,
    )
    refused = [OPS, OTHER][isinstance(answers[1], Denied)]
    owner = (await both[1].host("web-1", None)).login
    with pytest.raises(Denied, match="is reported by another login"):
        await both[0].accept(parsed(report("web-1")), refused)

    assert sorted(isinstance(each, Denied) for each in answers) == [False, True]
    assert owner == ({"ops", "other"} - {refused.name}).pop()


async def test_pages_of_images_and_releases_are_complete_and_in_order(servers: tuple[Metadata, Metadata]) -> None:
    """Each image and release is on exactly one page, with all of its digests, whatever the limit is."""
    writing, reading = map(HostReports, servers)
    for host in ("web-1", "web-2"):
        images = (running(f"registry.example/shop/app:{n}", DIGESTS[n], DIGESTS[n + 500]) for n in range(30))
        await writing.accept(parsed(report(host, *images)), OPS)
        for number in range(3):
            await writing.accept(parsed(report(host) | release("shop", number, running("a:1", DIGESTS[0]))), OPS)
    found: list[ShownImage] = []
    after = FIRST
    while True:
        page = await reading.images(after, 7, ImageFilter(), None)
        found += page.images
        if page.following is None:
            break
        after = page.following
    releases: list[ShownRelease] = []
    before = 2**63 - 1
    while True:
        some = await reading.releases(before, 2, "", None)
        releases += some.releases
        if some.following is None:
            break
        before = some.following

    assert [each.position for each in found] == sorted({each.position for each in found})
    assert len(found) == 62
    assert [each.release.number for each in releases] == [2, 1, 0, 2, 1, 0]
    assert [each.host for each in releases] == ["web-2"] * 3 + ["web-1"] * 3


async def test_what_runs_is_found_by_digest_in_any_number(servers: tuple[Metadata, Metadata]) -> None:
    """A running digest is found among more digests than one statement takes, by the newest report of each host."""
    writing, reading = HostReports(servers[0]), servers[1]
    await writing.accept(parsed(report("web-2", running("a", DIGESTS[1999]))), OPS)
    await writing.accept(parsed(report("web-1", running("a", DIGESTS[1999]), running("b"))), OPS)
    await writing.accept(parsed(report("web-1", running("a", DIGESTS[7]), kind="scrub", subject="full")), OPS)
    found = reading.read_and_wait(lambda snapshot: host_table.running_images(snapshot, DIGESTS))

    assert {digest: (each.host, each.hosts) for digest, each in found.items()} == {DIGESTS[1999]: ("web-1", 2)}


async def test_a_history_is_bounded(servers: tuple[Metadata, Metadata]) -> None:
    """Of each kind and subject some of the last reports are kept."""
    reports = HostReports(servers[0])
    for number in range(HISTORY + 5):
        await reports.accept(parsed(report("web-1") | release("shop", number, running("a", DIGESTS[0]))), OPS)
    await reports.accept(parsed(report("web-1") | release("other", 1, running("a", DIGESTS[0]))), OPS)
    page = await reports.releases(2**63 - 1, 1000, "", None)

    assert [each.release.number for each in page.releases] == [1, *range(HISTORY + 4, 4, -1)]


@pytest.mark.parametrize("is_done", [False, True])
async def test_a_report_whose_write_fails_is_sent_again_without_harm(
    servers: tuple[Metadata, Metadata], is_done: bool
) -> None:
    """Not written, or written and the answer lost: what was there before is kept until, and the repeated report counts once."""
    database = FailingDatabase(servers[0])
    reports = HostReports(database)
    await reports.accept(parsed(report("web-1", running("a", DIGESTS[0]))), OPS)
    new = parsed(report("web-1", running("a", DIGESTS[1])))
    database.failures = [is_done]
    with pytest.raises(Unavailable):
        await reports.accept(new, OPS)
    between = await reports.images(FIRST, 10, ImageFilter(), None)
    await reports.accept(new, OPS)
    after = await reports.images(FIRST, 10, ImageFilter(), None)

    assert [DIGESTS[is_done].encode() in each.detail for each in between.images] == [True]
    assert [DIGESTS[1].encode() in each.detail for each in after.images] == [True]


@pytest.mark.parametrize("is_done", [False, True])
async def test_a_host_whose_removal_fails_is_forgotten_when_it_is_repeated(
    servers: tuple[Metadata, Metadata], is_done: bool
) -> None:
    """A removal that was not made keeps all; one whose answer was lost has removed all."""
    database = FailingDatabase(servers[0])
    reports = HostReports(database)
    await reports.accept(parsed(report("web-1", running("a", DIGESTS[0]))), OPS)
    database.failures = [is_done]
    with pytest.raises(Unavailable):
        await reports.forget("web-1", OPS, dry_run=False)
    left = await reports.images(FIRST, 10, ImageFilter(), None)
    if left.images:
        await reports.forget("web-1", OPS, dry_run=False)
    after = await reports.images(FIRST, 10, ImageFilter(), None)

    assert (len(left.images), after.images) == (0 if is_done else 1, ())
