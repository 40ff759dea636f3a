"""Since when an image is known: by the ledger of our own registry, and by this machine's observations of any other."""

from __future__ import annotations

import asyncio
from pathlib import Path

import httpx2

from boltseal.client.credentials import CredentialStore
from boltseal.client.transport import Transport, TransportOptions
from boltseal.commands.client_context import ClientContext
from boltseal.commands.known_since import known_since
from boltseal.commands.registry_access import RegistryOptions
from boltseal.config import ClientPaths
from boltseal.oci.digest import Digest
from boltseal.oci.reference import Reference
from boltseal.server.app import create_app
from boltseal.server.settings import Settings
from boltseal.server.store_factory import now_us
from tests.asgi import running
from tests.images import image, push
from tests.polling import until_signed

DAY_US = 86_400_000_000
OURS, FOREIGN = "localhost:5000", "registry.test"


async def since(tmp_path: Path, registry: str, *, look: bool) -> tuple[int, int, int, int]:
    """Return when an image became known, when it was pushed (not before, not after), and the time of the decision, a year later.

    `look`: this machine saw the image a month after the push.
    """
    app = create_app(Settings.model_validate({"server": {"data": tmp_path / "data"}}))
    later = now_us() + 365 * DAY_US
    client = ClientContext(
        ClientPaths((), "", tmp_path / "none.toml"), tmp_path / "state", lambda: later, lambda _: None
    )
    options = RegistryOptions(client)
    transport = Transport(
        CredentialStore(()), TransportOptions(plain_http=frozenset({registry})), app=httpx2.ASGITransport(app=app)
    )
    async with (
        running(app),
        httpx2.AsyncClient(transport=httpx2.ASGITransport(app=app), base_url="http://localhost:5000") as pushing,
    ):
        await push(pushing, "shop/app", "edge", image("one"))
        before, document = now_us(), image("two")
        await push(pushing, "shop/app", "edge", document)
        after = now_us()
        await until_signed(pushing, 2)
        current = {Reference.parse(f"{registry}/shop/app:edge"): Digest.parse(document.digest)}
        if look:
            await known_since(transport, options, current, now_us() + 30 * DAY_US, remember=True)
        found = await known_since(transport, options, current, later, remember=False)
        await transport.aclose()
    return next(iter(found.values())), before, after, later


def test_the_ledger_of_our_own_registry_gives_the_time(tmp_path: Path) -> None:
    """At a registry on this machine the ledger's entry says since when a tag resolves to an image, without an earlier look."""
    found, before, after, _ = asyncio.run(since(tmp_path, OURS, look=False))

    assert before - 1_000_000 <= found <= after + 1_000_000


def test_the_ledger_of_an_unknown_registry_gives_no_time(tmp_path: Path) -> None:
    """The ledger of a registry whose key was not given is not trusted: the image is known since this machine first saw it."""
    found, _, _, later = asyncio.run(since(tmp_path, FOREIGN, look=False))

    assert found == later


def test_an_earlier_look_counts(tmp_path: Path) -> None:
    """An image of another registry is known since this machine's first look."""
    found, _, after, later = asyncio.run(since(tmp_path, FOREIGN, look=True))

    assert after < found < later
