"""Kustomize's `images`: `name`, `newName`, `newTag`, `digest`. An entry is one reference, put together of its parts.

The repository is `newName`, or else `name`. With a `digest` kustomize leaves `newTag` aside. A digest goes behind the
tag (`newTag: 1.2@sha256:...`), into `digest` where the entry has one, or behind `newName`; an entry without any of them
says nothing of its own. `helmCharts[].valuesInline` are Helm values.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from yaml.nodes import Node, ScalarNode

from boltseal.pin.helm import digest_spot, misread, read_values
from boltseal.pin.references import digest_length, parsed
from boltseal.pin.source import Source
from boltseal.pin.values import Format, Found, Site, Spot
from boltseal.pin.yaml_nodes import content_end, items, pairs, span_of, text_of


def read_kustomize(source: Source, documents: Sequence[Node]) -> Found:
    """The sites of a kustomization or component."""
    sites: list[Site] = []
    for document in documents:
        for index, entry in enumerate(items(pairs(document).get("images"))):
            site = _site(source, pairs(entry), f"images[{index}]")
            if site is not None:
                sites.append(site)
        for index, chart in enumerate(items(pairs(document).get("helmCharts"))):
            values = pairs(chart).get("valuesInline")
            if values is not None:
                sites.extend(read_values(source, [values], f"helmCharts[{index}].valuesInline").sites)
    return Found(tuple(sites))


def _site(source: Source, keys: dict[str, Node], where: str) -> Site | None:
    name = text_of(keys.get("newName")) or text_of(keys.get("name"))
    tag, digest = text_of(keys.get("newTag")), text_of(keys.get("digest"))
    shown = keys.get("newTag") or keys.get("digest") or keys.get("newName")
    if not name or not isinstance(shown, ScalarNode):
        return None
    written = name + (f":{tag}" if tag else "")
    if digest:
        written = f"{written.partition('@')[0]}@{digest}"
    resolved, why = parsed(written)
    if (wrong := misread(keys.get("newTag"))) is not None:
        resolved, why = None, wrong
    site = Site(
        path=source.path,
        format=Format.KUSTOMIZE,
        where=where,
        line=source.line(span_of(source, shown)[0]),
        span=span_of(source, shown),
        written=written,
        resolved=resolved,
        why=why,
        spot=None if resolved is None else _spot(source, keys, digest),
        override_only=why,
    )
    if resolved is not None and not tag and not digest and "newTag" not in keys and ":" not in name.rpartition("/")[2]:
        reason = "its tag is that of the resources, where it can be pinned"
        return replace(site, resolved=None, why=reason, spot=None, override_only=reason)
    return site


def _spot(source: Source, keys: dict[str, Node], digest: str | None) -> Spot | None:
    if digest is not None and isinstance(keys["digest"], ScalarNode):
        return digest_spot(source, keys["digest"])
    for key in ("newTag", "newName"):
        node = keys.get(key)
        written = text_of(node)
        if written and isinstance(node, ScalarNode):
            end = content_end(source, node)
            return Spot(source.path, end - digest_length(written), end)
    return None
