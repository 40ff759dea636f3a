"""What is asked of registries about what runs, and what is not."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import stamina

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
from tests.project.sites import publish

NAME, OTHER = (Reference.parse(f"registry.example.com/shop/app:{tag}") for tag in ("latest", "1.4.2"))
PLACE = ("registry.example.com", NAME.repository)


@pytest.fixture(autouse=True)
def _no_pauses() -> Iterator[None]:
    with stamina.set_testing(True, attempts=1):
        yield


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


async def told(hub: FakeHub, *names: Reference, by_digest: set[Reference] | None = None) -> RegistryAnswers:
    async with asking(hub) as registries:
        return await query_registries(registries, names, lambda _: by_digest or set())


async def test_a_head_for_each_name_and_nothing_that_is_a_pull() -> None:
    """However often it is named."""
    hub = FakeHub()
    digest = publish(hub, "shop/app:latest", index(image("app")))
    found = await told(hub, *[NAME] * 5, OTHER, by_digest={digest_name(NAME, Digest.parse(digest))})

    assert hub.counted["HEAD manifest"] == 3
    assert hub.counted["GET manifest"] == 0
    assert isinstance(found.meanings[NAME], Resolved)
    assert isinstance(found.meanings[digest_name(NAME, Digest.parse(digest))], Resolved)


async def test_a_registry_that_keeps_a_history_without_signing_it() -> None:
    """As distribution-spec PR #606 has it; what has no time that can be read is no step."""
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
    found = await told(hub, NAME)

    steps = (TagStep(1_795_600_800_000_000, digest), TagStep(1_795_687_200_000_000, ""))
    assert found.histories == {PLACE: TagHistory({"latest": steps}, by=TagEvidence.REGISTRY)}


def _event(digest: str, time: str, event: str) -> dict[str, object]:
    names = "org.opencontainers.distribution.tag."
    notes = {f"{names}timestamp": time, f"{names}event": event}
    kind = "application/vnd.oci.image.manifest.v1+json"
    return {"mediaType": kind, "digest": digest, "size": 1, "annotations": notes}


async def test_a_registry_without_any_history_is_asked_for_it_once() -> None:
    """And not for each of its tags."""
    hub = FakeHub()
    publish(hub, "shop/app:latest", image("app"))

    assert (await told(hub, NAME, OTHER)).histories == {PLACE: TagHistory()}


async def test_a_registry_that_is_not_allowed() -> None:
    """Is not asked anything."""
    hub = FakeHub()
    async with asking(hub, allowed=lambda _: False) as registries:
        found = await query_registries(registries, [NAME], lambda _: set())

    assert (hub.counted.total(), found.histories) == (0, {})
    assert "is not asked" in str(found.meanings[NAME])


async def test_a_ledger_that_can_not_be_looked_at() -> None:
    """Is looked at once, and costs its registry's word; the reason is told."""
    looks = []

    async def watch(registry: str) -> LedgerCheck:
        looks.append(registry)
        raise RemoteUnavailable("its ledger is down")

    async with asking(FakeHub(), watch=watch) as registries:
        found = await query_registries(registries, [NAME, OTHER], lambda _: set())

    assert looks == ["registry.example.com"]
    assert found.histories == {PLACE: TagHistory(why="its ledger is down")}
    assert "its ledger is down" in str(found.meanings[NAME])


async def test_a_ledger_that_is_broken_ends_everything() -> None:
    """Nothing that such a registry says is shown as if it were true."""

    async def watch(_: str) -> LedgerCheck:
        raise LedgerBroken(Fault.OTHER_LEDGER, "it was rewritten")

    async with asking(FakeHub(), watch=watch) as registries:
        with pytest.raises(LedgerBroken):
            await query_registries(registries, [NAME], lambda _: set())
