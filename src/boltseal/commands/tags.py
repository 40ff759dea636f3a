"""List the tags of a repository, at any registry, now or at a time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from boltseal.client.history import ProvenHistory
from boltseal.client.registry_client import RegistryClient
from boltseal.client.transport import Transport
from boltseal.commands.history import read
from boltseal.commands.outcome import Outcome
from boltseal.commands.registry_access import RegistryOptions, ask_followed
from boltseal.errors import Unavailable
from boltseal.ledger.history import EntryAt
from boltseal.oci.reference import Reference, Tag


@dataclass(frozen=True, slots=True)
class PastTags:
    """The tags of a repository at a time, each with the entry of the ledger that set it."""

    reference: Reference
    entries: Mapping[str, EntryAt]
    proven: ProvenHistory

    @property
    def outcome(self) -> Outcome:
        """DIFFERS if the history is broken."""
        return Outcome.DIFFERS if self.proven.problems else Outcome.HOLDS


@dataclass(frozen=True, slots=True)
class ListedTags:
    """All tags of a repository. `settling`: those that the registry names as not sealed yet."""

    tags: tuple[Tag, ...]
    settling: frozenset[str]


def list_tags(reference: Reference, options: RegistryOptions) -> ListedTags:
    """Return all tags of a repository. Raises: errors of the registry client."""

    async def listed(transport: Transport) -> ListedTags:
        client = RegistryClient(transport, reference.registry)
        pages = [page async for page in client.tag_pages(reference.repository)]
        tags = tuple(tag for page in pages for tag in page.tags)
        return ListedTags(tags, frozenset().union(*(page.settling for page in pages)))

    return ask_followed(options, [reference.registry], listed)


def tags_at(reference: Reference, time_us: int, options: RegistryOptions) -> PastTags:
    """Return the tags of a repository at a time, in microseconds since 1970, from the registry's ledger.

    Raises: Unavailable: the registry has no history of whole repositories; LedgerBroken.
    """
    found = read(options, reference, None)
    if not isinstance(found, ProvenHistory):
        raise Unavailable(
            f"{reference.registry} keeps no history of whole repositories; ask for one tag's: boltseal history"
        )
    return PastTags(reference, found.history.at(time_us), found)
