"""`boltseal ps`: show which image each running container uses."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import typer

from boltseal.cli.context import client_context
from boltseal.cli.durations import duration_option
from boltseal.cli.host_options import HostsFileOption, named_hosts
from boltseal.cli.options import JsonOption
from boltseal.cli.output import CommandOutput, print_line, say
from boltseal.cli.project_options import AllowOption, ProjectOption
from boltseal.cli.ps_text import blocks
from boltseal.cli.remote import takes_registry_options
from boltseal.cli.report_options import ReportAsOption, ReportEveryOption, ReportOption, show_report
from boltseal.cli.running_options import ComposeOption, HostsOption, KubeOption, NamespaceOption
from boltseal.cli.running_output import add_broken, add_failed, count_text, row_fields
from boltseal.commands.host_reports import ReportOptions, report_target
from boltseal.commands.project_images import registry_filter
from boltseal.commands.ps import ContainerFilter, RunningResult, list_running
from boltseal.commands.ps_report import report_running
from boltseal.commands.registry_access import RegistryOptions
from boltseal.commands.text import clean, counted
from boltseal.errors import Invalid
from boltseal.host.containers.rows import ContainerRow
from boltseal.lockfile.format import time_text
from boltseal.policy.durations import Duration


@takes_registry_options
def ps(
    host: HostsOption = None,
    hosts_file: HostsFileOption = None,
    compose: ComposeOption = None,
    kube: KubeOption = None,
    namespace: NamespaceOption = None,
    offline: Annotated[bool, typer.Option("--offline", help="Ask no registry: use only hosts and the lock.")] = False,
    watch: Annotated[
        Duration | None,
        duration_option("--watch", "Repeat, such as every 30s, and show what changed.", at_least="1s"),
    ] = None,
    project: ProjectOption = Path(),
    allow: AllowOption = None,
    report: ReportOption = None,
    report_as: ReportAsOption = None,
    report_every: ReportEveryOption = None,
    *,
    access: RegistryOptions,
    as_json: JsonOption = False,
) -> None:
    """Show which image each running container uses.

    Reads the container's own image, whatever its tag resolves to now: its digests; the tags that resolve or resolved to
    it, and how many moves behind it is; whether it matches boltseal.lock; since when it runs, and who released it.
    Changes nothing.

    --report sends the images of all containers of one engine, or of all pods of one cluster, to a boltseal registry, which
    then keeps them. Whether that worked is shown, and does not change the exit code.

    Exit code 3: a host, or a record of this user, could not be read. `boltseal verify --running` checks containers against the lock.
    """
    where = ContainerFilter(named_hosts(host, hosts_file), compose, kube, namespace)
    reporting = ReportOptions(report, report_as, report_every)
    if report is not None:
        _check_report(where, reporting, watches=watch is not None)
    printer = _Printer()
    while True:
        client, access = client_context(), access.renewed()
        try:
            with CommandOutput("ps", as_json=as_json) as output:
                engine = None if kube else client.engine_address(next(iter(where.hosts), None))
                target = report_target(reporting, client, engine)
                allowed = _no_registry if offline else registry_filter(access, allow or [])
                found = list_running(where, project, client, None if offline else access, allowed)
                for row in found.rows:
                    output.add(**row_fields(row))
                add_broken(output, found.answers)
                add_failed(output, found.found)
                if found.releases.unread is not None:
                    output.could_not_check(found.releases.unread)
                if not as_json:
                    printer.print(found, client.now_us())
                if target is not None:
                    show_report(output, report_running(access, target, found, str(engine or kube)))
        except typer.Exit:
            if watch is None:
                raise
        if watch is None:
            return
        time.sleep(watch.seconds)


def _check_report(where: ContainerFilter, reporting: ReportOptions, *, watches: bool) -> None:
    """Refuse a report about less than all containers of one engine or cluster, or without a name for the cluster. Raises: Invalid."""
    if len(where.hosts) > 1 or where.compose or where.namespace or watches:
        raise Invalid(
            "--report is about all containers of one engine or cluster, once; leave out --compose, --namespace, --watch and a "
            "second --host"
        )
    if where.kube and reporting.name is None:
        raise Invalid("--report with --kube needs --report-as NAME, the name of the cluster among the registry's hosts")


def _no_registry(_registry: str) -> bool:
    """Allow no registry, with --offline."""
    return False


_State = dict[tuple[str, str], tuple[object, ...]]


@dataclass(slots=True)
class _Printer:
    """Prints the containers, and with --watch only those that changed. `printed`: notes that are not repeated."""

    known: _State = field(default_factory=dict)
    printed: set[str] = field(default_factory=set)

    def print(self, found: RunningResult, now_us: int) -> None:
        """Print what changed since the last call."""
        first = not self.printed
        changed, gone = self._changes(found.rows, {name for name, _ in found.found.failed})
        if not first and (changed or gone):
            print_line(f"-- {time_text(now_us)}")
        for line in blocks(changed, several=len(found.found.hosts) > 1):
            print_line(line)
        for name in gone:
            print_line(f"{name} no longer runs")
        self._say(found)
        if found.has_lock and first and found.rows:
            say(
                "compared with boltseal.lock: "
                + count_text(found.rows, lambda row: "" if row.verdict is None else str(row.verdict.status))
            )

    def _changes(self, rows: Sequence[ContainerRow], failed: set[str]) -> tuple[list[ContainerRow], list[str]]:
        """Return new and changed containers, and the names of those that are gone.

        The containers of a host that could not be read this time count as unchanged.
        """
        now: _State = {key: state for key, state in self.known.items() if key[0] in failed}
        changed = []
        for row in rows:
            key = (row.seen.host, row.seen.id)
            verdict = None if row.verdict is None else row.verdict.status
            now[key] = (clean(row.seen.name), row.digests, verdict, row.tags, row.resolves_to, row.seen.started_us)
            if self.known.get(key) != now[key]:
                changed.append(row)
        gone = [str(state[0]) for key, state in self.known.items() if key not in now]
        self.known = now
        return changed, gone

    def _say(self, found: RunningResult) -> None:
        """Print once for each host how many containers it has, and once each reason why a registry was not asked."""
        for host in found.found.hosts:
            if host.name not in self.printed:
                containers = counted(len(host.seen), "container")
                say(f"{clean(host.name)}: {clean(host.kind)}: {containers}; times are UTC")
        for reason in dict.fromkeys(row.unasked for row in found.rows if row.unasked):
            if reason not in self.printed:
                say(f"could not ask: {clean(reason)}")
        self.printed.update(host.name for host in found.found.hosts)
        self.printed.update(row.unasked for row in found.rows)
