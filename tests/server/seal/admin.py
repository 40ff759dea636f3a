"""The admin operations on a data folder, as `boltseal tag seal|unseal|purge` run them beside a running server."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from boltseal.oci.reference import Repository, Tag
from boltseal.server.auth.actor import Actor
from boltseal.server.registry.seals import Seals
from boltseal.server.store_factory import open_store
from tests.serving import settings_of

ADMIN: Final = Actor("root", admin=True)
APP: Final = Repository("shop/app")
RELEASE: Final = Tag("1.4.2")


@contextmanager
def seals_of(data: Path) -> Iterator[Seals]:
    """Return the admin operations of a store that other processes have open."""
    with open_store(settings_of(data)) as store:
        yield store.registry.seals


def bytes_on_disk(data: Path, digest: str) -> Path:
    """Return the path of a blob's bytes."""
    algorithm, _, hexadecimal = digest.partition(":")
    return data / "blobs" / algorithm / hexadecimal[:2] / hexadecimal
