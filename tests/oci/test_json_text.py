"""JSON from untrusted senders is decoded, or refused with one kind of error."""

from __future__ import annotations

import msgspec
import pytest

from boltseal.oci.jsontext import decode


class _Message(msgspec.Struct):
    name: str = ""


def test_valid_json_is_decoded() -> None:
    """Fields that the type does not name are ignored."""
    assert decode(b'{"name": "a", "more": [1]}', _Message) == _Message("a")


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
def test_invalid_json_raises_one_kind_of_error(raw: bytes, words: str) -> None:
    """Any invalid JSON raises one kind of error, also where the decoder itself raises another."""
    with pytest.raises(msgspec.DecodeError, match=words):
        decode(raw, _Message)
