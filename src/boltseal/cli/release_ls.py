"""`boltseal release ls`: list the releases of this host with time, user and result."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Final

import typer

from boltseal.cli.context import client_context
from boltseal.cli.deploy_options import KubeNamespaceOption, NameOption, OneKubeOption
from boltseal.cli.host_options import HostsFileOption, named_hosts
from boltseal.cli.options import JsonOption
from boltseal.cli.output import CommandOutput, print_line, say
from boltseal.cli.release_output import release_end, release_fields
from boltseal.cli.running_options import HostsOption
from boltseal.cli.table import print_table
from boltseal.commands.cluster_releases import ClusterPlace, kube_project_name, list_cluster_releases
from boltseal.commands.outcome import Outcome
from boltseal.commands.releases import (
    HostReleases,
    ListedRelease,
    digest_text,
    image_text,
    list_host_releases,
    list_releases,
    unfinished_notice,
)
from boltseal.commands.text import clean
from boltseal.errors import BoltsealError, Invalid
from boltseal.lockfile.format import time_text

_COLUMNS: Final = ("RELEASE", "WHEN", "BY", "REVISION", "HOW IT ENDED")
_IMAGE_COLUMNS: Final = ("RELEASE", "SERVICE", "STATE", "IMAGE", "DIGEST")


def release_ls(
    project: NameOption = None,
    host: HostsOption = None,
    hosts_file: HostsFileOption = None,
    images: Annotated[bool, typer.Option("--images", help="Show the images of each release, by service.")] = False,
    kube: OneKubeOption = None,
    namespace: KubeNamespaceOption = None,
    as_json: JsonOption = False,
) -> None:
    """List the releases of a project, the newest last; without --project-name, of all projects.

    With --host or --hosts-file, only those of these engines, by all of their administrators. Without it, those of the default engine, and what
    this machine knows of others.

    With --kube, those of a project on a cluster; without --project-name, of the project named like this folder.

    The one that runs on its engine is marked with *. An unfinished release is shown with its step.

    Exit code 3: an engine could not be asked, so that releases may be missing.
    """
    with CommandOutput("release-ls", as_json=as_json) as output:
        client = client_context()
        hosts = named_hosts(host, hosts_file)
        if kube is not None and hosts:
            raise Invalid("--kube can't be combined with --host and --hosts-file")
        if hosts_file is not None or len(hosts) > 1:
            _list_hosts(output, list_host_releases(project, client, hosts), images=images)
            return
        if kube is not None:
            place = ClusterPlace(kube, namespace)
            found = list_cluster_releases(client, place, kube_project_name(project, Path()))
        else:
            found = list_releases(project, client, next(iter(hosts), None))
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
        here = "" if kube is not None else client.engine_address(next(iter(hosts), None)).key
        rows = [row for each in listed for row in (_image_rows(each) if images else [_row(each, here)])]
        columns = _IMAGE_COLUMNS if images else _COLUMNS
        print_table(columns, rows, whole=(*columns[:2], "DIGEST"))
        for each in listed:
            if each.release.unfinished:
                say(unfinished_notice(each.release, client))


def _list_hosts(output: CommandOutput, found: Mapping[str, HostReleases], *, images: bool) -> None:
    """Print the releases of several hosts, each with its host."""
    rows = []
    for host, listed in found.items():
        if isinstance(listed, BoltsealError):
            output.could_not_check(listed)
            output.print(clean(f"could not check: {host}: {listed.message}"))
            continue
        for each in listed:
            output.add(**release_fields(each), host=host)
            here = each.release.engine
            rows += [(host, *row) for row in (_image_rows(each) if images else [_row(each, here)])]
    columns = ("HOST", *(_IMAGE_COLUMNS if images else _COLUMNS))
    if rows and not output.as_json:
        print_table(columns, rows, whole=(*columns[:3], "DIGEST"))
    elif output.outcome is Outcome.HOLDS:
        output.print(
            f"no releases on {'this host' if len(found) == 1 else 'these hosts'} yet; `boltseal deploy` makes the first"
        )


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
