"""Connections to registries; a registry's ledger is checked before its answers are used."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import uvloop
from stamina.instrumentation import set_on_retry_hooks

from boltseal.client.ledger_trust import LedgerCheck, LedgerWatch, TrustStatus
from boltseal.client.tag_proofs import TagProofs
from boltseal.client.transport import Transport, TransportOptions
from boltseal.commands.client_context import ClientContext
from boltseal.commands.wait_notices import WaitNotices
from boltseal.errors import Invalid, quote
from boltseal.ledger.note import VerifierKey
from boltseal.oci.digest import Digest
from boltseal.oci.reference import Reference, Tag

T = TypeVar("T")


class ReferenceUnsuitable(Invalid):
    """A reference with an unexpected tag or digest, or without a required one."""


@dataclass(frozen=True, slots=True)
class RegistryOptions:
    """How registries are reached. `strict` refuses a registry whose ledger key is not pinned by `boltseal ledger trust`."""

    client: ClientContext
    plain_http: bool = False
    ca_file: Path | None = None
    anonymous: bool = False
    strict: bool = False

    def renewed(self) -> RegistryOptions:
        """Return these options for the next round of a command that repeats: the user's settings are read again."""
        return replace(self, client=self.client.renewed())

    def without_tls(self, registry: str) -> bool:
        """Return whether the flag or the user's settings say that a registry has no TLS. Raises: ProjectInvalid."""
        return self.plain_http or self.client.registries().plain_http(registry)

    def transport(self, registries: Iterable[str]) -> Transport:
        """Return connections to these registries, with the logins and certificates of the user's and other tools' files.

        What a tag resolves to at a registry whose ledger is trusted is proven (`client.tag_proofs`).
        """
        plain = frozenset(registries) if self.plain_http else frozenset()
        options = TransportOptions(
            plain_http=plain, ca_file=self.ca_file, registries=self.client.registries(), trace=self.client.trace
        )
        transport = Transport(self.client.credentials(anonymous=self.anonymous), options)
        watch = LedgerWatch(self.client.state, transport, self.client.now_s, strict=self.strict)
        transport.prover = TagProofs(transport, self.client.state, watch.follow, self.client.proven)
        return transport


def ask(options: RegistryOptions, registries: Iterable[str], call: Callable[[Transport], Awaitable[T]]) -> T:
    """Run one call on connections to these registries, and close them. Starts an event loop."""
    set_on_retry_hooks([WaitNotices(options.client.notice, options.client.now_us)])  # stamina's own would log to stdout

    async def run() -> T:
        transport = options.transport(registries)
        try:
            return await call(transport)
        finally:
            await transport.aclose()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(run())


def ask_followed(options: RegistryOptions, registries: Iterable[str], call: Callable[[Transport], Awaitable[T]]) -> T:
    """Run one call like `ask`, after the ledger of each of these registries was checked by `followed`."""
    asked = list(dict.fromkeys(registries))

    async def run(transport: Transport) -> T:
        for registry in asked:
            await followed(options, transport, registry)
        return await call(transport)

    return ask(options, asked, run)


async def followed(
    options: RegistryOptions, transport: Transport, registry: str, lock_key: VerifierKey | None = None
) -> LedgerCheck:
    """Compare a registry's ledger with the state seen before and with the key in the project's lock (`lock_key`).

    Raises: LedgerBroken, LedgerUnchecked, NotTrusted, KeyDiffers.
    """
    client = options.client
    watch = LedgerWatch(client.state, transport, client.now_s, strict=options.strict)
    check = await watch.follow(registry, lock_key)
    if isinstance(transport.prover, TagProofs):
        transport.prover.followed(check, lock_key)
    for line in ledger_notices(check):
        client.notice(line)
    return check


def ledger_notices(check: LedgerCheck) -> list[str]:
    """Return the notices about trust in a ledger: first use, a rotated key, state that was not saved."""
    lines = []
    if check.status is TrustStatus.FIRST_USE and check.named is not None:
        lines.append(
            f"first use of the ledger of {check.registry}: it is trusted here because boltseal.lock names the key that "
            f"signs it, {check.named}. Its author vouches for it. To trust it on this machine: "
            f"boltseal ledger trust {check.registry} KEY"
        )
    elif check.status is TrustStatus.FIRST_USE and check.head is not None:
        lines.append(
            f"first use of the ledger of {check.registry} (key ID {check.head.trusted.key_id.hex()}): from now on it is "
            "compared with its present state. Its key is not verified: a key that the registry itself serves proves "
            f"nothing. Get the key from its operator, then: boltseal ledger trust {check.registry} KEY"
        )
    if check.status is TrustStatus.ROTATED and check.head is not None:
        lines.append(
            f"the ledger of {check.registry} is signed by a new key, named by the trusted one: {check.head.trusted.key}"
        )
    if check.not_saved and check.head is not None:
        lines.append(f"the state of the ledger could not be saved: {check.not_saved}")
    return lines


def tag_or_digest(reference: Reference) -> Tag | Digest:
    """Return the digest of a reference, else its tag, else `latest` as Docker does."""
    return reference.digest or reference.tag or Tag("latest")


def repository_only(text: str) -> Reference:
    """Parse a reference that names a whole repository. Raises: ReferenceUnsuitable."""
    reference = Reference.parse(text)
    if reference.tag is not None or reference.digest is not None:
        host, _, port = text.partition(":")
        if port.isdecimal() and (host == "localhost" or "." in host):  # parsed as a tag of an image of Docker Hub
            raise ReferenceUnsuitable(f"{quote(text)} is a registry; expected a repository, such as {text}/shop/app")
        raise ReferenceUnsuitable(f"{quote(text)} names one image; expected a repository, such as {reference.name}")
    return reference
