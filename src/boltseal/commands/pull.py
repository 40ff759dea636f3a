"""Pull images by their digests, and keep those that they replace.

Images in the arguments are pulled one after the other. Images of Compose files are tagged only when all were pulled.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from boltseal.client.transport import Transport
from boltseal.commands.copy_kept import copy_target, copy_to_registry
from boltseal.commands.engine_connection import on_host
from boltseal.commands.outcome import Outcome
from boltseal.commands.project_images import open_project
from boltseal.commands.registry_access import RegistryOptions, followed
from boltseal.commands.text import clean, counted
from boltseal.deploy.project_files import overrides_of
from boltseal.engines.api import EngineProgress
from boltseal.engines.inventory import EngineImage
from boltseal.errors import BoltsealError, Invalid
from boltseal.files.scratch_folder import scratch_folder
from boltseal.host.engine_images import EngineHost
from boltseal.host.keeper import KeepPolicy
from boltseal.host.project_images import ProjectImages, project_images
from boltseal.host.pull import PulledImage, Puller, PullResult
from boltseal.host.pull import PullRequest as WantedImage
from boltseal.host.pulled_check import scrub_pulled_image
from boltseal.loading import deferred
from boltseal.lockfile.document import LOCK_NAME
from boltseal.oci.reference import Reference
from boltseal.policy.durations import Duration
from boltseal.project.lock_file import read_lock
from boltseal.project.resolve import not_allowed

if TYPE_CHECKING:
    from boltseal.host import replace as replacement
else:  # it imports what no other pull needs
    replacement = deferred("boltseal.host.replace")

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True)
class PullImagesRequest:
    """Images to pull: references, or all of Compose files.

    Attributes:
        project: where boltseal.lock is; default: the folder of the first Compose file.
        keep: keep the newest N images of each name; None: all.
        keep_for: keep images that are younger; None: all.
        scrub: verify each pulled image on the disk before it is tagged.
        copy_to: copy a replaced image to this registry and prefix first.
        host: address of the engine; default: DOCKER_HOST.
        count_pulls: verify by manifests also where reading them counts as a pull.
        replace: load images whose files differ on the disk again, beside the changed ones.
    """

    refs: tuple[str, ...] = ()
    compose: tuple[Path, ...] = ()
    project: Path | None = None
    keep: int | None = None
    keep_for: Duration | None = None
    scrub: bool = False
    copy_to: str | None = None
    host: str | None = None
    count_pulls: bool = False
    replace: bool = False

    def __post_init__(self) -> None:
        if bool(self.compose) == bool(self.refs):
            raise Invalid("name the images to pull, or Compose files by --compose, and not both")
        if self.replace and self.compose:
            raise Invalid("--replace takes images, and no Compose files; name each image that differs")

    @property
    def root(self) -> Path:
        """The project's folder."""
        return self.project or (self.compose[0].parent if self.compose else Path())

    @property
    def policy(self) -> KeepPolicy:
        """Which replaced images to keep."""
        return KeepPolicy(self.keep, None if self.keep_for is None else self.keep_for.us)


@dataclass(frozen=True, slots=True)
class PullRow:
    """The result for an image: `pulled` if it was tagged, else `error`, or `waits_for`: other images that could not be pulled."""

    name: Reference
    pulled: PullResult | None = None
    error: BoltsealError | None = None
    arrived: PulledImage | None = None
    waits_for: int = 0

    @property
    def outcome(self) -> Outcome:
        """DIFFERS if the image was refused, UNKNOWN if it could not be pulled."""
        if self.error is None:
            return Outcome.HOLDS
        return Outcome.of_error(self.error)

    @property
    def reason(self) -> str:
        """Why the image was not tagged, or what else went wrong."""
        if self.error is not None:
            return self.error.message
        if self.waits_for:
            failed = counted(self.waits_for, "other image")
            return f"it was pulled, and its name is unchanged: {failed} could not be pulled"
        return "" if self.pulled is None else self.pulled.trouble


def pull_images(
    request: PullImagesRequest,
    options: RegistryOptions,
    allowed: Callable[[str], bool],
    progress: Progress,
    on_row: Callable[[PullRow], None],
) -> Outcome:
    """Pull images; `on_row` is called for each as soon as it is settled. Returns the worst outcome.

    `allowed`: which registries Compose files may make this client contact. Raises: Invalid, LockInvalid,
    RegistryNotAllowed, EngineUnavailable; the error of an image that is pulled alone.
    """
    wanted = _of_compose(request, options, allowed) if request.compose else _of_references(request)
    policy = request.policy
    outcome = Outcome.HOLDS

    def report(row: PullRow) -> None:
        nonlocal outcome
        outcome = outcome.worse(row.outcome)
        on_row(row)

    async def run(host: EngineHost, transport: Transport) -> None:
        puller = _puller(request, policy, options, host, transport, _LayerProgress(progress))
        puller.announce(wanted)
        if request.replace:
            await _replace_each(puller, wanted, report, options.client.notice)
        else:
            await (_pull_together if request.compose else _pull_each)(puller, wanted, report)

    registries = {each.name.registry for each in wanted}
    if request.copy_to is not None:
        registries.add(copy_target(request.copy_to).registry)
    on_host(options, registries, request.host, run)
    return outcome


class _LayerProgress:
    """Adds up the progress of all layers of a pull."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._layers: dict[str, tuple[int, int]] = {}

    def __call__(self, step: EngineProgress) -> None:
        if step.total:
            self._layers[step.layer] = (step.current, step.total)
        done, total = (sum(part) for part in zip(*self._layers.values(), strict=True)) if self._layers else (0, 0)
        self._progress("pulling", done, total)


def _of_references(request: PullImagesRequest) -> Sequence[WantedImage]:
    return tuple(dict.fromkeys(WantedImage.of(Reference.parse(each)) for each in request.refs))


def _of_compose(
    request: PullImagesRequest, options: RegistryOptions, allowed: Callable[[str], bool]
) -> Sequence[WantedImage]:
    """Return the images of Compose files, as locked."""
    notice, root, files = options.client.notice, request.root, request.compose
    project = open_project(root, files)
    found: ProjectImages = project_images(project.image_refs, project.problems, read_lock(root))
    for each in found.wanted:
        if not allowed(each.name.registry):
            raise not_allowed(each.name.registry)
    if any(each.locked for each in found.wanted):
        notice(f"as locked in {root / LOCK_NAME}")
    for override in overrides_of(files):
        notice(clean(f"{override} is not read, as with `docker compose -f`; add another --compose to include it"))
    for unclear in found.unclear:
        notice(clean(f"boltseal: {unclear.where}: {unclear.written} {unclear.reason}"))
    if found.unclear:
        raise Invalid(f"{counted(len(found.unclear), 'image')} of {files[0]} can't be resolved: nothing was pulled")
    for name in found.built:
        notice(clean(f"{name} is built here and not pulled"))
    return found.wanted


def _puller(
    request: PullImagesRequest,
    policy: KeepPolicy,
    options: RegistryOptions,
    host: EngineHost,
    transport: Transport,
    progress: _LayerProgress,
) -> Puller:
    async def check_ledger(registry: str) -> None:
        await followed(options, transport, registry)

    async def scrub(image: EngineImage) -> None:
        await scrub_pulled_image(host, image)

    lock, client = request.root / LOCK_NAME, options.client
    if lock.exists():
        host.kept.know_lock(lock.resolve())
    copy = None
    if request.copy_to is not None:
        copy = copy_to_registry(request.copy_to, str(host.engine.address), client, transport)
    return Puller(
        host,
        transport,
        client.credentials(anonymous=options.anonymous),
        watch=check_ledger,
        copy=copy,
        scrub=scrub if request.scrub else None,
        policy=policy,
        count_pulls=request.count_pulls,
        progress=progress,
    )


async def _replace_each(
    puller: Puller, wanted: Sequence[WantedImage], report: Callable[[PullRow], None], notice: Callable[[str], None]
) -> None:
    """Replace images one after the other."""

    async def scrub(image: EngineImage) -> None:
        await scrub_pulled_image(puller.host, image)

    async def replace(image: WantedImage) -> PullResult:
        with scratch_folder("boltseal-replace") as scratch:
            return await replacement.Replacer(puller, scrub, scratch, notice).replace(image)

    await _pull_each(puller, wanted, report, replace)


async def _pull_each(
    puller: Puller,
    wanted: Sequence[WantedImage],
    report: Callable[[PullRow], None],
    pull: Callable[[WantedImage], Awaitable[PullResult]] | None = None,
) -> None:
    """Pull images one after the other; the failure of one of several does not stop the others."""
    for each in wanted:
        try:
            pulled = await (pull or puller.pull)(each)
        except BoltsealError as error:
            if len(wanted) == 1:
                raise
            report(PullRow(each.name, error=error))
        else:
            report(PullRow(each.name, pulled=pulled))


async def _pull_together(puller: Puller, wanted: Sequence[WantedImage], report: Callable[[PullRow], None]) -> None:
    """Pull all images, and tag them if none failed."""
    arrived: list[PulledImage] = []
    failed = 0
    for each in wanted:
        try:
            arrived.append(await puller.fetch(each))
        except BoltsealError as error:
            failed += 1
            report(PullRow(each.name, error=error))
    if failed:
        for image in arrived:
            report(PullRow(image.wanted.name, arrived=image, waits_for=failed))
        return
    for image in [await puller.ensure_present(each) for each in arrived]:
        report(PullRow(image.wanted.name, pulled=await puller.apply_tag(image)))
