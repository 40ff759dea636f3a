"""What changed between two images of a repository, and the packages of one image."""

from __future__ import annotations

from typing import Any, Final

from boltseal.oci.digest import Digest
from boltseal.oci.reference import Repository
from boltseal.server.api.admin.paging import cursor_of, number_position
from boltseal.server.api.admin.routes import Right
from boltseal.server.api.request import Request
from boltseal.server.api.responses import Response
from boltseal.server.commands.image_comparisons import compared_or_reason
from boltseal.server.commands.image_details import image_details
from boltseal.server.web.pages.context import UNKNOWN_HOST, OfRepository, PageContext, Viewer
from boltseal.transfer.config_details import changed_values, layer_changes

CONTENTS: Final = "changed contents"
PACKAGES: Final = "packages"
LINES: Final = 100
YES: Final = "yes"


async def changes(pages: PageContext, request: Request, viewer: Viewer) -> Response:
    """Compare two images; with `contents=yes` also their packages and files."""
    name, platform = request.query.value("repository") or "", request.query.value("platform") or None
    pages.api.check(request, Right.PULL, OfRepository(name))
    repository, pulls = Repository(name), pages.registry.pulls
    old, new = (Digest.parse(request.query.value(each) or "") for each in ("old", "new"))
    before = await image_details(pulls, repository, old, platform)
    after = await image_details(pulls, repository, new, platform)
    compared, reason = await compared_or_reason(pages.comparisons, repository, old, new)
    cursor = request.query.value("cursor") or ""
    found = None
    if request.query.value("contents") == YES:
        found = await pages.comparisons.contents(repository, old, new, platform)
    shown, following = _page_of(CONTENTS, () if found is None else found.rows, cursor)
    return pages.page(
        "changes",
        viewer,
        repository=name,
        old=before,
        new=after,
        platform=platform,
        compared=compared,
        reason=reason,
        layers=layer_changes(before.layers, after.layers),
        settings=changed_values(before.settings, after.settings),
        labels=changed_values(before.labels, after.labels),
        annotations=changed_values(before.annotations, after.annotations),
        found=found,
        shown=shown,
        next=following,
        host=pages.host or UNKNOWN_HOST,
        first=not cursor,
    )


async def packages(pages: PageContext, request: Request, viewer: Viewer) -> Response:
    """List the packages of an image: by its SBOM; with `layers=yes` also by its layers."""
    name, platform = request.query.value("repository") or "", request.query.value("platform") or None
    pages.api.check(request, Right.PULL, OfRepository(name))
    digest = Digest.parse(request.query.value("digest") or "")
    by_layers = request.query.value("layers") == YES
    found = await pages.comparisons.packages(Repository(name), digest, platform, by_layers=by_layers)
    cursor = request.query.value("cursor") or ""
    shown, following = _page_of(PACKAGES, found.found.packages or (), cursor)
    return pages.page(
        "packages",
        viewer,
        repository=name,
        digest=str(digest),
        platform=platform,
        by_layers=by_layers,
        found=found,
        shown=shown,
        next=following,
        host=pages.host or UNKNOWN_HOST,
        first=not cursor,
    )


def _page_of(list_name: str, rows: tuple[Any, ...], cursor: str) -> tuple[list[Any], str | None]:
    """Return the next rows, and the cursor of those after them."""
    start = number_position(list_name, cursor, 0)
    end = start + LINES
    return list(rows[start:end]), cursor_of(list_name, end) if end < len(rows) else None
