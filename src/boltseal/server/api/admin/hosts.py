"""The routes of reports from hosts: a host sends one; users see what runs where, and operators forget a host.

An operator sees everything. Other users see images of repositories that they may pull, and the hosts and releases that have some. Anonymous
clients see nothing, whatever they may pull: with `anonymous_pull` they are the whole internet.
"""

from __future__ import annotations

from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta

from boltseal.ledger.entry import format_time
from boltseal.oci.jsontext import DigestText, TimeText
from boltseal.oci.reference import Repository, Tag
from boltseal.policy.host_report import (
    MAX_REPORT_BYTES,
    ReportCounts,
    ReportDocument,
    ReportedImage,
    ReportedRelease,
    parse_report,
)
from boltseal.server.api.admin.documents import time_or_none
from boltseal.server.api.admin.paging import (
    Page,
    PageQuery,
    cursor_of,
    image_position,
    number_position,
    text_position,
)
from boltseal.server.api.admin.routes import RequestInvalid, Right, Route
from boltseal.server.api.request import Request
from boltseal.server.auth.access import Access
from boltseal.server.registry.host_reports import HostReports, HostState, MaySee, ShownImage, ShownRelease, SubjectState
from boltseal.server.storage.metadata.host_table import ImageFilter

HOSTS: Final = "hosts"
IMAGES: Final = "hosts/images"
RELEASES: Final = "releases"
LOOKED_AT: Final = 100
"""Hosts that one request looks at: each may have thousands of images."""
_NEWEST: Final = 2**63 - 1

HostName = Annotated[str, Meta(max_length=100, description="The name of a host.")]


class HostQuery(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One host."""

    host: HostName


class ForgetHost(HostQuery, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The host to forget."""

    dry_run: Annotated[bool, Meta(description="Only return what would be forgotten.")] = False


class HostImagesQuery(PageQuery, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which images of hosts to list: those of a host, with a digest, of a repository, with its tag."""

    host: Annotated[str, Meta(max_length=100)] = ""
    digest: Annotated[str, Meta(max_length=140, description="A digest that runs: of an index, manifest or config.")] = (
        ""
    )
    repository: Annotated[str, Meta(max_length=255)] = ""
    tag: Annotated[
        str, Meta(max_length=128, description="A tag that containers were started by; needs `repository`.")
    ] = ""


class ReleasesQuery(PageQuery, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which releases to list."""

    host: Annotated[str, Meta(max_length=100, description="Only of this host; empty: of all.")] = ""


class ReportAccepted(msgspec.Struct, frozen=True, kw_only=True):
    """A report that was stored. `received`: its time by the server's clock."""

    host: str
    received: TimeText


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """The newest report of a kind and subject."""

    kind: str
    subject: str
    received: TimeText
    due: Annotated[
        TimeText | None, Meta(description="When it is overdue without another one; null: it has no schedule.")
    ]
    overdue: bool
    complete: bool
    images: Annotated[int, Meta(description="Images in it that the caller may see.")]
    outcome: Annotated[str | None, Meta(description="How the command ended; null: the caller is no operator.")]
    counts: Annotated[ReportCounts | None, Meta(description="Of all images; null: the caller is no operator.")]


class Host(msgspec.Struct, frozen=True, kw_only=True):
    """A host that has reported."""

    name: str
    login: Annotated[str | None, Meta(description="The user who reports it; null: the caller is no operator.")]
    last: Annotated[TimeText, Meta(description="When it reported last.")]
    state: Annotated[
        Literal["reporting", "overdue", "stopped"],
        Meta(description="`overdue`: one of its regular reports is missing. `stopped`: all of them are."),
    ]
    since: Annotated[TimeText | None, Meta(description="Since when it is overdue.")]
    reports: list[Report]


class Hosts(Page, frozen=True, kw_only=True):
    """A page of hosts, sorted by name."""

    items: list[Host]


class ForgottenHost(msgspec.Struct, frozen=True, kw_only=True):
    """A host that was forgotten, or would be. Its reports keep no image any more."""

    host: Host
    dry_run: bool


class ImageOfHost(msgspec.Struct, frozen=True, kw_only=True):
    """An image that a host reported."""

    host: str
    kind: str
    subject: str
    received: TimeText
    overdue: Annotated[
        bool, Meta(description="Whether the next report is missing, so that this may not be so any more.")
    ]
    repository: Annotated[str, Meta(description="As this registry names it; empty for an image without a name.")]
    tag: str
    image: ReportedImage


class ImagesOfHosts(Page, frozen=True, kw_only=True):
    """A page of images of hosts, sorted by host, kind and subject."""

    items: list[ImageOfHost]


class ImageOfRelease(msgspec.Struct, frozen=True, kw_only=True):
    """An image of a release, by digest."""

    service: str
    reference: str
    repository: str
    digests: list[DigestText]


class HostRelease(msgspec.Struct, frozen=True, kw_only=True):
    """A release that a host reported. Of its images those that the caller may see."""

    host: str
    project: str
    received: TimeText
    release: ReportedRelease
    images: list[ImageOfRelease]


class Releases(Page, frozen=True, kw_only=True):
    """A page of releases, the newest first: of each project of a host some of the last."""

    items: list[HostRelease]


class HostRoutes:
    """The handlers of reports from hosts."""

    def __init__(self, reports: HostReports, access: Access) -> None:
        self._reports = reports
        self._access = access

    def routes(self) -> list[Route]:
        """Return the routes."""
        seen, operator = Right.HOSTS, Right.OPERATOR
        return [
            Route(
                "POST",
                "reports",
                "Send the report of a host.",
                Right.REPORT,
                ReportDocument,
                ReportAccepted,
                self.report,
                changes=True,
                max_body_bytes=MAX_REPORT_BYTES,
            ),
            Route("GET", HOSTS, "List the hosts that report.", seen, PageQuery, Hosts, self.hosts),
            Route("GET", "host", "Show a host.", seen, HostQuery, Host, self.host, of_one=True),
            Route(
                "DELETE",
                "host",
                "Forget a host and its reports, which then keep no image.",
                operator,
                ForgetHost,
                ForgottenHost,
                self.forget,
                changes=True,
                of_one=True,
            ),
            Route(
                "GET",
                IMAGES,
                "List what hosts run: by host, digest, repository or tag.",
                seen,
                HostImagesQuery,
                ImagesOfHosts,
                self.images,
            ),
            Route(
                "GET",
                RELEASES,
                "List releases that hosts reported, and how they ended.",
                seen,
                ReleasesQuery,
                Releases,
                self.releases,
            ),
        ]

    def _may_see(self, request: Request) -> MaySee:
        return None if self._access.is_operator(request.caller) else self._access.may_list(request.caller)

    async def report(self, request: Request, asked: ReportDocument) -> ReportAccepted:
        """Store a report."""
        received_us = await self._reports.accept(parse_report(asked), request.actor)
        return ReportAccepted(host=asked.host, received=format_time(received_us))

    async def hosts(self, request: Request, asked: PageQuery) -> Hosts:
        """Return a page of hosts."""
        after, limit = text_position(HOSTS, asked.cursor), min(asked.limit, LOOKED_AT)
        page = await self._reports.hosts(after, limit, self._may_see(request))
        following = None if page.following is None else cursor_of(HOSTS, page.following)
        return Hosts(items=[_host(each, self._reports.now_us) for each in page.hosts], next=following)

    async def host(self, request: Request, asked: HostQuery) -> Host:
        """Return one host."""
        return _host(await self._reports.host(asked.host, self._may_see(request)), self._reports.now_us)

    async def forget(self, request: Request, asked: ForgetHost) -> ForgottenHost:
        """Forget a host."""
        found = await self._reports.forget(asked.host, request.actor, dry_run=asked.dry_run)
        return ForgottenHost(host=_host(found, self._reports.now_us), dry_run=asked.dry_run)

    async def images(self, request: Request, asked: HostImagesQuery) -> ImagesOfHosts:
        """Return a page of images."""
        if asked.tag and not asked.repository:
            raise RequestInvalid("tag needs repository: a tag names an image only in its repository")
        which = ImageFilter(
            asked.host,
            asked.digest,
            str.__str__(Repository(asked.repository)) if asked.repository else "",
            str.__str__(Tag(asked.tag)) if asked.tag else "",
        )
        page = await self._reports.images(
            image_position(IMAGES, asked.cursor), asked.limit, which, self._may_see(request)
        )
        following = None if page.following is None else cursor_of(IMAGES, *page.following)
        return ImagesOfHosts(items=[_image(each) for each in page.images], next=following)

    async def releases(self, request: Request, asked: ReleasesQuery) -> Releases:
        """Return a page of releases."""
        before = number_position(RELEASES, asked.cursor, _NEWEST)
        page = await self._reports.releases(before, min(asked.limit, LOOKED_AT), asked.host, self._may_see(request))
        following = None if page.following is None else cursor_of(RELEASES, page.following)
        return Releases(items=[_release(each) for each in page.releases], next=following)


def _host(state: HostState, now_us: int) -> Host:
    return Host(
        name=state.name,
        login=state.login,
        last=format_time(state.last_us),
        state="stopped" if state.stopped else "reporting" if state.overdue_us is None else "overdue",
        since=time_or_none(state.overdue_us),
        reports=[_report(each, now_us) for each in state.subjects],
    )


def _report(state: SubjectState, now_us: int) -> Report:
    return Report(
        kind=state.kind,
        subject=state.subject,
        received=format_time(state.received_us),
        due=time_or_none(state.due_us),
        overdue=state.due_us is not None and state.due_us < now_us,
        complete=state.complete,
        images=state.images,
        outcome=state.outcome,
        counts=None if state.summary is None else state.summary.counts,
    )


def _image(shown: ShownImage) -> ImageOfHost:
    return ImageOfHost(
        host=shown.host,
        kind=shown.kind,
        subject=shown.subject,
        received=format_time(shown.received_us),
        overdue=shown.overdue,
        repository=shown.repository,
        tag=shown.tag,
        image=msgspec.json.decode(shown.detail, type=ReportedImage),
    )


def _release(shown: ShownRelease) -> HostRelease:
    return HostRelease(
        host=shown.host,
        project=shown.project,
        received=format_time(shown.received_us),
        release=shown.release,
        images=[
            ImageOfRelease(
                service=each.service, reference=each.reference, repository=each.repository, digests=each.digests
            )
            for each in shown.images
        ],
    )
