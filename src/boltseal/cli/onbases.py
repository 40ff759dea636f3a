"""What the verbs on bases share: which images are meant, and everything that a look at them needs."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from boltseal.cli.clock import clock_us
from boltseal.cli.onproject import whom_to_ask
from boltseal.commands.registry_access import RegistryOptions, followed
from boltseal.errors import Invalid, TooMany, quote
from boltseal.oci.reference import Reference

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from boltseal.client.transport import Transport
    from boltseal.engines.api import Engine
    from boltseal.oci.platform import Platform
    from boltseal.oci.reference import Reference
    from boltseal.project.bases.base_claims import BaseClaim
    from boltseal.project.bases.base_scan import BaseScanner, ImageToCheck


MAX_IMAGES = 200_000
"""How many tags of a registry are looked at."""


class NothingNamed(Invalid):
    """No image, registry, file or host was named, or several kinds at once."""


class NoSuchFile(Invalid):
    """A lock or Compose file that is not there, or can't be read."""


class TooManyImages(TooMany):
    """A registry that lists more tags than are looked at; it may list them without an end."""


class Named(NamedTuple):
    """An image as it was named, and the platforms that are in use of it; () for all that it has."""

    name: str
    reference: Reference
    platforms: tuple[Platform, ...] = ()


class Left(NamedTuple):
    """An image of which nothing can be said, and why."""

    name: str
    reason: str


@dataclass(frozen=True, slots=True)
class Aim:
    """What was asked for; exactly one of them is there."""

    images: Sequence[str] = ()
    registry: str | None = None
    compose: Path | None = None
    lock: Path | None = None
    running: bool = False
    host: str | None = None
    platforms: Sequence[str] = ()

    @property
    def from_file(self) -> bool:
        """Whether a file names the images, and not whoever asks, or their engine."""
        return self.compose is not None or self.lock is not None

    @property
    def source(self) -> str:
        """Where the images come from, for a message."""
        if self.running:
            return f"the containers of {quote(self.host)}" if self.host else "the containers of this host's engine"
        return quote(str(self.registry or self.compose or self.lock or " ".join(self.images)))

    def check(self) -> None:
        """NothingNamed."""
        kinds = [bool(self.images), self.registry, self.compose, self.lock, self.running]
        if sum(bool(kind) for kind in kinds) != 1:
            raise NothingNamed(
                "name images, or one of --registry HOST, --compose FILE, --lock FILE, --running: "
                "boltseal outdated localhost:5000/shop/app:1.4.2"
            )


async def wanted_of(
    aim: Aim, transport: Transport, base: BaseClaim | None, allowed: Callable[[str], bool]
) -> tuple[list[ImageToCheck], list[Left]]:
    """The images that are meant, each once, and those of which nothing can be said.

    `allowed`: which registries a file may make us talk to; it may have been checked out with somebody's project.
    """
    aim.check()
    left: list[Left] = []
    if aim.registry is not None:
        named = [Named(str(one), one) async for one in _of_registry(transport, aim.registry)]
    elif aim.compose is not None:
        named = _of_compose(aim.compose, left)
    elif aim.lock is not None:
        named = _of_lock(aim.lock)
    elif aim.running:
        named = await _of_engine(aim.host, left)
    else:
        named = [Named(text, Reference.parse(text).complete) for text in aim.images]
    if aim.from_file:
        left += [
            Left(name, f"{one.registry} is not asked: a file names it, and you have not; --allow {one.registry}")
            for name, one, _ in named
            if not allowed(one.registry)
        ]
        named = [each for each in named if allowed(each.reference.registry)]
    if aim.platforms:
        named = [each._replace(platforms=_platforms(aim.platforms)) for each in named]
    return _wanted(named, base), left


def _wanted(named: Sequence[Named], base: BaseClaim | None) -> list[ImageToCheck]:
    """Each image once, under the name that it was given first, and for all platforms that it was named for."""
    from boltseal.project.bases.base_scan import ImageToCheck

    once: dict[Reference, Named] = {}
    for each in named:
        before = once.setdefault(each.reference, each)
        both = tuple(dict.fromkeys(before.platforms + each.platforms))
        once[each.reference] = before._replace(platforms=both if before.platforms and each.platforms else ())
    return [ImageToCheck(each.name, each.reference, each.platforms, base) for each in once.values()]


def _platforms(texts: Sequence[str]) -> tuple[Platform, ...]:
    """PlatformInvalid."""
    from boltseal.oci.platform import Platform
    from boltseal.project.platforms import check_platform

    parts = ([*check_platform(text).split("/"), "", ""] for text in texts)
    return tuple(Platform(system, architecture, variant) for system, architecture, variant, *_ in parts)


async def _of_registry(transport: Transport, registry: str, most: int = MAX_IMAGES) -> AsyncIterator[Reference]:
    """Every tag of every repository, but for those of the signature tools. TooManyImages."""
    from boltseal.client.catalog import repositories
    from boltseal.client.errors import RemoteNotFound
    from boltseal.client.registry_client import RegistryClient
    from boltseal.oci.reference import Reference
    from boltseal.policy.rule_decision import signature_subject

    client = RegistryClient(transport, registry)
    async for repository in repositories(transport, registry):
        try:
            async for tag in client.tags(repository):
                most -= 1
                if most < 0:
                    raise TooManyImages(f"{registry} lists more than {MAX_IMAGES} tags: name the images that are meant")
                if signature_subject(tag) is None:
                    yield Reference(registry, repository, tag)
        except RemoteNotFound:
            continue


def _of_compose(file: Path, left: list[Left]) -> list[Named]:
    from boltseal.cli.onproject import open_project
    from boltseal.oci.reference import HUB

    if not file.is_file():
        raise NoSuchFile(f"{file}: there is no such Compose file")
    opened = open_project(file.parent, [file])
    left += [Left(problem.path, problem.message) for problem in opened.problems]
    found = []
    for site in opened.sites:
        if site.resolved is None:
            left.append(
                Left(site.written, f"{site.path}:{site.line}: it can't be told which image that is: {site.why}")
            )
        elif not (site.build and site.resolved.registry == HUB):  # a name for what is built here, which no registry has
            found.append(Named(site.written, site.resolved.complete, _platforms(opened.settings.platforms)))
    return found


def _of_lock(file: Path) -> list[Named]:
    from boltseal.lockfile.parse import MAX_LOCK_BYTES, parse_lock

    try:
        with file.open("rb") as opened:
            lock = parse_lock(opened.read(MAX_LOCK_BYTES + 1))
    except OSError as error:
        raise NoSuchFile(f"{file} can't be read: {error.strerror}") from error
    return [
        Named(str(image.reference), replace(image.reference, digest=image.digest))
        for image in lock.images
        if not image.local_build
    ]


async def _of_engine(host: str | None, left: list[Left]) -> list[Named]:
    from boltseal.cli.engine_options import engine_address
    from boltseal.engines.api import connected

    found = []
    async with connected(engine_address(host)) as engine:
        for container in await engine.containers():
            found += await _of_container(engine, container.name, container.started_as, container.image, left)
    return found


async def _of_container(engine: Engine, name: str, started_as: str, image_id: object, left: list[Left]) -> list[Named]:
    from boltseal.engines.api import NoSuchImage
    from boltseal.oci.digest import Digest

    try:
        image = await engine.image(image_id) if isinstance(image_id, Digest) else None
    except NoSuchImage:
        image = None
    if image is None:
        left.append(Left(name, f"the engine has not got the image of container {quote(name)} any more"))
        return []
    pulled = [one for one in image.pulled_as if one.digest is not None]
    if not pulled:
        left.append(Left(started_as or name, "it was built here and pushed nowhere: no registry knows what it is"))
        return []
    names = {one.name: one for one in image.names}
    as_started = [one for one in pulled if one.name in names and str(names[one.name]) == started_as] or pulled
    tagged = names.get(as_started[0].name)
    reference = replace(as_started[0], tag=None if tagged is None else tagged.tag)
    return [Named(f"{name}: {started_as or reference}", reference, (image.platform,) if image.platform.os else ())]


@asynccontextmanager
async def looking(
    reach: RegistryOptions,
    transport: Transport,
    allow: Sequence[str],
    *,
    window_s: int,
    tell: Callable[[int, int], None] = lambda _done, _all: None,
) -> AsyncIterator[BaseScanner]:
    """Everything that a look needs, out of the state folder. What was learned is kept when it ends."""

    from boltseal.client.document_cache import DocumentCache
    from boltseal.client.state import ClientState
    from boltseal.client.tag_observations import TagObservations
    from boltseal.config import client_paths, state_folder
    from boltseal.project.bases.base_scan import BaseScanner
    from boltseal.project.bases.image_documents import ImageDocuments
    from boltseal.project.bases.tag_history import TagHistories, by_learned, by_watched
    from boltseal.project.settings import client_settings

    state = ClientState(state_folder())
    now_us = clock_us()
    mirrors = client_settings(client_paths().settings).mirrors
    with DocumentCache(state, now_us=now_us) as learned, TagObservations(state) as watched:
        pasts = TagHistories(transport, [by_learned(learned), by_watched(watched)])
        looker = BaseScanner(
            transport,
            ImageDocuments(transport, learned, mirrors),
            learned,
            pasts,
            allowed=whom_to_ask(reach, allow),
            watch=lambda registry: followed(reach, transport, registry),
            now_us=now_us,
            window_s=window_s,
            tell=tell,
        )
        pasts.followed = looker.followed
        yield looker


def inferred(dockerfile: Path | None, base: str | None) -> BaseClaim | None:
    """What the user says of the base: --base, or the last FROM of a Dockerfile. DockerfileInvalid, NameInvalid, ..."""
    from boltseal.project.bases.base_claims import ClaimSource, written

    if base is not None:
        return written(Reference.parse(base), ClaimSource.GIVEN)
    if dockerfile is None:
        return None
    from boltseal.build.dockerfile_bases import DockerfileInvalid, read

    if not dockerfile.is_file():
        raise DockerfileInvalid(f"{dockerfile}: there is no such Dockerfile; --dockerfile names the file itself")
    site = read(dockerfile.parent, Path(dockerfile.name), {}, None).base
    if site is None:
        return written(None, ClaimSource.DOCKERFILE)
    if site.resolved is None:
        raise DockerfileInvalid(f"{site.path}:{site.line}: {quote(site.written)} can't be told: {site.why}")
    return written(site.resolved, ClaimSource.DOCKERFILE)
