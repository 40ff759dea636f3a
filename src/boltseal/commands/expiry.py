"""Deletion of sealed tags whose time to be kept is over: the values of `boltseal admin expire`.

`TagExpiry` has two implementations: on a data folder (`server.commands.expiry`) and over the admin API of a registry
(`commands.registry_expiry`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class OverdueTagInfo:
    """A tag whose time is over. `kept`: why it stays; "": it was deleted, or would be."""

    repository: str
    tag: str
    kept: str = ""

    @property
    def ref(self) -> str:
        """The tag with its repository."""
        return f"{self.repository}:{self.tag}"


class TagExpiry(Protocol):
    """The overdue tags of one registry. The ledger records each deletion."""

    def expire(self, *, dry_run: bool) -> list[OverdueTagInfo]:
        """Delete the tags whose time is over, unless a host runs their images, and return all of them, sorted.

        `dry_run`: only return them. Raises: Denied; errors of the data folder, or of the connection. The command can be run again.
        """
        ...
