"""A process that publishes the same sealed tags as another one, with other content, and uses up a shared quota.

`python -m tests.server.storage.postgres_racer URL DATA NAME` prints a JSON object: the tags that it published, by digest,
and how many pushes the quota refused.
"""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

from boltseal.errors import BoltsealError
from boltseal.oci.digest import Digest
from boltseal.oci.reference import Repository
from boltseal.policy.quotas import QuotaExceeded, parse_quotas
from boltseal.policy.rules import parse_rules
from boltseal.server.auth.actor import Actor
from boltseal.server.registry import build_registry
from boltseal.server.registry.quota_checks import QuotaChecks
from boltseal.server.storage.blobs.local_store import LocalBlobs
from boltseal.server.storage.metadata_factory import open_metadata
from boltseal.server.storage_settings import DatabaseUrl, StorageSettings
from tests.bare_registry import BareRegistry, Clock

TAGS = 10
REPOSITORIES = 3
QUOTA = [{"users": ["ci"], "max_bytes": "6 KiB"}]


async def race(shop: BareRegistry, name: str) -> dict[str, object]:
    """Publish every tag in every repository, many at a time."""
    published: dict[str, str] = {}
    refused = 0
    errors: list[str] = []

    async def push(repository: Repository, number: int) -> None:
        nonlocal refused
        tag = f"1.0.{number}"
        try:
            body = await shop.image(f"{name}{number}", repository)
            await shop.push(body, tag, repository=repository, actor=Actor("ci"))
            published[f"{repository}:{tag}"] = str(Digest.of(body))
        except QuotaExceeded:
            refused += 1
        except BoltsealError as error:
            errors.append(type(error).__name__)

    targets = [Repository(f"shop/app{number}") for number in range(REPOSITORIES)]
    order = targets if name == "a" else targets[::-1]  # the other process takes them in the other order
    await asyncio.gather(*(push(repository, number) for number in range(TAGS) for repository in order))
    return {"published": published, "refused": refused, "errors": errors}


async def main(url: str, data: str, name: str) -> None:
    """Open the store and race."""
    storage = StorageSettings(database=DatabaseUrl(url))
    clock = Clock()
    database = open_metadata(Path(data), storage, None)
    blobs = LocalBlobs(Path(data))
    checks = QuotaChecks(parse_quotas(QUOTA))
    shop = BareRegistry(build_registry(database, blobs, parse_rules(()), quotas=checks), database, blobs, clock)
    sys.stdout.write(json.dumps(await race(shop, name)))
    database.close()
    blobs.close()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
