"""`admin fsck --rebuild`: restore the database of a registry from its bucket, then check everything."""

from __future__ import annotations

from dataclasses import dataclass

from boltseal.errors import Invalid
from boltseal.server.registry.rebuild import Rebuild, Rebuilt
from boltseal.server.settings import Settings
from boltseal.server.single_server import only_server
from boltseal.server.storage import metadata_factory
from boltseal.server.storage.blobs.blob_stores import open_client, open_tiles
from boltseal.server.storage.bucket_owner import BucketOwner
from boltseal.server.storage.findings import Examined, Finding, FindingCollector, Progress
from boltseal.server.storage.mark_factory import open_keys
from boltseal.server.storage.metadata.protocol import LEDGER, OBSERVATIONS
from boltseal.server.store_factory import Clock, examine_store, now_us, open_metadata


@dataclass(frozen=True, slots=True)
class RebuiltStore:
    """What was restored, what could not be (`findings`), and what the check of the whole store found after it."""

    rebuilt: Rebuilt
    findings: tuple[Finding, ...]
    examined: Examined


def rebuild_store(settings: Settings, progress: Progress, *, clock: Clock = now_us) -> RebuiltStore:
    """Restore an empty database, or continue a rebuild that was not finished. No server may run.

    Raises:
        RebuildRefused: the database is not empty, or the bucket does not prove the ledger.
        Invalid: blobs are files, or another server uses the data folder.
        Unavailable: bucket, database or keys do not answer; the next run continues.
    """
    where = settings.storage.blobs
    if where is None:
        raise Invalid(
            "[storage] blobs is not set, so manifests and ledger are in the database only, and can't be rebuilt; restore a backup "
            "with `boltseal admin restore`"
        )
    findings = FindingCollector(progress)
    with only_server(settings.server.data):
        metadata_factory.prepare_metadata(settings.server.data, settings.storage)
        with open_metadata(settings, clock=clock) as database:
            client = open_client(settings, where)
            owner = BucketOwner(database, client, str(where))
            keys = open_keys(settings.keys, settings.storage)
            opened = {log: open_tiles(settings, log) for log in (LEDGER, OBSERVATIONS)}
            tiles = {log: objects for log, objects in opened.items() if objects is not None}
            rebuilt = Rebuild(database, client, tiles, keys, owner, settings.rules, findings).run()
        return RebuiltStore(rebuilt, findings.close().findings, examine_store(settings, progress))
