"""`boltseal pull`: an image by its digest, the one that works kept first."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from boltseal.cli.answer import CommandOutput, Outcome, clean, counted, print_line, say
from boltseal.cli.keeping import copier, copy_target, kept_fields, let_go_fields, on_host, tell_let_go
from boltseal.cli.onhost import HostOption
from boltseal.cli.onproject import whom_to_ask
from boltseal.cli.options import JsonOption
from boltseal.cli.progress import Progress
from boltseal.cli.project_options import AllowOption
from boltseal.cli.remote import AnonymousOption, CaFileOption, PlainHttpOption, RegistryOptions, StrictOption, followed
from boltseal.commands.project_images import open_project
from boltseal.errors import BoltsealError, ExitCode, Invalid, exit_code

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from boltseal.client.transport import Transport
    from boltseal.engines.api import EngineProgress as Step
    from boltseal.engines.inventory import EngineImage
    from boltseal.host.engine_images import EngineHost
    from boltseal.host.keeper import KeepPolicy
    from boltseal.host.project_images import ProjectImages
    from boltseal.host.pull import Arrived, Brought, Puller, PullRequest


class PullUsage(Invalid):
    """What was asked can't be meant."""


def pull(
    refs: Annotated[
        list[str] | None,
        typer.Argument(metavar="[REF]...", show_default=False, help="Images: localhost:5000/shop/app:latest"),
    ] = None,
    compose: Annotated[
        list[Path] | None,
        typer.Option(
            "--compose", metavar="FILE", show_default=False, help="All images of a Compose file, as locked; repeatable."
        ),
    ] = None,
    project: Annotated[
        Path | None,
        typer.Option(
            "--project",
            metavar="DIR",
            show_default=False,
            help="Where boltseal.lock and .boltseal.toml are. [the Compose file's folder]",
        ),
    ] = None,
    keep: Annotated[
        int | None,
        typer.Option("--keep", metavar="N", min=1, show_default=False, help="Keep the newest N of each name. [all]"),
    ] = None,
    keep_for: Annotated[
        str | None,
        typer.Option("--keep-for", metavar="TIME", show_default=False, help="Keep what is younger, e.g. 30d. [all]"),
    ] = None,
    scrub: Annotated[
        bool, typer.Option("--scrub", help="Read what arrived from the disk; the name moves only if it holds.")
    ] = False,
    copy_to: Annotated[
        str | None,
        typer.Option(
            "--copy-to",
            metavar="REGISTRY/PREFIX",
            show_default=False,
            help="Copy the image that works there too, before.",
        ),
    ] = None,
    host: HostOption = None,
    count_pulls: Annotated[
        bool, typer.Option("--count-pulls", help="Prove by manifests on Docker Hub too, where that counts as pulls.")
    ] = False,
    allow: AllowOption = None,
    plain_http: PlainHttpOption = False,
    ca_file: CaFileOption = None,
    anonymous: AnonymousOption = False,
    strict: StrictOption = False,
    as_json: JsonOption = False,
) -> None:
    """Pull images, and keep the ones that work before newer ones take their names.

    A tag is resolved by one HEAD; what is here already costs nothing more. What is new is pulled by its digest, proven,
    and given the name last. What had the name is kept as NAME:boltseal-keep-DIGEST; `boltseal restore-local NAME` brings
    it back. Images of a Compose file get their names when all have arrived, or none does.

    Kept images stay until --keep or --keep-for lets go of them; never what runs, what a lock names or a release holds, nor
    the only copy of what ran here in the last 30 days.
    """  # fmt: skip
    with CommandOutput("pull", as_json=as_json) as answer, Progress() as progress:
        from boltseal.lockfile.document import LOCK_NAME

        reach = RegistryOptions(plain_http, ca_file, anonymous, strict)
        root = project or (compose[0].parent if compose else Path())
        asked = _asked(refs or [], compose or [], root, whom_to_ask(reach, allow or []) if compose else _anybody)
        lock = root / LOCK_NAME
        job = _Job(_policy(keep, keep_for), lock, scrub, copy_to, count_pulls, reach)
        meter = _Meter(progress)

        async def run(opened: EngineHost, transport: Transport) -> None:
            puller = _puller(job, opened, transport, meter)
            puller.announce(asked.wanted)
            if compose:
                await _together(answer, puller, asked.wanted)
            else:
                await _each(answer, puller, asked.wanted)

        registries = {each.name.registry for each in asked.wanted} | ({copy_target(copy_to)[0]} if copy_to else set())
        on_host(reach, registries, host, run)


@dataclass(frozen=True, slots=True)
class _Job:
    """What was asked for, read."""

    policy: KeepPolicy
    lock: Path
    scrub: bool
    copy_to: str | None
    count_pulls: bool
    reach: RegistryOptions


class _Meter:
    """How far all layers of a pull are, together."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._layers: dict[str, tuple[int, int]] = {}

    def __call__(self, step: Step) -> None:
        if step.total:
            self._layers[step.layer] = (step.current, step.total)
        done, total = (sum(part) for part in zip(*self._layers.values(), strict=True)) if self._layers else (0, 0)
        self._progress("pulling", done, total)


def _anybody(_registry: str) -> bool:
    """Whom a person names is who is asked."""
    return True


def _asked(refs: Sequence[str], files: Sequence[Path], root: Path, allowed: Callable[[str], bool]) -> ProjectImages:
    """The images that are meant. PullUsage, NameInvalid, LockInvalid, RegistryNotAllowed, ..."""
    from boltseal.cli.remote import remote_reference
    from boltseal.host.project_images import ProjectImages
    from boltseal.host.pull import PullRequest

    if bool(files) == bool(refs):
        raise PullUsage("name the images to pull, or Compose files by --compose, and not both")
    if refs:
        return ProjectImages(tuple(dict.fromkeys(PullRequest.of(remote_reference(each)) for each in refs)), (), ())
    found = _of_compose(files, root, allowed)
    for each in found.unclear:
        say(clean(f"boltseal: {each.where}: {each.written} {each.reason}"))
    if found.unclear:
        raise PullUsage(f"{counted(len(found.unclear), 'image')} of {files[0]} can't be told: nothing was pulled")
    for name in found.built:
        say(clean(f"{name} is built here and not pulled"))
    return found


def _of_compose(files: Sequence[Path], root: Path, allowed: Callable[[str], bool]) -> ProjectImages:
    from boltseal.deploy.project_files import overrides_of
    from boltseal.host.project_images import images_of
    from boltseal.lockfile.document import LOCK_NAME
    from boltseal.project.lock_file import read_lock
    from boltseal.project.resolve import not_allowed

    project = open_project(root, files)
    found = images_of(project.sites, project.problems, read_lock(root))
    for each in found.wanted:
        if not allowed(each.name.registry):
            raise not_allowed(each.name.registry)
    if any(each.locked for each in found.wanted):
        say(f"as locked in {root / LOCK_NAME}")
    for beside in overrides_of(files):
        say(clean(f"{beside} is not looked at, as with `docker compose -f`; name it by another --compose if it counts"))
    return found


def _policy(keep: int | None, keep_for: str | None) -> KeepPolicy:
    from boltseal.host.keeper import KeepPolicy
    from boltseal.policy.durations import DurationInvalid, parse_duration

    try:
        return KeepPolicy(keep, None if keep_for is None else parse_duration(keep_for))
    except DurationInvalid as error:
        raise PullUsage(f"--keep-for is {error.message}") from error


def _puller(job: _Job, host: EngineHost, transport: Transport, meter: _Meter) -> Puller:
    from boltseal.client.credentials import CredentialStore
    from boltseal.config import client_paths
    from boltseal.host.pull import Puller
    from boltseal.host.pulled_check import scrubbed

    async def watch(registry: str) -> None:
        await followed(job.reach, transport, registry)

    async def scrub(image: EngineImage) -> None:
        await scrubbed(host, image)

    if job.lock.exists():
        host.kept.know_lock(job.lock.resolve())
    return Puller(
        host,
        transport,
        CredentialStore(() if job.reach.anonymous else client_paths().logins),
        watch=watch,
        copy=None if job.copy_to is None else copier(job.copy_to, str(host.engine.address), transport),
        scrub=scrub if job.scrub else None,
        policy=job.policy,
        count_pulls=job.count_pulls,
        tell=meter,
    )


async def _each(answer: CommandOutput, puller: Puller, wanted: Sequence[PullRequest]) -> None:
    """One after the other; of several, one that fails does not keep the others from being pulled."""
    for one in wanted:
        try:
            brought = await puller.bring(one)
        except BoltsealError as error:
            if len(wanted) == 1:
                raise
            _tell_failed(answer, one, error)
        else:
            _tell(answer, brought)


async def _together(answer: CommandOutput, puller: Puller, wanted: Sequence[PullRequest]) -> None:
    """The names are given when all have arrived."""
    arrived: list[Arrived] = []
    failed = 0
    for one in wanted:
        try:
            arrived.append(await puller.fetch(one))
        except BoltsealError as error:
            failed += 1
            _tell_failed(answer, one, error)
    arrived = arrived if failed else [await puller.still(each) for each in arrived]
    for each in arrived:
        if failed:
            reason = f"it is here, and its name means what it meant: {counted(failed, 'other image')} could not be had"
            answer.add(ref=str(each.wanted.name), status="arrived", reason=reason, digest=str(each.digest))
            say(clean(f"{each.wanted.name.familiar()}: {reason}"))
        else:
            _tell(answer, await puller.settle(each))


def _tell_failed(answer: CommandOutput, wanted: PullRequest, error: BoltsealError) -> None:
    differs = exit_code(error) is ExitCode.DIFFERS
    if answer.outcome is not Outcome.DIFFERS:
        answer.outcome = Outcome.DIFFERS if differs else Outcome.UNKNOWN
    answer.add(ref=str(wanted.name), status="refused" if differs else "failed", reason=error.message)
    name = wanted.name.familiar()
    say(clean(f"boltseal: {error.message if error.message.startswith(name) else f'{name}: {error.message}'}"))


def _tell(answer: CommandOutput, brought: Brought) -> None:
    name = brought.name.familiar()
    answer.add(
        ref=str(brought.name),
        status=str(brought.outcome),
        reason=brought.trouble,
        digest=str(brought.digest),
        image=str(brought.image),
        proof=None if brought.proof is None else str(brought.proof),
        kept=kept_fields(brought.kept),
        running=[kept_fields(each) for each in brought.running],
        let_go=[let_go_fields(each) for each in brought.let_go],
    )
    if not answer.as_json:
        print_line(clean(f"{brought.outcome:<7} {name}  {brought.digest}"))
    for each in brought.running:
        was = (each.digest or each.image).short
        say(clean(f"kept {was} as {each.keep_name.familiar()}: a container that was started as {name} runs on it"))
    if brought.kept is not None:
        was = (brought.kept.digest or brought.kept.image).short
        say(clean(f"kept {was} as {brought.kept.keep_name.familiar()}; back with: boltseal restore-local {name}"))
    tell_let_go(brought.let_go)
    if brought.trouble:
        say(clean(f"boltseal: what is kept could not be looked through: {brought.trouble}"))
