"""Baselines: files that record the images of a host, signed with a key that the user gives.

    boltseal.dev/baseline/v1            a signed note (C2SP): its text,
    time 2026-11-30T22:00:00Z           an empty line, and the signature
    host web1
    index SIZE SHA-256

    - web1/baseline BASE64
                                        an empty line
    {"images": [...], "layers": [...]}  the index: SIZE bytes
    ...                                 the inventory of each layer, at the place that the index names

The signature covers the index, and the index the SHA-256 of each inventory. Nothing of the file is used before it was verified
with the key that the user trusts: any doubt is BaselineUnusable, and nothing is checked.

A baseline states what the holder of its key recorded, not that this is the image that a registry has.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, Final

import msgspec

from boltseal.errors import Unavailable, quote
from boltseal.host.scrub.layer_check import LayerFiles
from boltseal.host.scrub.layer_inventory import Inventory
from boltseal.host.scrub.plans import ImagePlan, StorePlan
from boltseal.host.scrub.trust import Expectation, Level, local_reference
from boltseal.ledger.note import MAX_NOTE_BYTES, NoteInvalid, SigningKey, VerifierKey, format_note, open_note
from boltseal.lockfile.format import time_text
from boltseal.oci.digest import Digest, DigestInvalid

HEADER: Final = "boltseal.dev/baseline/v1"
MAX_INDEX_BYTES: Final = 256 << 20
_TEXT: Final = re.compile(
    rf"{re.escape(HEADER)}\ntime (?P<time>[0-9TZ:-]{{20}})\nhost (?P<host>[^\s]{{1,255}})\n"
    r"index (?P<size>[0-9]{1,10}) (?P<sha256>[0-9a-f]{64})\n"
)


class BaselineUnusable(Unavailable):
    """A baseline that can't be read, is not signed by the trusted key, or is damaged. Nothing was checked with it."""


class RecordedImage(msgspec.Struct, frozen=True):
    """An image of a baseline. `config`: the digest of its config; `level`: that of its check when it was recorded."""

    names: tuple[str, ...]
    id: str
    config: str
    level: str = ""


class RecordedLayer(msgspec.Struct, frozen=True):
    """An inventory in a baseline. `at`: its place after the index, in bytes."""

    diff_id: str
    at: int
    size: int
    sha256: str


class _Index(msgspec.Struct, frozen=True):
    images: tuple[RecordedImage, ...]
    layers: tuple[RecordedLayer, ...]


@dataclass(frozen=True, slots=True)
class Baseline:
    """A verified baseline. `by`: its date, host and key, in words. `provisional`: it is being recorded, and proves no image."""

    by: str
    images: tuple[RecordedImage, ...] = ()
    inventories: Mapping[Digest, Inventory] = field(default_factory=dict)
    provisional: bool = False

    def expectations(self) -> tuple[Expectation, ...]:
        """Return what the recorded names resolve to."""
        found = []
        for image in () if self.provisional else self.images:
            for name in image.names:
                reference = local_reference(name)
                if reference is not None and reference.tag is not None:
                    found.append(
                        Expectation(
                            Digest.parse(image.config), Level.L1, self.by, repository=reference.repository,
                            tag=reference.tag, registry=reference.registry,
                        )
                    )  # fmt: skip
        return tuple(found)

    def of_config(self, config: Digest) -> Expectation | None:
        """Return the expectation of a recorded image that has no name now, or was recorded without one."""
        known = any(image.config == str(config) for image in self.images)
        return Expectation(config, Level.L1, self.by) if known and not self.provisional else None

    def applied(self, plan: StorePlan) -> StorePlan:
        """Return a plan in which layers that the store can't prove are compared with their inventory."""
        return replace(plan, images=tuple(self._with_inventories(each) for each in plan.images))

    def _with_inventories(self, image: ImagePlan) -> ImagePlan:
        """Return the image with inventories if it is recorded itself: its layers may also be those of another image."""
        recorded = any(each.config == str(image.config) for each in self.images)
        if not recorded or not any(layer.unprovable for layer in image.layers):
            return image
        return replace(image, layers=tuple(self._with_inventory(each) for each in image.layers))

    def _with_inventory(self, layer: LayerFiles) -> LayerFiles:
        found = self.inventories.get(layer.diff_id) if layer.unprovable else None
        return layer if found is None else replace(layer, inventory=found)


def open_baseline(path: Path, key: VerifierKey) -> Baseline:
    """Read a baseline: 1. its note, signed by the key; 2. the index by its hash. Raises: BaselineUnusable."""
    shown = quote(str(path), 200)[1:-1]
    try:
        with path.open("rb") as file:
            head = file.read(MAX_NOTE_BYTES)
            note, end = _note_of(head)
            text = open_note(note, [key]).text  # 1
            found = _TEXT.fullmatch(text)
            if found is None or int(found["size"]) > MAX_INDEX_BYTES:
                raise BaselineUnusable(f"{shown} is a signed note, but not of a baseline")
            file.seek(end)
            raw = file.read(int(found["size"]))
        if hashlib.sha256(raw).hexdigest() != found["sha256"]:  # 2
            raise BaselineUnusable(f"{shown} is damaged: its index is not the one that was signed")
        index = msgspec.json.decode(raw, type=_Index)
        start = end + len(raw)
        inventories = {
            Digest.parse(each.diff_id): Inventory(path, start + each.at, each.size, each.sha256)
            for each in index.layers
        }
        for image in index.images:
            Digest.parse(image.config)
    except OSError as error:
        raise BaselineUnusable(f"baseline {shown} can't be read: {error.strerror}; nothing was checked") from error
    except (NoteInvalid, DigestInvalid, msgspec.DecodeError) as error:
        raise BaselineUnusable(
            f"baseline {shown} is not one that {key.name} (key ID {key.key_id.hex()}) signed: {error}; nothing was checked"
        ) from error
    by = f"the baseline of {found['time']} of host {found['host']}, signed by {key.name} (key ID {key.key_id.hex()})"
    return Baseline(by, index.images, inventories)


def _note_of(head: bytes) -> tuple[bytes, int]:
    """Return the note at the beginning of a file, and where the index begins. Raises: NoteInvalid."""
    text, blank, rest = head.partition(b"\n\n")
    signatures, end, _ = rest.partition(b"\n\n")
    if not blank or not end:
        raise NoteInvalid("it does not begin with a signed note")
    note = text + b"\n\n" + signatures + b"\n"
    return note, len(note) + 1


def write_baseline(
    path: Path,
    images: Sequence[RecordedImage],
    layers: Mapping[Digest, Inventory],
    key: SigningKey,
    *,
    host: str,
    time_us: int,
) -> None:
    """Write and sign a baseline. `layers`: the inventory of each layer.

    The file has no name until it is complete, where the file system can do that: nothing remains after a kill.

    Raises: BaselineUnusable, FileExistsError; StoreUnreadable: an inventory is not as it was made.
    """
    recorded, at = [], 0
    for diff_id, each in layers.items():
        recorded.append(RecordedLayer(str(diff_id), at, each.size, each.sha256))
        at += each.size
    index = msgspec.json.encode(_Index(tuple(images), tuple(recorded)))
    host = re.sub(r"\s", "-", host) or "unknown"
    text = f"{HEADER}\ntime {time_text(time_us)}\nhost {host}\nindex {len(index)} {hashlib.sha256(index).hexdigest()}\n"
    note = format_note(text, [key.sign(text)])
    try:
        with _arriving(path) as (target, name):
            target.write(note + b"\n" + index)
            for each in layers.values():
                target.write(each.verified())
            target.flush()
            os.fchmod(target.fileno(), 0o644)
            os.fsync(target.fileno())
            # It refuses to replace another baseline. Only with a folder it follows the link that /proc has.
            os.link(name, path, src_dir_fd=target.fileno(), follow_symlinks=True)
    except FileExistsError:
        raise
    except OSError as error:
        raise BaselineUnusable(f"baseline {quote(str(path), 200)[1:-1]} can't be written: {error.strerror}") from error


@contextmanager
def _arriving(path: Path) -> Iterator[tuple[IO[bytes], Path]]:
    """Open a new file in the folder of a path, and yield it with a path to link it from. It is removed at the end."""
    try:
        handle = os.open(path.parent, os.O_TMPFILE | os.O_WRONLY, 0o600)
        name, has_name = Path(f"/proc/self/fd/{handle}"), False
    except OSError as error:
        if error.errno not in (errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL):
            raise
        handle, text = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)
        name, has_name = Path(text), True
    try:
        with open(handle, "wb") as target:  # noqa: PTH123 - it is open
            yield target, name
    finally:
        if has_name:
            name.unlink(missing_ok=True)
