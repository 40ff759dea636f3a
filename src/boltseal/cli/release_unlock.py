"""`boltseal release unlock`: remove the lock that a deploy left which was killed on another machine."""

from __future__ import annotations

from pathlib import Path

from boltseal.cli.context import client_context
from boltseal.cli.deploy_options import KubeNamespaceOption, NameOption, OneKubeOption
from boltseal.cli.engine_options import HostOption
from boltseal.cli.options import JsonOption
from boltseal.cli.output import CommandOutput
from boltseal.commands.cluster_releases import ClusterPlace, kube_project_name, unlock_cluster
from boltseal.commands.engine_releases import unlock
from boltseal.commands.project_name import project_name
from boltseal.commands.text import clean


def release_unlock(
    project: NameOption = None,
    host: HostOption = None,
    kube: OneKubeOption = None,
    namespace: KubeNamespaceOption = None,
    as_json: JsonOption = False,
) -> None:
    """Remove a project's deploy lock from an engine, and show who had it.

    Use it only if that process is gone: a deploy that still runs would have no lock. What a killed deploy left on this
    machine is removed without it.

    Exit code 0: removed; 1: the project is not locked.
    """
    with CommandOutput("release-unlock", as_json=as_json) as output:
        client = client_context()
        if kube is not None:
            name = kube_project_name(project, Path())
            held = unlock_cluster(client, ClusterPlace(kube, namespace), name)
        else:
            name = project_name(project, client)
            held = unlock(client, name, host)
        output.add(ref=name, status="unlocked", reason=held.reason, owner=held.who, since=held.since, container=held.id)
        output.print(clean(f"{name} is unlocked: it was being deployed by {held}"))
