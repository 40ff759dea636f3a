"""`boltseal deploy --kube` and `boltseal rollback --kube`: the part of these commands that works on clusters."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from boltseal.cli.output import CommandOutput, print_line
from boltseal.cli.release_output import print_release
from boltseal.commands.cluster_releases import ClusterPlace, kube_project_name
from boltseal.commands.deploy import DeployOptions, notify_release
from boltseal.commands.deploy_kube import (
    ClusterResult,
    KubeRequest,
    deploy_to_clusters,
    preview,
    read_project,
    resume_on_clusters,
    roll_back_clusters,
)
from boltseal.commands.outcome import Outcome
from boltseal.commands.text import clean, counted
from boltseal.deploy.kube.object_diff import ObjectChange
from boltseal.errors import Invalid

_COMPOSE_ONLY: Final = "SERVICE, --build, --update, --profile, --env-file, --host, --hosts-file, --canary, --no-scrub, --require-scrub and --report"


@dataclass(frozen=True, slots=True)
class KubeRun:
    """What the options name: contexts, namespace, project, its folder, its manifests."""

    contexts: Sequence[str]
    namespace: str | None
    project: str | None
    directory: Path | None = None
    files: Sequence[Path] | None = None
    at_once: int = 1

    def request(self, options: DeployOptions) -> KubeRequest:
        """Return what is done where. Raises: ReleaseInvalid."""
        places = tuple(ClusterPlace(each, self.namespace) for each in dict.fromkeys(self.contexts))
        return KubeRequest(options, places, kube_project_name(self.project, self.root), self.at_once)

    @property
    def root(self) -> Path:
        """The project's folder."""
        return self.directory or Path()


def deploy_kube(
    output: CommandOutput,
    options: DeployOptions,
    run: KubeRun,
    *,
    resumed: bool,
    dry_run: bool,
    anyway: bool,
    refused: Sequence[object],
) -> None:
    """Deploy to clusters, or show what that would change. `refused`: values of options that do not apply to clusters."""
    if any(refused):
        raise Invalid(
            f"{_COMPOSE_ONLY} are about Docker Compose and can't be combined with --kube; lock and update by `boltseal lock`"
        )
    if resumed and (dry_run or run.files):
        raise Invalid("--resume continues a recorded release; it takes no --file or --dry-run")
    request = run.request(options)
    if resumed:
        print_results(output, options, resume_on_clusters(request))
        return
    project = read_project(run.root, [str(each) for each in run.files or ()], _standard_input)
    if not dry_run:
        print_results(output, options, deploy_to_clusters(request, project, anyway=anyway))
        return
    for place in request.places:
        _print_changes(output, place, preview(request, project, place))


def _standard_input() -> bytes:
    buffer = getattr(sys.stdin, "buffer", None)
    raw: bytes = sys.stdin.read().encode() if buffer is None else buffer.read()  # a replaced text stream has no buffer
    return raw


def rollback_kube(output: CommandOutput, options: DeployOptions, run: KubeRun, number: int | None) -> None:
    """Roll back on clusters."""
    print_results(output, options, roll_back_clusters(run.request(options), number))


def print_results(output: CommandOutput, options: DeployOptions, results: Sequence[ClusterResult]) -> None:
    """Print the result of each cluster, and set the outcome: that of the worst one. Raises: the error of a single cluster."""
    if len(results) == 1 and results[0].error is not None:
        raise results[0].error
    worst = Outcome.HOLDS
    for each in results:
        context = each.place.context
        if len(results) > 1:
            output.print(clean(f"{context}:"))
        begin = len(output.results)
        if each.done is not None:
            output.outcome = Outcome.HOLDS
            print_release(output, each.done)
            worst = _worse(worst, output.outcome)
            notify_release(each.done, context, options.client)
        elif each.error is not None:
            output.outcome = Outcome.HOLDS
            output.could_not_check(each.error)
            worst = _worse(worst, Outcome.UNKNOWN)
        else:
            output.add(ref=context, status="not-begun", reason="the deploy of another cluster failed")
            output.print("not begun, since the deploy of another cluster failed")
        output.results[begin:] = [{**row, "cluster": context} for row in output.results[begin:]]
    output.outcome = worst


def _worse(left: Outcome, right: Outcome) -> Outcome:
    order = (Outcome.HOLDS, Outcome.UNKNOWN, Outcome.DIFFERS)
    return max(left, right, key=order.index)


def _print_changes(output: CommandOutput, place: ClusterPlace, changes: Sequence[ObjectChange]) -> None:
    for each in changes:
        output.add(ref=each.name, status=each.status, reason=each.reason, cluster=place.context, diff=list(each.diff))
        if output.as_json or each.status == "unchanged":
            continue
        print_line(clean(f"{each.name}: {each.status}{f' ({each.reason})' if each.reason else ''}"))
        for line in each.diff:
            print_line(clean(line))
    changed = sum(each.status != "unchanged" for each in changes)
    output.print(
        clean(f"{place.context}: {changed} of {counted(len(changes), 'object')} would change; nothing was changed")
    )
