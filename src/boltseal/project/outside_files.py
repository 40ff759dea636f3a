"""Find what the kustomizations of a folder take from outside of it: an overlay's `../base`, a remote base, a chart. Reads names only.

Such files are not part of a project that is this folder: they are neither locked nor pinned with it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from boltseal.project.references.kustomize import KUSTOMIZATION_NAMES, patch_files
from boltseal.project.references.yaml_nodes import compose, items, pairs, text_of
from boltseal.project.references.yaml_tree import Node
from boltseal.project.source_files import ProjectTree, Unreadable

_RESOURCES: Final = ("resources", "bases", "components", "generators", "transformers")
_CHARTS: Final = ("helmCharts", "helmChartInflationGenerator")


def outside_files(root: Path) -> list[tuple[str, str]]:
    """Return each kustomization below `root` with what it takes from outside of `root`, also by a link.

    Kustomize fetches what is no path: a URL such as https://git.test/shop.git//base, or github.com/shop/base. So a path that does
    not exist counts as well.
    """
    project, found = ProjectTree(root), []
    top = os.path.realpath(root)
    for folder, _, names in os.walk(root):
        for name in sorted(set(names) & set(KUSTOMIZATION_NAMES)):
            path = (Path(folder) / name).relative_to(root).as_posix()
            try:
                documents = compose(project.read(path))
            except Unreadable:  # the scan reports it
                continue
            for text in _paths(documents):
                target = os.path.realpath(Path(folder) / text)
                inside = target == top or target.startswith(f"{top}/")
                if not inside or not Path(target).exists():
                    found.append((path, text))
    return found


def _paths(documents: list[Node] | tuple[Node, ...]) -> Iterator[str]:
    for document in documents:
        for key in _RESOURCES:
            for node in items(pairs(document).get(key)):
                text = text_of(node)
                if text and "\n" not in text:
                    yield text
        for chart in (each for key in _CHARTS for each in items(pairs(document).get(key))):
            repository = text_of(pairs(chart).get("repo")) or text_of(pairs(chart).get("chartRepo"))
            if repository:
                yield repository
    for node in patch_files(documents):
        yield node.value
