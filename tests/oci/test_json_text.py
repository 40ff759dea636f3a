"""JSON of strangers can only be read, or not."""

from __future__ import annotations

import msgspec
import pytest

from boltseal.oci.jsontext import decode


class _Said(msgspec.Struct):
    name: str = ""


def test_what_can_be_read_is_read() -> None:
    """What the type does not name is left out."""
    assert decode(b'{"name": "a", "more": [1]}', _Said) == _Said("a")


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        (b"", "truncated"),
        (b'{"name": 7}', "str"),
        (b'{"name": "\xff"}', "UTF-8"),
        (b'{"more": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "nested too deeply"),
        (b'{"more": ' + b'{"a":' * 100_000 + b"1" + b"}" * 100_001, "nested too deeply"),
    ],
)
def test_whatever_is_wrong_is_one_kind_of_error(raw: bytes, words: str) -> None:
    """Also what the decoder itself ends by in another way."""
    with pytest.raises(msgspec.DecodeError, match=words):
        decode(raw, _Said)
