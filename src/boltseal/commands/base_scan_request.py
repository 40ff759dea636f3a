"""Which images a scan for outdated bases looks at: named ones, those of a registry, Compose file, lock or engine."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, NamedTuple

from boltseal.build.dockerfile_bases import DockerfileInvalid, read
from boltseal.client.state import StateUnusable
from boltseal.client.transport import Transport
from boltseal.commands.client_context import ClientContext
from boltseal.commands.project_images import open_project
from boltseal.commands.registry_images import registry_images
from boltseal.engines.address import EngineAddress
from boltseal.engines.api import NoSuchImage, connected, query_each
from boltseal.engines.copied_images import UNKNOWN_COPY, copied_images
from boltseal.engines.inventory import EngineContainer, EngineImage
from boltseal.errors import MAX_PATH, Invalid, Unavailable, quote
from boltseal.files.named_files import FileMissing
from boltseal.host.kept_images import KeptImages
from boltseal.lockfile.container_check import shown_name, without_keep_tags
from boltseal.lockfile.parse import MAX_LOCK_BYTES, parse_lock
from boltseal.oci.platform import Platform
from boltseal.oci.reference import HUB, Reference
from boltseal.project.bases.base_claims import BaseClaim, ClaimSource, claim_from_reference
from boltseal.project.bases.base_report import ImageToCheck
from boltseal.project.platforms import check_platform

_LOCAL_BUILD: Final = "it was built here and never pushed, so no registry knows it"


class NamedImage(NamedTuple):
    """An image by its given name, with the platforms of it that are in use; () for all. `runs_on`: the containers."""

    name: str
    reference: Reference
    platforms: tuple[Platform, ...] = ()
    runs_on: tuple[str, ...] = ()


class LeftOut(NamedTuple):
    """An image that can't be scanned, and why."""

    name: str
    reason: str


@dataclass(frozen=True, slots=True)
class BaseScanRequest:
    """Exactly one source of images: `images`, `registry`, `compose`, `lock` or `running` (the containers of `hosts`; () for this host's engine).

    `platforms`: those in use; () for all, or as the source says.
    """

    images: Sequence[str] = ()
    registry: str | None = None
    compose: Path | None = None
    lock: Path | None = None
    running: bool = False
    hosts: Sequence[str] = ()
    platforms: Sequence[str] = ()

    @property
    def from_file(self) -> bool:
        """Whether a project file names the images, rather than the user or an engine."""
        return self.compose is not None or self.lock is not None

    @property
    def source(self) -> str:
        """The source of the images, for a message."""
        if self.running:
            named = ", ".join(quote(host) for host in self.hosts)
            return f"the containers of {named}" if named else "the containers of this host's engine"
        return quote(str(self.registry or self.compose or self.lock or " ".join(self.images)), MAX_PATH)

    @property
    def registries(self) -> set[str]:
        """The registries that the request itself names."""
        named = {Reference.parse(text).registry for text in self.images}
        return named | ({self.registry} if self.registry is not None else set())

    def check(self) -> None:
        """Check that there is one source. Raises: Invalid."""
        sources = [bool(self.images), self.registry, self.compose, self.lock, self.running]
        if sum(bool(source) for source in sources) != 1:
            raise Invalid(
                "name images, or one of --registry HOST, --compose FILE, --lock FILE, --running: "
                "boltseal outdated localhost:5000/shop/app:1.4.2"
            )


async def images_to_check(
    request: BaseScanRequest,
    transport: Transport,
    client: ClientContext,
    base: BaseClaim | None,
    allowed: Callable[[str], bool],
) -> tuple[list[ImageToCheck], list[LeftOut]]:
    """Return the images of a request, each once, and those that can't be scanned.

    `allowed`: which registries a project file may make this client contact. Raises: Invalid, TooManyImages, LockInvalid, EngineUnavailable, PlatformInvalid.
    """
    left: list[LeftOut] = []
    if request.registry is not None:
        named = [NamedImage(str(one), one) async for one in registry_images(transport, request.registry)]
    elif request.compose is not None:
        named = _of_compose(request.compose, left)
    elif request.lock is not None:
        named = _of_lock(request.lock)
    elif request.running:
        named = await _of_hosts(request.hosts, client, left)
    else:
        named = [NamedImage(text, Reference.parse(text).complete) for text in request.images]
    if request.from_file:
        left += [
            LeftOut(name, f"{one.registry} is not contacted: only a file names it; to allow it: --allow {one.registry}")
            for name, one, *_ in named
            if not allowed(one.registry)
        ]
        named = [each for each in named if allowed(each.reference.registry)]
    if request.platforms:
        named = [each._replace(platforms=_platforms(request.platforms)) for each in named]
    in_use = request.running or request.from_file
    return [replace(each, in_use=in_use) for each in _once(named, base)], left


def _once(named: Sequence[NamedImage], base: BaseClaim | None) -> list[ImageToCheck]:
    """Return each image once, under its first name, and for all platforms that it was named for."""
    once: dict[Reference, NamedImage] = {}
    for each in named:
        first = once.setdefault(each.reference, each)
        union = tuple(dict.fromkeys(first.platforms + each.platforms))
        runs_on = tuple(dict.fromkeys(first.runs_on + each.runs_on))
        platforms = union if first.platforms and each.platforms else ()
        once[each.reference] = first._replace(platforms=platforms, runs_on=runs_on)
    return [ImageToCheck(each.name, each.reference, each.platforms, base, each.runs_on) for each in once.values()]


def _platforms(texts: Sequence[str]) -> tuple[Platform, ...]:
    parts = ([*check_platform(text).split("/"), "", ""] for text in texts)
    return tuple(Platform(system, architecture, variant) for system, architecture, variant, *_ in parts)


def _of_compose(file: Path, left: list[LeftOut]) -> list[NamedImage]:
    if not file.is_file():
        raise FileMissing(file)
    opened = open_project(file.parent, [file])
    left += [LeftOut(problem.path, problem.message) for problem in opened.problems]
    found = []
    for image_ref in opened.image_refs:
        if image_ref.resolved is None:
            left.append(
                LeftOut(
                    image_ref.written,
                    f"{image_ref.path}:{image_ref.line}: the image can't be determined: {image_ref.why}",
                )
            )
        elif not (
            image_ref.build and image_ref.resolved.registry == HUB
        ):  # the name of a local build, which no registry has
            platforms = _platforms(opened.settings.platforms)
            found.append(NamedImage(image_ref.written, image_ref.resolved.complete, platforms))
    return found


def _of_lock(file: Path) -> list[NamedImage]:
    try:
        with file.open("rb") as opened:
            lock = parse_lock(opened.read(MAX_LOCK_BYTES + 1))
    except OSError as error:
        raise Invalid(f"{file} can't be read: {error.strerror}") from error
    return [
        NamedImage(str(image.reference), replace(image.reference, digest=image.digest))
        for image in lock.images
        if not image.local_build
    ]


async def _of_hosts(hosts: Sequence[str], client: ClientContext, left: list[LeftOut]) -> list[NamedImage]:
    """Return the images of all hosts' containers. Of several hosts, one that can't be read is left out with the reason."""
    if len(hosts) <= 1:
        return await _of_engine(client.engine_address(hosts[0] if hosts else None), client, left)
    found: list[NamedImage] = []
    for host in dict.fromkeys(hosts):
        here: list[LeftOut] = []
        try:
            named = await _of_engine(client.engine_address(host), client, here)
        except Unavailable as error:
            left.append(LeftOut(host, error.message))
            continue
        left += [LeftOut(f"{host}: {one.name}", one.reason) for one in here]
        found += [each._replace(runs_on=tuple(f"{host}: {one}" for one in each.runs_on)) for each in named]
    return found


async def _of_engine(address: EngineAddress, client: ClientContext, left: list[LeftOut]) -> list[NamedImage]:
    found = []
    async with connected(address) as engine:
        containers = await engine.containers()
        ids = (each.image for each in containers if each.image is not None)
        images = await query_each(ids, engine.image, NoSuchImage)
        known = [each for each in images.values() if each is not None]
        copies = await copied_images(engine, await engine.store(), known)
    unknown = UNKNOWN_COPY
    try:
        pulls = KeptImages(client.state).proven(address.key) if copies else {}
    except StateUnusable as error:
        pulls, unknown = {}, f"it is a copy of an image; of which one could not be checked: {error.message}"
    for container in containers:
        image = None if container.image is None else images.get(container.image)
        if image is None:
            reason = f"the engine no longer has the image of container {quote(container.name)}"
            left.append(LeftOut(container.name, reason))
            continue
        pulled, of = [one for one in image.pulled_as if one.digest is not None], ""
        if image.id in copies:
            pulled = [Reference.parse(f"{each.repository}@{each.digest}") for each in pulls.get(image.id, ())]
            of = f", a copy of {pulled[0].familiar()}" if pulled else ""
        if pulled:
            found.append(_of_container(container, image, pulled, of))
        else:
            name = shown_name(container.started_as, ()) or container.name
            left.append(LeftOut(name, unknown if image.id in copies else _LOCAL_BUILD))
    return found


def _of_container(
    container: EngineContainer, image: EngineImage, pulled: Sequence[Reference], copy_of: str
) -> NamedImage:
    """Return the image of a container by a digest that a registry has. `pulled`: its names by digest, at least one."""
    names = {one.name: one for one in without_keep_tags(image.names)}
    started_as = container.started_as
    as_started = [one for one in pulled if one.name in names and str(names[one.name]) == started_as] or pulled
    tagged = names.get(as_started[0].name)
    started_as = shown_name(started_as, pulled)
    reference = replace(as_started[0], tag=None if tagged is None else tagged.tag)
    platforms = (image.platform,) if image.platform.os else ()
    shown = f"{container.name}: {started_as or reference}{copy_of}"
    return NamedImage(shown, reference, platforms, (container.name,))


def inferred_base(dockerfile: Path | None, base: str | None) -> BaseClaim | None:
    """Return the base that the user states: `base`, or the last FROM of a Dockerfile. Raises: DockerfileInvalid, Invalid."""
    if base is not None:
        return claim_from_reference(Reference.parse(base), ClaimSource.GIVEN)
    if dockerfile is None:
        return None
    if not dockerfile.is_file():
        raise FileMissing(dockerfile)
    image_ref = read(dockerfile.parent, Path(dockerfile.name), {}, None).base
    if image_ref is None:
        return claim_from_reference(None, ClaimSource.DOCKERFILE)
    if image_ref.resolved is None:
        raise DockerfileInvalid(
            f"{image_ref.path}:{image_ref.line}: {quote(image_ref.written)} can't be determined: {image_ref.why}"
        )
    return claim_from_reference(image_ref.resolved, ClaimSource.DOCKERFILE)
