"""The pages that show a registry, all of them read-only, by their paths, and the navigation.

To add one: a function in a module here, a template that extends `base.html` and takes its tables, times and links from
`parts.html`, a row in `PAGES`, and a row in `NAVIGATION` unless another page links to it. ADR 0078 has the reasons.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple

from boltseal.server.web.pages import hosts, overview, refused, repositories, search, tags, upstreams
from boltseal.server.web.pages.context import RegistryPage

PAGES: Final[Mapping[str, RegistryPage]] = {
    "/ui/": overview.overview,
    "/ui/search": search.search,
    "/ui/repositories": repositories.repositories,
    "/ui/repository": repositories.repository,
    "/ui/tag": tags.tag,
    "/ui/refused": refused.refused,
    "/ui/hosts": hosts.hosts,
    "/ui/host": hosts.host,
    "/ui/upstreams": upstreams.upstreams,
}


class NavigationLink(NamedTuple):
    """A page that every page links to. `operator`: only for people who may administer every repository."""

    path: str
    name: str
    operator: bool = False


NAVIGATION: Final = (
    NavigationLink("/ui/", "Overview"),
    NavigationLink("/ui/repositories", "Repositories"),
    NavigationLink("/ui/refused", "Refused"),
    NavigationLink("/ui/hosts", "Hosts"),
    NavigationLink("/ui/upstreams", "Upstreams", operator=True),
)
