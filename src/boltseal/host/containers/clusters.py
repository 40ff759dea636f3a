"""What runs on a cluster: two questions, one for the pods and one for the machines that the nodes are.

Who may not see the nodes is not told for which machine an image should be; all else holds without it.
"""

from __future__ import annotations

import asyncio

from boltseal.engines import kubectl
from boltseal.engines.kubernetes import NodeImage, PodContainer, machines, pod_containers
from boltseal.host.containers.hosts import ContainerHost, RunningContainer, name_of
from boltseal.lockfile.container_check import DigestKind, Origin, RunningImage
from boltseal.oci.digest import Digest
from boltseal.oci.platform import Platform


async def look(context: str, namespace: str | None = None) -> ContainerHost:
    """What runs on a cluster now, in all namespaces or in one. KubectlFailed, ClusterMismatch, ContextInvalid."""
    pods, nodes = await asyncio.gather(
        kubectl.get(context, "pods", namespace=namespace, everywhere=namespace is None), _machines(context)
    )
    seen = (_seen(one, context, nodes.get(one.node)) for one in pod_containers(pods))
    return ContainerHost(context, "Kubernetes", tuple(sorted(seen, key=lambda each: each.name)))


async def _machines(context: str) -> dict[str, Platform]:
    try:
        return machines(await kubectl.get(context, "nodes"))
    except kubectl.KubectlFailed:
        return {}


def _seen(one: PodContainer, context: str, machine: Platform | None) -> RunningContainer:
    digests, origin = _digests(one.image)
    return RunningContainer(
        host=context,
        name=f"{one.namespace}/{one.pod}/{one.name}",
        id=one.id or f"{one.namespace}/{one.pod}/{one.name}",
        started_as=one.started_as,
        image=RunningImage(
            started_as=name_of(one.started_as),
            digests=digests,
            names=() if one.image is None or one.image.pulled is None else (one.image.pulled,),
            machine="" if machine is None else str(machine),
            origin=origin,
            created_us=one.started_us or one.created_us,
        ),
        runtime=one.runtime,
        node=one.node,
        restarts=one.restarts,
        started_us=one.started_us,
    )


def _digests(image: NodeImage | None) -> tuple[dict[Digest, DigestKind], Origin]:
    if image is None:
        return {}, Origin.UNSPECIFIED
    if image.pulled is None:
        return {image.digest: DigestKind.IMAGE_ID}, Origin.UNSPECIFIED
    return {image.digest: DigestKind.UNSPECIFIED}, Origin.PULLED
