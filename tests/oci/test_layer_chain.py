"""Layer chains: the ChainIDs of the image specification, and the document that a registry keeps."""

from __future__ import annotations

import hashlib

import msgspec
import pytest

from boltseal.oci.layer_chain import (
    VERSION,
    ChainDocument,
    ImageChain,
    IndexedImage,
    chain_ids,
    encode_chain,
    parse_chain,
)

A, B, C = ("sha256:" + hashlib.sha256(letter.encode()).hexdigest() for letter in "abc")
IMAGE = ImageChain(A, "linux", "arm64", "v8", 2, B, 3, "h", "s", "n", "2026-11-20T00:00:00Z")


def sha256(text: str) -> str:
    return "sha256:" + hashlib.sha256(text.encode()).hexdigest()


def test_a_chain_id_is_that_of_the_specification() -> None:
    """ChainID(L0) is DiffID(L0), and ChainID(L0|...|Ln) the digest of ChainID(L0|...|Ln-1) + " " + DiffID(Ln)."""
    assert [*chain_ids([])] == []
    assert [*chain_ids([A, B, C])] == [A, sha256(f"{A} {B}"), sha256(f"{sha256(f'{A} {B}')} {C}")]


@pytest.mark.parametrize(
    "document",
    [
        ChainDocument(image=IMAGE),
        ChainDocument(images=(IndexedImage(A, "linux", "amd64"), IndexedImage(B, has_platform=False))),
        ChainDocument(images=()),
        ChainDocument(unreadable="too large"),
        ChainDocument(),
    ],
    ids=["image", "index", "empty index", "unreadable", "other artifact"],
)
def test_a_document_returns_as_it_was_and_with_its_version(document: ChainDocument) -> None:
    """A document of each kind survives its encoding, which adds the version of the hashes."""
    text = encode_chain(document)

    assert parse_chain(text) == parse_chain(text.encode())
    assert parse_chain(text).version == VERSION
    assert (parse_chain(text).image, parse_chain(text).images) == (document.image, document.images)
    assert parse_chain(text).unreadable == document.unreadable


def test_text_that_is_no_document_is_refused() -> None:
    """Text of another form raises ValueError."""
    with pytest.raises(ValueError, match=r"\$\.image"):
        parse_chain('{"image": 1}')


@pytest.mark.parametrize(
    ("name", "value"),
    [("layers", 10**10), ("layers", -1), ("steps", 10**10), ("os", "x" * 301), ("chain_id", "x" * 301)],
)
def test_a_chain_beyond_the_limits_is_refused(name: str, value: object) -> None:
    """A chain with absurd numbers or texts, which a hostile registry can state, is refused: clients make lists of them."""
    document = {"image": msgspec.to_builtins(IMAGE) | {name: value}}

    with pytest.raises(ValueError, match=name):
        parse_chain(msgspec.json.encode(document))


def test_an_index_of_too_many_images_is_refused() -> None:
    """An index of more images than are read is refused: each one causes a further look-up."""
    with pytest.raises(ValueError, match="images"):
        parse_chain(encode_chain(ChainDocument(images=(IndexedImage(A),) * 101)))
