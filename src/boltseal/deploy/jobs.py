"""One-shot jobs of a project, such as database migrations: services that exit with 0 when their work is done. Pure.

A deploy runs jobs. A rollback does not run the completed jobs of the older release again: they ran when it was deployed,
and the data may by now be newer than they can handle. A job of a release has completed if

1. its record says so: the job had exited with 0 when the release became healthy (`mark_completed_jobs`), or
2. the release became healthy, and another service of it depends on the job by `service_completed_successfully`.

By rule 1 a service without dependants is a job too, if the engine does not restart it after exit code 0. A job that still
ran when its release became healthy does not count: it looks like a service that was stopped later.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import msgspec

from boltseal.deploy.health import service_of
from boltseal.deploy.releases import Release, ServiceState
from boltseal.engines.inventory import EngineContainer, State

_COMPLETED: Final = "service_completed_successfully"
SHARED: Final = ("network_mode", "ipc", "pid")
"""The keys of a service that may name another one whose namespace it uses."""


def mark_completed_jobs(
    release: Release, document: Mapping[str, Any], containers: Sequence[EngineContainer]
) -> Release:
    """Return a release that has become healthy with its jobs marked as completed. `document`: its recorded text."""
    done = []
    for name in release.to_start:
        containers_of_service = [each for each in containers if service_of(each) == name]
        if containers_of_service and all(
            each.state is State.EXITED and each.exit_code == 0 for each in containers_of_service
        ):
            done.append(name)
    return _mark_completed(release, jobs_by_exit(document).intersection(done))


def skip_completed_jobs(release: Release, document: Mapping[str, Any]) -> Release:
    """Return a release that will run again with its completed jobs marked, so that they are not started."""
    awaited = jobs_by_dependency(document) if release.good else frozenset()
    recorded = {each.name for each in release.services if each.state is ServiceState.COMPLETED}
    return _mark_completed(release, awaited | recorded, f"completed in release {release.number}")


def skipped_jobs(release: Release) -> tuple[str, ...]:
    """Return descriptions of the services that a rollback to a release does not start, each with the reason."""
    return tuple(f"{each.name} ({each.reason})" for each in release.services if each.state is ServiceState.COMPLETED)


def _mark_completed(release: Release, names: Iterable[str], reason: str = "") -> Release:
    wanted = frozenset(names)
    return release.with_services(
        msgspec.structs.replace(each, state=ServiceState.COMPLETED, reason=each.reason or reason)
        for each in release.services
        if each.name in wanted
    )


def jobs_by_dependency(document: Mapping[str, Any]) -> frozenset[str]:
    """Return the services that others wait for by `service_completed_successfully`."""
    return frozenset(
        name
        for service in document["services"].values()
        for name, dependency in _mapping(service.get("depends_on")).items()
        if _mapping(dependency).get("condition") == _COMPLETED
    )


def jobs_by_exit(document: Mapping[str, Any]) -> frozenset[str]:
    """Return the services whose work is done once they exit with 0.

    Services that the engine restarts are excluded. So are services whose volumes or namespaces another service uses:
    Compose needs their containers to start that other service.
    """
    services = document["services"]
    used = {name for service in services.values() for name in used_services(service)}
    return frozenset(name for name, service in services.items() if name not in used and not _is_restarted(service))


def used_services(service: Mapping[str, Any]) -> Iterable[str]:
    for each in service.get("volumes_from") or ():
        yield str(each).partition(":")[0]
    for key in SHARED:
        kind, _, name = str(service.get(key) or "").partition(":")
        if kind == "service":
            yield name


def _is_restarted(service: Mapping[str, Any]) -> bool:
    """Return whether the engine restarts a service after exit code 0. `restart` overrides `deploy`, as in Compose."""
    policy = _mapping(_mapping(service.get("deploy")).get("restart_policy"))
    restart = str(service.get("restart") or (policy.get("condition", "any") if policy else "no"))
    return restart.partition(":")[0] not in ("no", "none", "on-failure")


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
