"""Copy images between registries, layouts, archives and Docker daemons; every byte is verified on the way."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from boltseal.client.transport import Transport
from boltseal.commands.image_locations import opened_transfer
from boltseal.commands.outcome import Outcome
from boltseal.commands.registry_access import ReferenceUnsuitable, RegistryOptions, ask, followed
from boltseal.errors import BoltsealError
from boltseal.oci.reference import Reference
from boltseal.transfer.copy import CopiedImage, Copier, CopyCounts
from boltseal.transfer.layout import LayoutLocation
from boltseal.transfer.locations import Location, LocationKind
from boltseal.transfer.remote import RepositoryLocation


@dataclass(frozen=True, slots=True)
class CopyRequest:
    """What to copy, and where to. `force`: move a tag of the target that has another image, if its registry allows.

    `referrers`: carry signatures, attestations and SBOMs along; None: between registries.
    """

    source: Location
    target: Location
    all_tags: bool = False
    referrers: bool | None = None
    force: bool = False

    def __post_init__(self) -> None:
        target = self.target.reference
        if target is not None and target.digest is not None:
            raise ReferenceUnsuitable(f"the target has a digest; expected a tag, {target.name}:TAG")
        for location in (self.source, self.target) if self.all_tags else ():
            if location.kind not in (LocationKind.REGISTRY, LocationKind.LAYOUT) or location.name is not None:
                raise ReferenceUnsuitable(
                    f"--all-tags copies whole repositories and layouts; {location.text} names one image"
                )
        for location in (self.source, self.target) if self.referrers else ():
            if location.kind not in (LocationKind.REGISTRY, LocationKind.LAYOUT):
                raise ReferenceUnsuitable(
                    f"--referrers needs a registry or a layout; {location.text} has no place for signatures"
                )

    @property
    def with_referrers(self) -> bool:
        """Whether signatures and other referrers are carried along."""
        if self.referrers is None:
            return self.source.kind is self.target.kind is LocationKind.REGISTRY
        return self.referrers


@dataclass(frozen=True, slots=True)
class CopyRow:
    """One image of a copy: `image` is None where `error` says why it was not copied."""

    ref: str
    image: CopiedImage | None = None
    error: BoltsealError | None = None

    @property
    def status(self) -> str:
        """copied, unchanged, refused or failed."""
        if self.image is not None:
            return "copied" if self.image.changed else "unchanged"
        return "refused" if self.outcome is Outcome.DIFFERS else "failed"

    @property
    def outcome(self) -> Outcome:
        """DIFFERS if the target refused it or what is attached to it, UNKNOWN if that failed."""
        errors = [] if self.error is None else [self.error]
        errors += [] if self.image is None else [each.error for each in self.image.not_carried]
        return Outcome.worst(Outcome.of_error(error) for error in errors)


@dataclass(frozen=True, slots=True)
class CopyResult:
    """All images of a copy, and what was transferred."""

    rows: tuple[CopyRow, ...]
    counts: CopyCounts

    @property
    def outcome(self) -> Outcome:
        """The worst outcome of an image."""
        return Outcome.worst(row.outcome for row in self.rows)


def copy_images(
    request: CopyRequest,
    options: RegistryOptions,
    progress: Callable[[str, int, int], None],
    on_row: Callable[[CopyRow], None],
) -> CopyResult:
    """Copy one image, or all tags of a repository. `on_row` is called after each image.

    An error of one of many images is in its row. Raises: the error of an image that is copied alone; LedgerBroken.
    """
    source, target = request.source, request.target

    async def run(transport: Transport) -> CopyResult:
        if source.reference is not None:
            await followed(options, transport, source.reference.registry)
        async with opened_transfer(options.client, transport, source, target, force=request.force) as ends:
            copier = Copier(
                ends.source,
                ends.target,
                within=ends.within,
                force=request.force,
                referrers=request.with_referrers,
                readable_target=ends.target if isinstance(ends.target, RepositoryLocation | LayoutLocation) else None,
                progress=progress,
            )
            names = [image_names(source, target)]
            if request.all_tags:
                names = [(name, name) for name in await ends.source.names()]
            rows = []
            for name, target_name in names:
                row = await _copy_one(copier, request, name, target_name)
                on_row(row)
                rows.append(row)
        return CopyResult(tuple(rows), copier.counts)

    registries = [location.reference.registry for location in (source, target) if location.reference is not None]
    return ask(options, registries, run)


async def _copy_one(copier: Copier, request: CopyRequest, name: str | None, target_name: str | None) -> CopyRow:
    ref = _ref(request.target, target_name)
    try:
        return CopyRow(ref, image=await copier.image(name, target_name))
    except BoltsealError as error:
        if not request.all_tags:
            raise
        return CopyRow(ref, error=error)


def image_names(source: Location, target: Location) -> tuple[str | None, str | None]:
    """Return the image's name at the source, and its name at the target (None: only its digest).

    The target's name defaults to the source's tag, then to `latest` as Docker has it.
    """
    tag = source.name if source.name is not None and ":" not in source.name else None
    if source.reference is not None:
        tag = None if source.reference.tag is None else str(source.reference.tag)
    name = None if source.kind is LocationKind.DAEMON else source.name
    match target.kind:
        case LocationKind.REGISTRY | LocationKind.LAYOUT:
            # a source that is named only by digest gets no tag: `latest` was not asked for
            by_digest = tag is None and name is not None
            return name, target.name or tag or (None if by_digest else "latest")
        case LocationKind.DAEMON | LocationKind.ARCHIVE:
            reference = target.reference or (Reference.parse(target.name) if target.name else source.reference)
            if reference is None:
                return name, None
            return name, f"{reference.name}:{reference.tag or tag or 'latest'}"


def _ref(target: Location, name: str | None) -> str:
    match target.kind:
        case LocationKind.REGISTRY if target.reference is not None:
            return f"{target.reference.name}:{name}" if name is not None else target.reference.name
        case LocationKind.LAYOUT:
            return f"oci:{target.path}:{name}"
        case LocationKind.ARCHIVE:
            return f"docker-archive:{target.path}"
        case _:
            return target.text
