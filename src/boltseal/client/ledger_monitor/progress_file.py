"""The progress of a ledger monitor on disk: one file per ledger, replaced atomically.

    line     JSON: version, origin, size, time of the last entry, root, secret, and the lengths of what follows
    tiles    the right edge of the tree
    tables   of `MonitoredTags`, as in memory

Beside it, HOST.share has the number of the share of all tags that the next run compares; without it that is the first.

Without the file a monitor starts at the ledger's first entry. An unreadable file is an error and not a new start.
"""

from __future__ import annotations

import os
import secrets
from pathlib import Path
from typing import Final
from urllib.parse import quote as quote_name

import msgspec

from boltseal.client.ledger_monitor.compact_audit import CompactAudit, MonitorProgress
from boltseal.client.ledger_monitor.tag_states import HASH_BYTES, SLOT_BYTES, TABLES, MonitoredTags
from boltseal.errors import Unavailable
from boltseal.files.atomic_files import Disk, write_file
from boltseal.ledger.tiles import TileId

VERSION: Final = 1


class MemoryUnusable(Unavailable):
    """A monitor's progress file can't be read or written."""


class _Head(msgspec.Struct, forbid_unknown_fields=True):
    version: int
    origin: str
    size: int
    last_time_us: int
    live: int
    root: str
    secret: str
    edge: list[tuple[int, int, int]]
    slots: list[int]
    counts: list[int]


class MonitorMemory:
    """The progress file of one registry's ledger."""

    def __init__(self, folder: Path, registry: str) -> None:
        self.path = folder / "monitor" / quote_name(registry, safe="")
        self._share = self.path.with_name(f"{self.path.name}.share")
        self._secret = b""

    def load(self) -> MonitorProgress:
        """Return the saved progress, or that of a new monitor. Raises: MemoryUnusable."""
        try:
            with self.path.open("rb") as file:
                head = msgspec.json.decode(file.readline(1_000_000), type=_Head)
                if head.version != VERSION or not len(head.slots) == len(head.counts) == TABLES:
                    raise MemoryUnusable(f"{self.path} has version {head.version} (expected {VERSION})")
                edge = {at: file.read(at.width * 32) for at in (TileId(*one) for one in head.edge)}
                tables = [bytearray(file.read(slots * SLOT_BYTES)) for slots in head.slots]
                whole = all(len(table) == slots * SLOT_BYTES for table, slots in zip(tables, head.slots, strict=True))
                if not whole or file.read(1):
                    raise MemoryUnusable(
                        f"{self.path} has an unexpected length; delete it to start again at the first entry"
                    )
        except FileNotFoundError:
            self._secret = secrets.token_bytes(HASH_BYTES)
            return MonitorProgress(CompactAudit(MonitoredTags(self._secret)))
        except (OSError, ValueError) as error:
            raise MemoryUnusable(
                f"{self.path} can't be read: {error}; delete it to start again at the first entry"
            ) from error
        self._secret = bytes.fromhex(head.secret)
        names = MonitoredTags(self._secret, tables, head.counts)
        audit = CompactAudit(names, head.origin, head.size, head.last_time_us, head.live)
        return MonitorProgress(audit, bytes.fromhex(head.root), edge, head.size)

    def share(self) -> int:
        """Return the number of the share of all tags that this run compares. Raises: MemoryUnusable."""
        try:
            with self._share.open("rb") as file:
                text = file.read(16).strip()
        except FileNotFoundError:
            return 0
        except OSError as error:
            raise MemoryUnusable(f"{self._share} can't be read: {error.strerror}") from error
        return int(text) if text.isdigit() else 0

    def save_share(self, number: int) -> None:
        """Save the number of the share that the next run compares. Raises: MemoryUnusable."""
        try:
            self._share.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            write_file(Disk(), self._share, f"{number}\n".encode(), 0o600)
        except OSError as error:
            raise MemoryUnusable(f"{self._share} can't be written: {error.strerror}") from error

    def save(self, progress: MonitorProgress) -> None:
        """Save the progress. Raises: MemoryUnusable."""
        audit = progress.audit
        head = _Head(
            VERSION,
            audit.origin,
            progress.size,
            audit.last_time_us,
            audit.live,
            progress.root.hex(),
            self._secret.hex(),
            [(at.level, at.index, at.width) for at in progress.edge],
            [len(table) // SLOT_BYTES for table in audit.hashed.tables],
            list(audit.hashed.counts),
        )
        temporary = self.path.with_name(f".{self.path.name}.{os.urandom(6).hex()}.new")
        try:
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            with os.fdopen(fd, "wb") as file:
                file.write(msgspec.json.encode(head) + b"\n")
                file.writelines(progress.edge.values())
                file.writelines(audit.hashed.tables)
                file.flush()
                os.fsync(fd)
            temporary.replace(self.path)
        except OSError as error:
            raise MemoryUnusable(f"{self.path} can't be written: {error.strerror}") from error
        finally:
            temporary.unlink(missing_ok=True)
