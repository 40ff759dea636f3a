"""The state of `scrub --share` between runs, in the client state folder:

    scrub/share-HASH.json    HASH: of the images and roots on the command line, which have a rotation of their own

A state that is missing makes everything count as never read. One that can't be read is an error: otherwise a rotation could begin
anew in every run, and never read all, without a sign of it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final, NamedTuple

import msgspec

from boltseal.client.state import ClientState, StateUnusable
from boltseal.errors import Unavailable
from boltseal.files.atomic_files import Disk, make_folders, write_file
from boltseal.host.scrub.rotation import PartRecord, Rotation, RotationState

FOLDER: Final = "scrub"
MAX_BYTES: Final = 64 * 1024 * 1024
_FORMAT: Final = 1
_Number = Annotated[int, msgspec.Meta(ge=0, lt=1 << 53)]


class _Part(NamedTuple):
    run: _Number
    read_s: _Number
    failed: bool
    seen_s: _Number


class _File(msgspec.Struct, forbid_unknown_fields=True):
    format: int
    run: _Number
    parts: dict[str, _Part]


@dataclass(frozen=True, slots=True)
class OpenShare:
    """The rotation of a run, while no other run of its scope has it."""

    rotation: Rotation
    path: Path

    def save(self) -> str:
        """Save the state after the run. Return why it could not be saved, or "": the results of the run stand anyway."""
        state = self.rotation.end()
        parts = {key: _Part(each.run, each.read_s, each.failed, each.seen_s) for key, each in state.parts.items()}
        try:
            make_folders(Disk(), self.path.parent)
            write_file(Disk(), self.path, msgspec.json.encode(_File(_FORMAT, state.run, parts)), 0o600)
        except OSError as error:
            return f"{self.path} can't be written: {error.strerror}; what this run read counts as not read"
        return ""


@contextmanager
def opened_share(state: ClientState, shares: int, scope: Sequence[str], now_s: int) -> Iterator[OpenShare]:
    """Open the rotation of a run. `scope`: what is checked.

    Raises: StateUnusable; Unavailable: another run has the rotation.
    """
    name = hashlib.sha256("\0".join(scope).encode("utf-8", "surrogateescape")).hexdigest()[:16]
    path = state.folder / FOLDER / f"share-{name}.json"
    with state.alone(f"scrub-{name}.lock") as alone:
        if not alone:
            raise Unavailable("another scrub --share of the same images runs; wait for its end")
        yield OpenShare(Rotation(shares, _read(path), now_s), path)


def _read(path: Path) -> RotationState:
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        return RotationState()
    except OSError as error:
        raise StateUnusable(f"{path} can't be read: {error.strerror}") from error
    try:
        if len(raw) > MAX_BYTES:
            raise msgspec.ValidationError(f"it has more than {MAX_BYTES >> 20} MiB")
        read = msgspec.json.decode(raw, type=_File)
        if read.format != _FORMAT:
            raise msgspec.ValidationError(f"it has format {read.format} (expected {_FORMAT})")
    except (msgspec.DecodeError, RecursionError) as error:
        raise StateUnusable(f"{path} is damaged: {error}; without it everything counts as never read") from error
    if any(each.run > read.run for each in read.parts.values()):
        raise StateUnusable(
            f"{path} is damaged: it has a later run than the last; without it everything counts as never read"
        )
    return RotationState(read.run, {key: PartRecord(*each) for key, each in read.parts.items()})
