"""Actions on a tag or an image: seal, unseal, restore, accept, purge. The ledger has an entry of each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Final

from boltseal.ledger.entry import EntryKind
from boltseal.oci.reference import Repository, Tag
from boltseal.server.api.admin.routes import Right
from boltseal.server.api.request import Request
from boltseal.server.api.responses import Response
from boltseal.server.registry.observations import NoHeldChange
from boltseal.server.web.api_changes import NOTHING, RouteName
from boltseal.server.web.formats import address
from boltseal.server.web.pages.actions import AT, Action
from boltseal.server.web.pages.context import ROWS, SOME, OfRepository, PageContext, Viewer
from boltseal.server.web.rendering import redirect

SETS_DIGEST: Final = f"{EntryKind.TAG_CREATED},{EntryKind.TAG_MOVED},{EntryKind.TAG_RESTORED}"
"""Kinds of the entries whose digests a tag can be restored to."""


class TagAction(Action):
    """A change of a tag, bound to the digest that the tag resolves to. The first two fields are repository, and tag or digest."""

    __slots__ = ()
    section: ClassVar[str] = "Repositories"

    @property
    def route(self) -> RouteName:
        """The route of the same name."""
        return RouteName("POST", self.name)

    def check(self, pages: PageContext, request: Request, asked: Mapping[str, str]) -> None:
        """Check the right to change the repository."""
        pages.api.check(request, Right.ADMIN, OfRepository(asked["repository"]))

    def subject(self, asked: Mapping[str, str]) -> str:
        """Return the tag or digest."""
        return asked[self.fields[1]]

    async def shown(
        self, pages: PageContext, request: Request, viewer: Viewer, asked: Mapping[str, str]
    ) -> dict[str, Any]:
        """Return the state of the tag."""
        return {"state": await pages.api.read(request, "tag", repository=asked["repository"], tag=asked["tag"])}

    def confirming(self, asked: Mapping[str, str], planned: Any) -> dict[str, str]:
        """Bind the change to the digest that the tag resolves to."""
        return {**asked, AT: getattr(planned, "was", planned.digest) or NOTHING}

    def finished(self, pages: PageContext, viewer: Viewer, asked: Mapping[str, str], done: Any) -> Response:
        """Send the browser to the ledger entry, so that a reload sends nothing again."""
        return redirect(address("/ui/entry", repository=asked["repository"], entry=str(done.entry)))


class RestoreAction(TagAction):
    """Moves a tag back. The form offers earlier digests."""

    __slots__ = ()

    async def shown(
        self, pages: PageContext, request: Request, viewer: Viewer, asked: Mapping[str, str]
    ) -> dict[str, Any]:
        """Return the state of the tag, and the entries with earlier digests, the newest of each."""
        state = await pages.api.read(request, "tag", repository=asked["repository"], tag=asked["tag"])
        history = await pages.api.read(
            request, "history", repository=asked["repository"], tag=asked["tag"], kinds=SETS_DIGEST, limit=ROWS
        )
        newest: dict[str, Any] = {}
        for each in history.items:
            newest.setdefault(each.digest, each)
        return {"state": state, "earlier": [each for digest, each in newest.items() if digest != state.tag.digest]}

    def confirming(self, asked: Mapping[str, str], planned: Any) -> dict[str, str]:
        """Bind the change to both digests."""
        return {**asked, "to": planned.digest, AT: planned.was or NOTHING}


class AcceptAction(TagAction):
    """Serves a held digest. The route takes the digest, which binds the change."""

    __slots__ = ()
    section: ClassVar[str] = "Upstreams"

    async def shown(
        self, pages: PageContext, request: Request, viewer: Viewer, asked: Mapping[str, str]
    ) -> dict[str, Any]:
        """Return what is held back, and what clients get. Raises: NoHeldChange."""
        observed = await pages.registry.observations.find(Repository(asked["repository"]), Tag(asked["tag"]))
        if observed is None or observed.known.held is None:
            raise NoHeldChange(f"no change of {asked['repository']}:{asked['tag']} is held back")
        return {"state": observed}

    def confirming(self, asked: Mapping[str, str], planned: Any) -> dict[str, str]:
        """Bind the change to the held digest."""
        return {**asked, "digest": planned.digest or ""}


class PurgeAction(TagAction):
    """Deletes an image. The route takes the plan, which binds the change."""

    __slots__ = ()

    async def shown(
        self, pages: PageContext, request: Request, viewer: Viewer, asked: Mapping[str, str]
    ) -> dict[str, Any]:
        """Return no state: the preview lists what goes."""
        return {"state": None}

    async def effects(self, pages: PageContext, request: Request, planned: Any) -> dict[str, Any]:
        """Return the hosts that run the image, as far as the caller may see them."""
        return {
            "running": await pages.api.read_allowed(request, "hosts/images", digest=planned.digest, limit=SOME),
        }

    def confirming(self, asked: Mapping[str, str], planned: Any) -> dict[str, str]:
        """Bind the change to the plan."""
        return {**asked, "plan": planned.plan}

    def finished(self, pages: PageContext, viewer: Viewer, asked: Mapping[str, str], done: Any) -> Response:
        """Send the browser to the entries of the purge."""
        return redirect(address("/ui/entry", repository=asked["repository"], purged=done.digest))


TAG_ACTIONS: Final = (
    TagAction(
        "seal",
        "Seal",
        "A sealed tag resolves to one digest for ever, and its image cannot be deleted. This cannot be undone.",
        ("repository", "tag"),
        AT,
        "tag_form",
    ),
    TagAction(
        "unseal",
        "Lift the protection of",
        "The tag and its image can be deleted afterwards. The tag still cannot move: it can return only with the same digest.",
        ("repository", "tag"),
        AT,
        "tag_form",
    ),
    RestoreAction(
        "restore",
        "Restore",
        "The tag resolves to a digest of its history again. The digest that it resolves to now stays pullable.",
        ("repository", "tag", "to"),
        AT,
        "restore_form",
    ),
    AcceptAction(
        "accept",
        "Accept",
        "Clients get the digest that is held back. To keep the former one, leave this page: clients get it as before.",
        ("repository", "tag", "digest"),
        "digest",
        "accept_form",
    ),
    PurgeAction(
        "purge",
        "Purge",
        "Deletes the image, all tags of this repository that resolve to it, and the blobs that nothing else needs: for example "
        "because it has a secret. This cannot be undone. A tag that was sealed can return only with the same digest.",
        ("repository", "reference"),
        "plan",
        "tag_form",
    ),
)
