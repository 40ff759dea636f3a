"""Recording a release in the ledgers of its images' registries, and reporting failures."""

from __future__ import annotations

from collections.abc import AsyncIterator

import httpx2
import pytest
from msgspec.structs import replace

from boltseal.client.credentials import CredentialStore
from boltseal.client.ledger_records import list_records
from boltseal.client.transport import Transport, TransportOptions
from boltseal.deploy.ledger_reports import record_release
from boltseal.deploy.releases import Release
from boltseal.events import ReleaseDone
from boltseal.oci.reference import Repository
from boltseal.server.notifications.ledger_feed import event_of
from tests.deploy.samples import release
from tests.images import image, push
from tests.polling import until_signed
from tests.serving import Serving

HOST = "localhost:5000"
IMAGE = image("one")


@pytest.fixture
async def transport(registry: Serving) -> AsyncIterator[Transport]:
    """A registry that has the image of the service app."""
    await push(registry.client, "shop/app", "1.0.0", IMAGE)
    made = Transport(CredentialStore(()), TransportOptions(attempts=1), app=httpx2.ASGITransport(app=registry.app))
    yield made
    await made.aclose()


def released(**release_entry: object) -> Release:
    """Return a release of app and db with the image's digest."""
    made = replace(release(4), of=2, revision="v1", **release_entry)
    services = [replace(each, digest=IMAGE.digest, environment={"TOKEN": "mark"}) for each in made.services]
    return made.with_services(services)


def mark(text: str) -> str:
    """Return a stand-in for the HMAC of a value."""
    return f"mark of {len(text)}"


async def test_a_release_is_recorded_in_the_ledger(registry: Serving, transport: Transport) -> None:
    """A release record has project, number, service, host and revision, and one HMAC for the environment."""
    (release_entry,) = await record_release(transport, released(chosen=("app",)), {HOST}, mark)
    assert release_entry.index is not None
    await until_signed(registry.client, release_entry.index + 1)
    ((_, entry),) = await list_records(transport, HOST, Repository("shop/app"))

    assert entry.kind == "released"
    assert entry.reason == "release 4 of shop by ann@host"
    assert entry.extra == {
        "project": "shop",
        "release": "4",
        "service": "app",
        "host": "host",
        "environment": mark('{"TOKEN": "mark"}'),
        "revision": "v1",
        "of": "2",
    }


async def test_ledger_notifications_include_the_release(registry: Serving, transport: Transport) -> None:
    """Notifications from the ledger read the fields that a release record has."""
    (release_entry,) = await record_release(transport, released(chosen=("app",)), {HOST}, mark)
    assert release_entry.index is not None
    await until_signed(registry.client, release_entry.index + 1)
    ((_, entry),) = await list_records(transport, HOST, Repository("shop/app"))

    name = f"{HOST}/shop/app:{entry.tag}@{IMAGE.digest}"
    assert event_of(entry, HOST) == ReleaseDone("shop", 4, "host", (name,))


async def test_a_failure_is_reported_for_its_service(transport: Transport) -> None:
    """If the registry lacks one service's image, the failure is reported, and the other service is recorded."""
    app, db = await record_release(transport, released(), {HOST}, mark)

    assert (app.service, app.why) == ("app", "")
    assert (db.service, db.registry, db.index) == ("db", HOST, None)
    assert "shop/db" in db.why


async def test_other_registries_get_no_request(transport: Transport) -> None:
    """A registry whose ledger is not in the lock gets no request, nor does one for a local build."""
    local = released()
    local = local.with_services([replace(each, digest="") for each in local.services])

    assert await record_release(transport, released(), set(), mark) == ()
    assert await record_release(transport, local, {HOST}, mark) == ()
