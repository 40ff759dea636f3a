"""The pages of a registry by their paths, the forms among them that change something, and the navigation.

To add one: a function in a module here, a template that extends `base.html` and takes its tables, times and links from
`parts.html`, a row in `PAGES`, and a row in `NAVIGATION` unless another page links to it. ADR 0078 has the reasons.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple

from boltseal.server.web.pages import (
    bases,
    changes,
    entries,
    hosts,
    images,
    overview,
    refused,
    repositories,
    rules,
    search,
    tags,
    tokens,
    upstreams,
)
from boltseal.server.web.pages.context import FormPage, RegistryPage
from boltseal.server.web.pages.tag_actions import TAG_ACTIONS
from boltseal.server.web.pages.token_actions import TOKEN_ACTIONS

FORMS: Final[Mapping[str, FormPage]] = {each.path: each for each in (*TAG_ACTIONS, *TOKEN_ACTIONS, rules.FORM)}
"""The pages that also take a POST."""

PAGES: Final[Mapping[str, RegistryPage]] = {
    "/ui/": overview.overview,
    "/ui/search": search.search,
    "/ui/repositories": repositories.repositories,
    "/ui/repository": repositories.repository,
    "/ui/tag": tags.tag,
    "/ui/image": images.image,
    "/ui/changes": changes.changes,
    "/ui/packages": changes.packages,
    "/ui/refused": refused.refused,
    "/ui/hosts": hosts.hosts,
    "/ui/host": hosts.host,
    "/ui/bases": bases.bases,
    "/ui/upstreams": upstreams.upstreams,
    "/ui/entry": entries.entry,
    "/ui/tokens": tokens.tokens,
    **{path: each.page for path, each in FORMS.items()},
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
    NavigationLink("/ui/bases", "Bases"),
    NavigationLink("/ui/rules", "Rules"),
    NavigationLink("/ui/upstreams", "Upstreams", operator=True),
)
