"""The types of what commands print with `--json`, made from the table in `json_schemas`, and their JSON Schemas.

`scripts/json-schemas` writes the schemas to docs/reference/schemas; tests decode the output of every command with the types.
"""

from __future__ import annotations

from typing import Any, Final, Literal

import msgspec
from msgspec import UNSET, UnsetType

from boltseal.cli.json_envelope import ReportedError, SentReportRow, TagProofRow
from boltseal.cli.json_schemas import ROWS

_REPORTING: Final = frozenset({"ps", "scrub", "deploy", "rollback"})
"""The commands that can report to a registry."""
_EXACT: Final[dict[str, Any]] = {"forbid_unknown_fields": True, "kw_only": True}


def envelope(command: str) -> type[msgspec.Struct]:
    """Return the type of what a command prints with `--json`. `command`: a key of ROWS."""
    name = "".join(word.capitalize() for word in command.split("-"))
    row = msgspec.defstruct(f"{name}Result", [_field(key, kind) for key, kind in ROWS[command].items()], **_EXACT)
    schema = Literal[f"boltseal.{command}/1"]  # type: ignore[valid-type]  # its value is known only here
    fields: list[tuple[str, Any] | tuple[str, Any, Any]] = [
        ("schema", schema),
        ("outcome", Literal["holds", "differs", "unknown"]),
        ("results", list[row]),  # type: ignore[valid-type]  # the type is made here
        ("errors", list[ReportedError]),
        ("proofs", list[TagProofRow] | UnsetType, UNSET),
    ]
    if command in _REPORTING:
        fields.append(("report", SentReportRow | UnsetType, UNSET))
    return msgspec.defstruct(name, fields, **_EXACT)


def json_schema(command: str) -> dict[str, Any]:
    """Return the JSON Schema of what a command prints with `--json`."""
    identified = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": f"boltseal {command.replace('-', ' ')} --json",
    }
    return identified | msgspec.json.schema(envelope(command))


def _field(key: str, kind: Any) -> tuple[str, Any] | tuple[str, Any, Any]:
    return (key[:-1], kind | UnsetType, UNSET) if key.endswith("?") else (key, kind)
