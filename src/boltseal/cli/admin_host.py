"""`boltseal admin host`: list, show and forget the hosts that report to a registry."""

from __future__ import annotations

from typing import Annotated, Any, Final

import msgspec
import typer

from boltseal.cli.command_group import HelpCommand, HelpGroup
from boltseal.cli.confirmation import DryRunOption, YesOption, confirmed, on_terminal
from boltseal.cli.options import JsonOption
from boltseal.cli.output import CommandOutput
from boltseal.cli.remote import takes_registry_options
from boltseal.cli.table import print_table
from boltseal.commands.outcome import Outcome
from boltseal.commands.registry_access import RegistryOptions
from boltseal.commands.registry_hosts import HostImageInfo, HostInfo, HostReportInfo, RegistryHosts
from boltseal.commands.text import clean, counted
from boltseal.errors import Invalid
from boltseal.oci.digest import Digest
from boltseal.policy.host_report import check_host_name

admin_host = typer.Typer(
    cls=HelpGroup,
    help="List, show and forget the hosts that report to a registry.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

RegistryServerOption = Annotated[
    str, typer.Option("--server", metavar="HOST", show_default=False, help="The registry that the hosts report to.")
]
_HOST_COLUMNS: Final = ("HOST", "STATE", "LAST REPORT", "LOGIN", "REPORTS")
_CHECKED: Final = ("hold", "differ", "unknown")
_COMPARED: Final = ("match boltseal.lock", "differ from it", "could not be compared")
"""What the counts of a report mean: `scrub` and `deploy` count checked images; `ps` compares containers with the lock."""

HostArgument = Annotated[
    str, typer.Argument(metavar="NAME", show_default=False, help="The name of a host, as `ls` shows it.")
]


@admin_host.command("ls", cls=HelpCommand, epilog="Example: boltseal admin host ls --server registry.example.com")
@takes_registry_options
def list_hosts(
    server: RegistryServerOption,
    digest: Annotated[
        str, typer.Option("--digest", metavar="DIGEST", show_default=False, help="Only where this image runs.")
    ] = "",
    repository: Annotated[
        str,
        typer.Option("--repository", metavar="REPOSITORY", show_default=False, help="Only where an image of it runs."),
    ] = "",
    tag: Annotated[
        str,
        typer.Option("--tag", metavar="TAG", show_default=False, help="With --repository: started by this tag."),
    ] = "",
    *,
    access: RegistryOptions,
    as_json: JsonOption = False,
) -> None:
    """List the hosts that report, and which of them have stopped; or those that run an image.

    An operator sees all hosts, others those that run an image that they may pull.
    """
    with CommandOutput("admin-host-ls", as_json=as_json) as output:
        if tag and not repository:
            raise Invalid("--tag needs --repository: a tag names an image only in its repository")
        if digest:
            Digest.parse(digest)
        hosts = RegistryHosts(access, server)
        which = {"digest": digest, "repository": repository, "tag": tag}
        which = {key: value for key, value in which.items() if value}
        if which:
            _show_images(output, hosts.images(**which))
            return
        found = hosts.hosts()
        for each in found:
            output.add(**_host_fields(each, each.state))
        if found and not as_json:
            rows = [(each.name, _state(each), each.last, each.login or "-", _reports(each)) for each in found]
            print_table(_HOST_COLUMNS, rows, _HOST_COLUMNS[:3])
        elif not found:
            output.say("no host has reported")


@admin_host.command(cls=HelpCommand, epilog="Example: boltseal admin host show web-1 --server registry.example.com")
@takes_registry_options
def show(
    name: HostArgument, server: RegistryServerOption, *, access: RegistryOptions, as_json: JsonOption = False
) -> None:
    """Show a host: its newest reports, the images that run there, what scrub found, and its last releases."""
    with CommandOutput("admin-host-show", as_json=as_json) as output:
        hosts = RegistryHosts(access, server)
        found = hosts.host(check_host_name(name))
        output.add(**_host_fields(found, found.state))
        output.print(clean(f"{found.name}: {_state(found)}, last report {found.last}"))
        for each in found.reports:
            output.print(clean(f"  {_report(each)}"))
        _show_images(output, hosts.images(host=name))
        for release in hosts.releases(name):
            one = release.release
            output.add(
                ref=f"{release.project}/{one.number}",
                status=one.end,
                reason=one.reason,
                kind="deploy",
                subject=release.project,
                received=release.received,
                by=one.by,
                started=one.started,
                ended=one.ended,
            )
            reason = f": {one.reason}" if one.reason else ""
            output.print(
                clean(f"release {one.number} of {release.project}: {one.end}, {one.started} by {one.by}{reason}")
            )


@admin_host.command(cls=HelpCommand, epilog="Example: boltseal admin host forget web-1 --server registry.example.com")
@takes_registry_options
def forget(
    name: HostArgument,
    server: RegistryServerOption,
    dry_run: DryRunOption = False,
    yes: YesOption = False,
    *,
    access: RegistryOptions,
    as_json: JsonOption = False,
) -> None:
    """Forget a host and its reports: they no longer keep an image from cleanup, and another login may report the host.

    For operators. On a terminal it shows the host and asks, unless --yes is given. The audit log has it.
    """
    with CommandOutput("admin-host-forget", as_json=as_json) as output:
        hosts = RegistryHosts(access, server)
        check_host_name(name)
        if not dry_run and not yes and on_terminal():
            planned = [_report(each) for each in hosts.forget(name, dry_run=True).reports]
            if not confirmed(f"Forget host {name}?", planned, yes=yes):
                output.outcome = Outcome.DIFFERS
                output.say("nothing was changed")
                return
        gone = hosts.forget(name, dry_run=dry_run)
        output.add(**_host_fields(gone, "planned" if dry_run else "forgotten"))
        output.print(clean(gone.name))
        output.say(
            f"host {clean(gone.name)} with {counted(len(gone.reports), 'report')} {'would be' if dry_run else 'was'} forgotten"
        )


def _show_images(output: CommandOutput, images: list[HostImageInfo]) -> None:
    for each in images:
        output.add(
            ref=each.image.reference,
            status=each.image.status or each.image.state,
            reason=each.image.reason,
            host=each.host,
            kind=each.kind,
            subject=each.subject,
            received=each.received,
            overdue=each.overdue,
            image=msgspec.to_builtins(each.image),
        )
    if images and not output.as_json:
        print_table(
            ("HOST", "KIND", "IMAGE", "DIGEST", "STATUS", "CONTAINER", "REPORTED"), [_row(each) for each in images]
        )
    elif not images:
        output.say("no image was reported")


def _row(each: HostImageInfo) -> tuple[str, ...]:
    image = each.image
    received = f"{each.received} (overdue)" if each.overdue else each.received
    digest = image.digests[0] if image.digests else "-"
    status = image.status or image.state or "-"
    return (each.host, each.kind, clean(image.reference), digest, clean(status), clean(image.name or "-"), received)


def _host_fields(host: HostInfo, status: str) -> dict[str, Any]:
    return {
        "ref": host.name,
        "status": status,
        "reason": _state(host),
        "login": host.login,
        "last": host.last,
        "since": host.since,
        "reports": msgspec.to_builtins(host.reports),
    }


def _state(host: HostInfo) -> str:
    return host.state if host.since is None else f"{host.state} since {host.since}"


def _reports(host: HostInfo) -> str:
    return clean(", ".join(f"{each.kind} {each.subject}".rstrip() for each in host.reports)) or "-"


def _report(report: HostReportInfo) -> str:
    due = "" if report.due is None else f", {'OVERDUE since' if report.overdue else 'next until'} {report.due}"
    counts = report.counts
    words = _COMPARED if report.kind == "ps" else _CHECKED
    numbers = () if counts is None else (counts.holds, counts.differs, counts.unknown)
    if report.kind == "ps" and not any(numbers):  # there was no lock to compare with
        numbers = ()
    found = "".join(f", {number} {word}" for number, word in zip(numbers, words, strict=False))
    outcome = "" if report.outcome is None else f", {report.outcome}"
    whole = "" if report.complete else ", incomplete"
    images = counted(report.images, "image")
    return f"{report.kind} {report.subject}: {report.received}{outcome}{found}, {images}{whole}{due}"
