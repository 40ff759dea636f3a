"""The report of `boltseal deploy` and `rollback`: a release, its images by digest, and how it ended."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from boltseal.commands.deploy import DeployOptions
from boltseal.commands.host_reports import (
    ReportOptions,
    ReportTarget,
    SentReport,
    fitting,
    report_target,
    send_report,
    short,
    some_digests,
)
from boltseal.deploy.releases import Release, ReleasedService
from boltseal.errors import Invalid
from boltseal.lockfile.format import time_text
from boltseal.oci.digest import Digest
from boltseal.policy.host_report import (
    ReportCounts,
    ReportedImage,
    ReportedRelease,
    ReportKind,
    ReportOutcome,
    reported_name,
)


def release_report_target(options: DeployOptions, reporting: ReportOptions) -> ReportTarget | None:
    """Return where a release is reported, by the options or the user's settings. Raises: as `report_target`."""
    return report_target(reporting, options.client, options.client.engine_address(options.host), configured=True)


def host_report_targets(
    options: DeployOptions, reporting: ReportOptions, hosts: Sequence[str]
) -> dict[str, ReportTarget]:
    """Return where the release of each host is reported, by host; empty: nowhere.

    A host is reported by the name in its address, this machine by its own. Raises: Invalid: a name for all, or two hosts with one
    name; as `report_target`.
    """
    if reporting.name is not None:
        raise Invalid("--report-as names one host; several are reported by the names in their addresses")
    client, found = options.client, dict[str, ReportTarget]()
    for host in hosts:
        address = client.engine_address(host)
        name = None if address.scheme == "unix" else reported_name(address.host)
        target = (
            report_target(replace(reporting, name=name), client, address, configured=True)
            if _reports(options, reporting)
            else None
        )
        if target is not None:
            found[host] = target
    names = [each.host for each in found.values()]
    for name in {each for each in names if names.count(each) > 1}:
        problem = (
            f"two hosts would be reported as {name}; name each of them by another address, or deploy without --report"
        )
        if reporting.to is not None:
            raise Invalid(problem)
        client.notice(
            f"boltseal: not reported: {problem}"
        )  # only the configuration asks for reports, so the deploy is not refused
        return {}
    return found


def _reports(options: DeployOptions, reporting: ReportOptions) -> bool:
    return reporting.to is not None or options.client.settings.report is not None


def report_release(options: DeployOptions, target: ReportTarget, release: Release) -> SentReport:
    """Send a release that has ended. Only one that runs replaces the images of the one before."""
    images, left_out = fitting(map(_image, release.services))
    fields = {
        "kind": ReportKind.DEPLOY,
        "subject": release.project,
        "complete": release.good and not left_out,
        "outcome": ReportOutcome.HOLDS if release.good else ReportOutcome.DIFFERS,
        "counts": ReportCounts(),
        "images": images,
        "release": ReportedRelease(
            number=release.number,
            end=str(release.end or f"unfinished: {release.step}"),
            kind=str(release.kind),
            by=short(release.who),
            started=time_text(release.started_us),
            ended=None if release.ended_us is None else time_text(release.ended_us),
            reason=short(release.reason),
        ),
    }
    return send_report(options.registries, replace(target, every_s=None), fields, left_out)  # a deploy has no schedule


def _image(service: ReleasedService) -> ReportedImage:
    return ReportedImage(
        reference=short(service.image, 512),
        digests=some_digests(_digests(service.digest), _digests(service.image_id)),
        locked=service.digest or None,
        state=str(service.state),
        service=short(service.name),
        reason=short(service.reason),
    )


def _digests(text: str) -> list[Digest]:
    try:
        return [Digest.parse(text)]
    except Invalid:  # "" of a local build
        return []
