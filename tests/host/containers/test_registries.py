"""Requests to registries about running images, and requests that are never sent."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from boltseal.client.credentials import CredentialStore
from boltseal.client.errors import RemoteUnavailable
from boltseal.client.ledger_trust import LedgerCheck, TrustStatus
from boltseal.client.registry_client import Resolved
from boltseal.client.transport import Transport, TransportOptions
from boltseal.host.containers.registries import (
    RegistryAnswers,
    RegistryQueries,
    TagEvidence,
    TagHistory,
    digest_name,
    query_registries,
)
from boltseal.ledger.follow import Fault, LedgerBroken
from boltseal.ledger.tag_intervals import TagStep
from boltseal.oci.digest import Digest
from boltseal.oci.reference import Reference
from tests.fakes.hub import FakeHub
from tests.images import image, index, to_json
from tests.project.image_ref_samples import publish

pytestmark = pytest.mark.usefixtures("one_attempt")

NAME, OTHER = (Reference.parse(f"registry.example.com/shop/app:{tag}") for tag in ("latest", "1.4.2"))
PLACE = ("registry.example.com", NAME.repository)


async def no_ledger(registry: str) -> LedgerCheck:
    return LedgerCheck(registry, TrustStatus.NO_LEDGER)


@asynccontextmanager
async def asking(
    hub: FakeHub,
    *,
    allowed: Callable[[str], bool] = lambda _: True,
    watch: Callable[[str], Awaitable[LedgerCheck]] = no_ledger,
) -> AsyncIterator[RegistryQueries]:
    transport = Transport(CredentialStore([Path("/nowhere")]), TransportOptions(), app=hub.transport())
    try:
        yield RegistryQueries(transport, allowed, watch)
    finally:
        await transport.aclose()


async def answers_for(hub: FakeHub, *names: Reference, by_digest: set[Reference] | None = None) -> RegistryAnswers:
    async with asking(hub) as registries:
        return await query_registries(registries, names, lambda _: by_digest or set())


async def test_one_head_per_name_and_no_pull() -> None:
    """Each image name costs one HEAD and no pull, however many containers have it."""
    hub = FakeHub()
    digest = publish(hub, "shop/app:latest", index(image("app")))
    found = await answers_for(hub, *[NAME] * 5, OTHER, by_digest={digest_name(NAME, Digest.parse(digest))})

    assert hub.counted["HEAD manifest"] == 3
    assert hub.counted["GET manifest"] == 0
    assert isinstance(found.resolutions[NAME], Resolved)
    assert isinstance(found.resolutions[digest_name(NAME, Digest.parse(digest))], Resolved)


async def test_an_unsigned_history_is_read() -> None:
    """The unsigned history of distribution-spec PR #606 is read; events without a valid time are ignored."""
    hub = FakeHub()
    digest = publish(hub, "shop/app:latest", image("app"))
    hub.histories["shop/app:latest"] = to_json(
        {
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.index.v1+json",
            "manifests": [
                _event(digest, "2026-11-26T10:00:00Z", "deleted"),
                _event(digest, "2026-11-25T10:00:00Z", "created"),
                _event(digest, "some day", "created"),
            ],
        }
    )
    found = await answers_for(hub, NAME)

    steps = (TagStep(1_795_600_800_000_000, digest), TagStep(1_795_687_200_000_000, ""))
    assert found.histories == {PLACE: TagHistory({"latest": steps}, by=TagEvidence.REGISTRY)}


def _event(digest: str, time: str, event: str) -> dict[str, object]:
    names = "org.opencontainers.distribution.tag."
    notes = {f"{names}timestamp": time, f"{names}event": event}
    kind = "application/vnd.oci.image.manifest.v1+json"
    return {"mediaType": kind, "digest": digest, "size": 1, "annotations": notes}


async def test_a_registry_without_any_history_is_asked_for_it_once() -> None:
    """A registry without any history is asked once, not for each of its tags."""
    hub = FakeHub()
    publish(hub, "shop/app:latest", image("app"))

    assert (await answers_for(hub, NAME, OTHER)).histories == {PLACE: TagHistory()}


async def test_a_registry_that_is_not_allowed_gets_no_request() -> None:
    """A registry that is not allowed gets no request, neither for tags nor for histories."""
    hub = FakeHub()
    async with asking(hub, allowed=lambda _: False) as registries:
        found = await query_registries(registries, [NAME], lambda _: set())

    assert (hub.counted.total(), found.histories) == (0, {})
    assert "is not contacted" in str(found.resolutions[NAME])


async def test_an_unreachable_ledger_is_asked_once() -> None:
    """An unreachable ledger is asked once; the registry's history is unknown, with the reason."""
    looks = []

    async def watch(registry: str) -> LedgerCheck:
        looks.append(registry)
        raise RemoteUnavailable("its ledger is down")

    async with asking(FakeHub(), watch=watch) as registries:
        found = await query_registries(registries, [NAME, OTHER], lambda _: set())

    assert looks == ["registry.example.com"]
    assert found.histories == {PLACE: TagHistory(why="its ledger is down")}
    assert "its ledger is down" in str(found.resolutions[NAME])


async def test_a_broken_ledger_raises() -> None:
    """For a ledger that contradicts earlier checkpoints, no answer of the registry is shown."""

    async def watch(_: str) -> LedgerCheck:
        raise LedgerBroken(Fault.OTHER_LEDGER, "it was rewritten")

    async with asking(FakeHub(), watch=watch) as registries:
        with pytest.raises(LedgerBroken):
            await query_registries(registries, [NAME], lambda _: set())
