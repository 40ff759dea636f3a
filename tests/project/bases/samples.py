"""Facts about invented images, in a short notation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from boltseal.oci.digest import Digest
from boltseal.oci.platform import Platform
from boltseal.project.bases.image_facts import HistoryStep, ImageFacts, ImageSettings


def digest(words: str) -> Digest:
    return Digest.of(words.encode())


def facts(
    layers: str,
    *,
    name: str = "",
    env: Mapping[str, str] | None = None,
    labels: Mapping[str, str] | None = None,
    history: Sequence[str] | None = None,
    user: str = "",
    sizes: bool = True,
) -> ImageFacts:
    """Return an image with a layer for each letter. `name` distinguishes manifest and config of equal layers."""
    settings = ImageSettings(env or {}, (), ("node",), user, ("8080/tcp",), "", ())
    lines = list(layers) if history is None else history
    mark = f"{layers} {name} {sorted((env or {}).items())} {user} {lines}"
    return ImageFacts(
        digest(f"manifest {mark}"),
        digest(f"config {mark}"),
        Platform("linux", "amd64"),
        tuple(str(digest(f"layer {letter}")) for letter in layers),
        tuple(100 * (at + 1) for at in range(len(layers))) if sizes else (),
        settings,
        labels or {},
        {},
        "",
        tuple(HistoryStep("2026-11-26T00:00:00Z", line, False) for line in lines),
    )
