"""The steps of a form that changes something by a route of the admin API (`ApiChanges`). The actions are subclasses of `Action`.

1. GET shows the form: what the change does, the present state, a field for the reason.
2. POST shows what would be done, by a dry run, and the button that does it.
3. POST with `step=change` does exactly that, and shows what it became.

The preview adds a field to the form of 3 (`Action.bound_by`), by which the change is refused if something else would be done by
then. Without this field the preview is shown again. `Pages` checks origin and form token before a POST gets here.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Final

from boltseal.commands.tag_changes import required_reason
from boltseal.server.api.request import Request
from boltseal.server.api.responses import Response
from boltseal.server.web.api_changes import RouteName
from boltseal.server.web.pages.context import NotDone, PageContext, Viewer

STEP: Final = "step"
CHANGE: Final = "change"
AT: Final = "at"
"""The field with the digest that the tag must resolve to (`ApiChanges.call`). Every other field is one of the route."""
MAX_REASON: Final = 1000
"""Characters of a reason in a form, which fits into the largest one with any of them."""


@dataclass(frozen=True, slots=True)
class Action(ABC):
    """A change by a form.

    Attributes:
        name: of its page.
        verb: of its button, which the subject follows.
        about: what it does, for the form.
        fields: of the form, without the reason.
        bound_by: the field that binds the change to its preview.
        form_template: of the form. That of the preview is named after the action.
    """

    name: str
    verb: str
    about: str
    fields: tuple[str, ...]
    bound_by: str
    form_template: str

    section: ClassVar[str]
    """The page in the navigation to which the action belongs."""
    reason_field: ClassVar[str] = "reason"

    @property
    def path(self) -> str:
        """The address of the form."""
        return f"/ui/{self.name}"

    @property
    @abstractmethod
    def route(self) -> RouteName:
        """The route that does it."""

    @abstractmethod
    def check(self, pages: PageContext, request: Request, asked: Mapping[str, str]) -> None:
        """Check the right to see the form, and what would be done. Raises: LoginNeeded, Denied; NameInvalid."""

    @abstractmethod
    def subject(self, asked: Mapping[str, str]) -> str:
        """Return what is changed, for headings and the button."""

    def body(self, asked: Mapping[str, str]) -> dict[str, object]:
        """Return the fields of the form as the route takes them."""
        return dict(asked)

    async def shown(
        self, pages: PageContext, request: Request, viewer: Viewer, asked: Mapping[str, str]
    ) -> dict[str, Any]:
        """Return what the form shows besides its fields."""
        return {}

    async def effects(self, pages: PageContext, request: Request, planned: Any) -> dict[str, Any]:
        """Return what the preview shows besides the answer of the dry run."""
        return {}

    @abstractmethod
    def confirming(self, asked: Mapping[str, str], planned: Any) -> dict[str, str]:
        """Return the fields of the form that does what the dry run returned, with `bound_by`."""

    @abstractmethod
    def finished(self, pages: PageContext, viewer: Viewer, asked: Mapping[str, str], done: Any) -> Response:
        """Return the page of what it became."""

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
        self.check(pages, request, asked)
        return pages.page(
            self.form_template,
            viewer,
            not_done=not_done,
            action=self,
            asked=asked,
            subject=self.subject(asked),
            reason=given.get(self.reason_field, ""),
            max_reason=MAX_REASON,
            **await self.shown(pages, request, viewer, asked),
        )

    async def submit(self, pages: PageContext, request: Request, viewer: Viewer, given: Mapping[str, str]) -> Response:
        """Show what a sent form would do, or do it. Raises: as the route does."""
        asked = self._asked(given)
        self.check(pages, request, asked)
        reason = required_reason(given.get(self.reason_field, ""), self.reason_field)
        body = {**self.body(asked), self.reason_field: reason}
        bound = given.get(self.bound_by, "")
        if given.get(STEP) != CHANGE or not bound:
            planned = await pages.changes.call(request, self.route, {**body, "dry_run": True})
            return await self._preview(pages, request, viewer, asked, reason, planned)
        if self.bound_by == AT:
            done = await pages.changes.call(request, self.route, body, bound)
        else:
            done = await pages.changes.call(request, self.route, {**body, self.bound_by: bound})
        return self.finished(pages, viewer, asked, done)

    async def _preview(
        self, pages: PageContext, request: Request, viewer: Viewer, asked: dict[str, str], reason: str, planned: Any
    ) -> Response:
        return pages.page(
            f"{self.name.replace('-', '_')}_plan",
            viewer,
            action=self,
            asked=asked,
            subject=self.subject(asked),
            reason=reason,
            planned=planned,
            changes=getattr(planned, "changed", True),
            confirming={**self.confirming(asked, planned), self.reason_field: reason, STEP: CHANGE},
            **await self.effects(pages, request, planned),
        )

    def _asked(self, given: Mapping[str, str]) -> dict[str, str]:
        return {name: given.get(name, "") for name in self.fields}
