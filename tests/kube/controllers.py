"""Scripted controllers of a cluster: they roll out what is applied after a while, or not, as its images say.

An image whose text contains one of `ill` never becomes available, and a Job with it fails. The state is computed when it is asked for.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from tests.kube.field_sets import merge

Document = dict[str, Any]


@dataclass
class Controllers:
    """`delay_s`: until what is applied is rolled out. `quota`: a reason for which no pods are created. `log`: of every container.

    `on_node`: the image that nodes report, "" for that of the pod. `pulling`: whether nodes have not pulled any image yet. `changed`:
    how a pod differs from its template, by the name of its workload.
    """

    ill: set[str] = field(default_factory=set)
    delay_s: float = 0.0
    quota: str = ""
    on_node: str = ""
    pulling: bool = False
    changed: dict[str, Document] = field(default_factory=dict)
    log: list[str] = field(default_factory=lambda: ["starting", "no database"])
    since: dict[tuple[str, int], float] = field(default_factory=dict)
    jobs: list[str] = field(default_factory=list)
    """The names of all Jobs that ran, in their order."""

    def seen(self, document: Document) -> None:
        """Notice an object that was written."""
        key = self._key(document)
        if key not in self.since:
            self.since[key] = time.monotonic()
            if document["kind"] == "Job":
                self.jobs.append(document["metadata"]["name"])

    def with_status(self, document: Document) -> Document:
        """Return an object with its status now."""
        status = self._status(document)
        return document if status is None else {**document, "status": status}

    def _key(self, document: Document) -> tuple[str, int]:
        return document["metadata"]["uid"], document["metadata"].get("generation", 1)

    def _ready(self, document: Document) -> bool:
        return time.monotonic() >= self.since.get(self._key(document), 0.0) + self.delay_s

    def _is_ill(self, document: Document) -> bool:
        text = str(document["spec"].get("template"))
        return any(each in text for each in self.ill)

    def _status(self, document: Document) -> Document | None:
        kind, ready = document["kind"], self._ready(document)
        if kind == "CustomResourceDefinition":
            return {"conditions": [{"type": "Established", "status": str(ready)}]}
        if kind == "Namespace":
            return {"phase": "Active"}
        if kind not in ("Deployment", "StatefulSet", "DaemonSet", "Job"):
            return None
        ill, replicas = self._is_ill(document), document["spec"].get("replicas", 1)
        good = ready and not ill and not self.quota
        if kind == "Job":
            name = "Failed" if ready and ill else "Complete" if good else ""
            reason = {"reason": "BackoffLimitExceeded", "message": "Job has reached the specified backoff limit"}
            return {"conditions": [{"type": name, "status": "True", **(reason if ill else {})}] if name else []}
        generation = document["metadata"]["generation"]
        if kind == "DaemonSet":
            return {
                "observedGeneration": generation,
                "desiredNumberScheduled": 3,
                "updatedNumberScheduled": 3 if good else 1,
                "numberAvailable": 3 if good else 2,
            }
        if kind == "StatefulSet":
            return {
                "observedGeneration": generation,
                "replicas": replicas,
                "readyReplicas": replicas if good else replicas - 1,
                "updatedReplicas": replicas if good else 1,
                "currentRevision": "b" if good else "a",
                "updateRevision": "b",
            }
        failure = [{"type": "ReplicaFailure", "status": "True", "reason": "FailedCreate", "message": self.quota}]
        progressing = [{"type": "Progressing", "status": "True", "reason": "ReplicaSetUpdated"}]
        return {
            "observedGeneration": generation,
            "replicas": replicas if good else replicas + (0 if self.quota else 1),
            "updatedReplicas": replicas if good else 0 if self.quota else 1,
            "availableReplicas": replicas,
            "conditions": failure if self.quota else progressing,
        }

    def pods(self, documents: Iterable[Document]) -> list[Document]:
        """Return the pods of all workloads."""
        return [
            self._pod(each) for each in documents if each["kind"] in ("Deployment", "StatefulSet", "DaemonSet", "Job")
        ]

    def pod(self, documents: Iterable[Document], name: str) -> Document | None:
        """Return one pod."""
        return next((each for each in self.pods(documents) if each["metadata"]["name"] == name), None)

    def _pod(self, workload: Document) -> Document:
        template, name = workload["spec"]["template"], workload["metadata"]["name"]
        ill, kind = self._is_ill(workload), workload["kind"]
        owner = {"kind": kind, "name": name, "controller": True}
        if kind == "Deployment":
            owner = {"kind": "ReplicaSet", "name": f"{name}-5d9c7b", "controller": True}
        waiting = {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 10s restarting failed container"}}
        running = {"running": {"startedAt": "2026-12-01T09:00:00Z"}}
        if self.pulling:
            running = {"waiting": {"reason": "ContainerCreating"}}
        pod = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {
                "name": f"{owner['name']}-x2x4z",
                "namespace": workload["metadata"].get("namespace"),
                "uid": f"pod-{workload['metadata']['uid']}",
                "labels": {**((template.get("metadata") or {}).get("labels") or {}), "pod-template-hash": "5d9c7b"},
                "ownerReferences": [owner],
                "creationTimestamp": workload["metadata"]["creationTimestamp"],
            },
            "spec": {"nodeName": "node-a", **template["spec"]},
            "status": {
                "phase": "Running",
                "containerStatuses": [
                    {
                        "name": each["name"],
                        "imageID": "" if self.pulling else self.on_node or each["image"],
                        "containerID": f"containerd://{each['name']}",
                        "ready": not ill,
                        "restartCount": 3 if ill else 0,
                        "state": waiting if ill else running,
                        "lastState": {"terminated": {"exitCode": 1}} if ill else {},
                    }
                    for each in template["spec"]["containers"]
                ],
            },
        }
        return pod if name not in self.changed else merge(pod, self.changed[name])
