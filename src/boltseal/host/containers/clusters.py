"""Lists the containers of a Kubernetes cluster, by two requests: one for pods, one for nodes.

Without the right to list nodes, the platform that an image should be for is unknown; everything else still works.
"""

from __future__ import annotations

import asyncio

from boltseal.engines import kubectl
from boltseal.engines.inventory import State
from boltseal.engines.kubernetes import NodeImage, PodContainer, machines, pod_containers
from boltseal.host.containers.hosts import ContainerHost, RunningContainer, parse_image_name
from boltseal.lockfile.container_check import DigestKind, Origin, RunningImage
from boltseal.oci.digest import Digest
from boltseal.oci.platform import Platform


async def list_running(context: str, namespace: str | None = None, *, waiting: bool = False) -> ContainerHost:
    """Return the containers that run on a cluster now, in all namespaces or in one. `waiting`: also those that do not run yet.

    Raises: KubectlFailed, ClusterMismatch, ContextInvalid.
    """
    pods, nodes = await asyncio.gather(
        kubectl.get(context, "pods", namespace=namespace, everywhere=namespace is None), _node_platforms(context)
    )
    seen = (
        _running_container(container, context, nodes.get(container.node))
        for container in pod_containers(pods, waiting=waiting)
    )
    return ContainerHost(context, "Kubernetes", tuple(sorted(seen, key=lambda each: each.name)))


async def _node_platforms(context: str) -> dict[str, Platform]:
    try:
        return machines(await kubectl.get(context, "nodes"))
    except kubectl.KubectlFailed:
        return {}


def _running_container(container: PodContainer, context: str, platform: Platform | None) -> RunningContainer:
    digests, origin = _digests(container.image)
    return RunningContainer(
        host=context,
        name=f"{container.namespace}/{container.pod}/{container.name}",
        id=container.id or f"{container.namespace}/{container.pod}/{container.name}",
        started_as=container.started_as,
        image=RunningImage(
            started_as=parse_image_name(container.started_as),
            digests=digests,
            names=() if container.image is None or container.image.pulled is None else (container.image.pulled,),
            machine="" if platform is None else str(platform),
            origin=origin,
            created_us=container.started_us or container.created_us,
        ),
        runtime=container.runtime,
        node=container.node,
        restarts=container.restarts,
        started_us=container.started_us,
        service=f"{container.workload}/{container.name}" if container.workload else "",
        state=State.RUNNING if not container.waiting else State.CREATED if container.image is None else State.EXITED,
        waiting=container.waiting,
        deleted=container.deleted,
    )


def _digests(image: NodeImage | None) -> tuple[dict[Digest, DigestKind], Origin]:
    if image is None:
        return {}, Origin.UNSPECIFIED
    if image.pulled is None:
        return {image.digest: DigestKind.IMAGE_ID}, Origin.UNSPECIFIED
    return {image.digest: DigestKind.UNSPECIFIED}, Origin.PULLED
