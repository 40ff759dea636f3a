"""`boltseal release ls`: list the releases of this host with time, user and result."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from boltseal.cli.context import client_context
from boltseal.cli.deploy_options import KubeNamespaceOption, NameOption, OneKubeOption
from boltseal.cli.engine_options import HostOption
from boltseal.cli.options import JsonOption
from boltseal.cli.output import CommandOutput, print_line, say
from boltseal.cli.release_output import release_end, release_fields
from boltseal.cli.table import print_table
from boltseal.commands.cluster_releases import ClusterPlace, kube_project_name, list_cluster_releases
from boltseal.commands.releases import ListedRelease, digest_text, image_text, list_releases, unfinished_notice
from boltseal.commands.text import clean
from boltseal.lockfile.format import time_text


def release_ls(
    project: NameOption = None,
    host: HostOption = None,
    images: Annotated[bool, typer.Option("--images", help="Show the images of each release, by service.")] = False,
    kube: OneKubeOption = None,
    namespace: KubeNamespaceOption = None,
    as_json: JsonOption = False,
) -> None:
    """List the releases of a project, the newest last; without --project-name, of all projects.

    With --host, only those of this engine, by all of its administrators. Without it, those of the default engine, and what
    this machine knows of others.

    With --kube, those of a project on a cluster; without --project-name, of the project named like this folder.

    The one that runs on its engine is marked with *. An unfinished release is shown with its step.

    Exit code 3: the engine could not be asked, so that releases may be missing.
    """
    with CommandOutput("release-ls", as_json=as_json) as output:
        client = client_context()
        if kube is not None:
            place = ClusterPlace(kube, namespace)
            found = list_cluster_releases(client, place, kube_project_name(project, Path()))
        else:
            found = list_releases(project, client, host)
        listed, output.outcome = found.releases, found.outcome
        for each in listed:
            output.add(**release_fields(each))
        if found.unread is not None:
            output.could_not_check(found.unread)
        if as_json or (found.unread is not None and not listed):
            return
        if not listed:
            of = "" if project is None else f" of {project}"
            print_line(f"no releases{of} on this host yet; `boltseal deploy` makes the first")
            return
        if images:
            columns: tuple[str, ...] = ("RELEASE", "SERVICE", "STATE", "IMAGE", "DIGEST")
            rows = [row for each in listed for row in _image_rows(each)]
        else:
            columns = ("RELEASE", "WHEN", "BY", "REVISION", "HOW IT ENDED")
            here = "" if kube is not None else client.engine_address(host).key
            rows = [_row(each, here) for each in listed]
        print_table(columns, rows, whole=(*columns[:2], "DIGEST"))
        for each in listed:
            if each.release.unfinished:
                say(unfinished_notice(each.release, client))


def _number(listed: ListedRelease) -> str:
    return f"{'*' if listed.current else ' '} {listed.release.project}/{listed.release.number}"


def _image_rows(listed: ListedRelease) -> list[tuple[str, ...]]:
    return [
        (_number(listed), clean(each.name), each.state, clean(image_text(each.image, each.digest)), digest_text(each))
        for each in listed.release.services
    ]


def _row(listed: ListedRelease, here: str) -> tuple[str, ...]:
    release = listed.release
    kind = "" if release.kind == "deploy" else f"{release.kind}" + ("" if release.of is None else f" to {release.of}")
    where = "" if release.engine in ("", here) else f"at {release.engine}"
    end = f"{release_end(release)}{': ' + release.reason if release.reason else ''}"
    return (
        _number(listed),
        time_text(release.started_us),
        clean(release.who),
        clean(release.revision),
        clean(", ".join(part for part in (where, kind, end) if part)),
    )
