"""When a workload is rolled out, compared with `kubectl rollout status`."""

from __future__ import annotations

import os
import subprocess
from typing import Any

import pytest

from boltseal.deploy.kube.rollout import RolloutState, rollout_of
from tests.kube.shop import KubeShop, deployment

DONE, WAITING, FAILED = RolloutState.DONE, RolloutState.WAITING, RolloutState.FAILED


def _object(kind: str, spec: dict[str, Any], status: dict[str, Any], generation: int = 2) -> dict[str, Any]:
    return {"kind": kind, "metadata": {"name": "web", "generation": generation}, "spec": spec, "status": status}


def _condition(name: str, **more: str) -> dict[str, Any]:
    return {"conditions": [{"type": name, "status": "True", **more}]}


SEEN = {"observedGeneration": 2}
FULL = {**SEEN, "replicas": 2, "updatedReplicas": 2, "availableReplicas": 2}
STATEFUL = {**SEEN, "readyReplicas": 2, "updatedReplicas": 2, "currentRevision": "b", "updateRevision": "b"}
DAEMON = {**SEEN, "desiredNumberScheduled": 3, "updatedNumberScheduled": 3, "numberAvailable": 3}
TWO = {"replicas": 2}


@pytest.mark.parametrize(
    ("document", "state"),
    [
        (_object("Deployment", TWO, FULL), DONE),
        (_object("Deployment", TWO, {**FULL, "observedGeneration": 1}), WAITING),
        (_object("Deployment", TWO, {**FULL, "updatedReplicas": 1}), WAITING),
        (_object("Deployment", TWO, {**FULL, "replicas": 3}), WAITING),
        (_object("Deployment", TWO, {**FULL, "availableReplicas": 1}), WAITING),
        (_object("Deployment", {"replicas": 0}, SEEN), DONE),
        (_object("Deployment", {}, SEEN), WAITING),
        (_object("Deployment", TWO, {**FULL, **_condition("Progressing", reason="ProgressDeadlineExceeded")}), FAILED),
        (_object("Deployment", TWO, {}), WAITING),
        (_object("StatefulSet", TWO, STATEFUL), DONE),
        (_object("StatefulSet", TWO, {**STATEFUL, "readyReplicas": 1}), WAITING),
        (_object("StatefulSet", TWO, {**STATEFUL, "updateRevision": "c"}), WAITING),
        (_object("StatefulSet", {**TWO, "updateStrategy": {"type": "OnDelete"}}, {**SEEN, "readyReplicas": 0}), DONE),
        (_object("StatefulSet", {**TWO, "updateStrategy": {"rollingUpdate": {"partition": 1}}}, {**STATEFUL, "updatedReplicas": 1}), DONE),
        (_object("StatefulSet", {**TWO, "updateStrategy": {"rollingUpdate": {"partition": 1}}}, {**STATEFUL, "updatedReplicas": 0}), WAITING),
        (_object("DaemonSet", {}, DAEMON), DONE),
        (_object("DaemonSet", {}, {**DAEMON, "updatedNumberScheduled": 2}), WAITING),
        (_object("DaemonSet", {}, {**DAEMON, "numberAvailable": 2}), WAITING),
        (_object("DaemonSet", {}, SEEN), DONE),
        (_object("Job", {}, _condition("Complete")), DONE),
        (_object("Job", {}, _condition("Failed", reason="BackoffLimitExceeded")), FAILED),
        (_object("Job", {}, {}), WAITING),
        (_object("Job", {"suspend": True}, {}), DONE),
        (_object("CustomResourceDefinition", {}, _condition("Established")), DONE),
        (_object("CustomResourceDefinition", {}, {}), WAITING),
        (_object("ConfigMap", {}, {}, 1), DONE),
        ({"kind": "Deployment", "metadata": {"deletionTimestamp": "2026-12-01T09:00:00Z"}}, FAILED),
        (None, FAILED),
    ],
)  # fmt: skip
def test_the_state_of_a_rollout(document: dict[str, Any] | None, state: RolloutState) -> None:
    """Each kind is done when its controller has seen the last change and all of its pods have it."""
    if document is not None and document["kind"] == "ConfigMap":
        document["status"] = {}

    assert rollout_of(document).state is state


@pytest.mark.parametrize("kind", ["Deployment", "StatefulSet", "DaemonSet", "Job", "CustomResourceDefinition"])
@pytest.mark.parametrize("value", [None, True, 5, 1e400, "x", [1], [[]], [{"type": []}], {"a": 1}])
def test_a_status_of_another_form_is_not_yet_done(kind: str, value: object) -> None:
    """A hostile API server ends no deploy in the middle: what cannot be a state is waited for."""
    keys = ("conditions", "replicas", "updatedReplicas", "readyReplicas", "desiredNumberScheduled", "numberAvailable")
    state = rollout_of(
        _object(kind, {"updateStrategy": value, "template": value}, {**SEEN, **dict.fromkeys(keys, value)})
    )

    assert state.state in (WAITING, DONE)


def test_a_replica_failure_is_part_of_the_reason() -> None:
    """A quota that stops pods is named."""
    status = {
        **SEEN,
        "updatedReplicas": 0,
        **_condition("ReplicaFailure", reason="FailedCreate", message="exceeded quota: few"),
    }

    assert rollout_of(_object("Deployment", TWO, status)).reason == "0 of 2 replicas are updated: exceeded quota: few"


@pytest.mark.real
@pytest.mark.slow
@pytest.mark.parametrize("kind", ["Deployment", "StatefulSet", "DaemonSet"])
@pytest.mark.parametrize("good", [True, False])
def test_kubectl_agrees(shop: KubeShop, kind: str, good: bool) -> None:
    """`kubectl rollout status` waits exactly for what boltseal waits for."""
    document = {**deployment("web", "registry.example.com/shop/web:1.0"), "kind": kind}
    if kind != "Deployment":
        document["spec"]["updateStrategy"] = {"type": "RollingUpdate"}  # the API server's default
    shop.api.put("apps/v1", kind, "shop", "web", document)
    if not good:
        shop.api.controllers.ill.add(":1.0")
    words = [
        "kubectl",
        "--context=prod",
        "rollout",
        "status",
        f"{kind.lower()}/web",
        f"--timeout={'60s' if good else '2s'}",
    ]
    done = subprocess.run(words, env={**os.environ, **shop.environment}, capture_output=True, text=True, check=False)

    live = shop.api.get(kind, "web")
    assert (done.returncode == 0) is good, done.stderr
    assert (rollout_of(live).state is DONE) is good
