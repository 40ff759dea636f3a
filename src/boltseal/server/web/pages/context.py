"""What every page of the registry gets: the store, the rights of its caller, the reads of the admin API, the templates.

A page is a function of the context, the request and the viewer. It has no rules and no SQL: what it shows comes from the reads
of the admin API (`server.web.api_reads`) or from use cases of `server.registry`, which get the rights of the same caller.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from boltseal.errors import BoltsealError
from boltseal.oci.reference import Repository
from boltseal.policy.name_resolution import NameResolver
from boltseal.server.api.admin.routes import Route
from boltseal.server.api.request import Request
from boltseal.server.api.responses import Response
from boltseal.server.auth.access import Access
from boltseal.server.registry import Registry
from boltseal.server.registry.refused_pushes import KEPT_US
from boltseal.server.storage.metadata.protocol import Log
from boltseal.server.web.api_reads import ApiReads
from boltseal.server.web.pages.words import EVENTS, REASONS
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
    """The person who looks at a page. `user` "": without a login. `needs_login`: callers without a login see less."""

    user: str
    operator: bool
    needs_login: bool


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
        routes: Sequence[Route],
        names: NameResolver,
        host: str,
        verifier_key: Callable[[Log], str],
    ) -> None:
        self.registry = registry
        self.access = access
        self.api = ApiReads(access, routes)
        self.host = host
        self.verifier_key = verifier_key
        self.templates = Templates()
        self._names = names

    def page(self, name: str, viewer: Viewer, **values: Any) -> Response:
        """Return a page from its template, which also gets the viewer, the time, and the texts of `words`."""
        now_us = self.registry.tag_states.now_us
        return self.templates.page(
            name, viewer=viewer, now_us=now_us, events=EVENTS, reasons=REASONS, refused_days=REFUSED_DAYS, **values
        )

    def upstream_of(self, name: str) -> str | None:
        """Return the upstream that a repository is mirrored from, None for one of this registry and for no valid name."""
        try:
            resolution = self._names.by_name(Repository(name))
        except BoltsealError:  # the read that follows reports it
            return None
        return None if resolution is None or resolution.upstream is None else resolution.upstream.name


RegistryPage = Callable[[PageContext, Request, Viewer], Awaitable[Response]]
