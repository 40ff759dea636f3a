"""Forms that change a tag or an image: seal, unseal, restore, accept, purge. Each is a change of the admin API (`ApiChanges`).

1. GET shows the form: what the change does, the state of the tag, a field for the reason.
2. POST shows what would be done, by a dry run, and the button that does it.
3. POST with `step=change` does exactly that, and sends the browser to the ledger entry of it (`pages.entries`).

A tag or plan that has changed between 2 and 3 is refused. `Pages` checks origin and form token before a POST gets here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from boltseal.commands.tag_changes import required_reason
from boltseal.ledger.entry import EntryKind
from boltseal.oci.reference import Repository, Tag
from boltseal.server.api.admin.routes import Right
from boltseal.server.api.request import Request
from boltseal.server.api.responses import Response
from boltseal.server.registry.observations import NoHeldChange
from boltseal.server.web.formats import address
from boltseal.server.web.pages.context import (
    ROWS,
    SOME,
    UNKNOWN_HOST,
    NotDone,
    OfRepository,
    PageContext,
    Viewer,
)
from boltseal.server.web.rendering import redirect

STEP: Final = "step"
CHANGE: Final = "change"
AT: Final = "at"
MAX_REASON: Final = 1000
"""Characters of a reason in a form, which fits into the largest one with any of them."""

SETS_DIGEST: Final = f"{EntryKind.TAG_CREATED},{EntryKind.TAG_MOVED},{EntryKind.TAG_RESTORED}"
"""Kinds of the entries whose digests a tag can be restored to."""


@dataclass(frozen=True, slots=True)
class Action:
    """A change. `name`: of the route. `verb`: of its button. `fields`: of the form, without the reason; the first two name the subject.

    `conditional`: it is bound to its preview by the digest that the tag resolves to; the others by a field of the route.
    """

    name: str
    verb: str
    fields: tuple[str, ...]
    conditional: bool = True

    @property
    def path(self) -> str:
        """The address of the form."""
        return f"/ui/{self.name}"

    async def page(self, pages: PageContext, request: Request, viewer: Viewer) -> Response:
        """Show the form."""
        return await self.form(pages, request, viewer, {name: request.query.value(name) or "" for name in self.fields})

    async def form(
        self,
        pages: PageContext,
        request: Request,
        viewer: Viewer,
        given: Mapping[str, str],
        not_done: NotDone | None = None,
    ) -> Response:
        """Show the form with these fields. `not_done`: why it was not done, if it was sent already."""
        asked = self._asked(given)
        pages.api.check(request, Right.ADMIN, OfRepository(asked["repository"]))
        state, earlier = await self._state(pages, request, asked)
        return pages.page(
            "action",
            viewer,
            not_done=not_done,
            action=self,
            asked=asked,
            subject=asked[self.fields[1]],
            reason=given.get("reason", ""),
            max_reason=MAX_REASON,
            state=state,
            earlier=earlier,
            host=pages.host or UNKNOWN_HOST,
        )

    async def submit(self, pages: PageContext, request: Request, viewer: Viewer, given: Mapping[str, str]) -> Response:
        """Show what a sent form would do, or do it. Raises: as the route does."""
        asked = self._asked(given)
        pages.api.check(request, Right.ADMIN, OfRepository(asked["repository"]))
        reason = required_reason(given.get("reason", ""), "reason")
        bound = AT in given if self.conditional else bool(given.get("digest") or given.get("plan"))
        confirmed = given.get(STEP) == CHANGE and bound
        if not confirmed:
            return await self._preview(pages, request, viewer, asked, reason)
        at = given[AT] if self.conditional else None
        done = await pages.changes.call(request, self.name, {**asked, "reason": reason, **_plan(given)}, at)
        found = {"purged": done.digest} if self is PURGE else {"entry": str(done.entry)}
        return redirect(address("/ui/entry", repository=asked["repository"], **found))

    async def _preview(
        self, pages: PageContext, request: Request, viewer: Viewer, asked: dict[str, str], reason: str
    ) -> Response:
        planned = await pages.changes.call(request, self.name, {**asked, "reason": reason, "dry_run": True})
        was = getattr(planned, "was", planned.digest) or ""
        if self is RESTORE:
            asked = {**asked, "to": planned.digest}
        if self is ACCEPT:
            asked = {**asked, "digest": planned.digest or ""}
        running = None
        if self is PURGE:
            running = await pages.api.read_allowed(request, "hosts/images", digest=planned.digest, limit=SOME)
        return pages.page(
            "action_plan",
            viewer,
            action=self,
            asked=asked,
            subject=asked[self.fields[1]],
            reason=reason,
            planned=planned,
            was=was,
            running=running,
        )

    def _asked(self, given: Mapping[str, str]) -> dict[str, str]:
        return {name: given.get(name, "") for name in self.fields}

    async def _state(self, pages: PageContext, request: Request, asked: Mapping[str, str]) -> tuple[Any, list[Any]]:
        """Return the state of the tag, and of a tag to restore the entries with earlier digests, the newest of each."""
        if self is PURGE:
            return None, []
        if self is ACCEPT:
            observed = await pages.registry.observations.find(Repository(asked["repository"]), Tag(asked["tag"]))
            if observed is None or observed.known.held is None:
                raise NoHeldChange(f"no change of {asked['repository']}:{asked['tag']} is held back")
            return observed, []
        named = {"repository": asked["repository"], "tag": asked["tag"]}
        state = await pages.api.read(request, "tag", **named)
        if self is not RESTORE:
            return state, []
        history = await pages.api.read(request, "history", **named, kinds=SETS_DIGEST, limit=ROWS)
        newest: dict[str, Any] = {}
        for each in history.items:
            newest.setdefault(each.digest, each)
        return state, [each for digest, each in newest.items() if digest != state.tag.digest]


def _plan(given: Mapping[str, str]) -> dict[str, str]:
    return {"plan": given["plan"]} if "plan" in given else {}


SEAL: Final = Action("seal", "Seal", ("repository", "tag"))
UNSEAL: Final = Action("unseal", "Lift the protection of", ("repository", "tag"))
RESTORE: Final = Action("restore", "Restore", ("repository", "tag", "to"))
ACCEPT: Final = Action("accept", "Accept", ("repository", "tag", "digest"), conditional=False)
PURGE: Final = Action("purge", "Purge", ("repository", "reference"), conditional=False)
ACTIONS: Final = (SEAL, UNSEAL, RESTORE, ACCEPT, PURGE)
