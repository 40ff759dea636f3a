"""The registry: what is pushed, pulled, tagged, sealed and deleted. No HTTP, no SQL.

`app.py` builds one `Registry` per process; `api/` and `cli/` call its parts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from boltseal.server.registry.deletes import Deletes
from boltseal.server.registry.ledger import Ledger
from boltseal.server.registry.manifests import Manifests
from boltseal.server.registry.observations import Observations
from boltseal.server.registry.pulls import Pulls
from boltseal.server.registry.quota_checks import UNCHECKED, QuotaChecks
from boltseal.server.registry.records import Records
from boltseal.server.registry.refusals import RefusalLog
from boltseal.server.registry.reserved_push import ReservedPushes
from boltseal.server.registry.restores import Restores
from boltseal.server.registry.seals import Seals
from boltseal.server.registry.tag_writer import TagWriter
from boltseal.server.registry.uploads import UploadManager
from boltseal.server.registry.upstream_state import UpstreamStates
from boltseal.server.storage.metadata.protocol import OBSERVATIONS

if TYPE_CHECKING:
    from boltseal.policy.rules import RuleSet
    from boltseal.server.storage.blobs.protocol import BlobStore
    from boltseal.server.storage.disk_reserve import DiskReserve
    from boltseal.server.storage.metadata.protocol import Metadata


@dataclass(frozen=True, slots=True)
class Registry:
    """The parts, built on one database and one blob store."""

    pulls: Pulls
    manifests: Manifests
    uploads: UploadManager
    deletes: Deletes
    seals: Seals
    restores: Restores
    records: Records
    ledger: Ledger
    observed: Ledger
    observations: Observations
    upstreams: UpstreamStates
    refusals: RefusalLog
    gated: ReservedPushes


def build_registry(
    database: Metadata,
    blobs: BlobStore,
    rules: RuleSet,
    room: DiskReserve | None = None,
    bounds: QuotaChecks = UNCHECKED,
) -> Registry:
    """The registry over one store, all its parts behind the same door. `room`: what uploads must leave free."""
    door, refusals = TagWriter(rules), RefusalLog(rules)
    manifests = Manifests(database, door, refusals, bounds)
    return Registry(
        pulls=Pulls(database, blobs),
        manifests=manifests,
        uploads=UploadManager(database, blobs, room, bounds),
        deletes=Deletes(database, door, refusals),
        seals=Seals(database, blobs, door),
        restores=Restores(database, door),
        records=Records(database),
        ledger=Ledger(database),
        observed=Ledger(database, OBSERVATIONS),
        observations=Observations(database),
        upstreams=UpstreamStates(database),
        refusals=refusals,
        gated=ReservedPushes(database, manifests, door, refusals),
    )
