"""`boltseal release diff`: show what changed between two releases."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final

import typer

from boltseal.cli.context import client_context
from boltseal.cli.deploy_options import KubeNamespaceOption, NameOption, OneKubeOption
from boltseal.cli.options import JsonOption
from boltseal.cli.output import CommandOutput
from boltseal.cli.table import print_table
from boltseal.commands.cluster_releases import ClusterPlace, diff_cluster_releases, kube_project_name
from boltseal.commands.project_name import project_name
from boltseal.commands.releases import diff_releases
from boltseal.commands.text import clean

_MAX_TEXT: Final = 200


def release_diff(
    before: Annotated[int, typer.Argument(metavar="NUMBER", show_default=False, help="A release.")],
    after: Annotated[int, typer.Argument(metavar="NUMBER", show_default=False, help="Another release.")],
    project: NameOption = None,
    kube: OneKubeOption = None,
    namespace: KubeNamespaceOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show what changed between two releases: images, their labels and bases, settings, environment, files.

    Values of the environment are compared, and never shown.

    Exit code 0: nothing; 1: something.
    """
    with CommandOutput("release-diff", as_json=as_json) as output:
        client = client_context()
        if kube is not None:
            named = kube_project_name(project, Path())
            found = diff_cluster_releases(client, ClusterPlace(kube, namespace), named, before, after)
        else:
            found = diff_releases(project_name(project, client), before, after, client)
        output.outcome = found.outcome
        for each in found.changes:
            output.add(
                ref=each.service or found.project,
                status=each.what,
                reason=f"{each.before or 'nothing'} -> {each.after or 'nothing'}",
                before=each.before or None,
                after=each.after or None,
            )
        if not found.changes:
            output.print(f"releases {before} and {after} of {found.project} are the same")
        elif not as_json:
            rows = [(each.service, each.what, _short(each.before), _short(each.after)) for each in found.changes]
            releases = (f"RELEASE {before}", f"RELEASE {after}")
            print_table(("SERVICE", "WHAT", *releases), rows, together=releases)


def _short(text: str) -> str:
    return clean(text if len(text) <= _MAX_TEXT else f"{text[:_MAX_TEXT]}...") or "-"
