"""The registry: what is pushed, pulled, tagged, sealed and deleted. No HTTP, no SQL.

`app.py` builds one `Registry` per process; `api/` and `cli/` call its parts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from boltseal.registry.bounds import UNBOUNDED, Bounds
from boltseal.registry.deletes import Deletes
from boltseal.registry.gated import GatedPushes
from boltseal.registry.ledger import Ledger
from boltseal.registry.manifests import Manifests
from boltseal.registry.observations import Observations
from boltseal.registry.pulls import Pulls
from boltseal.registry.records import Records
from boltseal.registry.refusals import Refusals
from boltseal.registry.restores import Restores
from boltseal.registry.seals import Seals
from boltseal.registry.tags import TagDoor
from boltseal.registry.uploads import Uploads
from boltseal.registry.upstream_state import UpstreamStates
from boltseal.storage.schema import OBSERVATIONS

if TYPE_CHECKING:
    from boltseal.policy.rules import RuleSet
    from boltseal.storage.blobs import BlobStore
    from boltseal.storage.database import Database
    from boltseal.storage.room import Room


@dataclass(frozen=True, slots=True)
class Registry:
    """The parts, built on one database and one blob store."""

    pulls: Pulls
    manifests: Manifests
    uploads: Uploads
    deletes: Deletes
    seals: Seals
    restores: Restores
    records: Records
    ledger: Ledger
    observed: Ledger
    observations: Observations
    upstreams: UpstreamStates
    refusals: Refusals
    gated: GatedPushes


def build_registry(
    database: Database, blobs: BlobStore, rules: RuleSet, room: Room | None = None, bounds: Bounds = UNBOUNDED
) -> Registry:
    """The registry over one store, all its parts behind the same door. `room`: what uploads must leave free."""
    door, refusals = TagDoor(rules), Refusals(rules)
    manifests = Manifests(database, door, refusals, bounds)
    return Registry(
        pulls=Pulls(database, blobs),
        manifests=manifests,
        uploads=Uploads(database, blobs, room, bounds),
        deletes=Deletes(database, door, refusals),
        seals=Seals(database, blobs, door),
        restores=Restores(database, door),
        records=Records(database),
        ledger=Ledger(database),
        observed=Ledger(database, OBSERVATIONS),
        observations=Observations(database),
        upstreams=UpstreamStates(database),
        refusals=refusals,
        gated=GatedPushes(database, manifests, door, refusals),
    )
