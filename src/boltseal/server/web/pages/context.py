"""What every page of the registry gets: the store, the rights of its caller, the reads of the admin API, the templates.

A page is a function of the context, the request and the viewer. It has no rules and no SQL: what it shows comes from the reads
of the admin API (`server.web.api_reads`) or from use cases of `server.registry`, which get the rights of the same caller.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

import msgspec

from boltseal.errors import BoltsealError
from boltseal.oci.reference import Repository
from boltseal.policy.grants import Action
from boltseal.policy.name_resolution import NameResolver
from boltseal.server.api.admin.application import AdminApi
from boltseal.server.api.request import Request
from boltseal.server.api.responses import Headers, Response
from boltseal.server.auth.access import Access
from boltseal.server.commands.base_states import BaseStates
from boltseal.server.commands.base_tree import BaseTree, ImageAt, StatedBases, base_tree
from boltseal.server.commands.image_comparisons import ImageComparisons
from boltseal.server.registry import Registry
from boltseal.server.registry.ledger import Ledger
from boltseal.server.registry.refused_pushes import KEPT_US
from boltseal.server.storage.metadata.protocol import LEDGER, OBSERVATIONS, Log
from boltseal.server.web.api_changes import ApiChanges
from boltseal.server.web.api_reads import ApiReads
from boltseal.server.web.pages.words import EVENTS, REASONS, REBUILD_ENDS
from boltseal.server.web.rendering import Templates

ROWS: Final = 50
"""Rows of a list that is paged."""
SOME: Final = 10
"""Rows of a list that is one part of a page among others."""
UNKNOWN_HOST: Final = "REGISTRY"
"""Placeholder for the registry's host in commands that a page shows, where the server does not know its host."""
REFUSED_DAYS: Final = KEPT_US // 86_400_000_000


@dataclass(frozen=True, slots=True)
class Viewer:
    """The person who looks at a page. `user` "": without a login. `needs_login`: callers without a login see less.

    `form_token`: of the forms of the session, "" without one. `login_us`: when the session began, microseconds since the epoch.
    """

    user: str
    operator: bool
    needs_login: bool
    form_token: str = ""
    login_us: int = 0


@dataclass(frozen=True, slots=True)
class NotDone:
    """Why a form did nothing: status, message and headers of the refusal."""

    status: int
    message: str
    headers: Headers


class OfRepository(msgspec.Struct, frozen=True):
    """The repository for which a right is checked, in place of the query of a route."""

    repository: str


class PageContext:
    """Belongs to one configuration of one registry. `host`: the registry's name in image references, "" if it is not known.

    `verifier_key`: returns the public key of a log, "" without one; it reads a file.
    """

    def __init__(
        self,
        registry: Registry,
        access: Access,
        admin: AdminApi,
        names: NameResolver,
        host: str,
        verifier_key: Callable[[Log], str],
    ) -> None:
        self.registry = registry
        self.access = access
        self.api = ApiReads(access, admin.routes)
        self.changes = ApiChanges(access, admin.routes, admin.refuse_writes)
        self.host = host
        self.verifier_key = verifier_key
        self.templates = Templates()
        self.comparisons = ImageComparisons(registry.pulls)
        self._names = names
        self._stated = StatedBases()

    def page(self, name: str, viewer: Viewer, *, not_done: NotDone | None = None, **values: Any) -> Response:
        """Return a page from its template, which also gets the viewer, the time and the texts of `words`.

        `not_done`: the refusal of the form on the page, which decides the status; None: it was not sent.
        """
        now_us = self.registry.tag_states.now_us
        return self.templates.page(
            name,
            status=200 if not_done is None else not_done.status,
            extra=() if not_done is None else not_done.headers,
            not_done="" if not_done is None else not_done.message,
            viewer=viewer,
            now_us=now_us,
            events=EVENTS,
            reasons=REASONS,
            rebuild_ends=REBUILD_ENDS,
            refused_days=REFUSED_DAYS,
            **values,
        )

    def may_change(self, request: Request, name: str) -> bool:
        """Return whether the caller of a request has the right of the admin API to change tags of a repository."""
        return {Action.ADMIN, Action.PULL} <= self.access.allowed(request.caller, name)

    def bases(self, request: Request) -> BaseStates:
        """Return the states of base images, as far as the caller of a request may pull these."""
        return BaseStates(self.registry, self._names, self.access.may_list(request.caller))

    async def base_tree(self, request: Request, tags: Mapping[ImageAt, Sequence[str]], *, most: int) -> BaseTree:
        """Return the bases of images with their tags, as far as the caller may pull the bases. `most`: images to read that are not in memory."""
        return await base_tree(self.bases(request), self._stated, tags, most)

    def log_of(self, name: str) -> Log:
        """Return the log with the entries of a repository: observations of a mirrored one, else the ledger."""
        return LEDGER if self.upstream_of(name) is None else OBSERVATIONS

    def entries_of(self, log: Log) -> Ledger:
        """Return the reader of a log."""
        return self.registry.ledger if log is LEDGER else self.registry.observed

    def upstream_of(self, name: str) -> str | None:
        """Return the upstream that a repository is mirrored from, None for one of this registry and for no valid name."""
        try:
            resolution = self._names.by_name(Repository(name))
        except BoltsealError:  # the read that follows reports it
            return None
        return None if resolution is None or resolution.upstream is None else resolution.upstream.name


RegistryPage = Callable[[PageContext, Request, Viewer], Awaitable[Response]]


class FormPage(Protocol):
    """A page with a form that it also takes, by POST to its own address."""

    @property
    def path(self) -> str:
        """The address."""
        ...

    async def page(self, pages: PageContext, request: Request, viewer: Viewer) -> Response:
        """Return the page for a GET."""
        ...

    async def form(
        self, pages: PageContext, request: Request, viewer: Viewer, given: Mapping[str, str], not_done: NotDone
    ) -> Response:
        """Return the page again with what was typed, and why nothing was done."""
        ...

    async def submit(self, pages: PageContext, request: Request, viewer: Viewer, given: Mapping[str, str]) -> Response:
        """Return the page that follows the form, whose origin and form token were checked. Raises: BoltsealError."""
        ...
