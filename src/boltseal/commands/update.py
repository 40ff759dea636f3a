"""`boltseal update`: deploy what floating tags resolve to now, and propose newer versions of the other tags.

1. Resolve each floating tag and list the tags of each version. 2. Decide for each service (`deploy.update_plan`).
3. Record the edits in a journal, then edit the files and the lock. 4. Deploy. 5. A release that is not healthy: undo the
edits by the journal. A run that is killed leaves the journal, and the next one undoes them (`interrupted_update`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from boltseal.client.registry_client import RegistryClient, Resolved
from boltseal.client.transport import Transport
from boltseal.commands.client_context import ClientContext
from boltseal.commands.deploy import DeployableProject
from boltseal.commands.explained_changes import Explanation, ImageChange, explain_changes
from boltseal.commands.interrupted_update import restore
from boltseal.commands.known_since import known_since
from boltseal.commands.outcome import Outcome
from boltseal.commands.project_images import open_project
from boltseal.commands.registry_access import RegistryOptions, ask, followed
from boltseal.commands.text import clean
from boltseal.commands.update_edits import update_edits, without_own_pins
from boltseal.deploy.compose_model import ComposeService
from boltseal.deploy.holds import held_services
from boltseal.deploy.release_flow import DeployResult
from boltseal.deploy.releases import ReleaseKind, last_good
from boltseal.deploy.update_plan import (
    KnownImages,
    UpdateAction,
    UpdateStep,
    failed_before,
    failed_versions,
    is_floating,
    is_version,
    plan_updates,
    versions_to_resolve,
)
from boltseal.errors import BoltsealError, Invalid, Unavailable
from boltseal.ledger.follow import LedgerBroken
from boltseal.lockfile.document import LOCK_NAME, Lock, key_in, lock_key
from boltseal.lockfile.holds import git_end_hint, held_references
from boltseal.oci.reference import Reference, Tag
from boltseal.policy.update_policy import UpdateInvalid, UpdateRules, parse_update
from boltseal.project.edit_journal import EditJournal
from boltseal.project.held_digests import read_holds
from boltseal.project.lock_file import LockFile, lock_text
from boltseal.project.replace_files import replace_all
from boltseal.project.resolve import Resolver
from boltseal.project.settings import PROJECT_FILE, project_settings

_CHANGES: Final = frozenset({UpdateAction.TAKE, UpdateAction.WAIT, UpdateAction.PROPOSE})

Reopen = Callable[[Sequence[str], Sequence[str]], DeployableProject]
"""Has Compose read the project again: with these services, and registries that it may name."""


@dataclass(frozen=True, slots=True)
class UpdateRequest:
    """What to update. `cooldown_us`: how long we must know an image; None: as the project says. `major`: propose major versions.

    `write`: write proposed versions into the files and deploy them. `dry_run`: decide only. `explain`: explain each change.
    """

    cooldown_us: int | None = None
    major: bool = False
    write: bool = False
    dry_run: bool = False
    explain: bool = False


@dataclass(frozen=True, slots=True)
class UpdateReport:
    """The result of an update. `release`: None where nothing was deployed."""

    outcome: Outcome
    steps: tuple[UpdateStep, ...]
    release: DeployResult | None = None


def update_project(
    request: UpdateRequest,
    project: DeployableProject,
    reopen: Reopen,
    options: RegistryOptions,
    report: Callable[[Sequence[UpdateStep], Sequence[Explanation]], None],
) -> UpdateReport:
    """Decide for each service, and deploy what is taken, as the only process that deploys the project.

    `report`: is called with the decisions and their explanations before anything is deployed. Raises: Invalid: there is no lock; AnotherDeploys,
    EditsRunning, FileChanged: another command wrote the lock or a file meanwhile; LedgerBroken, Unavailable: a reference was not
    resolved, or a version can't be written into the files.
    """
    with project.folder.deploying():
        read = project.lock_file()
        decided = _decide(request, project, read, options)
        if request.write and not request.dry_run:
            decided = _with_digests(decided, project, options)
        report(decided, _explained(decided, project, read, options) if request.explain else ())
        chosen = [
            step
            for step in decided
            if step.act is UpdateAction.TAKE or (request.write and step.act is UpdateAction.PROPOSE)
        ]
        release = None
        if chosen and not request.dry_run:
            release = _apply(chosen, project, read, reopen, options.client)
    outcome = Outcome.UNKNOWN if any(step.act is UpdateAction.UNKNOWN for step in decided) else Outcome.HOLDS
    return UpdateReport(outcome, decided, release)


def _rules(project: DeployableProject, client: ClientContext) -> UpdateRules:
    """Return the rules of the project. Raises: UpdateInvalid."""
    try:
        rules = parse_update(project_settings(project.root).update)
    except UpdateInvalid as error:
        raise UpdateInvalid(f"{PROJECT_FILE}: {error.message}") from error
    for name in sorted(rules.services.keys() - project.read.model.services.keys()):
        client.notice(
            f"{PROJECT_FILE}: [update.services.{name}] is not used: service {name} is not part of this update "
            "(by its name, its profile, or the services that were named)"
        )
    return rules


def _decide(
    request: UpdateRequest, project: DeployableProject, read: LockFile, options: RegistryOptions
) -> tuple[UpdateStep, ...]:
    """Return the decision for each service (steps 1 and 2).

    It takes one HEAD request for each floating tag and each version that the policy may take, and one tag list per version.
    """
    rules = _rules(project, options.client)
    if request.cooldown_us is not None:
        rules = rules.with_cooldown(request.cooldown_us)
    lock, folder = read.lock, read.root
    if lock is None:
        raise Invalid(f"there is no {LOCK_NAME} in {folder}: run `boltseal lock` and `boltseal deploy` first")
    locked_builds = {each.reference for each in lock.images if each.digest is not None}
    services = [  # an image beside a build is one of a registry if the lock has its digest
        replace(each, build=each.build and lock_key(each.image) not in locked_builds)
        for each in _services(project, lock, folder)
    ]
    floating = [lock_key(each.image) for each in services if is_floating(each)]
    versions = [lock_key(each.image) for each in services if is_version(each)]
    now_us = options.client.now_us()

    async def run(transport: Transport) -> KnownImages:
        resolver = Resolver(transport, project.allowed, watch=lambda registry: followed(options, transport, registry))
        tags = {each: await _tags(transport, each) for each in dict.fromkeys(versions)}
        releases = project.folder.all()
        failed = failed_versions(releases)
        wanted = versions_to_resolve(services, tags, failed, rules)
        answers = await resolver.resolve([*floating, *wanted])
        current = {key: each.digest for key, each in answers.items() if isinstance(each, Resolved)}
        locked = {each.reference: each.digest for each in lock.images if each.digest is not None}
        since_us = await known_since(transport, options, current, now_us, remember=not request.dry_run)
        held = {**services_held_in_git(services, folder), **held_services(releases)}
        return KnownImages(locked, answers, tags, since_us, failed_before(releases), failed, held)

    known = ask(options, project.registries, run)
    return plan_updates(services, known, rules, now_us=now_us, major=request.major)


def services_held_in_git(services: Iterable[ComposeService], folder: Path) -> Mapping[str, str]:
    """Return the services whose image `boltseal.holds` beside the lock holds, with the reason. Raises: HoldsInvalid."""
    held = held_references(read_holds(folder))
    return {each.name: f"{held[each.image.by_tag]}; {git_end_hint()}" for each in services if each.image.by_tag in held}


def _services(project: DeployableProject, lock: Lock, folder: Path) -> Sequence[ComposeService]:
    """Return the services to decide about: the image of one that `boltseal pin` pinned is without its digest."""
    services = tuple(project.read.model.services.values())
    if not lock.pins or all(each.image.digest is None for each in services):
        return services
    return without_own_pins(services, open_project(folder, project.named.files), lock)


def _with_digests(
    steps: Sequence[UpdateStep], project: DeployableProject, options: RegistryOptions
) -> tuple[UpdateStep, ...]:
    """Return the steps with the digests of the proposed versions, where they can be resolved. Raises: LedgerBroken."""
    proposed = {
        step: replace(step.image, tag=step.tag)
        for step in steps
        if step.act is UpdateAction.PROPOSE and step.tag is not None
    }

    async def run(transport: Transport) -> tuple[UpdateStep, ...]:
        resolver = Resolver(transport, project.allowed, watch=lambda registry: followed(options, transport, registry))
        found = await resolver.resolve(proposed.values())
        resolved = {step: found[reference] for step, reference in proposed.items()}
        return tuple(
            replace(step, to=answer.digest) if isinstance(answer := resolved.get(step), Resolved) else step
            for step in steps
        )

    return ask(options, project.registries, run) if proposed else tuple(steps)


async def _tags(transport: Transport, image: Reference) -> Sequence[Tag] | BoltsealError:
    try:
        return [tag async for tag in RegistryClient(transport, image.registry).tags(image.repository)]
    except BoltsealError as error:
        return error


def _apply(
    chosen: Sequence[UpdateStep], project: DeployableProject, read: LockFile, reopen: Reopen, client: ClientContext
) -> DeployResult:
    """Edit and deploy the chosen services (steps 3 to 5); other changes of the files are left to `boltseal deploy`."""
    folder, before = read.root, read.lock or Lock()
    names = sorted({step.service for step in chosen})
    edits = update_edits(open_project(folder, project.named.files), before, chosen)
    journal = EditJournal(client.state_folder, folder)
    with journal.held():
        journal.begin(
            folder,
            edits.files,
            read.raw or b"",
            project=project.read.model.project,
            engine=project.folder.root.name,
            release=project.folder.next_number() - 1,
        )
        done = None
        try:
            replace_all(folder.resolve(), edits.files)
            only = names if last_good(project.folder.all()) is not None else list(project.services)
            edited = replace(reopen(only, list(project.registries)), folder=project.folder)  # it holds the lock
            images = {replace(step.image, tag=step.tag or step.image.tag) for step in chosen}
            lock = edited.relocked(lambda reference: reference in images, edits.lock, folder)
            with journal.locking(lock_text(lock)):
                edited.write_lock(read, lock)
            _check_locked(chosen, edited, lock)
            done = edited.deploy(ReleaseKind.UPDATE)
        finally:
            if done is not None and done.release.good:
                journal.end()
            else:
                restore(client, journal)
    if edits.left and done.release.good:
        client.notice(
            clean(f"{', '.join(edits.left)}: pinned to a former digest; `boltseal pin --write` writes the new one")
        )
    return done


def _explained(
    steps: Sequence[UpdateStep], project: DeployableProject, read: LockFile, options: RegistryOptions
) -> Sequence[Explanation]:
    """Explain the steps that change an image, also those that wait or are proposed. Raises: LedgerBroken."""
    lock = read.lock
    changing = [step for step in steps if step.act in _CHANGES and step.image.tag is not None]

    async def run(transport: Transport) -> Sequence[Explanation]:
        changes: dict[tuple[Reference, Reference], ImageChange] = {}
        for step in changing:
            new = replace(step.image, tag=step.tag or step.image.tag)
            digest, unresolved = step.to, ""
            if digest is None:
                try:
                    client = RegistryClient(transport, new.registry)
                    digest = (await client.resolve(new.repository, new.tag or Tag("latest"))).digest
                except LedgerBroken:
                    raise
                except BoltsealError as error:
                    unresolved = error.message
            locked = None if lock is None else lock.find(step.image)
            before = changes.get((step.image, new))
            places = (*(before.places if before is not None else ()), step.service)
            old_digest = None if locked is None else locked.digest
            changes[step.image, new] = ImageChange(places, step.image, old_digest, new, digest, unresolved)
        return await explain_changes(list(changes.values()), transport, options)

    return ask(options, project.registries, run) if changing else ()


def _check_locked(chosen: Sequence[UpdateStep], edited: DeployableProject, lock: Lock) -> None:
    """Check that the lock has the digests that were decided about. Raises: Unavailable: a tag moved meanwhile."""
    for step in chosen:
        found = lock.find(key_in(edited.read.model.services[step.service].image, lock.by_reference()))
        if step.to is not None and (found is None or found.digest != step.to):
            raise Unavailable(f"{step.service}: its tag moved from {step.to} meanwhile; run `boltseal update` again")
