"""GitLab CI: `image` and `services` of the file, of `default` and of every job, each a text or a mapping with `name`.

Variables come from the job's own `variables`, then from the file's; what a project sets elsewhere is not known. No digest
is written into a variable: every script of the job could read it there. The prefix of GitLab's dependency proxy stands
for Docker Hub. `include: local` leads to more files of the project, whose
jobs are read with their own variables only.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from typing import Final

from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from boltseal.pin.pieces import Dialect, Filled, NotFilled, behind, fill
from boltseal.pin.references import digest_length, parsed
from boltseal.pin.source import Source
from boltseal.pin.values import Format, Found, Site, Spot
from boltseal.pin.yaml_nodes import content_end, items, pairs, span_of, text_of

_PROXIES: Final = ("CI_DEPENDENCY_PROXY_GROUP_IMAGE_PREFIX", "CI_DEPENDENCY_PROXY_DIRECT_GROUP_IMAGE_PREFIX")
_NO_JOBS: Final = frozenset({"image", "services", "variables", "include", "stages", "workflow", "cache", "spec"})
_PROXY: Final = "\0"  # stands for the proxy's prefix while a text is filled in; no file holds it


def read_gitlab(source: Source, documents: Sequence[Node]) -> Found:
    """The sites of one file."""
    sites: list[Site] = []
    for document in documents:
        keys = pairs(document)
        everywhere = _variables(keys)
        for node, where in _images(keys, ""):
            sites.append(_site(source, node, where, everywhere))
        for name, job in keys.items():
            if name not in _NO_JOBS and isinstance(job, MappingNode):
                here = {**everywhere, **_variables(pairs(job))}
                sites.extend(_site(source, node, where, here) for node, where in _images(pairs(job), f"{name}."))
    return Found(tuple(sites))


def included(documents: Sequence[Node]) -> list[ScalarNode]:
    """The scalars that name files of the same project."""
    found: list[ScalarNode] = []
    for document in documents:
        node = pairs(document).get("include")
        for entry in items(node) or ([node] if node is not None else []):
            local = pairs(entry).get("local", entry)
            if isinstance(local, ScalarNode) and text_of(local) and "://" not in local.value:
                found.append(local)
    return found


def wildcards(pattern: str) -> Callable[[str], bool]:
    """What an `include: local` with `*` (within one folder) and `**` (any folders) matches, from the project's root on.

    Takes time that grows with pattern times path: every place in the pattern that could be reached is followed at once.
    """
    steps = re.findall(r"\*\*|\*|[^*]", pattern)

    def matches(path: str) -> bool:
        places = _past_stars(steps, {0})
        for char in path:
            reached = set[int]()
            for place in places:
                if place < len(steps) and (steps[place] == "**" or (steps[place] == "*" and char != "/")):
                    reached.add(place)
                elif place < len(steps) and steps[place] == char:
                    reached.add(place + 1)
            if not reached:
                return False
            places = _past_stars(steps, reached)
        return len(steps) in places

    return matches


def _past_stars(steps: Sequence[str], places: set[int]) -> set[int]:
    """These places, and those behind the stars that stand there, which may take nothing."""
    found = set(places)
    for place in places:
        while place < len(steps) and steps[place].startswith("*"):
            place += 1
            found.add(place)
    return found


def _variables(keys: dict[str, Node]) -> dict[str, ScalarNode]:
    found: dict[str, ScalarNode] = {}
    for name, node in pairs(keys.get("variables")).items():
        value = pairs(node).get("value", node)
        if isinstance(value, ScalarNode):
            found[name] = value
    return found


def _images(keys: dict[str, Node], begin: str) -> Iterator[tuple[ScalarNode, str]]:
    yield from _image(keys.get("image"), f"{begin}image")
    services = keys.get("services")
    if isinstance(services, SequenceNode) and services.tag != "!reference":
        for index, node in enumerate(items(services)):
            yield from _image(node, f"{begin}services[{index}]")


def _image(node: Node | None, where: str) -> Iterator[tuple[ScalarNode, str]]:
    if isinstance(node, MappingNode):
        node, where = pairs(node).get("name"), f"{where}.name"
    if isinstance(node, ScalarNode) and text_of(node):
        yield node, where


def _site(source: Source, node: ScalarNode, where: str, variables: dict[str, ScalarNode]) -> Site:
    def value(name: str) -> str | None:
        if name in _PROXIES:
            return _PROXY
        found = variables.get(name)
        return None if found is None or "$" in found.value else str(found.value)

    span = span_of(source, node)
    filled: Filled | None = None
    resolved, why = None, None
    try:
        filled = fill(node.value.rstrip("\n"), value, Dialect.GITLAB)
        resolved, why = parsed(filled.text.removeprefix(f"{_PROXY}/").strip())
    except NotFilled as error:
        why = str(error)
    spot, reason = (None, why) if resolved is None or filled is None else _spot(source, node, filled)
    return Site(
        path=source.path,
        format=Format.GITLAB_CI,
        where=where,
        line=source.line(span[0]),
        span=span,
        written=node.value.strip(),
        resolved=resolved,
        why=why,
        spot=spot,
        override_only=reason,
    )


def _spot(source: Source, node: ScalarNode, filled: Filled) -> tuple[Spot | None, str | None]:
    pinned, last = digest_length(filled.text), filled.last
    if last is None or pinned > len(last.text):
        return None, "what the reference ends with depends on a variable"
    steered_by = filled.steered_by()
    if steered_by is not None:
        return None, behind(steered_by)
    if last.variable is None:
        end = content_end(source, node)
        return Spot(source.path, end - pinned, end), None
    return None, f"its end comes from {last.variable}, and scripts of the job would see the digest in it"
