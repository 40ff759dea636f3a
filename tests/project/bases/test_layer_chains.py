"""Former images of which only the layer chain is known are compared exactly as by their documents."""

from __future__ import annotations

import json
from typing import Any

import pytest

from boltseal.oci.digest import Digest
from boltseal.oci.manifest import parse_manifest
from boltseal.project.bases.image_facts import ImageFacts, read_facts
from boltseal.project.bases.layer_chains import ChainMatcher, KnownImage, chain_of
from boltseal.project.bases.layer_match import inherits_label, may_be_base, nearness
from tests.images import OCI_CONFIG, OCI_LAYER, OCI_MANIFEST

NAME = "org.opencontainers.image.base.name"


def facts(letters: str, *, env: tuple[str, ...] = (), base: str = "", history: str | None = None) -> ImageFacts:
    """Return the facts of an image with a layer for each letter."""
    config = json.dumps(
        {
            "os": "linux",
            "architecture": "amd64",
            "created": "2026-11-20T00:00:00Z",
            "config": {"Env": list(env), "Labels": {NAME: base} if base else {}},
            "rootfs": {"diff_ids": [str(Digest.of(letter.encode())) for letter in letters]},
            "history": [{"created_by": line} for line in (letters if history is None else history)],
        }
    ).encode()
    body: dict[str, Any] = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": {"mediaType": OCI_CONFIG, "digest": str(Digest.of(config)), "size": len(config)},
        "layers": [{"mediaType": OCI_LAYER, "digest": str(Digest.of(each.encode())), "size": 9} for each in letters],
    }
    raw = json.dumps(body).encode()
    return read_facts(parse_manifest(raw, OCI_MANIFEST), Digest.of(raw), config)


def by_chain(former: ImageFacts, *images: ImageFacts) -> ImageFacts:
    """Return the facts of a former image as its chain shows them beside these images."""
    return ChainMatcher(images).facts(KnownImage(former.manifest, chain_of(former)))


APP = facts("abX", env=("A=1",), base="docker.io/library/os:1")
FORMER = {
    "the base": facts("ab", env=("A=1",)),
    "the base's base": facts("a"),
    "other layers": facts("ac"),
    "more layers": facts("abXY"),
    "the same layers": facts("abX"),
    "itself": APP,
    "another history": facts("ab", history="xy"),
    "a shorter history": facts("ab", history="a"),
    "a label": facts("ab", base="docker.io/library/os:1"),
    "another label": facts("ab", base="docker.io/library/os:2"),
    "no layers": facts(""),
    "other settings": facts("ab", env=("A=2",)),
}


@pytest.mark.parametrize("former", FORMER.values(), ids=[*FORMER])
def test_a_chain_decides_as_the_documents_do(former: ImageFacts) -> None:
    """By its chain alone a former image is, or is not, a possible base exactly as by its documents."""
    chain = by_chain(former, APP)

    assert may_be_base(APP, chain) == may_be_base(APP, former)
    assert APP.begins_with(chain) == APP.begins_with(former)
    assert APP.history_begins_with(chain) == APP.history_begins_with(former)
    assert nearness(APP, chain) == nearness(APP, former)
    assert inherits_label(APP, NAME, chain) == inherits_label(APP, NAME, former)
    assert (APP.history == chain.history) == (APP.history == former.history)
    assert (APP.diff_ids == chain.diff_ids) == (APP.diff_ids == former.diff_ids)
    assert ChainMatcher([APP]).begins(chain_of(former)) == APP.begins_with(former)
    assert (chain.config, chain.manifest, chain.platform) == (former.config, former.manifest, former.platform)


@pytest.mark.parametrize("now", FORMER.values(), ids=[*FORMER])
@pytest.mark.parametrize("was", FORMER.values(), ids=[*FORMER])
def test_a_rebuilt_base_is_recognised_by_the_hash_of_its_settings(was: ImageFacts, now: ImageFacts) -> None:
    """Whether a deleted base and the current one are the same for images on it is decided by hashes, either way."""
    if not APP.begins_with(was):
        return
    chain = by_chain(was, APP)

    assert chain.same_as(now) == was.same_as(now)
    assert now.same_as(chain) == now.same_as(was)


def test_the_hashes_are_part_of_the_format() -> None:
    """The hashes of a known image never change within a version: registries keep them."""
    chain = chain_of(facts("ab", env=("A=1",), base="docker.io/library/os:1"))

    assert chain.chain_id == "sha256:51c0c8ace48498d6f5fee6b0592cc06f2da0f3cbe09c5a34a97dce85c3889676"
    assert chain.history == "adce51866731c7bdc84d79f8f818a6fd3efc7c920afe23b3585ec92a8fe1ce7e"
    assert chain.settings == "0d41ce3fdc74574ecfb3bd1bf62a46a6a9ae407369f790a924900fb6dbaaefef"
    assert chain.base_name == "d1459380f92a85668aa8c556be4d0ccbf9074cd8fde0346e988918ed3b213b78"
