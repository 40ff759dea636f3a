"""`boltseal release hold`: show what rollbacks of a project hold, and end it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from boltseal.cli.context import client_context
from boltseal.cli.deploy_options import DirectoryOption, KubeNamespaceOption, NameOption, OneKubeOption
from boltseal.cli.engine_options import HostOption
from boltseal.cli.git_release import GitBranchOption, GitRemoteOption, check_alone, git_request
from boltseal.cli.options import JsonOption
from boltseal.cli.output import CommandOutput
from boltseal.commands.cluster_releases import ClusterPlace, kube_project_name
from boltseal.commands.git_release import GitReleaseRequest
from boltseal.commands.git_rollback import branch_holds, end_branch_holds
from boltseal.commands.outcome import Outcome
from boltseal.commands.project_name import project_name
from boltseal.commands.release_holds import cluster_holds, end_cluster_hold, end_hold, holds
from boltseal.commands.releases import image_text
from boltseal.commands.text import clean


def release_hold(
    project: NameOption = None,
    end: Annotated[bool, typer.Option("--end", help="End the hold, so that the images may be deployed again.")] = False,
    host: HostOption = None,
    git_branch: GitBranchOption = None,
    git_remote: GitRemoteOption = None,
    project_directory: DirectoryOption = None,
    kube: OneKubeOption = None,
    namespace: KubeNamespaceOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show what rollbacks hold: images that `update`, `lock --update` and `deploy` do not take until the hold is ended.

    With --git-branch: what boltseal.holds of that branch holds. --end removes it by a commit.

    Exit code 0: nothing is held, or the hold was ended; 1: images are held.
    """
    with CommandOutput("release-hold", as_json=as_json) as output:
        if git_branch is not None or git_remote is not None:
            check_alone({"--project-name": project, "--host": host, "--kube": kube, "--namespace": namespace})
            _branch_holds(output, git_request(project_directory, git_branch, git_remote), end=end)
            return
        client = client_context()
        if kube is not None:
            name, place = kube_project_name(project, project_directory or Path()), ClusterPlace(kube, namespace)
            found = end_cluster_hold(client, place, name) if end else cluster_holds(client, place, name)
        else:
            name = project_name(project, client)
            found = end_hold(name, client, host) if end else holds(name, client, host)
        output.outcome = found.outcome
        for each in found.images:
            output.add(
                ref=each.image,
                status="released" if end else "held",
                reason=each.reason,
                service=each.service,
                digest=each.digest or None,
            )
            image = image_text(each.image, each.digest)
            output.print(clean(f"{each.service}: {image} of {each.digest or each.image_id}: {each.reason}"))
        if found.images and not end:
            where = (
                "" if kube is None else f" --kube {kube}" + ("" if namespace is None else f" --namespace {namespace}")
            )
            output.say(f"end it with: boltseal release hold --end --project-name {name}{where}")
        if not found.rollbacks:
            output.print(f"no rollback of {name} holds anything")
        elif end:
            output.print(f"the hold of {name} is ended: release {', '.join(map(str, found.rollbacks))}")


def _branch_holds(output: CommandOutput, request: GitReleaseRequest, *, end: bool) -> None:
    """Show what a branch of git holds, or end it."""
    if end:
        done, found = end_branch_holds(request)
    else:
        found = branch_holds(request)
        output.outcome = Outcome.DIFFERS if found else Outcome.HOLDS
    for each in found:
        output.add(
            ref=str(each.reference),
            status="released" if end else "held",
            reason=each.reason,
            service="",
            digest=str(each.digest),
            branch=request.branch,
        )
        output.print(clean(f"{each.reference.familiar()} {each.digest}: {each.reason}"))
    if not found:
        output.print(clean(f"no rollback of branch {request.branch} holds anything"))
    elif end:
        output.print(clean(f"the holds of branch {done.branch.title} are ended: commit {done.commit}"))
