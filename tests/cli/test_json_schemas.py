"""The published JSON Schemas: of each command and of error responses, from the types with which the tests decode output."""

from __future__ import annotations

import json
import re
from pathlib import Path

import msgspec
import pytest

from boltseal.cli.json_schemas import ROWS
from boltseal.cli.json_types import envelope, json_schema
from boltseal.server.api.errors import error_schema
from tests.cli import program

ROOT = Path(__file__).parents[2]
SCHEMAS = ROOT / "docs/reference/schemas"


def test_every_command_with_json_has_a_schema() -> None:
    """Each command that prints JSON has a schema under the name in the command's code."""
    named = {
        name
        for file in (ROOT / "src/boltseal/cli").glob("*.py")
        for name in re.findall(r'CommandOutput\("([a-z-]+)"', file.read_text())
    }

    assert named == set(ROWS)


def test_the_published_schemas_are_those_of_the_code() -> None:
    """The published schemas equal those that `scripts/json-schemas` writes."""
    published = {file.name: json.loads(file.read_text()) for file in SCHEMAS.iterdir()}

    assert published == {
        **{f"boltseal.{name}.1.json": json_schema(name) for name in ROWS},
        "boltseal.http-error.1.json": error_schema(),
    }


@pytest.mark.parametrize(
    "document",
    [
        {"schema": "boltseal.digest/1", "outcome": "holds", "results": [], "errors": [], "more": 1},
        {"schema": "boltseal.tags/1", "outcome": "holds", "results": [], "errors": []},
        {"schema": "boltseal.digest/1", "outcome": "good", "results": [], "errors": []},
        {"schema": "boltseal.digest/1", "outcome": "holds", "results": [{"ref": "a"}], "errors": []},
    ],
)
def test_another_object_is_refused(document: dict[str, object]) -> None:
    """An object with an unknown key, another command, an unknown outcome or a missing key is refused."""
    with pytest.raises(msgspec.ValidationError):
        msgspec.json.decode(json.dumps(document), type=envelope("digest"))


@pytest.mark.parametrize(
    ("key", "value"), [("digest", "sha256:8c5a9f51ffcc"), ("time", "2026-11-24 18:31"), ("time", "2026-11-24T18:31:07")]
)
def test_digests_are_whole_and_times_have_their_zone(key: str, value: str) -> None:
    """Digests in JSON are complete and times have a time zone, since programs compare them."""
    row = {"ref": "a", "status": "held", "reason": "", "digest": f"sha256:{'0' * 64}", "was": None, key: value}
    fields = {"schema": "boltseal.tag-accept/1", "outcome": "holds", "results": [row], "errors": []}

    with pytest.raises(msgspec.ValidationError):
        msgspec.json.decode(json.dumps(fields), type=envelope("tag-accept"))


@pytest.mark.parametrize(
    "words", [("version",), ("explain", "ubuntu"), ("explain", "ubuntu", "--nope"), ("ledger", "trust")]
)
def test_real_output_is_as_the_schema_says(words: tuple[str, ...]) -> None:
    """Real output, also of a usage error, matches its schema."""
    assert program.call(*words, "--json").json["schema"].startswith("boltseal.")
