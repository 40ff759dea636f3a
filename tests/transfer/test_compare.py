"""Comparing two images: equal, or what differs and why."""

from __future__ import annotations

import gzip
import json
from typing import Any

from boltseal.oci.digest import Digest
from boltseal.oci.manifest import parse_manifest
from boltseal.transfer.compare import Compared, Sameness, Side, compare, read_side
from tests.images import (
    DOCKER_CONFIG,
    OCI_CONFIG,
    OCI_LAYER,
    OCI_MANIFEST,
    Blob,
    Document,
    artifact,
    image,
    index,
    to_json,
)
from tests.transfer.memory_source import MemorySource


async def side(document: Document) -> Side:
    return await read_side(MemorySource(document), Digest.parse(document.digest))


async def compared(a: Document, b: Document) -> Compared:
    return compare(await side(a), await side(b))


def wrapped(document: Document, *layers: Blob, config: Blob | None = None, **more: Any) -> Document:
    """Return the image with other layers or another config."""
    used = layers or document.layers
    own = config or document.config
    body = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": own.descriptor(),
        "layers": [layer.descriptor() for layer in used],
        **more,
    }
    return Document(to_json(body), OCI_MANIFEST, (own, *used))


def with_config(document: Document, **changes: Any) -> Document:
    body = {**json.loads(document.config.data), **changes}
    return wrapped(document, config=Blob(to_json(body), OCI_CONFIG))


async def test_the_same_bytes_are_the_same_image() -> None:
    """Images with the same bytes are equal, and no difference is reported."""
    assert await compared(image("app"), image("app")) == Compared(Sameness.MANIFEST, ())


async def test_a_layer_that_was_compressed_again_is_the_same_image() -> None:
    """A recompressed image has another digest but the same config and image ID, so it is the same."""
    app = image("app", layer_count=2)
    again = Blob(gzip.compress(gzip.decompress(app.layers[0].data), compresslevel=1, mtime=7), OCI_LAYER)
    found = await compared(app, wrapped(app, again, app.layers[1]))

    assert found.sameness is Sameness.CONFIG
    assert found.reasons[0].startswith("1 of 2 layers compressed again")


async def test_another_media_type_is_the_same_image() -> None:
    """Docker's and OCI's manifest of one image are the same image."""
    docker = image("app", docker=True)
    config = Blob(docker.config.data, OCI_CONFIG)
    layers = [Blob(layer.data, OCI_LAYER) for layer in docker.layers]
    found = await compared(docker, wrapped(docker, *layers, config=config))

    assert docker.config.media_type == DOCKER_CONFIG
    assert found.sameness is Sameness.CONFIG
    assert found.reasons[0].startswith("other media type")


async def test_annotations_are_named() -> None:
    """Different annotations of the same image are named."""
    app = image("app")
    found = await compared(app, wrapped(app, annotations={"note": "x"}))

    assert (found.sameness, found.reasons) == (Sameness.CONFIG, ("the manifests' annotations differ",))


async def test_another_build_of_the_same_files_is_described() -> None:
    """For another build of the same files, changed labels, time, command and user are named."""
    app = image("app")
    other = with_config(app, created="2026-01-01T00:00:00Z", config={"Labels": {"v": "2"}, "Cmd": ["x"], "User": "9"})
    found = await compared(app, other)

    assert found.sameness is Sameness.FILES
    assert "labels differ: v" in found.reasons
    assert "they run another command" in found.reasons
    assert "user: A root, B 9" in found.reasons
    assert not [reason for reason in found.reasons if "the same values" in reason], "they have other configs"


async def test_a_manifest_with_other_spaces_is_described() -> None:
    """Two manifests with the same values, and so the same config, differ in their formatting only."""
    app = image("app")
    other = Document(json.dumps(json.loads(app.raw), indent=7).encode(), app.media_type, app.blobs)
    found = await compared(app, other)

    assert (found.sameness, found.reasons) == (
        Sameness.CONFIG,
        ("the manifests have the same values and are formatted differently",),
    )


async def test_another_platform_is_reported_first() -> None:
    """Images for two architectures are reported as such first."""
    found = await compared(image("app"), image("app", architecture="arm64"))

    assert found.sameness is Sameness.DIFFERENT
    assert found.reasons == ("other platform: A is for linux/amd64, B for linux/arm64",)


async def test_the_number_of_common_layers_is_reported() -> None:
    """The report has the number of equal layers."""
    short, long = image("app", layer_count=1), image("app", layer_count=3)
    found = await compared(short, long)

    assert found.sameness is Sameness.DIFFERENT
    assert found.reasons[0] == "layers differ: 1 in common from the bottom up; then A has 0 more, B 2"


async def test_an_image_that_is_one_platform_of_an_index_is_named() -> None:
    """If one image is a platform of the other's index, the report names the platform."""
    amd64, arm64 = image("app"), image("app", architecture="arm64")
    found = await compared(index(amd64, arm64), arm64)
    none = await compared(image("other"), index(amd64, arm64))

    assert found.sameness is Sameness.DIFFERENT
    assert found.reasons[0] == "B is the image for linux/arm64 of A, which has 2 platforms"
    assert "none of them" in none.reasons[0]


async def test_indexes_are_compared_by_platform() -> None:
    """Indexes are compared by platform: missing ones, different ones, or a difference of the index only."""
    amd64, arm64 = image("app"), image("app", architecture="arm64")
    fewer = await compared(index(amd64, arm64), index(amd64))
    noted = await compared(index(amd64, arm64), index(amd64, arm64, annotations={"note": "x"}))
    changed = await compared(index(amd64, arm64), index(amd64, image("new", architecture="arm64")))

    assert fewer.reasons == ("only A has linux/arm64",)
    assert noted.sameness is Sameness.CONFIG
    assert changed.sameness is Sameness.DIFFERENT
    assert changed.reasons[0].startswith("linux/arm64: layers differ")


async def test_artifacts_are_compared_by_digest() -> None:
    """Artifacts such as SBOMs are compared by digest only."""
    found = await compared(artifact("one"), artifact("two"))

    assert found.sameness is Sameness.DIFFERENT


def test_the_built_documents_are_valid_manifests() -> None:
    """The parser accepts the documents that these tests build."""
    app = image("app")

    assert parse_manifest(wrapped(app).raw, OCI_MANIFEST).config is not None


async def test_layers_that_do_not_match_the_config_are_refused() -> None:
    """A config with another number of layers than the manifest proves nothing about files, and is refused."""
    app = image("app", layer_count=2)
    found = await compared(app, wrapped(app, app.layers[0]))

    assert found.sameness is Sameness.DIFFERENT
    assert "B is not a valid image: it has 1 layers, but its config has 2 diff_ids" in found.reasons[0]
