"""The interface through which a registry client has tags proven. `client.tag_proofs` implements it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from typing import Protocol, TypeVar

from boltseal.oci.digest import Digest
from boltseal.oci.reference import Reference, Repository, Tag


class HasDigest(Protocol):
    """A registry's answer for a tag."""

    @property
    def digest(self) -> Digest:
        """The digest that the tag resolves to."""


Answer = TypeVar("Answer", bound=HasDigest)


class TagProver(Protocol):
    """Proves what tags resolve to by the ledgers of their registries, where those are trusted."""

    def announce(self, references: Iterable[Reference]) -> None:
        """Name tags that will be resolved, so that one request proves many of them."""

    def entry(self, reference: Reference, digest: Digest) -> int | None:
        """Return the index of the ledger entry that proved in this run that a tag resolves to a digest; None if none did."""

    async def proven(
        self, registry: str, repository: Repository, tag: Tag, ask: Callable[[], Awaitable[Answer]]
    ) -> Answer:
        """Return what `ask` returns, or raise the RemoteNotFound that it raises, if the ledger proves it.

        Without a trusted ledger it only calls `ask`. Raises: LedgerBroken: the ledger contradicts the answer;
        LedgerUnchecked: nothing could be proven.
        """
