"""Actions on API tokens: create one, revoke one. The audit log has a record of each.

A token lasts longer than the session that creates it, so it is created only shortly after a login (ADR 0088). Its text is in
the answer to the form and nowhere else: a browser that sends the form again gets a refusal.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from typing import Any, ClassVar, Final

from boltseal.errors import Unauthenticated
from boltseal.policy.durations import UNITS_US, format_duration
from boltseal.policy.token_scope import MAX_GLOB_CHARACTERS, SCOPE_ACTIONS
from boltseal.server.api.admin.api_tokens import TOKENS
from boltseal.server.api.admin.routes import Right
from boltseal.server.api.request import Request
from boltseal.server.api.responses import Response
from boltseal.server.auth.api_tokens import MAX_DESCRIPTION
from boltseal.server.web.api_changes import RouteName
from boltseal.server.web.pages.actions import Action
from boltseal.server.web.pages.context import UNKNOWN_HOST, PageContext, Viewer

LOGIN_US: Final = 15 * UNITS_US["m"]
"""How long after its login a session may create API tokens."""
CHECKED: Final = "yes"
"""The value of a checked box."""


class LoginTooOld(Unauthenticated):
    """The login of this session was too long ago for what its form does."""


class TokenAction(Action):
    """A change of an API token, with the right of the routes of tokens."""

    __slots__ = ()
    section: ClassVar[str] = "Account"

    def check(self, pages: PageContext, request: Request, asked: Mapping[str, str]) -> None:
        """Check that the caller may have tokens. The route checks whose."""
        pages.api.check(request, Right.USER)


class CreateToken(TokenAction):
    """Creates a token. `once` of the route binds the change: a form that is sent again creates no second token."""

    __slots__ = ()
    reason_field: ClassVar[str] = "description"

    @property
    def route(self) -> RouteName:
        """The route that creates tokens."""
        return RouteName("POST", TOKENS)

    def subject(self, asked: Mapping[str, str]) -> str:
        """Return what is created."""
        return "an API token"

    def body(self, asked: Mapping[str, str]) -> dict[str, object]:
        """Return the scope as lists."""
        return {
            "owner": asked["owner"].strip(),
            "repositories": asked["repositories"].split(),
            "actions": [action for action in SCOPE_ACTIONS if asked[action]],
            "life": asked["life"].strip(),
        }

    async def page(self, pages: PageContext, request: Request, viewer: Viewer) -> Response:
        """Show the form for a token that pulls, for as long as the configuration says."""
        life = format_duration(pages.access.callers.token_terms.default_life_us)
        owner = request.query.value("owner") or viewer.user
        return await self.form(pages, request, viewer, {"owner": owner, "life": life, "pull": CHECKED})

    async def shown(
        self, pages: PageContext, request: Request, viewer: Viewer, asked: Mapping[str, str]
    ) -> dict[str, Any]:
        """Return the limits of the fields, and whether the person has to log in first."""
        terms = pages.access.callers.token_terms
        return {
            "too_old": _login_is_old(pages, viewer),
            "login_minutes": LOGIN_US // UNITS_US["m"],
            "scope_actions": SCOPE_ACTIONS,
            "checked": CHECKED,
            "max_life": format_duration(terms.max_life_us),
            "max_globs": MAX_GLOB_CHARACTERS,
            "max_description": MAX_DESCRIPTION,
        }

    async def submit(self, pages: PageContext, request: Request, viewer: Viewer, given: Mapping[str, str]) -> Response:
        """Show what the form would create, or create it. Raises: LoginTooOld; as the route does."""
        if _login_is_old(pages, viewer):
            raise LoginTooOld("the login of this session is too long ago; log in again to create a token")
        return await super().submit(pages, request, viewer, given)

    def confirming(self, asked: Mapping[str, str], planned: Any) -> dict[str, str]:
        """Add the text that works once."""
        return {**asked, "once": secrets.token_urlsafe(24)}

    def finished(self, pages: PageContext, viewer: Viewer, asked: Mapping[str, str], done: Any) -> Response:
        """Show the token: this answer alone has it."""
        return pages.page("token_created", viewer, created=done, host=pages.host or UNKNOWN_HOST)


def _login_is_old(pages: PageContext, viewer: Viewer) -> bool:
    return pages.registry.tag_states.now_us - viewer.login_us > LOGIN_US


class RevokeToken(TokenAction):
    """Revokes a token. A token never changes, so its ID binds the change to the preview."""

    __slots__ = ()

    @property
    def route(self) -> RouteName:
        """The route that revokes tokens."""
        return RouteName("DELETE", TOKENS)

    def subject(self, asked: Mapping[str, str]) -> str:
        """Return the token's ID."""
        return f"API token {asked['id']}"

    def confirming(self, asked: Mapping[str, str], planned: Any) -> dict[str, str]:
        """Name the token of the preview."""
        return dict(asked)

    def finished(self, pages: PageContext, viewer: Viewer, asked: Mapping[str, str], done: Any) -> Response:
        """Show what was revoked. A reload is refused: there is no such token any more."""
        return pages.page("token_revoked", viewer, revoked=done)


TOKEN_ACTIONS: Final = (
    CreateToken(
        "create-token",
        "Create",
        "A program logs in with it as password, and with its owner's name as user name. It allows at most what its owner may do "
        "at that moment.",
        ("owner", "repositories", "life", *SCOPE_ACTIONS),
        "once",
        "create_token_form",
    ),
    RevokeToken(
        "revoke-token",
        "Revoke",
        "No server of this registry accepts the token afterwards. This cannot be undone.",
        ("id",),
        "id",
        "revoke_token_form",
    ),
)
