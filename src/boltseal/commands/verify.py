"""`boltseal verify`: check that the image references of a project still resolve to the digests in boltseal.lock."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from boltseal.client.transport import Transport
from boltseal.commands.outcome import Outcome
from boltseal.commands.progress import Progress, no_progress
from boltseal.commands.project_images import (
    OpenedProject,
    ledger_follower,
    open_project,
    paths_in_project,
    registry_filter,
)
from boltseal.commands.registry_access import RegistryOptions, ask
from boltseal.commands.rendered_project import add_rendered, without_shown
from boltseal.config import child_environment
from boltseal.lockfile.compare import Weight
from boltseal.lockfile.document import Lock
from boltseal.policy.tag_expectations import OFFICIAL_IMAGES, TagExpectations
from boltseal.project.lock_file import read_lock
from boltseal.project.platforms import check_platform
from boltseal.project.rendering.printed_images import RENDERED
from boltseal.project.resolve import Resolver
from boltseal.project.verify import VerifyResult, verify


@dataclass(frozen=True, slots=True)
class VerifyRequest:
    """What to verify. `paths`: () for the whole project. `allow`: further registries that its files may name.

    `platforms`: the platforms that the images are used on; () for those of the project's settings. `offline`: contact no
    registry. `strict`: a note counts as a difference; the project's settings may require it as well.
    """

    project: Path
    paths: tuple[str, ...] = ()
    platforms: tuple[str, ...] = ()
    offline: bool = False
    strict: bool = False
    allow: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class VerifyReport:
    """The result of a verification. `note_weight`: the weight of templates and of values that are not understood."""

    outcome: Outcome
    opened: OpenedProject
    results: tuple[VerifyResult, ...]
    note_weight: Weight


def verify_project(request: VerifyRequest, options: RegistryOptions, progress: Progress = no_progress) -> VerifyReport:
    """Verify a project. Raises: Invalid, LockInvalid, PlatformInvalid, LedgerBroken."""
    opened = open_project(request.project, paths_in_project(request.project, request.paths))
    lock = read_lock(request.project)
    if lock is not None and lock.rendered:
        opened = without_shown(add_rendered(opened, lock.rendered, child_environment(), progress).opened)
    strict = request.strict or opened.settings.strict
    options = replace(options, strict=strict)
    platforms = [check_platform(each) for each in request.platforms or opened.settings.platforms]
    if request.offline:
        now_us = options.client.now_us()
        results = asyncio.run(verify(opened.image_refs, lock, None, now_us=now_us, strict=strict, platforms=platforms))
    else:
        allowed = registry_filter(options, request.allow)
        results = _ask(opened, lock, options, allowed, progress, platforms, strict=strict)
    results = tuple(map(_with_origin, results))
    return VerifyReport(
        outcome=_outcome(results, opened, strict=strict),
        opened=opened,
        results=results,
        note_weight=Weight.DIFFERS if strict else Weight.NOTE,
    )


def _with_origin(result: VerifyResult) -> VerifyResult:
    """Add to a finding about a printed image where it was printed: its file has another text."""
    if result.image_ref.format != RENDERED or not result.reason:
        return result
    return replace(result, reason=f"{result.reason} (in the output of {result.image_ref.where})")


def _ask(
    opened: OpenedProject,
    lock: Lock | None,
    options: RegistryOptions,
    allowed: Callable[[str], bool],
    progress: Progress,
    platforms: Sequence[str],
    *,
    strict: bool,
) -> tuple[VerifyResult, ...]:
    now_us = options.client.now_us()

    async def run(transport: Transport) -> tuple[VerifyResult, ...]:
        resolver = Resolver(transport, allowed, watch=ledger_follower(options, transport, lock), progress=progress)
        return await verify(
            opened.image_refs,
            lock,
            resolver,
            now_us=now_us,
            strict=strict,
            platforms=platforms,
            expectations=TagExpectations((*options.client.settings.tags, *opened.settings.tags, *OFFICIAL_IMAGES)),
        )

    return ask(options, opened.registries, run)


def _outcome(results: Sequence[VerifyResult], opened: OpenedProject, *, strict: bool) -> Outcome:
    weights = {result.weight for result in results}
    if Weight.DIFFERS in weights or (strict and (opened.notes or opened.unknown)):
        return Outcome.DIFFERS
    return Outcome.UNKNOWN if Weight.UNKNOWN in weights or opened.problems else Outcome.HOLDS
