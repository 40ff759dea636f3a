"""A ledger of another operator, whose checkpoints a witness under test gets: entries, a key, and requests to `add-checkpoint`."""

from __future__ import annotations

from base64 import b64encode

from boltseal.ledger.checkpoint import Checkpoint
from boltseal.ledger.note import SigningKey, format_note
from tests.ledger.tree_oracle import mth, proof


class OtherLedger:
    """A ledger that can lie: `fork` is the number of the first entry that differs from those of the honest one."""

    def __init__(
        self, name: str = "log.example.com", *, seed: bytes = bytes(range(32)), fork: int | None = None
    ) -> None:
        self.key = SigningKey(name, seed)
        self._fork = fork

    def entries(self, size: int) -> list[bytes]:
        """Return the first entries."""
        fork = size if self._fork is None else self._fork
        return [f"{number}{' forked' * (number >= fork)}".encode() for number in range(size)]

    def checkpoint(self, size: int) -> Checkpoint:
        """Return the checkpoint of a size."""
        return Checkpoint(self.key.name, size, mth(self.entries(size)))

    def note(self, size: int) -> bytes:
        """Return the signed checkpoint of a size."""
        text = self.checkpoint(size).text()
        return format_note(text, [self.key.sign(text)])

    def request(self, old: int, new: int) -> bytes:
        """Return the body of a request, with the proof of this ledger."""
        lines = [f"old {old}", *(b64encode(one).decode() for one in proof(old, self.entries(new))), "", ""]
        return "\n".join(lines).encode() + self.note(new)
