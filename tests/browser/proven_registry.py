"""A registry whose ledger is public, with a few tags, for tests that check proofs in a browser."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx2

from boltseal.ledger.entry import Entry, parse
from boltseal.ledger.proof import parse_receipt_unverified
from tests.browser.chromium import apart
from tests.images import image, push
from tests.logins import login, with_users
from tests.polling import wait_until
from tests.serving import ledger_key
from tests.thread_server import boltseal_in_thread

CONFIG = """
[ledger]
public = true

[auth]
anonymous_pull = ["public/**"]

[[auth.grant]]
users = ["boss"]
repository = "**"
actions = ["pull", "push", "ledger"]
"""
PUBLIC, PRIVATE, TAGS = "public/app", "shop/app", ("1.4.1", "1.4.2", "1.4.3")


@dataclass(frozen=True, slots=True)
class ProvenRegistry:
    """A running registry. `entries`: its signed entries. `key`: the ledger's."""

    url: str
    key: str
    entries: tuple[Entry, ...]

    def index_of(self, repository: str, tag: str) -> int:
        """Return the index of the entry of a tag."""
        return next(at for at, one in enumerate(self.entries) if (one.repository, one.tag) == (repository, tag))

    def receipt(self, index: int) -> bytes:
        """Return the receipt of an entry."""
        return httpx2.get(f"{self.url}/ledger/receipt/{index}", auth=login("boss")).content


@contextmanager
def proven_registry(data: Path) -> Iterator[ProvenRegistry]:
    """Run a registry with the TAGS in a public and in a private repository."""
    with_users(data)
    with boltseal_in_thread(data, CONFIG) as server:
        apart(_fill(server.url))
        with httpx2.Client(base_url=server.url, auth=login("boss")) as client:
            entries = wait_until(lambda: _signed_entries(client), "the entries of all tags are signed")
        yield ProvenRegistry(server.url, str(ledger_key(data)), entries)


def _signed_entries(client: httpx2.Client) -> tuple[Entry, ...]:
    """Return the signed entries, none while one of a tag is missing."""
    entries: list[Entry] = []
    while (answer := client.get(f"/ledger/receipt/{len(entries)}")).status_code == 200:
        entries.append(parse(parse_receipt_unverified(answer.content).extra or b""))
    of_tags = [entry for entry in entries if entry.tag]
    return tuple(entries) if len(of_tags) == 2 * len(TAGS) else ()


async def _fill(url: str) -> None:
    async with httpx2.AsyncClient(base_url=url, auth=login("boss")) as client:
        for repository in (PUBLIC, PRIVATE):
            for tag in TAGS:
                answer = await push(client, repository, tag, image(f"{repository} {tag}"))
                assert answer.status_code == 201, answer.text
