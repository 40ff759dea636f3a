"""One-shot jobs of a project, such as database migrations: services that do their work and end with 0. Pure.

Jobs run when a release goes forward. When an older release comes back, its completed jobs are not run again: they did their
work when it was released, and the data may be newer by now than they can handle. A job of a release has completed if

1. its record says so: the job had ended with 0 when the release became healthy (`mark_completed_jobs`), or
2. the release became healthy, and another service of it depends on the job by `service_completed_successfully`.

By rule 1 also a service that nothing depends on is a job, if the engine does not restart it after it has ended with 0. One
that was still at work when its release became healthy is not: it could not be told from a service that was stopped later.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import msgspec

from boltseal.deploy.health import service_of
from boltseal.deploy.releases import Release, ServiceState
from boltseal.engines.inventory import EngineContainer, State

_COMPLETED: Final = "service_completed_successfully"
_SHARED: Final = ("network_mode", "ipc", "pid")


def mark_completed_jobs(
    release: Release, document: Mapping[str, Any], containers: Sequence[EngineContainer]
) -> Release:
    """A release that has become healthy, with the jobs that it ran marked as completed. `document`: its recorded text."""
    done = []
    for name in release.to_start:
        mine = [each for each in containers if service_of(each) == name]
        if mine and all(each.state is State.EXITED and each.exit_code == 0 for each in mine):
            done.append(name)
    return _marked(release, _one_shot(document).intersection(done))


def skip_completed_jobs(release: Release, document: Mapping[str, Any]) -> Release:
    """A release that is to run again, with its completed jobs marked, and the reason why they are not run."""
    awaited = _awaited(document) if release.good else frozenset()
    recorded = {each.name for each in release.services if each.state is ServiceState.COMPLETED}
    return _marked(release, awaited | recorded, f"completed in release {release.number}")


def skipped_jobs(release: Release) -> tuple[str, ...]:
    """Services that a release does not start when it comes back, each with the reason, for people."""
    return tuple(f"{each.name} ({each.reason})" for each in release.services if each.state is ServiceState.COMPLETED)


def _marked(release: Release, names: Iterable[str], reason: str = "") -> Release:
    wanted = frozenset(names)
    return release.with_services(
        msgspec.structs.replace(each, state=ServiceState.COMPLETED, reason=each.reason or reason)
        for each in release.services
        if each.name in wanted
    )


def _awaited(document: Mapping[str, Any]) -> frozenset[str]:
    """Services that others wait for until they have completed."""
    return frozenset(
        name
        for service in document["services"].values()
        for name, said in _mapping(service.get("depends_on")).items()
        if _mapping(said).get("condition") == _COMPLETED
    )


def _one_shot(document: Mapping[str, Any]) -> frozenset[str]:
    """Services that have done their work once they have ended with 0.

    Not one that the engine restarts, and not one whose volumes or namespaces another service uses: Compose needs its
    container to start that other service.
    """
    services = document["services"]
    used = {name for service in services.values() for name in _uses(service)}
    return frozenset(name for name, service in services.items() if name not in used and not _restarted(service))


def _uses(service: Mapping[str, Any]) -> Iterable[str]:
    for each in service.get("volumes_from") or ():
        yield str(each).partition(":")[0]
    for key in _SHARED:
        kind, _, name = str(service.get(key) or "").partition(":")
        if kind == "service":
            yield name


def _restarted(service: Mapping[str, Any]) -> bool:
    """Whether the engine starts it again after it has ended with 0. `restart` wins over `deploy`, as in Compose."""
    policy = _mapping(_mapping(service.get("deploy")).get("restart_policy"))
    said = str(service.get("restart") or (policy.get("condition", "any") if policy else "no"))
    return said.partition(":")[0] not in ("no", "none", "on-failure")


def _mapping(said: object) -> Mapping[str, Any]:
    return said if isinstance(said, Mapping) else {}
