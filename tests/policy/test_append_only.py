"""Append-only tags: a new manifest must contain everything that the old one has."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from boltseal.oci.digest import Digest
from boltseal.oci.manifest import Manifest, parse_manifest
from boltseal.oci.mediatype import OCI_INDEX, OCI_MANIFEST
from boltseal.policy.append_only import extends


def signature(name: str, message: str = "") -> dict[str, Any]:
    """Return a layer as cosign writes it: the signed payload, and the signature beside it."""
    return {
        "mediaType": "application/vnd.dev.cosign.simplesigning.v1+json",
        "digest": str(Digest.of(name.encode())),
        "size": 10,
        "annotations": {"dev.cosignproject.cosign/signature": message or name},
    }


def image(*layers: dict[str, Any], config: str = "c") -> Manifest:
    described = {
        "mediaType": "application/vnd.oci.image.config.v1+json",
        "digest": str(Digest.of(config.encode())),
        "size": 1,
    }
    body = {"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": described, "layers": layers}
    return parse_manifest(json.dumps(body).encode(), OCI_MANIFEST)


def index(*entries: dict[str, Any]) -> Manifest:
    body = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries}
    return parse_manifest(json.dumps(body).encode(), OCI_INDEX)


@pytest.mark.parametrize("make", [image, index])
def test_one_more_signature_is_an_extension(make: Any) -> None:
    """A manifest with one more signature, as cosign writes it, is an extension."""

    assert extends(make(signature("a")), make(signature("a"), signature("b")))
    assert extends(make(signature("a")), make(signature("b"), signature("a")))
    assert extends(make(), make(signature("a")))


@pytest.mark.parametrize("make", [image, index])
def test_one_signature_less_is_no_extension(make: Any) -> None:
    """A manifest without one of the published signatures is no extension."""

    assert not extends(make(signature("a"), signature("b")), make(signature("b")))
    assert not extends(make(signature("a")), make(signature("b"), signature("c")))
    assert not extends(make(signature("a")), make())


@pytest.mark.parametrize("make", [image, index])
def test_a_replaced_signature_on_the_same_layer_is_no_extension(make: Any) -> None:
    """Another signature annotation on the same layer is no extension, though all signatures of an image share that
    layer."""

    assert not extends(make(signature("a", "alice")), make(signature("a", "mallory")))
    assert extends(make(signature("a", "alice")), make(signature("a", "mallory"), signature("a", "alice")))


def test_another_kind_of_manifest_is_no_extension() -> None:
    """An index in place of an image is no extension."""

    assert not extends(image(signature("a")), index(signature("a")))
    assert not extends(index(), image())


def test_the_config_may_change() -> None:
    """The config may change, because tools rewrite it with the list of layers."""

    assert extends(image(signature("a"), config="one"), image(signature("a"), signature("b"), config="two"))


def test_a_repeated_entry_need_not_be_repeated() -> None:
    """A layer that was listed twice may be listed once."""

    assert extends(index(signature("a"), signature("a")), index(signature("a")))


@given(st.lists(st.sampled_from("abcde")), st.lists(st.sampled_from("abcde")))
def test_extension_is_containment(old: list[str], new: list[str]) -> None:
    """An extension contains the old layers, whatever their order and number."""

    assert extends(image(*map(signature, old)), image(*map(signature, new))) == (set(old) <= set(new))
