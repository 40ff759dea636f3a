"""List the running containers of hosts or a cluster, with the state of their images by registries, locks and releases."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final, NamedTuple

from boltseal.client.state import StateUnusable
from boltseal.client.tag_observations import TagObservations
from boltseal.client.transport import Transport
from boltseal.commands.client_context import ClientContext
from boltseal.commands.engine_releases import known_folders
from boltseal.commands.outcome import Outcome
from boltseal.commands.project_images import ledger_follower
from boltseal.commands.registry_access import RegistryOptions, ask
from boltseal.deploy.releases import CLUSTER_KEY, Release, ReleaseEnd, last_good
from boltseal.engines.address import EngineAddress
from boltseal.engines.api import connected
from boltseal.engines.copied_images import UNKNOWN_COPY
from boltseal.errors import BoltsealError, Invalid
from boltseal.host.containers import clusters, hosts, registries
from boltseal.host.containers.hosts import ContainerHost, RunningContainer
from boltseal.host.containers.registries import NOT_ASKED, RegistryAnswers, RegistryQueries, with_observations
from boltseal.host.containers.rows import (
    ContainerRow,
    DeployedRelease,
    container_rows,
    digests_to_query,
    names_to_query,
)
from boltseal.host.kept_images import KeptImages, PullRecord
from boltseal.ledger.tag_intervals import TagStep
from boltseal.lockfile.container_check import DigestKind, LockedImages, Origin
from boltseal.oci.digest import Digest
from boltseal.oci.reference import Reference
from boltseal.project.compose_name import ComposeProject, compose_project
from boltseal.project.lock_file import read_lock

MAX_ASKED: Final = 1000
"""Names that registries are asked about: a host with false data must not cause requests without end."""
CLOCK_SKEW_US: Final = 60_000_000
"""By how much the clocks of two machines may differ."""
UNFINISHED_DEPLOY_US: Final = 86_400_000_000
"""How long a release may have started containers whose end was not recorded."""


@dataclass(frozen=True, slots=True)
class ContainerFilter:
    """Where to list containers: engines (`hosts`; none: DOCKER_HOST), only of a Compose file's project, or a cluster.

    `kube`: a context of kubectl; `namespace`: only one namespace of it.
    """

    hosts: tuple[str, ...] = ()
    compose: Path | None = None
    kube: str | None = None
    namespace: str | None = None

    def __post_init__(self) -> None:
        if self.kube is not None and (self.hosts or self.compose is not None):
            raise Invalid("--kube can't be combined with --host or --compose; give one of them")
        if self.namespace is not None and self.kube is None:
            raise Invalid("--namespace needs --kube")


@dataclass(frozen=True, slots=True)
class FoundContainers:
    """What was found. `failed`: hosts that could not be read, and why. `missing`: services of the project without one."""

    hosts: tuple[ContainerHost, ...]
    failed: tuple[tuple[str, BoltsealError], ...]
    missing: tuple[str, ...] = ()

    @property
    def containers(self) -> tuple[RunningContainer, ...]:
        """All containers of all hosts."""
        return tuple(each for host in self.hosts for each in host.seen)


@dataclass(frozen=True, slots=True)
class DeployedReleases:
    """The releases of projects, each project's newest first. `unread`: why they could not be read.

    `by_namespace`: those that run on the cluster that was asked about, by their namespace.
    """

    by_project: Mapping[str, tuple[Release, ...]] = field(default_factory=dict)
    by_namespace: Mapping[str, tuple[Release, ...]] = field(default_factory=dict)
    unread: BoltsealError | None = None


@dataclass(frozen=True, slots=True)
class RunningResult:
    """The containers, a row for each, what registries answered, and releases that started them."""

    found: FoundContainers
    rows: tuple[ContainerRow, ...]
    answers: RegistryAnswers
    has_lock: bool
    releases: DeployedReleases

    @property
    def outcome(self) -> Outcome:
        """DIFFERS for a broken history, UNKNOWN if a host or a record could not be read."""
        if broken_histories(self.answers):
            return Outcome.DIFFERS
        unread = self.found.failed or any(each.unread for each in self.found.hosts) or self.releases.unread is not None
        return Outcome.UNKNOWN if unread else Outcome.HOLDS


class BrokenHistory(NamedTuple):
    """A repository whose history contradicts itself or the signed tree, and how."""

    repository: str
    problem: str


def broken_histories(answers: RegistryAnswers) -> list[BrokenHistory]:
    """Return every contradiction in the histories of repositories."""
    return [
        BrokenHistory(f"{registry}/{repository}", problem)
        for (registry, repository), past in answers.histories.items()
        for problem in past.problems
    ]


def list_running(
    where: ContainerFilter,
    project: Path,
    client: ClientContext,
    registry_options: RegistryOptions | None,
    allowed: Callable[[str], bool],
) -> RunningResult:
    """List running containers and compare them with the lock of a project.

    `registry_options`: None to send no request to a registry. `allowed`: which registries may be contacted.
    Raises: LedgerBroken, LockInvalid, and as `find_containers`.
    """
    found, lock = find_containers(where, client), locked_images(project)
    answers = registry_answers(found.containers, lock, client, registry_options, allowed)
    releases = deployed_releases({each.project for each in found.containers}, client, where.kube)
    rows = (
        replace(
            row,
            deployed=_started_by(row, releases.by_project.get(row.seen.project, ()))
            if where.kube is None
            else _applied_by(row, releases.by_namespace),
        )
        for row in container_rows(found.containers, lock, answers)
    )
    return RunningResult(found, tuple(rows), answers, lock is not None, releases)


def find_containers(where: ContainerFilter, client: ClientContext) -> FoundContainers:
    """List the containers of all hosts at once; a host that fails is in the result.

    Raises: ComposeProjectInvalid, EngineAddressInvalid, ContextInvalid.
    """
    project = None if where.compose is None else compose_project(where.compose)
    found = asyncio.run(_find(where, client))
    return found if project is None else _of_project(found, project)


async def _find(where: ContainerFilter, client: ClientContext) -> FoundContainers:
    if where.kube is not None:
        results = [await _or_error(where.kube, clusters.list_running(where.kube, where.namespace))]
    else:
        addresses = [client.engine_address(host) for host in dict.fromkeys(where.hosts)] or [client.engine_address()]
        results = await asyncio.gather(*(_or_error(str(each), _of_engine(each, client)) for each in addresses))
    found = tuple(each for each in results if not isinstance(each, tuple))
    return FoundContainers(found, tuple(each for each in results if isinstance(each, tuple)))


def find_pods(context: str, namespaces: Sequence[str]) -> FoundContainers:
    """List the containers in namespaces of a cluster, also those that do not run yet; a namespace that fails is in the result."""

    async def run() -> list[ContainerHost | tuple[str, BoltsealError]]:
        return [
            await _or_error(f"{context}/{each}", clusters.list_running(context, each, waiting=True))
            for each in namespaces
        ]

    results = asyncio.run(run())
    return FoundContainers(
        tuple(each for each in results if not isinstance(each, tuple)),
        tuple(each for each in results if isinstance(each, tuple)),
    )


async def _or_error(name: str, listed: Awaitable[ContainerHost]) -> ContainerHost | tuple[str, BoltsealError]:
    try:
        return await listed
    except Invalid:  # an argument is wrong, not the host
        raise
    except BoltsealError as error:
        return name, error


async def _of_engine(address: EngineAddress, client: ClientContext) -> ContainerHost:
    async with connected(address) as engine:
        found = await hosts.list_running(engine)
    try:
        pulls = KeptImages(client.state).proven(address.key)
    except StateUnusable as error:
        return replace(found, unread=(f"which images are copies of others could not be checked: {error.message}",))
    seen = tuple(_with_pulls(each, pulls) for each in found.seen)
    unknown = [each for each in seen if each.image.is_copy and each.image.origin is not Origin.PULLED]
    return replace(found, seen=seen, unread=tuple(f"{each.name}: {UNKNOWN_COPY}" for each in unknown))


def _with_pulls(seen: RunningContainer, pulls: Mapping[Digest, Sequence[PullRecord]]) -> RunningContainer:
    """Return a container with the digests by which its image was pulled.

    An engine does not report them of a copy that `pull --replace` made, and of an image that a rollback loaded from the
    archive of releases.
    """
    known = {pull.digest: DigestKind.UNSPECIFIED for each in seen.image.digests for pull in pulls.get(each, ())}
    if not known:
        return seen
    return replace(seen, image=replace(seen.image, digests={**known, **seen.image.digests}, origin=Origin.PULLED))


def _of_project(found: FoundContainers, project: ComposeProject) -> FoundContainers:
    filtered = tuple(
        replace(host, seen=tuple(each for each in host.seen if each.project == project.name)) for host in found.hosts
    )
    running = {each.service for host in filtered for each in host.seen}
    return FoundContainers(filtered, found.failed, tuple(name for name in project.services if name not in running))


def registry_answers(
    containers: Sequence[RunningContainer],
    lock: LockedImages | None,
    client: ClientContext,
    registry_options: RegistryOptions | None,
    allowed: Callable[[str], bool],
) -> RegistryAnswers:
    """Return the history of these containers' images, from registries and `boltseal watch`. Raises: LedgerBroken.

    `registry_options`: None to ask no registry.
    """
    names = names_to_query(containers, lock)
    if len(names) > MAX_ASKED:
        client.notice(f"more than {MAX_ASKED} different images run: registries are asked about the first {MAX_ASKED}")
        names = names[:MAX_ASKED]
    if not names:
        return NOT_ASKED
    observed = _observations(names, client)
    if registry_options is None:
        return with_observations(NOT_ASKED, observed)

    async def run(transport: Transport) -> RegistryAnswers:
        follow = ledger_follower(registry_options, transport, None if lock is None else lock.lock)
        asked = RegistryQueries(transport, allowed, follow)
        return await registries.query_registries(
            asked, names, lambda answers: digests_to_query(containers, lock, answers)
        )

    return with_observations(ask(registry_options, {name.registry for name in names}, run), observed)


def _observations(names: Sequence[Reference], client: ClientContext) -> dict[Reference, tuple[TagStep, ...]]:
    """Return what `boltseal watch` recorded of these tags; nothing if its log can't be read."""
    try:
        with TagObservations(client.state) as observations:
            intervals = {name: observations.past(name) for name in names if name.tag is not None}
    except StateUnusable as error:
        client.notice(f"boltseal: {error.message}")
        return {}
    return {
        name: tuple(TagStep(each.first_seen_us, str(each.digest or "")) for each in past)
        for name, past in intervals.items()
    }


def deployed_releases(wanted: Collection[str], client: ClientContext, kube: str | None = None) -> DeployedReleases:
    """Return the releases of these projects by `boltseal deploy` that this machine knows. `kube`: those of a cluster, too."""
    releases = dict[str, tuple[Release, ...]]()
    on_cluster = dict[str, tuple[Release, ...]]()
    try:
        for folder in known_folders(client):
            if folder.project in wanted:
                releases[folder.project] = (*releases.get(folder.project, ()), *folder.all()[::-1])
            running = None if kube is None else last_good(folder.all())
            engine = "" if running is None else running.engine
            context, _, namespace = engine.removeprefix(CLUSTER_KEY).rpartition("/")
            if running is not None and running.on_cluster and context == kube:
                on_cluster[namespace] = (*on_cluster.get(namespace, ()), running)
    except BoltsealError as error:
        return DeployedReleases(unread=error)
    return DeployedReleases(releases, on_cluster)


def _applied_by(row: ContainerRow, running: Mapping[str, Sequence[Release]]) -> DeployedRelease | None:
    """Return the running release that has a pod's container with its image, by the digest in the pod or on the node."""
    namespace = row.seen.name.partition("/")[0]
    known = {str(each) for each in (*row.digests, row.seen.asked_digest)}
    for release in running.get(namespace, ()):
        service = release.service(row.seen.service)
        if service is not None and service.digest in known:
            return DeployedRelease(release.number, release.who, release.started_us, release.of)
    return None


def _started_by(row: ContainerRow, releases: Sequence[Release]) -> DeployedRelease | None:
    """Return the release with the container's image that was under way when the container was created, or that the
    failed one that was under way has put back.

    The image and the time are compared because another host may run a project of the same name.
    """
    by_number = {each.number: each for each in releases}
    created_us, digests = row.seen.image.created_us, {str(each) for each in row.digests}
    for release in releases:
        started_us = release.started_us - CLOCK_SKEW_US
        ended_us = (release.ended_us or release.started_us + UNFINISHED_DEPLOY_US) + CLOCK_SKEW_US
        if created_us is None or not started_us <= created_us <= ended_us:
            continue
        put_back = by_number.get(release.previous or 0) if release.end is ReleaseEnd.PUT_BACK else None
        for candidate in (release, put_back):
            service = None if candidate is None else candidate.service(row.seen.service)
            if candidate is not None and service is not None and {service.image_id, service.digest} & digests:
                return DeployedRelease(candidate.number, candidate.who, candidate.started_us, candidate.of)
    return None


def locked_images(project: Path) -> LockedImages | None:
    """Return the project's lock for comparison; None where there is none. Raises: LockInvalid."""
    lock = read_lock(project)
    return None if lock is None else LockedImages.of(lock)
