"""Configs of copies whose layers are unpacked anew: built by insertion, and restored byte by byte."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from boltseal.oci.digest import Digest
from boltseal.oci.fresh_layers import (
    EMPTY_DIFF_ID,
    MAX_EMPTY_LAYERS,
    ConfigUnsuitable,
    originals_of,
    with_empty_layers,
)

LAYER = str(Digest.of(b"layer"))
EMPTY = str(EMPTY_DIFF_ID)

_texts = st.text(max_size=20) | st.sampled_from(['"diff_ids":[', '"history":[', f'"{EMPTY}",'])
_configs = st.fixed_dictionaries(
    {
        "rootfs": st.fixed_dictionaries(
            {"type": st.just("layers"), "diff_ids": st.lists(st.sampled_from([LAYER, EMPTY]), min_size=1, max_size=5)}
        )
    },
    optional={
        "history": st.lists(st.fixed_dictionaries({"created_by": _texts}), max_size=5) | st.none(),
        "config": st.fixed_dictionaries({"Labels": st.dictionaries(_texts, _texts, max_size=3)}),
        "author": _texts,
    },
)


@given(_configs, st.integers(1, MAX_EMPTY_LAYERS), st.sampled_from([None, 2]), st.booleans())
def test_the_original_of_a_copy_is_restored(
    config: dict[str, object], count: int, indent: int | None, ascii_: bool
) -> None:
    """The digest of the original config is found from the copy's bytes, however the original was written."""
    original = json.dumps(config, indent=indent, ensure_ascii=ascii_).encode("utf-8", "surrogatepass")
    copy = with_empty_layers(original, count)
    before, now = json.loads(original), json.loads(copy)

    assert Digest.of(original) in originals_of(copy)
    assert now["rootfs"]["diff_ids"] == [EMPTY] * count + before["rootfs"]["diff_ids"]
    assert len(now.get("history") or []) - len(before.get("history") or []) == (count if before.get("history") else 0)
    assert {**now, "rootfs": 0, "history": 0} == {**before, "rootfs": 0, "history": 0}


def test_a_config_of_another_image_is_no_copy() -> None:
    """A config without empty layers below the others is a copy of none."""
    assert originals_of(json.dumps({"rootfs": {"diff_ids": [LAYER]}}).encode()) == ()


def test_a_changed_config_with_an_empty_layer_is_not_a_copy_of_the_original() -> None:
    """A copy whose command was changed has another original, so it proves nothing about the image."""
    original = json.dumps({"config": {"Cmd": ["a"]}, "rootfs": {"diff_ids": [LAYER]}}).encode()
    changed = with_empty_layers(original, 1).replace(b'"a"', b'"b"')

    assert Digest.of(original) not in originals_of(changed)


@pytest.mark.parametrize(
    "config",
    [
        b"no JSON",
        b"[]",
        b"{}",
        b'{"rootfs":[]}',
        b'{"rootfs":{"diff_ids":[]}}',
        b'{"rootfs":{"diff_ids":"text"}}',
        b'{"rootfs":{"diff_ids":["a"]},"history":"text"}',
        b'{"rootfs":{"diff\\u005fids":["a"]}}',
        b'{"other":{"diff_ids":["b"]},"rootfs":{"diff_ids":["a"]}}',
    ],
)  # fmt: skip
def test_an_unusual_config_is_refused(config: bytes) -> None:
    """A config into which no layer can be inserted is refused, and is a copy of none."""
    with pytest.raises(ConfigUnsuitable):
        with_empty_layers(config, 1)

    assert originals_of(config) == ()


def test_text_that_only_looks_like_a_copy_is_none() -> None:
    """Text of a copy in other places makes a config no copy."""
    assert originals_of(f'{{"author":["{EMPTY}","x"]}}'.encode()) == ()
    assert originals_of(f'{{"rootfs":{{"diff_ids":["a","{EMPTY}","b"]}}}}'.encode()) == ()
