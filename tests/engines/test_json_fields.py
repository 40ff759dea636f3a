"""Documents that an engine written in Go would read otherwise are found."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from boltseal.engines.json_documents import decoded
from boltseal.engines.json_fields import ambiguous_field
from boltseal.engines.safe_open import StoreMalformed


class _Inner(msgspec.Struct, rename="kebab"):
    diff_ids: list[str] | None = None


class _Shape(msgspec.Struct):
    layer: str = ""
    inner: _Inner | None = None
    rows: list[_Inner] | None = None
    by_name: dict[str, _Inner] | None = None
    labels: dict[str, Any] | None = None


@pytest.mark.parametrize(
    ("raw", "field"),
    [
        ('{"layer":"a","LAYER":"b"}', "LAYER"),
        ('{"Layer":"b"}', "Layer"),
        ('{"layer":"a","layer":"b"}', "layer"),
        (r'{"layer":"a","L\u0061yer":"b"}', "Layer"),
        (r'{"layer":"a","l\u0061yer":"b"}', "layer"),
        ('{"inner":{"diff-ids":["a"]},"inner":{}}', "inner"),
        ('{"inner":{"diff-ids":["a"],"diff-id\u017f":["b"]}}', "diff-id\u017f"),
        (r'{"inner":{"diff-ids":["a"],"diff-id\u017f":["b"]}}', "diff-id\u017f"),
        ('{"rows":[{"diff-ids":[]},{"DIFF-IDS":[]}]}', "DIFF-IDS"),
        ('{"by_name":{"x":{"Diff-Ids":[]}}}', "Diff-Ids"),
    ],
)
def test_a_field_with_another_spelling_or_twice_is_found(raw: str, field: str) -> None:
    """A key that Go takes for a field, though it is spelled otherwise or occurs again in its object, is found."""
    assert ambiguous_field(raw.encode(), _Shape) == field

    with pytest.raises(StoreMalformed, match="engines read otherwise"):
        decoded(raw.encode(), _Shape, "a list")


@pytest.mark.parametrize(
    "raw",
    [
        "{}",
        '{"layer":"\\u0026 \\u003c layer LAYER","unknown":{"LAYER":1,"layer":2}}',
        '{"rows":[{"diff-ids":["a"]},{"diff-ids":["b"]}]}',
        '{"labels":{"Layer":"a","layer":"b","LAYER":{"layer":1,"Layer":2}}}',
        '{"by_name":{"INNER":{},"inner":{},"Inner":{"diff-ids":[]}}}',
        '{"layer":"\u017f \u212a \\u00e9"}',
    ],
)
def test_documents_that_engines_write_are_not_ambiguous(raw: str) -> None:
    """Keys of maps, keys without meaning and texts of values may repeat the name of a field."""
    assert ambiguous_field(raw.encode(), _Shape) == ""


def test_lists_of_whole_documents_are_not_parsed_further() -> None:
    """A list whose items are decoded later has no fields of its own."""
    assert ambiguous_field(b'[{"layer":"a","LAYER":"b"}]', list[msgspec.Raw]) == ""
