"""What the verbs that keep images share: an engine with what is remembered of it, and words for what is kept."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

from boltseal.cli.answer import clean, say
from boltseal.cli.clock import clock_us

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

    from boltseal.cli.remote import RegistryOptions
    from boltseal.client.transport import Transport
    from boltseal.host.engine_images import EngineHost
    from boltseal.host.keeper import ExpiryResult
    from boltseal.host.kept_images import KeptImage, KeptImages
    from boltseal.host.pull import CopyImage
    from boltseal.oci.digest import Digest
    from boltseal.oci.reference import Reference

T = TypeVar("T")


def kept_store() -> KeptImages:
    """What this user's client remembers of engines."""
    from boltseal.client.state import ClientState
    from boltseal.config import state_folder
    from boltseal.host.kept_images import KeptImages

    return KeptImages(ClientState(state_folder()))


def on_host(
    reach: RegistryOptions,
    registries: Iterable[str],
    host: str | None,
    call: Callable[[EngineHost, Transport], Awaitable[T]],
) -> T:
    """Make one call on an engine, with connections to these registries. EngineUnavailable, EngineForbidden, SshFailed, ..."""

    from boltseal.cli.onhost import engine_address
    from boltseal.cli.remote import ask
    from boltseal.engines.api import connected
    from boltseal.host.engine_images import EngineHost

    async def run(transport: Transport) -> T:
        async with connected(engine_address(host)) as engine:
            opened = await EngineHost.of(engine, kept_store(), clock_us)
            return await call(opened, transport)

    return ask(reach, registries, run)


def tagged(text: str) -> Reference:
    """A name that an engine gives to images: with a tag, `latest` where there is none. NamesNothing for a digest."""
    from boltseal.cli.remote import NamesNothing, remote_reference
    from boltseal.errors import quote

    reference = remote_reference(text)
    if reference.digest is not None:
        raise NamesNothing(f"{quote(text)} names a digest; expected a name with a tag, and the digest by --to")
    return reference.by_tag


def kept_fields(kept: KeptImage | None) -> dict[str, Any] | None:
    """A kept image for `--json`."""
    from boltseal.lockfile.format import time_text

    if kept is None:
        return None
    return {
        "image": str(kept.image),
        "digest": None if kept.digest is None else str(kept.digest),
        "tag": kept.keep_name.familiar(),
        "kept": time_text(_seconds(kept.kept_us)) if kept.kept_us else None,
        "until": None if kept.until_us is None else time_text(_seconds(kept.until_us)),
        "keep": kept.keep,
        "copy": None if kept.copy is None else str(kept.copy),
    }


def _seconds(us: int) -> int:
    """The lock's times are whole seconds."""
    return us - us % 1_000_000


def copy_target(copy_to: str) -> tuple[str, str]:
    """`--copy-to` as a registry and the prefix that repositories get there (with its slash, or ""). NamesNothing, NameInvalid."""
    from boltseal.cli.remote import NamesNothing
    from boltseal.errors import quote
    from boltseal.oci.reference import Reference

    host, _, prefix = copy_to.rstrip("/").partition("/")
    found = Reference.parse(f"{host}/{prefix}/x" if prefix else f"{host}/x")
    if found.registry != host or found.tag is not None or found.digest is not None:
        raise NamesNothing(
            f"--copy-to is {quote(copy_to)}; expected a registry and a prefix, registry.example.com/kept"
        )
    return found.registry, f"{prefix}/" if prefix else ""


def copier(copy_to: str, address: str, transport: Transport) -> CopyImage:
    """Copies an image that works to our own registry: from its registry, or, where that has it no more, from the engine."""
    registry, prefix = copy_target(copy_to)

    async def copied(name: Reference, digest: Digest) -> Reference:
        from boltseal.client.errors import RemoteNotFound
        from boltseal.host.keeper import keep_tag
        from boltseal.oci.reference import Reference, Repository

        target = Reference(registry, Repository(prefix + name.repository), keep_tag(digest))
        at_home = Reference(name.registry, name.repository, digest=digest)
        try:
            found = await _copy(str(at_home), target, address, transport)
        except RemoteNotFound:
            found = await _copy(f"docker-daemon:{name}", target, address, transport)
        return Reference(target.registry, target.repository, target.tag, found)

    return copied


async def _copy(source: str, target: Reference, address: str, transport: Transport) -> Digest:
    from boltseal.cli.remote import in_daemon, opened
    from boltseal.transfer.copy import Copier
    from boltseal.transfer.locations import Location

    place = Location.parse(source)
    async with opened(transport, place, Location.parse(str(target)), force=False, engine=address) as (
        from_,
        to,
        within,
    ):
        done = await Copier(from_, to, within=within).image(in_daemon(place), str(target.tag))
    return done.digest


def tell_let_go(let_go: Iterable[ExpiryResult]) -> None:
    """What became of images that are kept no longer than was said."""
    for each in let_go:
        name = each.kept.keep_name.familiar()
        digest = (each.kept.digest or each.kept.image).short
        say(clean(f"{name} ({digest}) is still kept: {each.why}" if each.why else f"{name} ({digest}) was let go of"))


def let_go_fields(each: ExpiryResult) -> dict[str, Any]:
    """The same for `--json`."""
    return {"status": "kept" if each.why else "removed", "reason": each.why, "kept": kept_fields(each.kept)}
