"""Where a Compose file has image references besides `services.*.image`, and how a Compose file is recognised. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final, NamedTuple

from boltseal.project.references.yaml_nodes import Pairs, entries, items, pairs, text_of
from boltseal.project.references.yaml_tree import Node

IMAGE_CONTEXT: Final = "docker-image://"
MODEL: Final = "it is a model: it is locked and verified, but no digest is written, because Docker Model Runner pulls models by tag"
_NAME: Final = re.compile(
    r"(?:docker-)?(?:compose|stack)(?:[.-].*)?\.ya?ml|.+[.-]compose\.ya?ml", re.IGNORECASE | re.DOTALL
)
_SERVICE_KEYS: Final = frozenset({"image", "build", "extends", "provider"})


class KeyPlace(NamedTuple):
    """A node that contains a reference: its key path in the service, and the text before the reference in it."""

    node: Node | None
    where: str
    prefix: str = ""
    locked_only: str | None = None


def is_compose_name(path: str) -> bool:
    """Return whether a file's name is one that Compose projects use."""
    return _NAME.fullmatch(path.rpartition("/")[2]) is not None


def is_compose(documents: tuple[Node, ...]) -> bool:
    """Return whether a document has `services`, of which one has an image, a build, a provider or extends another."""
    for document in documents:
        keys = pairs(document)
        if "apiVersion" not in keys and any(
            _SERVICE_KEYS & pairs(node).keys() for _, node in entries(keys.get("services"))
        ):
            return True
    return False


def service_places(keys: Pairs) -> Iterator[KeyPlace]:
    """Yield the places of a service: image volumes, hooks, contexts and models of a provider."""
    for index, volume in enumerate(items(keys.get("volumes"))):
        if text_of(pairs(volume).get("type")) == "image":
            yield KeyPlace(pairs(volume).get("source"), f"volumes[{index}].source")
    for hooks in ("pre_start", "post_start", "pre_stop"):
        for index, hook in enumerate(items(keys.get(hooks))):
            yield KeyPlace(pairs(hook).get("image"), f"{hooks}[{index}].image")
    for where, node, prefix in contexts(pairs(keys.get("build")).get("additional_contexts")):
        yield KeyPlace(node, f"build.additional_contexts{where}", prefix)
    provider = pairs(keys.get("provider"))
    if text_of(provider.get("type")) == "model":
        yield KeyPlace(pairs(provider.get("options")).get("model"), "provider.options.model", locked_only=MODEL)


def model_places(documents: tuple[Node, ...]) -> Iterator[KeyPlace]:
    """Yield the models of a Compose file (`models.*.model`)."""
    for document in documents:
        for name, model in pairs(pairs(document).get("models")).items():
            yield KeyPlace(pairs(model).get("model"), f"models.{name}.model", locked_only=MODEL)


def named_files(documents: tuple[Node, ...]) -> Iterator[str]:
    """Yield the paths of included and extended files, as written."""
    for document in documents:
        keys = pairs(document)
        for entry in items(keys.get("include")):
            listed = pairs(entry).get("path", entry)
            yield from filter(None, map(text_of, items(listed) or [listed]))
        for _, service in entries(keys.get("services")):
            yield text_of(pairs(pairs(service).get("extends")).get("file")) or ""


def contexts(node: Node | None) -> Iterator[tuple[str, Node, str]]:
    """Yield the named build contexts that are images: key path, scalar, and the text before the reference in it."""
    for name, value in pairs(node).items():
        if (text_of(value) or "").startswith(IMAGE_CONTEXT):
            yield f".{name}", value, IMAGE_CONTEXT
    for index, entry in enumerate(items(node)):
        name, equals, text = (text_of(entry) or "").partition("=")
        if equals and text.startswith(IMAGE_CONTEXT):
            yield f"[{index}]", entry, f"{name}={IMAGE_CONTEXT}"
