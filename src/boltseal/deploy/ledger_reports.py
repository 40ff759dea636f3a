"""Records a running release in the ledgers of the registries that its images come from: one `released` entry per image.

Only registries whose ledger is in the lock get an entry. It holds project, number, host, service and user. The environment
is an HMAC under a key that never leaves the host: two releases can be compared, and no value can be read. The entries are
written after the release is healthy, so a registry that can't be reached does not make a release fail.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Final

from boltseal.client.ledger_records import add_record
from boltseal.client.transport import Transport
from boltseal.deploy.releases import Release, ReleasedService
from boltseal.errors import BoltsealError
from boltseal.ledger.entry import RELEASE_HOST, RELEASE_NUMBER, RELEASE_PROJECT, EntryKind
from boltseal.oci.digest import Digest
from boltseal.oci.reference import Reference

WITHIN_S: Final = 10.0


@dataclass(frozen=True, slots=True)
class ReportResult:
    """The result for one service. `index`: the entry's; None if none was written, and `why` is the reason."""

    service: str
    registry: str
    index: int | None
    why: str = ""


async def record_release(
    transport: Transport, release: Release, registries: Collection[str], hmac: Callable[[str], str]
) -> tuple[ReportResult, ...]:
    """Record each image as released, within WITHIN_S for all of them. `registries`: those whose ledger is in the lock."""
    wanted = [
        (service, image)
        for service in release.services
        if service.digest and (not release.chosen or service.name in release.chosen)
        if (image := Reference.parse(service.image)).registry in registries
    ]

    async def record_image(service: ReleasedService, image: Reference) -> ReportResult:
        digest = Digest.parse(service.digest)
        reason = f"release {release.number} of {release.project} by {release.who}"
        try:
            index = await add_record(
                transport, EntryKind.RELEASED, image, digest, _extra(release, service, hmac), reason=reason
            )
        except BoltsealError as error:
            return ReportResult(service.name, image.registry, None, error.message)
        return ReportResult(service.name, image.registry, index)

    tasks = [asyncio.ensure_future(record_image(service, image)) for service, image in wanted]
    if not tasks:
        return ()
    _, late = await asyncio.wait(tasks, timeout=WITHIN_S)
    for task in late:
        task.cancel()
    await asyncio.gather(*late, return_exceptions=True)
    return tuple(
        ReportResult(service.name, image.registry, None, f"no response within {WITHIN_S:g} s")
        if task in late
        else task.result()
        for task, (service, image) in zip(tasks, wanted, strict=True)
    )


def _extra(release: Release, service: ReleasedService, hmac: Callable[[str], str]) -> dict[str, str]:
    extra = {
        RELEASE_PROJECT: release.project,
        RELEASE_NUMBER: str(release.number),
        "service": service.name,
        RELEASE_HOST: release.who.rpartition("@")[2],
        "environment": hmac(json.dumps(service.environment, sort_keys=True)),
    }
    extra |= {"revision": release.revision} if release.revision else {}
    return extra | ({} if release.of is None else {"of": str(release.of)})
