"""The admin's verbs on a data folder, as `boltseal seal|unseal|purge` use them: beside a running server."""

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
    """The admin's side of the door of a store, opened beside whoever else has it open."""
    with open_store(settings_of(data)) as store:
        yield store.registry.seals


def bytes_on_disk(data: Path, digest: str) -> Path:
    """Where the bytes of a blob lie."""
    algorithm, _, hexadecimal = digest.partition(":")
    return data / "blobs" / algorithm / hexadecimal[:2] / hexadecimal
