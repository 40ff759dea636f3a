"""What the verbs on what runs share: where to look, whom to ask, and how a container is told of."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from boltseal.cli.answer import CommandOutput, Outcome, clean, say
from boltseal.cli.onproject import watching, whom_to_ask
from boltseal.cli.remote import RegistryOptions, ask
from boltseal.errors import BoltsealError, Invalid

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from boltseal.client.transport import Transport
    from boltseal.deploy.releases import Release
    from boltseal.engines.address import EngineAddress
    from boltseal.host.containers.hosts import ContainerHost, RunningContainer
    from boltseal.host.containers.registries import RegistryAnswers
    from boltseal.host.containers.rows import ContainerRow, DeployedRelease
    from boltseal.ledger.tag_intervals import TagStep
    from boltseal.lockfile.container_check import LockedImages
    from boltseal.oci.reference import Reference
    from boltseal.project.compose_name import ComposeProject

HostsOption = Annotated[
    list[str] | None,
    typer.Option(
        "--host",
        metavar="ADDRESS",
        show_default=False,
        help="An engine, may be repeated: unix:///PATH, tcp://HOST:PORT or ssh://[USER@]HOST[:PORT]. "
        "Default: DOCKER_HOST, else Docker's socket.",
    ),
]
ComposeOption = Annotated[
    Path | None,
    typer.Option("--compose", metavar="FILE", show_default=False, help="Only the containers of this Compose project."),
]
KubeOption = Annotated[
    str | None,
    typer.Option("--kube", metavar="CONTEXT", show_default=False, help="A cluster, by kubectl and this context."),
]
NamespaceOption = Annotated[
    str | None,
    typer.Option("--namespace", metavar="NAME", show_default=False, help="With --kube: this namespace, not all."),
]


MAX_ASKED: Final = 1000
"""Names that registries are asked about: a host that lies shall not have us ask a registry without an end."""
CLOCKS_US: Final = 60_000_000
"""By how much the clocks of two machines may differ."""
DEPLOY_US: Final = 86_400_000_000
"""For a release that has not ended, or whose end was not written."""


class NotTogether(Invalid):
    """Options that mean different places."""


@dataclass(frozen=True, slots=True)
class Where:
    """Where to look for containers."""

    hosts: tuple[str, ...] = ()
    compose: Path | None = None
    kube: str | None = None
    namespace: str | None = None

    def __post_init__(self) -> None:
        if self.kube is not None and (self.hosts or self.compose is not None):
            raise NotTogether("--kube is a place of its own; give it without --host and --compose")
        if self.namespace is not None and self.kube is None:
            raise NotTogether("--namespace is a cluster's; give it with --kube")


@dataclass(frozen=True, slots=True)
class Looked:
    """What was found. `failed`: where nobody could look, and why. `missing`: services of the project that do not run."""

    hosts: tuple[ContainerHost, ...]
    failed: tuple[tuple[str, BoltsealError], ...]
    missing: tuple[str, ...] = ()

    @property
    def seen(self) -> tuple[RunningContainer, ...]:
        """All containers of all hosts."""
        return tuple(each for host in self.hosts for each in host.seen)


def look(where: Where) -> Looked:
    """Look at all places at once; one that fails is in the answer. ComposeProjectInvalid, EngineAddressInvalid, ContextInvalid."""
    import asyncio

    from boltseal.project.compose_name import compose_project

    project = None if where.compose is None else compose_project(where.compose)
    looked = asyncio.run(_look(where))
    return looked if project is None else _of_project(looked, project)


async def _look(where: Where) -> Looked:
    import asyncio

    from boltseal.cli.onhost import engine_address

    if where.kube is not None:
        found = [await _tried(where.kube, _cluster(where.kube, where.namespace))]
    else:
        addresses = [engine_address(host) for host in dict.fromkeys(where.hosts)] or [engine_address()]
        found = await asyncio.gather(*(_tried(str(each), _engine(each)) for each in addresses))
    hosts = tuple(each for each in found if not isinstance(each, tuple))
    return Looked(hosts, tuple(each for each in found if isinstance(each, tuple)))


async def _tried(name: str, looking: Awaitable[ContainerHost]) -> ContainerHost | tuple[str, BoltsealError]:
    try:
        return await looking
    except Invalid:  # what was typed, and not what was found
        raise
    except BoltsealError as error:
        return name, error


async def _engine(address: EngineAddress) -> ContainerHost:
    from boltseal.engines.api import connected
    from boltseal.host.containers.hosts import list_running as looked

    async with connected(address) as engine:
        return await looked(engine)


async def _cluster(context: str, namespace: str | None) -> ContainerHost:
    from boltseal.host.containers.clusters import list_running as looked

    return await looked(context, namespace)


def _of_project(looked: Looked, project: ComposeProject) -> Looked:
    from dataclasses import replace

    hosts = tuple(
        replace(host, seen=tuple(each for each in host.seen if each.project == project.name)) for host in looked.hosts
    )
    running = {each.service for host in hosts for each in host.seen}
    return Looked(hosts, looked.failed, tuple(name for name in project.services if name not in running))


def told_of(
    reach: RegistryOptions | None, allow: Sequence[str], seen: Sequence[RunningContainer], lock: LockedImages | None
) -> RegistryAnswers:
    """What is known of these containers' images: by their registries, if `reach` is given, and by `boltseal watch`. LedgerBroken."""
    from boltseal.host.containers.registries import NOT_ASKED, RegistryQueries, with_observations
    from boltseal.host.containers.registries import query_registries as asked
    from boltseal.host.containers.rows import digests_to_query, names_to_query

    names = names_to_query(seen, lock)
    if len(names) > MAX_ASKED:
        say(f"more than {MAX_ASKED} different images run: registries are asked about the first {MAX_ASKED}")
        names = names[:MAX_ASKED]
    if not names:
        return NOT_ASKED
    memory = _remembered(names)
    if reach is None:
        return with_observations(NOT_ASKED, memory)
    allowed = whom_to_ask(reach, allow)

    async def run(transport: Transport) -> RegistryAnswers:
        registries = RegistryQueries(
            transport, allowed, watching(reach, transport, None if lock is None else lock.lock)
        )
        return await asked(registries, names, lambda told: digests_to_query(seen, lock, told))

    return with_observations(ask(reach, {name.registry for name in names}, run), memory)


def _remembered(names: Sequence[Reference]) -> dict[Reference, tuple[TagStep, ...]]:
    """What `boltseal watch` saw of these tags. Without its log the rest holds all the same."""
    from boltseal.client.state import ClientState, StateUnusable
    from boltseal.client.tag_observations import TagObservations
    from boltseal.config import state_folder
    from boltseal.ledger.tag_intervals import TagStep

    try:
        with TagObservations(ClientState(state_folder())) as watched:
            pasts = {name: watched.past(name) for name in names if name.tag is not None}
    except StateUnusable as error:
        say(f"boltseal: {error.message}")
        return {}
    return {
        name: tuple(TagStep(one.first_seen_us, str(one.digest or "")) for one in past) for name, past in pasts.items()
    }


def with_releases(rows: Sequence[ContainerRow]) -> list[ContainerRow]:
    """The same, each with the release of this machine's `boltseal deploy` that started it."""
    from dataclasses import replace

    from boltseal.config import state_folder
    from boltseal.deploy.release_store import ReleaseFolder, projects

    state = state_folder()
    try:
        known = set(projects(state)) & {row.seen.project for row in rows}
        releases = {project: ReleaseFolder(state, project).all()[::-1] for project in known}
    except BoltsealError as error:
        say(f"boltseal: {error.message}")
        return list(rows)
    return [replace(row, deployed=_started_by(row, releases.get(row.seen.project, ()))) for row in rows]


def _started_by(row: ContainerRow, releases: Sequence[Release]) -> DeployedRelease | None:
    """The release whose image it has, in whose time it was made; another host may run a project of the same name."""
    from boltseal.host.containers.rows import DeployedRelease

    created_us, digests = row.seen.image.created_us, {str(each) for each in row.digests}
    for release in releases:
        service = release.service(row.seen.service)
        begun, ended = release.started_us - CLOCKS_US, (release.ended_us or release.started_us + DEPLOY_US) + CLOCKS_US
        if service is None or created_us is None or not begun <= created_us <= ended:
            continue
        if {service.image_id, service.digest} & digests:
            return DeployedRelease(release.number, release.who, release.started_us)
    return None


def tell_failed(answer: CommandOutput, looked: Looked) -> None:
    """Where nobody could look, which makes the answer unknown; and services of a project that run nowhere."""
    for name, error in looked.failed:
        answer.outcome = Outcome.UNKNOWN if answer.outcome is Outcome.HOLDS else answer.outcome
        answer.add(ref=name, status="unknown", reason=error.message, weight="unknown")
        say(f"boltseal: {error.message}")
    for name in looked.missing if looked.hosts else ():
        reason = "no container runs for this service"
        answer.add(ref=name, status="not-running", reason=reason, weight="note")
        say(f"{clean(name)}: {reason}")


def tell_broken(answer: CommandOutput, told: RegistryAnswers) -> None:
    """Histories that contradict themselves or the tree that is signed."""
    for (registry, repository), past in told.histories.items():
        for problem in past.problems:
            answer.outcome = Outcome.DIFFERS
            answer.add(ref=f"{registry}/{repository}", status="broken", reason=problem)
            say(f"boltseal: {registry}/{repository}: {clean(problem)}")


def read_locked(project: Path) -> LockedImages | None:
    """The project's lock, ready to be compared with; None where there is none. LockInvalid."""
    from boltseal.lockfile.container_check import LockedImages
    from boltseal.project.lock_file import read_lock

    lock = read_lock(project)
    return None if lock is None else LockedImages.of(lock)


def result(row: ContainerRow) -> dict[str, Any]:
    """A container for `--json`."""
    from boltseal.lockfile.container_check import DigestKind

    seen, verdict = row.seen, row.verdict
    locked = None if verdict is None else verdict.locked
    released = row.deployed or row.released
    return {
        "ref": str(row.name) if row.name is not None else seen.started_as,
        "status": "not-compared" if verdict is None else str(verdict.standing),
        "reason": "" if verdict is None else verdict.reason,
        "weight": None if verdict is None else str(verdict.weight),
        "host": seen.host,
        "node": seen.node or None,
        "runtime": seen.runtime,
        "container": seen.name,
        "id": seen.id,
        "project": seen.project or None,
        "service": seen.service or None,
        "state": str(seen.state),
        "health": str(seen.health),
        "restarts": seen.restarts,
        "started_as": seen.started_as,
        "image": {str(kind).replace("-", "_"): [str(each) for each in row.of_kind(kind)] for kind in DigestKind},
        "platform": seen.image.platform or None,
        "machine": seen.image.machine or None,
        "local": row.local,
        "recorded": seen.image.recorded,
        "names": [str(name) for name in seen.image.names],
        "tags": [_tag(tag) for tag in row.tags],
        "tags_by": str(row.tags_by) or None,
        "locked": None if locked is None else str(locked.reference),
        "locked_digest": None if locked is None or locked.digest is None else str(locked.digest),
        "means": None if row.means is None else str(row.means),
        "moved": row.moved,
        "behind": None if row.behind is None else row.behind.moves,
        "behind_since": None if row.behind is None else _time(row.behind.since_us),
        "created_at": _time(seen.image.created_us),
        "started_at": _time(seen.started_us),
        "release": None if row.deployed is None else row.deployed.number,
        "released_by": None if released is None else released.by,
        "released_at": None if released is None else _time(released.time_us),
        "unasked": row.unasked or None,
    }


def _tag(tag: Any) -> dict[str, Any]:
    until = None if tag.until_us is None else _time(tag.until_us)
    entry = None if tag.entry < 0 else tag.entry
    return {"tag": tag.tag, "since": _time(tag.since_us), "until": until, "by": tag.by or None, "entry": entry}


def _time(time_us: int | None) -> str | None:
    from boltseal.lockfile.format import time_text

    return None if time_us is None else time_text(time_us)


def counts(rows: Sequence[ContainerRow], key: Callable[[ContainerRow], str]) -> str:
    """How many rows of each sort: `3 holds, 1 unknown`."""
    from collections import Counter

    return ", ".join(f"{number} {what}" for what, number in sorted(Counter(map(key, rows)).items()))
