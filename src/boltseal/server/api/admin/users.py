"""The routes of users, for operators. A caller with an API token reads them, and changes none.

With a new password of its owner, or of another operator, such a caller would have more rights than its token.
"""

from __future__ import annotations

from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta

from boltseal.server.api.admin.paging import Page, PageQuery, cursor_of, text_position
from boltseal.server.api.admin.routes import RequestInvalid, Right, Route
from boltseal.server.api.request import Request
from boltseal.server.auth.access import Access
from boltseal.server.commands.user_changes import ServedUsers

USERS: Final = "users"

UserName = Annotated[str, Meta(max_length=64)]


class PutUser(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A user to add, or a user's new password."""

    name: UserName
    password: Annotated[
        str | None,
        Meta(
            description="1 to 72 bytes. It is stored as a bcrypt hash, encrypted, and shown nowhere. Null for a service account."
        ),
    ] = None
    service: Annotated[bool, Meta(description="Add a service account: it has no password, and only API tokens.")] = (
        False
    )
    dry_run: Annotated[bool, Meta(description="Only return what would be done.")] = False

    def __repr__(self) -> str:
        """Return the request without the password."""
        return f"PutUser(name={self.name!r}, service={self.service!r}, dry_run={self.dry_run!r})"


class RemoveUser(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The user to remove."""

    name: UserName
    dry_run: Annotated[bool, Meta(description="Only return what would be done.")] = False


class User(msgspec.Struct, frozen=True, kw_only=True):
    """A user who may log in."""

    name: str
    kind: Annotated[
        Literal["user", "service", "person"],
        Meta(
            description="`user`: has a password. `service`: has only API tokens. `person`: logs in at the identity provider."
        ),
    ]


class Users(Page, frozen=True, kw_only=True):
    """A page of users, sorted by name."""

    items: list[User]


class UserChange(msgspec.Struct, frozen=True, kw_only=True):
    """What was done, or would be. No server accepts a former login any more when this is answered."""

    name: str
    change: Annotated[str, Meta(description="`added`, `changed` (the password), `removed` or `unchanged`.")]
    dry_run: bool


class UserRoutes:
    """The handlers of users."""

    def __init__(self, access: Access) -> None:
        self._access = access
        self._users = ServedUsers(access)

    def routes(self) -> list[Route]:
        """Return the routes."""
        operator, changes = Right.OPERATOR, Right.PASSWORD
        added = "Add a user or a service account, or replace a user's password."
        return [
            Route("GET", USERS, "List the users.", operator, PageQuery, Users, self.listed),
            Route("POST", USERS, added, changes, PutUser, UserChange, self.put, changes=True),
            Route(
                "DELETE",
                USERS,
                "Remove a user with all API tokens and sessions.",
                changes,
                RemoveUser,
                UserChange,
                self.remove,
                changes=True,
                of_one=True,
            ),
        ]

    async def listed(self, _: Request, asked: PageQuery) -> Users:
        """Return a page of the users."""
        after = text_position(USERS, asked.cursor)
        users = self._access.users()
        names = sorted(name for name in users.hashes if name > after)
        shown = names[: asked.limit]
        following = cursor_of(USERS, shown[-1]) if len(names) > len(shown) else None
        return Users(items=[User(name=name, kind=users.kind(name)) for name in shown], next=following)

    async def put(self, request: Request, asked: PutUser) -> UserChange:
        """Add a user, or replace a password."""
        if asked.service == (asked.password is not None):
            raise RequestInvalid("give a password, or service: true; a service account has no password")
        if asked.password is None:
            change = await self._users.add_service(asked.name, request.actor, dry_run=asked.dry_run)
        else:
            change = await self._users.put(asked.name, asked.password, request.actor, dry_run=asked.dry_run)
        return UserChange(name=asked.name, change=change, dry_run=asked.dry_run)

    async def remove(self, request: Request, asked: RemoveUser) -> UserChange:
        """Remove a user."""
        await self._users.remove(asked.name, request.actor, dry_run=asked.dry_run)
        return UserChange(name=asked.name, change="removed", dry_run=asked.dry_run)
