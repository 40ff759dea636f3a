"""An open store of one data folder: its database, blobs, keys and registry, which `store_factory` builds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from boltseal.errors import Unavailable
from boltseal.server.registry import Registry
from boltseal.server.registry.integrator import Integrator
from boltseal.server.storage.blobs.protocol import BlobStore
from boltseal.server.storage.bucket_owner import BucketOwner
from boltseal.server.storage.ledger_doubts import LedgerDoubts
from boltseal.server.storage.ledger_key import LedgerKeys
from boltseal.server.storage.ledger_mark import LedgerKeyUnreadable
from boltseal.server.storage.metadata.protocol import OBSERVATIONS, Log, Metadata
from boltseal.server.storage.object_tiles import ObjectTiles


@dataclass(frozen=True, slots=True)
class OpenStore:
    """An open data folder. `observing`: signs the log of observations of upstreams' tags."""

    data: Path
    database: Metadata
    blobs: BlobStore
    registry: Registry
    keys: LedgerKeys
    integrator: Integrator
    observing: Integrator
    tiles: Mapping[Log, ObjectTiles | None]
    owner: BucketOwner | None

    @property
    def doubts(self) -> LedgerDoubts:
        """Why the ledger takes no entries in any server."""
        return LedgerDoubts(self.database, self.keys.folder)

    @property
    def integrators(self) -> tuple[Integrator, ...]:
        """The integrators that sign the store's logs: the ledger and the log of observations."""
        return self.integrator, self.observing

    @property
    def moved(self) -> str | None:
        """Why clients have to push elsewhere: another storage or registry has the content now. None: they need not."""
        return self.database.closed or (None if self.owner is None else self.owner.lost)

    @property
    def keys_lost(self) -> bool:
        """Whether the folder of keys is not beside the data, and so perhaps a users' file is missing too."""
        if self.database.frozen is None:
            return False
        try:
            return self.keys.key() is None
        except Unavailable:  # the key can't be read: the folder is there, and with it the users' file if there is one
            return not self.keys.folder.is_dir()

    def verifier_key(self, log: Log) -> str:
        """Return the public key that signs a log now, "" if there is none or it cannot be read. Reads a file."""
        try:
            key = (self.observing if log == OBSERVATIONS else self.integrator).verifier()
        except LedgerKeyUnreadable:
            return ""
        return "" if key is None else str(key)

    def close(self) -> None:
        """Finish pending writes and close everything. Idempotent."""
        self.database.close()
        self.blobs.close()
