"""What the verbs that talk to registries share: how they are reached, as whom, and one event loop."""

from __future__ import annotations

from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from boltseal.cli.answer import say
from boltseal.cli.clock import clock_us
from boltseal.config import client_paths, state_folder
from boltseal.errors import Invalid, quote

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterable

    from boltseal.client.ledger_trust import LedgerCheck
    from boltseal.client.pull_limit import PullLimit
    from boltseal.client.transport import Transport
    from boltseal.commands import registry_access
    from boltseal.commands.client_context import ClientContext
    from boltseal.ledger.note import VerifierKey
    from boltseal.oci.digest import Digest
    from boltseal.oci.reference import Reference, Tag
    from boltseal.transfer.locations import Location
    from boltseal.transfer.protocols import ImageSource, ImageTarget

T = TypeVar("T")

RemoteRefArgument = Annotated[
    str,
    typer.Argument(metavar="REF", show_default=False, help="An image of any registry: localhost:5000/shop/app:1.4.2"),
]
PlainHttpOption = Annotated[
    bool, typer.Option("--plain-http", help="Talk without TLS. On loopback that is found out by itself.")
]
CaFileOption = Annotated[
    Path | None,
    typer.Option("--ca-file", metavar="FILE", show_default=False, help="Trust this certificate authority too (PEM)."),
]
AnonymousOption = Annotated[bool, typer.Option("--anonymous", help="Use no login, though there may be one.")]
StrictOption = Annotated[
    bool, typer.Option("--strict", help="Refuse a registry whose ledger's key nobody has given to `boltseal trust`.")
]


class NamesNothing(Invalid):
    """A reference without a tag or digest, or with one, where the other is wanted."""


@dataclass(frozen=True, slots=True)
class RegistryOptions:
    """How registries are reached: the flags that all verbs of this kind have."""

    plain_http: bool = False
    ca_file: Path | None = None
    anonymous: bool = False
    strict: bool = False

    def transport(self, registries: Iterable[str]) -> Transport:
        """Connections to these registries. Logins come from Docker's and Podman's files."""
        from boltseal.client.credentials import CredentialStore
        from boltseal.client.transport import Transport, TransportOptions
        from boltseal.config import client_paths

        logins = () if self.anonymous else client_paths().logins
        plain = frozenset(registries) if self.plain_http else frozenset()
        return Transport(CredentialStore(logins), TransportOptions(plain_http=plain, ca_file=self.ca_file))

    def options(self) -> registry_access.RegistryOptions:
        """Return these options as the use cases take them."""
        return registry_options(self.plain_http, self.ca_file, self.anonymous, self.strict)


def client_context() -> ClientContext:
    """Return this process's user files and clock; notices go to stderr."""
    from boltseal.commands.client_context import ClientContext

    return ClientContext(client_paths(), state_folder(), clock_us, say)


def registry_options(
    plain_http: bool = False, ca_file: Path | None = None, anonymous: bool = False, strict: bool = False
) -> registry_access.RegistryOptions:
    """Return the registry options of a command line."""
    from boltseal.commands import registry_access

    return registry_access.RegistryOptions(client_context(), plain_http, ca_file, anonymous, strict)


def pull_limit_text(registry: str, limit: PullLimit) -> str:
    """Return what is left of a registry's pull limit, as one line."""
    return quota_in_words(registry, limit)


def ask(reach: RegistryOptions, registries: Iterable[str], call: Callable[[Transport], Awaitable[T]]) -> T:
    """Make one call on connections to these registries, and close them."""
    import asyncio

    import uvloop
    from stamina.instrumentation import set_on_retry_hooks

    set_on_retry_hooks(())  # they log, and to stdout; what counts is how it ends

    async def run() -> T:
        transport = reach.transport(registries)
        try:
            return await call(transport)
        finally:
            await transport.aclose()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(run())


def ask_followed(reach: RegistryOptions, registries: Iterable[str], call: Callable[[Transport], Awaitable[T]]) -> T:
    """As `ask`, once the ledger of each of these registries was found to go on from what was seen of it before."""
    asked = list(dict.fromkeys(registries))

    async def run(transport: Transport) -> T:
        for registry in asked:
            await followed(reach, transport, registry)
        return await call(transport)

    return ask(reach, asked, run)


async def followed(
    reach: RegistryOptions, transport: Transport, registry: str, named: VerifierKey | None = None
) -> LedgerCheck:
    """Compare a registry's ledger with what was seen of it before, and with the key that a lock names.

    LedgerBroken, LedgerUnchecked, NotTrusted, KeyDiffers.
    """
    import time

    from boltseal.client.ledger_trust import LedgerWatch
    from boltseal.client.state import ClientState
    from boltseal.config import state_folder

    watch = LedgerWatch(ClientState(state_folder()), transport, lambda: int(time.time()), strict=reach.strict)
    found = await watch.follow(registry, named)
    for line in aloud(found):
        say(line)
    return found


def aloud(found: LedgerCheck) -> list[str]:
    """What a person has to hear of a ledger's state."""
    from boltseal.client.ledger_trust import TrustStatus

    lines = []
    if found.status is TrustStatus.FIRST_USE and found.named is not None:
        lines.append(
            f"first use of the ledger of {found.registry}: here it is believed because boltseal.lock names the key that "
            f"signs it, {found.named}. Whoever wrote that file vouches for it. To have it trusted on this machine: "
            f"boltseal trust {found.registry} KEY"
        )
    elif found.status is TrustStatus.FIRST_USE and found.head is not None:
        lines.append(
            f"first use of the ledger of {found.registry} (key ID {found.head.trusted.key_id.hex()}): from now on it is "
            "held against what it shows today. Nobody has vouched for it: a key that it shows itself would prove "
            f"nothing. Ask its keeper, then: boltseal trust {found.registry} KEY"
        )
    if found.status is TrustStatus.ROTATED and found.head is not None:
        lines.append(
            f"the ledger of {found.registry} is signed by a new key, as the trusted one says: {found.head.trusted.key}"
        )
    if found.unkept and found.head is not None:
        lines.append(f"this could not be remembered: {found.unkept}")
    return lines


def remote_reference(text: str) -> Reference:
    """What a person typed. NameInvalid, TagInvalid, DigestInvalid."""
    from boltseal.oci.reference import Reference

    return Reference.parse(text)


def named(reference: Reference) -> Tag | Digest:
    """What of the repository is meant: the digest, else the tag, else `latest` as Docker adds it."""
    from boltseal.oci.reference import Tag

    return reference.digest or reference.tag or Tag("latest")


def repository_only(text: str) -> Reference:
    """A reference that names a whole repository. NamesNothing."""
    reference = remote_reference(text)
    if reference.tag is not None or reference.digest is not None:
        raise NamesNothing(f"{quote(text)} names one image; expected a repository, such as {reference.name}")
    return reference


def in_daemon(place: Location) -> str | None:
    """The name of a place's image within it; an archive that a daemon gave holds one image, whatever it is called."""
    return None if place.kind == "docker-daemon" else place.name


def quota_in_words(registry: str, quota: PullLimit) -> str:
    """What is left of a registry's pull limit, as a person reads it."""
    window = f" in {quota.window_s // 3600} hours" if quota.window_s >= 3600 else ""
    return f"{registry} says: {quota.remaining} of {quota.limit} pulls left{window}"


@asynccontextmanager
async def opened(
    transport: Transport, source: Location, target: Location, *, force: bool, engine: str = ""
) -> AsyncIterator[tuple[ImageSource, ImageTarget, bool]]:
    """Both ends of a transfer, and whether they are one repository. The target keeps what arrived only if all went well.

    `engine`: the address of the daemon, where it is not the usual one.
    """
    from tempfile import TemporaryDirectory

    from boltseal.config import client_paths
    from boltseal.transfer.connect import TransferContext, open_source, open_target

    with TemporaryDirectory(prefix="boltseal-") as scratch:
        paths = client_paths()
        means = TransferContext(transport, Path(scratch), engine or paths.docker_host, paths.docker_certificates)
        from_ = await open_source(source, means)
        mount_from = None
        if source.reference and target.reference and source.reference.registry == target.reference.registry:
            mount_from = source.reference.repository if source.kind == target.kind == "registry" else None
        within = mount_from is not None and target.reference is not None and mount_from == target.reference.repository
        to = open_target(target, means, mount_from, force=force)
        complete = False
        try:
            yield from_, to, within
            complete = True
        finally:
            await to.close(complete=complete)


@asynccontextmanager
async def opened_sources(transport: Transport, *places: Location) -> AsyncIterator[tuple[ImageSource, ...]]:
    """Places to read from."""
    from tempfile import TemporaryDirectory

    from boltseal.config import client_paths
    from boltseal.transfer.connect import TransferContext, open_source

    with TemporaryDirectory(prefix="boltseal-") as scratch:
        paths = client_paths()
        means = TransferContext(transport, Path(scratch), paths.docker_host, paths.docker_certificates)
        yield tuple([await open_source(place, means) for place in places])
