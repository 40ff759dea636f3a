"""Compute the layer chain of an image, and compare former images, of which only that is known, with those of a scan. Pure.

The hashes are part of the format (`oci.layer_chain.VERSION`): a registry keeps them, and clients compare them with their own.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from hashlib import sha256
from typing import Final, NamedTuple

from boltseal.oci.annotations import BASE_NAME
from boltseal.oci.digest import Digest
from boltseal.oci.layer_chain import ImageChain, chain_ids
from boltseal.oci.platform import Platform
from boltseal.project.bases.image_facts import HistoryStep, ImageFacts, ImageSettings

_NOTHING: Final = ImageSettings({}, (), (), "", (), "", ())


class KnownImage(NamedTuple):
    """A former image of which the chain is known. `manifest`: its digest."""

    manifest: Digest
    chain: ImageChain


def chain_of(facts: ImageFacts) -> ImageChain:
    """Return the layer chain of an image."""
    *_, chain = "", *chain_ids(facts.diff_ids)
    *_, history = "", *history_hashes(facts.history)
    name = facts.labels.get(BASE_NAME, "")
    return ImageChain(
        config=str(facts.config),
        os=facts.platform.os,
        architecture=facts.platform.architecture,
        variant=facts.platform.variant,
        layers=len(facts.diff_ids),
        chain_id=chain,
        steps=len(facts.history),
        history=history,
        settings=facts.inherited_hash,
        base_name=_hash(name) if name else "",
        created=facts.created,
    )


def history_hashes(history: Iterable[HistoryStep]) -> Iterator[str]:
    """Yield a hash for each prefix of a history."""
    above = ""
    for step in history:
        above = _hash(ascii((above, *step)))
        yield above


class ChainMatcher:
    """Compares former images with the images of a scan, by their layer chains."""

    def __init__(self, images: Iterable[ImageFacts]) -> None:
        self._layers: dict[str, tuple[str, ...]] = {}
        self._histories: dict[str, tuple[HistoryStep, ...]] = {}
        self._names: dict[str, str] = {}
        for image in images:
            self._layers |= dict.fromkeys(chain_ids(image.diff_ids), image.diff_ids)
            self._histories |= dict.fromkeys(history_hashes(image.history), image.history)
            if name := image.labels.get(BASE_NAME):
                self._names[_hash(name)] = name

    def begins(self, chain: ImageChain) -> bool:
        """Return whether an image of the scan begins with the layers of a former one."""
        return chain.chain_id in self._layers

    def facts(self, known: KnownImage) -> ImageFacts:
        """Return the facts of a former image, as far as the images of the scan show them.

        What no image of the scan begins with is replaced by a text that equals nothing else.
        """
        chain, unknown = known.chain, f"of {known.manifest}"
        diff_ids = self._layers.get(chain.chain_id, (unknown,) * chain.layers)
        history = self._histories.get(chain.history, (HistoryStep("", unknown, False),) * chain.steps)
        name = self._names.get(chain.base_name, unknown) if chain.base_name else ""
        return ImageFacts(
            manifest=known.manifest,
            config=Digest.parse(chain.config),
            platform=Platform(chain.os, chain.architecture, chain.variant),
            diff_ids=diff_ids[: chain.layers],
            sizes=(),
            settings=_NOTHING,
            labels={BASE_NAME: name} if name else {},
            annotations={},
            created=chain.created,
            history=history[: chain.steps],
            hashed_settings=chain.settings,
        )


def _hash(text: str) -> str:
    return sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
