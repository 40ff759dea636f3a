"""Image references as a scan returns them, and a fake registry with their images."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from boltseal.client.credentials import CredentialStore
from boltseal.client.ledger_trust import LedgerCheck
from boltseal.client.transport import Transport, TransportOptions
from boltseal.errors import BoltsealError
from boltseal.oci.reference import Reference
from boltseal.project.image_references import Format, ImageReference, Span
from boltseal.project.resolve import Resolver
from tests.fakes.hub import FakeHub
from tests.images import Document, image, index

REGISTRY = "registry.example.com"


def image_ref(
    written: str, *, path: str = "compose.yaml", where: str = "services.web.image", build: bool = False, line: int = 3
) -> ImageReference:
    """Return a reference in a file, without `resolved` if the text is invalid."""
    try:
        resolved = Reference.parse(written)
    except BoltsealError as error:
        return ImageReference(
            path, Format.COMPOSE, where, line, Span(0, 0), written, None, why=error.message, build=build
        )
    return ImageReference(path, Format.COMPOSE, where, line, Span(0, 0), written, resolved, build=build)


def publish(hub: FakeHub, name: str, document: Document) -> str:
    """Push an image and everything it refers to, under a name such as `shop/app:1.4.2`; return its digest."""
    repository, _, tag = name.partition(":")
    for child in document.children:
        publish(hub, f"{repository}:{child.digest}", child)
    for blob in document.blobs:
        hub.blobs[blob.digest] = blob.data
    return str(hub.publish(repository, tag, document.raw, document.media_type))


def two_platforms(words: str) -> Document:
    """Return an index with an image for amd64 and one for arm64."""
    return index(image(f"{words} amd64"), image(f"{words} arm64"))


@asynccontextmanager
async def resolving(
    hub: FakeHub,
    *,
    count_pulls: bool = False,
    allowed: Callable[[str], bool] = lambda _: True,
    watch: Callable[[str], Awaitable[LedgerCheck]] | None = None,
    progress: Callable[[str, int, int], None] = lambda _step, _done, _total: None,
) -> AsyncIterator[Resolver]:
    """Return a resolver that reaches the fake registry under every name."""
    transport = Transport(CredentialStore([Path("/nowhere")]), TransportOptions(), app=hub.transport())
    try:
        yield Resolver(transport, allowed, count_pulls=count_pulls, watch=watch, progress=progress)
    finally:
        await transport.aclose()


def references(*names: str) -> Sequence[Reference]:
    return [Reference.parse(name) for name in names]
