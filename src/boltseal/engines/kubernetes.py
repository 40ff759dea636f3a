"""Parse the containers of `kubectl get pods -o json` into frozen values. Pure.

A container's image is named twice: as written by its creator (`spec`), and by the node's runtime (`imageID` in
`status`), in a form that depends on the runtime and its settings:

    docker-pullable://NAME@DIGEST   dockershim, cri-dockerd: the digest that was pulled, of an index or a manifest
    docker://DIGEST                 dockershim, cri-dockerd, for an image from no registry: the ID in Docker's store
    NAME@DIGEST                     containerd, CRI-O: an index's or a manifest's digest; not always under the name of `spec`
    DIGEST, or 64 hex digits        containerd, CRI-O: the image ID, as of images that were loaded on the node

The image name in `status` is not used: the runtime picks any of the image's names.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final, TypeVar

import msgspec

from boltseal.engines.engine_times import time_us
from boltseal.errors import BoltsealError, Unavailable, quote
from boltseal.oci.digest import Digest, DigestInvalid
from boltseal.oci.platform import Platform
from boltseal.oci.reference import Reference

T = TypeVar("T")

_HEX: Final = re.compile(r"[0-9a-f]{64}")
_NAME: Final = re.compile(r"[a-z0-9](?:[a-z0-9.-]{0,251}[a-z0-9])?")
_SCHEME: Final = re.compile(r"([a-z][a-z0-9-]{0,31})://")
_ENDED: Final = ("Succeeded", "Failed")
"""Phases of pods of which no container runs or will run."""
_RUNTIMES: Final = {"docker": "Docker", "cri-o": "CRI-O"}


class ClusterMismatch(Unavailable):
    """A cluster's answer is malformed or impossible."""


@dataclass(frozen=True, slots=True)
class NodeImage:
    """The image of a container as its runtime names it. `pulled`: its name at a registry, None if it came from none."""

    digest: Digest
    pulled: Reference | None


@dataclass(frozen=True, slots=True)
class PodContainer:
    """A container of a pod. `image`: None until its runtime reports it. `started_us`: microseconds.

    `workload`: kind/name of what the pod belongs to, such as deployment/web; "" if it belongs to nothing. `waiting`: why it does not
    run, "" if it runs; `deleted`: whether its pod is being deleted.
    """

    namespace: str
    pod: str
    name: str
    id: str
    node: str
    runtime: str
    started_as: str
    image: NodeImage | None
    restarts: int
    started_us: int | None
    created_us: int | None
    workload: str = ""
    waiting: str = ""
    deleted: bool = False


class _Running(msgspec.Struct):
    startedAt: str | None = None  # noqa: N815 - the key of the document


class _Waiting(msgspec.Struct):
    reason: str = ""
    message: str = ""


class _Terminated(msgspec.Struct):
    exitCode: int | None = None  # noqa: N815


class _State(msgspec.Struct):
    running: _Running | None = None
    waiting: _Waiting | None = None
    terminated: _Terminated | None = None


class _Status(msgspec.Struct):
    name: str
    imageID: str = ""  # noqa: N815
    containerID: str | None = None  # noqa: N815
    restartCount: int = 0  # noqa: N815
    state: _State | None = None


class _Condition(msgspec.Struct):
    type: str = ""
    status: str = ""
    reason: str = ""
    message: str = ""


class _Statuses(msgspec.Struct):
    phase: str = ""
    conditions: list[_Condition] | None = None
    containerStatuses: list[_Status] | None = None  # noqa: N815
    initContainerStatuses: list[_Status] | None = None  # noqa: N815
    ephemeralContainerStatuses: list[_Status] | None = None  # noqa: N815


class _Container(msgspec.Struct):
    name: str
    image: str = ""


class _Spec(msgspec.Struct):
    containers: list[_Container]
    initContainers: list[_Container] | None = None  # noqa: N815
    ephemeralContainers: list[_Container] | None = None  # noqa: N815
    nodeName: str = ""  # noqa: N815


class _Owner(msgspec.Struct):
    kind: str = ""
    name: str = ""
    controller: bool = False


class _Metadata(msgspec.Struct):
    name: str
    namespace: str = ""
    creationTimestamp: str | None = None  # noqa: N815
    deletionTimestamp: str | None = None  # noqa: N815
    ownerReferences: list[_Owner] | None = None  # noqa: N815
    labels: dict[str, str] | None = None


class _Pod(msgspec.Struct):
    metadata: _Metadata
    spec: _Spec
    status: _Statuses


class _Pods(msgspec.Struct):
    items: list[_Pod]


class _NodeInfo(msgspec.Struct):
    operatingSystem: str = ""  # noqa: N815
    architecture: str = ""


class _NodeStatus(msgspec.Struct):
    nodeInfo: _NodeInfo = msgspec.field(default_factory=_NodeInfo)  # noqa: N815


class _Node(msgspec.Struct):
    metadata: _Metadata
    status: _NodeStatus = msgspec.field(default_factory=_NodeStatus)


class _Nodes(msgspec.Struct):
    items: list[_Node]


def pod_containers(raw: bytes, *, waiting: bool = False) -> tuple[PodContainer, ...]:
    """Parse `kubectl get pods -o json`: running containers, init and ephemeral ones included. Raises: ClusterMismatch.

    `waiting`: also those that do not run, of pods that have not ended.
    """
    found = (each for pod in _decoded(raw, _Pods, "pods").items for each in _of_pod(pod))
    return tuple(each for each in found if waiting or not each.waiting)


def machines(raw: bytes) -> dict[str, Platform]:
    """Parse `kubectl get nodes -o json`: the platform of each node. Raises: ClusterMismatch."""
    found = {}
    for node in _decoded(raw, _Nodes, "nodes").items:
        info = node.status.nodeInfo
        found[_name(node.metadata.name, "node")] = Platform(info.operatingSystem, info.architecture)
    return found


def _of_pod(pod: _Pod) -> list[PodContainer]:
    spec, status = pod.spec, pod.status
    written = {
        each.name: each.image
        for each in (*spec.containers, *(spec.initContainers or ()), *(spec.ephemeralContainers or ()))
    }
    statuses = (
        *(status.containerStatuses or ()),
        *(status.initContainerStatuses or ()),
        *(status.ephemeralContainerStatuses or ()),
    )
    running = [
        _container(pod, each, written.get(each.name, "")) for each in statuses if each.state and each.state.running
    ]
    if status.phase in _ENDED:
        return running
    runs = {each.name for each in running}
    others = {name: _Status(name) for name in written} | {each.name: each for each in statuses}
    return running + [_container(pod, each, written.get(name, "")) for name, each in others.items() if name not in runs]


def _container(pod: _Pod, status: _Status, started_as: str) -> PodContainer:
    named = _SCHEME.match(status.containerID or "")
    runtime = "" if named is None else named[1]
    runs = None if status.state is None else status.state.running
    return PodContainer(
        namespace=_name(pod.metadata.namespace or "default", "namespace"),
        pod=_name(pod.metadata.name, "pod"),
        name=_name(status.name, "container"),
        id=(status.containerID or "").rpartition("//")[2],
        node=_name(pod.spec.nodeName, "node") if pod.spec.nodeName else "",
        runtime=_RUNTIMES.get(runtime, runtime),
        started_as=started_as,
        image=node_image(status.imageID),
        restarts=status.restartCount,
        started_us=time_us("" if runs is None else runs.startedAt or ""),
        created_us=time_us(pod.metadata.creationTimestamp or ""),
        workload=_workload(pod.metadata),
        waiting="" if runs is not None else _why_waiting(pod, status.state or _State()),
        deleted=pod.metadata.deletionTimestamp is not None,
    )


def _why_waiting(pod: _Pod, state: _State) -> str:
    """Return why a container does not run: its own state, else the pod's condition, else the pod's phase."""
    if state.waiting is not None:
        return ": ".join(filter(None, (state.waiting.reason, state.waiting.message))) or "it waits"
    if state.terminated is not None:
        return f"it ended with exit code {state.terminated.exitCode}"
    unmet = (each for each in pod.status.conditions or () if (each.type, each.status) == ("PodScheduled", "False"))
    why = next((f"not scheduled: {each.message or each.reason}" for each in unmet), "")
    return why or f"its pod is {pod.status.phase.lower() or 'new'}"


def _workload(metadata: _Metadata) -> str:
    """Return kind and name of a pod's workload. A Deployment's name is that of its ReplicaSet without the hash of the template."""
    owner = next((each for each in metadata.ownerReferences or () if each.controller), None)
    if owner is None or _NAME.fullmatch(owner.name) is None:
        return ""
    end = f"-{(metadata.labels or {}).get('pod-template-hash', '')}"
    if owner.kind == "ReplicaSet" and len(end) > 1 and owner.name.endswith(end):
        return f"deployment/{owner.name.removesuffix(end)}"
    return f"{owner.kind.lower()}/{owner.name}"


def node_image(text: str) -> NodeImage | None:
    """Parse an `imageID`; None if it is empty. Raises: ClusterMismatch: unknown form."""
    rest = _SCHEME.sub("", text, count=1)
    if not rest:
        return None
    try:
        if _HEX.fullmatch(rest):
            return NodeImage(Digest("sha256", rest), None)
        if "@" not in rest:
            return NodeImage(Digest.parse(rest), None)
        name, _, digest = rest.rpartition("@")
        return NodeImage(Digest.parse(digest), _pulled(name, digest))
    except DigestInvalid as error:
        raise ClusterMismatch(f"the cluster reports an imageID {quote(text)}; expected a digest") from error


def _pulled(name: str, digest: str) -> Reference | None:
    """Return the name as a reference; None for containerd's `import-...` names and names that Docker does not accept."""
    try:
        return Reference.parse(f"{name}@{digest}")
    except BoltsealError:
        return None


def _name(text: str, what: str) -> str:
    if _NAME.fullmatch(text) is None:
        raise ClusterMismatch(f"the cluster reports a {what} named {quote(text)}; expected a-z, 0-9, - and .")
    return text


def _decoded(raw: bytes, shape: type[T], what: str) -> T:
    try:
        return msgspec.json.decode(raw, type=shape)
    except RecursionError as error:
        raise ClusterMismatch(f"the cluster's answer about its {what} is nested too deeply") from error
    except (msgspec.MsgspecError, ValueError) as error:
        raise ClusterMismatch(
            f"the cluster's answer about its {what} can't be parsed: {quote(str(error), 200)[1:-1]}"
        ) from error
