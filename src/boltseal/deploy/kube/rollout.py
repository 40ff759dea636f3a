"""Decide from an object's status whether it is rolled out. Pure.

The rules are those of `kubectl rollout status` (kubectl's pkg/polymorphichelpers/rollout_status.go) for Deployments, StatefulSets and
DaemonSets. A Job is done when its condition Complete is true, and failed when Failed is. A CustomResourceDefinition is done when it is
Established. All other objects are done when they are applied. A status of an older generation says nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

from boltseal.engines.cluster import Json

WAITED_FOR: Final = ("Deployment", "StatefulSet", "DaemonSet", "Job", "CustomResourceDefinition")
_DEADLINE: Final = "ProgressDeadlineExceeded"


class RolloutState(StrEnum):
    """The state of a rollout."""

    DONE = "done"
    WAITING = "waiting"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Rollout:
    """A rollout's state, and what it waits for or why it failed."""

    state: RolloutState
    reason: str = ""


_DONE: Final = Rollout(RolloutState.DONE)


def rollout_of(document: Json | None) -> Rollout:
    """Return the state of an object's rollout. None: it was deleted while it was waited for."""
    if document is None:
        return Rollout(RolloutState.FAILED, "it was deleted")
    metadata = document.get("metadata") or {}
    if metadata.get("deletionTimestamp"):
        return Rollout(RolloutState.FAILED, "it is being deleted")
    spec, status = _mapping(document.get("spec")), _mapping(document.get("status"))
    old = _number(status.get("observedGeneration")) < _number(metadata.get("generation"))
    match document.get("kind"):
        case "Deployment":
            return _waiting("the controller has not seen it yet") if old else _deployment(spec, status)
        case "StatefulSet":
            return _waiting("the controller has not seen it yet") if old else _stateful_set(spec, status)
        case "DaemonSet":
            return _waiting("the controller has not seen it yet") if old else _daemon_set(spec, status)
        case "Job":
            return _job(spec, status)
        case "CustomResourceDefinition":
            return _DONE if _condition(status, "Established") else _waiting("it is not established yet")
        case _:
            return _DONE


def _deployment(spec: Json, status: Json) -> Rollout:
    for each in _conditions(status):
        if each.get("type") == "Progressing" and each.get("reason") == _DEADLINE:
            return Rollout(RolloutState.FAILED, f"exceeded its progress deadline{_replica_failure(status)}")
    wanted, updated = _number(spec.get("replicas"), 1), _number(status.get("updatedReplicas"))
    if updated < wanted:
        return _waiting(f"{updated} of {wanted} replicas are updated{_replica_failure(status)}")
    if _number(status.get("replicas")) > updated:
        return _waiting(f"{_number(status.get('replicas')) - updated} old replicas are to be terminated")
    available = _number(status.get("availableReplicas"))
    return _DONE if available >= updated else _waiting(f"{available} of {updated} updated replicas are available")


def _stateful_set(spec: Json, status: Json) -> Rollout:
    strategy = _mapping(spec.get("updateStrategy"))
    if strategy.get("type", "RollingUpdate") != "RollingUpdate":
        return _DONE  # OnDelete: a person replaces the pods, so there is nothing to wait for
    wanted, ready = _number(spec.get("replicas"), 1), _number(status.get("readyReplicas"))
    if ready < wanted:
        return _waiting(f"{ready} of {wanted} replicas are ready")
    partition = _mapping(strategy.get("rollingUpdate")).get("partition")
    updated = _number(status.get("updatedReplicas"))
    if partition:
        wanted -= _number(partition)
        return _DONE if updated >= wanted else _waiting(f"{updated} of {wanted} replicas of the partition are updated")
    if status.get("updateRevision") != status.get("currentRevision"):
        return _waiting(f"{updated} of {wanted} replicas are at the new revision")
    return _DONE


def _daemon_set(spec: Json, status: Json) -> Rollout:
    if _mapping(spec.get("updateStrategy")).get("type", "RollingUpdate") != "RollingUpdate":
        return _DONE
    wanted, updated = _number(status.get("desiredNumberScheduled")), _number(status.get("updatedNumberScheduled"))
    if updated < wanted:
        return _waiting(f"{updated} of {wanted} nodes have the new pod")
    available = _number(status.get("numberAvailable"))
    return _DONE if available >= wanted else _waiting(f"{available} of {wanted} nodes have an available pod")


def _job(spec: Json, status: Json) -> Rollout:
    failed = next(
        (each for each in _conditions(status) if each.get("type") == "Failed" and each.get("status") == "True"), None
    )
    if failed is not None:
        reason = ": ".join(str(failed[key]) for key in ("reason", "message") if failed.get(key))
        return Rollout(RolloutState.FAILED, f"the job failed{f' ({reason})' if reason else ''}")
    if _condition(status, "Complete") or spec.get("suspend"):
        return _DONE
    return _waiting("the job has not completed")


def _replica_failure(status: Json) -> str:
    """Return why pods could not be created, such as a quota."""
    found = next(
        (each for each in _conditions(status) if each.get("type") == "ReplicaFailure" and each.get("status") == "True"),
        None,
    )
    return "" if found is None else f": {found.get('message') or found.get('reason')}"


def _condition(status: Json, name: str) -> bool:
    return any(each.get("type") == name and each.get("status") == "True" for each in _conditions(status))


def _conditions(status: Json) -> list[Mapping[str, Any]]:
    found = status.get("conditions")
    return [each for each in found if isinstance(each, Mapping)] if isinstance(found, list) else []


def _waiting(reason: str) -> Rollout:
    return Rollout(RolloutState.WAITING, reason)


def _number(value: object, default: int = 0) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) else default


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
