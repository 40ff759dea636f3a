"""`boltseal release show`: show one release: time, user, revision, result, and the images of its services."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from boltseal.cli.context import client_context
from boltseal.cli.deploy_options import KubeNamespaceOption, NameOption, OneKubeOption
from boltseal.cli.options import JsonOption
from boltseal.cli.output import CommandOutput, say
from boltseal.cli.release_output import release_end, release_fields
from boltseal.commands.cluster_releases import ClusterPlace, kube_project_name, show_cluster_release
from boltseal.commands.project_name import project_name
from boltseal.commands.releases import ListedRelease, image_text, show_release, unfinished_notice
from boltseal.commands.text import clean
from boltseal.lockfile.format import time_text


def release_show(
    number: Annotated[
        int | None,
        typer.Argument(metavar="[NUMBER]", show_default=False, help="A release. Default: the one that runs."),
    ] = None,
    project: NameOption = None,
    kube: OneKubeOption = None,
    namespace: KubeNamespaceOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show one release: time, user, revision, result, and the image of each service with its digest."""
    with CommandOutput("release-show", as_json=as_json) as output:
        client = client_context()
        if kube is not None:
            named = kube_project_name(project, Path())
            listed = show_cluster_release(client, ClusterPlace(kube, namespace), named, number)
        else:
            listed = show_release(project_name(project, client), number, client)
        output.add(**release_fields(listed))
        for line in _lines(listed):
            output.print(clean(line))
        if listed.release.unfinished and not as_json:
            say(unfinished_notice(listed.release, client))


def _lines(listed: ListedRelease) -> Iterator[str]:
    release = listed.release
    of = "" if release.of is None else f" to release {release.of}"
    yield f"release   {release.project}/{release.number}{', running' if listed.current else ''}"
    yield f"made by   {release.kind}{of}, {release.who}"
    yield f"started   {time_text(release.started_us)}"
    if release.ended_us is not None:
        yield f"ended     {time_text(release.ended_us)}"
    yield f"result    {release_end(release)}{': ' + release.reason if release.reason else ''}"
    yield f"revision  {release.revision or '-'}"
    yield f"folder    {release.directory}"
    if release.engine:
        yield f"engine    {release.engine}"
    for service in release.services:
        yield f"service   {service.name}: {service.state}{': ' + service.reason if service.reason else ''}"
        yield f"  image   {image_text(service.image, service.digest)}"
        yield f"  digest  {service.digest}" if service.digest else f"  ID      {service.image_id or '-'} (local)"
