"""The report of `boltseal scrub`: how many images hold, and those that differ or could not be checked."""

from __future__ import annotations

from boltseal.commands.host_reports import ReportTarget, SentReport, fitting, send_report, short
from boltseal.commands.registry_access import RegistryOptions
from boltseal.commands.scrub import ScrubImagesRequest, ScrubResult
from boltseal.commands.text import counted
from boltseal.errors import Invalid
from boltseal.host.scrub.report import ReportStatus, ScrubReport
from boltseal.oci.digest import Digest
from boltseal.policy.host_report import ReportCounts, ReportedImage, ReportKind, ReportOutcome

_FINDINGS = (ReportStatus.DIFFERS, ReportStatus.UNKNOWN)


def report_scrub(
    options: RegistryOptions, target: ReportTarget, request: ScrubImagesRequest, found: ScrubResult
) -> SentReport:
    """Send what a scrub found. A run of another kind, or of other stores, is reported beside it."""
    images, left_out = fitting(_image(each) for each in found.reports if each.status in _FINDINGS)
    statuses = [each.status for each in found.reports]
    outcome = ReportOutcome(str(found.outcome)) if found.has_checked or request.allow_empty else ReportOutcome.UNKNOWN
    fields = {
        "kind": ReportKind.SCRUB,
        "subject": short(" ".join((request.kind, *map(str, request.roots)))),
        "complete": not left_out,
        "outcome": outcome,
        "counts": ReportCounts(
            holds=statuses.count(ReportStatus.HOLDS),
            differs=statuses.count(ReportStatus.DIFFERS),
            unknown=statuses.count(ReportStatus.UNKNOWN),
        ),
        "images": images,
    }
    return send_report(options, target, fields, left_out)


def _image(report: ScrubReport) -> ReportedImage:
    reason = counted(report.count, "difference") if report.count else "; ".join(report.unknown)
    return ReportedImage(
        reference=short(report.names[0] if report.names else report.ref, 512),
        digests=_digests(report.id),
        status=str(report.status),
        name=short(f"{report.what} {report.ref}"),
        reason=short(reason),
    )


def _digests(text: str) -> list[str]:
    try:
        return [str(Digest.parse(text))]
    except Invalid:  # the ID of a container, or of an image whose record can't be read
        return []
