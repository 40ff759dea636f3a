"""The registry: pushes, pulls, tags, seals, deletes and the ledger. No HTTP, no SQL.

`store_factory` builds the `Registry` of a process, `app` replaces it at a reload; `api/` and `cli/` call its parts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from boltseal.policy.rules import RuleSet
from boltseal.server.registry.deletes import Deletes
from boltseal.server.registry.host_reports import HostReports
from boltseal.server.registry.layer_chains import LayerChains
from boltseal.server.registry.ledger import Ledger
from boltseal.server.registry.manifests import Manifests
from boltseal.server.registry.observations import Observations
from boltseal.server.registry.pulls import Pulls
from boltseal.server.registry.quota_checks import UNCHECKED, QuotaChecks
from boltseal.server.registry.records import Records
from boltseal.server.registry.refusals import RefusalLog
from boltseal.server.registry.refused_pushes import RefusedPushes
from boltseal.server.registry.reserved_push import ReservedPushes
from boltseal.server.registry.restores import Restores
from boltseal.server.registry.seals import Seals
from boltseal.server.registry.search import Search
from boltseal.server.registry.settling import SettlingTags
from boltseal.server.registry.store_state import StoreState
from boltseal.server.registry.tag_lists import TagLists
from boltseal.server.registry.tag_states import TagStates
from boltseal.server.registry.tag_writer import TagWriter
from boltseal.server.registry.uploads import UploadManager
from boltseal.server.registry.upstream_state import UpstreamStates
from boltseal.server.storage.blobs.protocol import BlobStore
from boltseal.server.storage.disk_reserve import DiskReserve
from boltseal.server.storage.metadata.protocol import LEDGER, OBSERVATIONS, Log, Metadata
from boltseal.server.storage.object_tiles import ObjectTiles


@dataclass(frozen=True, slots=True)
class Registry:
    """The parts of the registry, which share one database and one blob store."""

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
    refused_pushes: RefusedPushes
    reserved_pushes: ReservedPushes
    settling: SettlingTags
    layer_chains: LayerChains
    tag_states: TagStates
    store_state: StoreState
    host_reports: HostReports
    tag_lists: TagLists
    search: Search
    rules: RuleSet


def build_registry(
    database: Metadata,
    blobs: BlobStore,
    rules: RuleSet,
    disk_reserve: DiskReserve | None = None,
    quotas: QuotaChecks = UNCHECKED,
    *,
    pulls: Pulls | None = None,
    refused_pushes: RefusedPushes | None = None,
    tiles: Mapping[Log, ObjectTiles | None] | None = None,
) -> Registry:
    """Return the registry over one store; all parts share one tag writer.

    `disk_reserve`: the space that uploads must leave free. `pulls`: the reading side of the registry that this one replaces,
    with its caches, which do not depend on rules or quotas. `refused_pushes`: of that registry too. `tiles`: the objects from
    which a log's tiles are read.
    """
    tag_writer, refusals = TagWriter(rules), RefusalLog(rules)
    tiles = tiles or {}
    pulls = pulls or Pulls(database, blobs)
    layer_chains = LayerChains(database, pulls)
    manifests = Manifests(database, tag_writer, refusals, quotas, pulls, layer_chains, blobs.manifests)
    return Registry(
        pulls=pulls,
        manifests=manifests,
        uploads=UploadManager(database, blobs, disk_reserve, quotas),
        deletes=Deletes(database, tag_writer, refusals),
        seals=Seals(database, blobs, tag_writer),
        restores=Restores(database, tag_writer, pulls),
        records=Records(database),
        ledger=Ledger(database, LEDGER, tiles.get(LEDGER)),
        observed=Ledger(database, OBSERVATIONS, tiles.get(OBSERVATIONS)),
        observations=Observations(database),
        upstreams=UpstreamStates(database),
        refusals=refusals,
        refused_pushes=refused_pushes or RefusedPushes(database),
        reserved_pushes=ReservedPushes(database, manifests, tag_writer, refusals),
        settling=SettlingTags(database, tag_writer),
        layer_chains=layer_chains,
        tag_states=TagStates(database),
        store_state=StoreState(database),
        host_reports=HostReports(database),
        tag_lists=TagLists(database),
        search=Search(database),
        rules=rules,
    )
