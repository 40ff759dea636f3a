"""The JSON that `--json` prints, by command: types from which the published JSON Schemas are generated.

`scripts/json-schemas` writes docs/reference/schemas; tests decode the output of every command with these types. Digests
are whole, times are ISO 8601 in UTC with `Z`. A key that ends in `?` in the table below may be absent.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, Literal, TypeAlias

import msgspec
from msgspec import UNSET, UnsetType

from boltseal.cli.json_envelope import OptionalDigest, OptionalTime, ReportedError, SentReportRow, TagProofRow
from boltseal.oci.jsontext import DigestText, TimeText
from boltseal.policy.refusals import DetailDocument

_Row: TypeAlias = dict[str, Any]
_FINDING: Final[_Row] = {"ref": str, "status": str, "reason": str}
_CHECK: Final[_Row] = _FINDING | {"weight?": str | None}
_TAG_CHANGE: Final[_Row] = {"ref": str, "status": str, "digest": DigestText, "entry": int}
_KEPT: Final[_Row] = {
    "image": DigestText,
    "digest": OptionalDigest,
    "tag": str,
    "kept": OptionalTime,
    "until": OptionalTime,
    "keep": int | None,
    "copy": str | None,
}
_RELEASE: Final[_Row] = _FINDING | {
    "kind?": str,
    "of?": int | None,
    "back?": int | None,
    "service?": str,
    "digest?": str | None,
    "image?": str,
    "pulled?": bool,
    "log?": list[str],
    "tag?": str | None,
    "branch?": str,
    "commit?": str,
    "cluster?": str,
    "host?": str,
    "runs?": int | None,
    "diff?": list[str],
}
_LISTED_RELEASE: Final[_Row] = _FINDING | {
    "runs": bool,
    "kind": str,
    "of": int | None,
    "engine": str | None,
    "host?": str,
    "started": TimeText,
    "ended": OptionalTime,
    "who": str,
    "revision": str,
    "services": list[dict[str, str | None]],
}
_RECEIPT: Final[_Row] = {
    "ref": str,
    "status": str,
    "reason": str,
    "file?": str,
    "beside?": str,
    "event?": str,
    "digest?": OptionalDigest,
    "time?": TimeText,
    "by?": str,
    "mode?": str | None,
    "pipeline?": dict[str, str],
    "ledger?": str,
    "index?": int,
    "size?": int,
    "witnesses?": list[str],
    "manifests?": int,
    "configs?": int,
    "layers?": int,
}
_LEDGER_KEY: Final[_Row] = {"ref": str, "status": str, "key": str}
_CONTAINER: Final[_Row] = _CHECK | {
    "host?": str,
    "node?": str | None,
    "runtime?": str,
    "container?": str,
    "id?": str,
    "project?": str | None,
    "service?": str | None,
    "state?": str,
    "health?": str,
    "restarts?": int | None,
    "started_as?": str,
    "image?": dict[str, list[DigestText]],
    "platform?": str | None,
    "machine?": str | None,
    "local?": bool,
    "recorded?": bool,
    "changed_on_disk?": bool,
    "names?": list[str],
    "tags?": list[dict[str, str | int | None]],
    "tags_by?": str | None,
    "locked?": str | None,
    "locked_digest?": OptionalDigest,
    "resolves_to?": OptionalDigest,
    "moved?": bool | None,
    "behind?": int | None,
    "behind_since?": OptionalTime,
    "created_at?": OptionalTime,
    "started_at?": OptionalTime,
    "release?": int | None,
    "released_by?": str | None,
    "released_at?": OptionalTime,
    "built?": dict[str, Any] | None,
    "unasked?": str | None,
}
_HOST: Final[_Row] = _FINDING | {
    "login?": str | None,
    "last?": TimeText,
    "since?": OptionalTime,
    "reports?": list[dict[str, Any]],
    "host?": str,
    "kind?": str,
    "subject?": str,
    "received?": TimeText,
    "overdue?": bool,
    "image?": dict[str, Any],
    "by?": str,
    "started?": TimeText,
    "ended?": OptionalTime,
}
_API_TOKEN: Final[_Row] = _FINDING | {
    "owner": str,
    "kind": Literal["person", "service"],
    "repositories": list[str],
    "actions": list[str],
    "description": str,
    "created": TimeText,
    "created_by": str,
    "expires": TimeText,
    "ends": OptionalTime,
    "used": OptionalTime,
}
_SESSION: Final[_Row] = _FINDING | {
    "by": str,
    "pipeline": dict[str, str],
    "opened": TimeText,
    "ends": TimeText,
    "revoked": OptionalTime,
}
_VERDICT: Final[_Row] = {
    "platform?": str,
    "base?": str | None,
    "how?": str | None,
    "by?": str | None,
    "evidence?": str | None,
    "built_on?": OptionalDigest,
    "resolves_to?": OptionalDigest,
    "newer_revision?": str | None,
    "behind?": int,
    "behind_exact?": bool,
    "expect?": str | None,
    "since?": OptionalTime,
    "changes?": dict[str, Any] | None,
    "explanation?": dict[str, Any],
}
_PURGED: Final[_Row] = _FINDING | {"digest?": DigestText}

ROWS: Final[Mapping[str, _Row]] = {
    "admin-backup": {"ref": str, "status": str, "blobs": int, "taken": int, "taken_bytes": int},
    "admin-config": {"ref": str, "status": str, "value": Any, "where": str | None},
    "admin-expire": {"ref": str, "status": str, "reason?": str},
    "admin-fsck": _FINDING
    | dict.fromkeys(
        (
            *("entries?", "observations?", "tags?", "manifests?", "blobs?", "blob_bytes?"),
            *("unnamed_blobs?", "unnamed_bytes?", "names?", "unnamed_objects?"),
        ),
        int,
    ),
    "admin-gc": _FINDING | {"what": str, "size": int},
    "admin-migrate": {"ref": str, "status": str, "reason?": str}
    | {"move?": str, "notes?": list[str]}
    | dict.fromkeys(
        (
            *("repositories?", "tags?", "manifests?", "entries?", "users?"),
            *("blobs?", "blob_bytes?", "copied?", "copied_bytes?"),
        ),
        int,
    ),
    "admin-restore": {"ref": str, "status": str, "reason?": str, "blobs?": int, "taken_bytes?": int},
    "admin-rules": {
        "number": int | None,
        "built_in": bool,
        "repository": str,
        "tag": str,
        "mode": str,
        "keep": str,
        "settle": str | None,
    },
    "admin-rules-test": _FINDING | {"keep": str, "settle": str | None},
    "admin-host-forget": _HOST,
    "admin-host-ls": _HOST,
    "admin-host-show": _HOST,
    "admin-session-ls": _SESSION,
    "admin-session-revoke": _SESSION,
    "admin-token-create": _API_TOKEN | {"token": str},
    "admin-token-ls": _API_TOKEN,
    "admin-token-revoke": _API_TOKEN,
    "admin-token-rotate": {"ref": str, "status": str},
    "admin-user-add": {"ref": str, "status": str},
    "admin-user-ls": {"ref": str, "status": str},
    "admin-user-remove": {"ref": str, "status": str},
    "build": _FINDING
    | {
        "digest?": OptionalDigest,
        "inputs?": str | None,
        "base?": str | None,
        "base_digest?": OptionalDigest,
        "labels?": dict[str, str],
    },
    "check": _FINDING | {"digest": OptionalDigest, "settles": OptionalTime},
    "compare": _FINDING
    | {"other": str, "reasons": list[str], "digests": list[DigestText], "contents?": dict[str, Any]},
    "copy": {
        "ref": str,
        "status": str,
        "reason?": str,
        "detail?": DetailDocument,
        "digest?": DigestText,
        "referrers?": int,
    },
    "deploy": _RELEASE,
    "digest": {"ref": str, "status": str, "digest": DigestText, "media_type": str, "size": int | None},
    "explain": {"ref": str, "status": str, "typed": str, "short": str}
    | dict.fromkeys(
        ("reference?", "registry?", "repository?", "tag?", "digest?", "remotely?", "locally?"), dict[str, str | None]
    ),
    "health": _FINDING | {"warnings": list[str]},
    "history": _FINDING
    | {
        "index?": int,
        "line?": int,
        "time?": TimeText,
        "last_seen?": TimeText,
        "digest?": str | None,
        "was?": OptionalDigest,
        "by?": str,
        "mode?": str | None,
        "also?": list[str],
        "built?": dict[str, Any],
        "pipeline?": dict[str, str],
        "proven?": bool,
        "first?": TimeText,
        "times?": int,
        "pushed?": OptionalDigest,
        "address?": str | None,
        "free?": list[str],
    },
    "inspect": {
        "ref": str,
        "status": str,
        "settles": OptionalTime,
        "digest": DigestText,
        "media_type": str,
        "artifact_type": str | None,
        "platforms": dict[str, DigestText],
        "platform": str | None,
        "created": str | None,
        "image_id": OptionalDigest,
        "labels": dict[str, str],
        "annotations": dict[str, str],
        "user": str | None,
        "command": list[str],
        "layers": list[dict[str, str | int]],
        "size": int,
        "base": dict[str, str | None],
        "referrers": list[dict[str, Any]],
        "signatures": dict[str, DigestText],
        "packages?": list[dict[str, str]] | None,
        "packages_from?": str | None,
        "packages_reason?": str | None,
        "files?": int | None,
    },
    "keep-ls": _FINDING
    | {"number": int, "current": bool, "recorded": bool, "ran": OptionalTime, "held": list[str]}
    | _KEPT,
    "keep-restore": _FINDING
    | {"digest": OptionalDigest, "image": DigestText, "proof": str | None, "kept": dict[str, Any] | None},
    "ledger-key": _LEDGER_KEY,
    "ledger-monitor": _FINDING
    | {
        "size?": int,
        "read?": int,
        "names?": int,
        "compared?": int,
        "given?": bool,
        "share?": int | None,
        "shares?": int,
    },
    "ledger-receipt": _RECEIPT,
    "ledger-receipt-verify": _RECEIPT,
    "ledger-recover": _LEDGER_KEY | {"entries?": int, "stepped_back?": list[str], "tags?": list[str]},
    "ledger-rotate": _LEDGER_KEY,
    "ledger-trust": {
        "ref": str,
        "status": str,
        "origin?": str,
        "key?": str | None,
        "key_id?": str,
        "since?": TimeText,
        "size?": int | None,
        "root?": str | None,
    },
    "lock": _CHECK
    | {
        "digest?": OptionalDigest,
        "was?": OptionalDigest,
        "resolves_to?": OptionalDigest,
        "first_seen?": TimeText,
        "platforms?": dict[str, dict[str, OptionalDigest]],
        "used?": list[dict[str, str]],
        "places?": list[str],
        "file?": str,
        "line?": int,
        "text?": str,
        "explanation?": dict[str, Any],
    },
    "outdated": _CHECK
    | _VERDICT
    | {
        "digest?": OptionalDigest,
        "runs_on?": list[str],
        "rebuild_first?": list[str],
        "ancestors?": list[dict[str, Any]],
        "platforms?": list[dict[str, Any]],
        "tries?": int,
        "time?": TimeText,
    },
    "pin": _CHECK | {"file?": str, "line?": int, "at?": str, "digest?": OptionalDigest},
    "ps": _CONTAINER,
    "pull": _FINDING
    | {
        "digest?": DigestText,
        "image?": DigestText,
        "proof?": str | None,
        "kept?": dict[str, Any] | None,
        "running?": list[dict[str, Any] | None],
        "let_go?": list[dict[str, Any]],
    },
    "ratelimit": _FINDING | {"remaining?": int, "limit?": int, "window_s?": int, "source?": str, "time?": TimeText},
    "rebase": _FINDING
    | {
        "platform": str,
        "digest": OptionalDigest,
        "old_base": str | None,
        "evidence": str | None,
        "new_base": str,
        "own_layers": int | None,
        "conflicts": list[dict[str, str]],
        "notes": list[str],
    },
    "release-diff": _FINDING | {"before": str | None, "after": str | None},
    "release-hold": _FINDING | {"service": str, "digest": OptionalDigest, "branch?": str},
    "release-ls": _LISTED_RELEASE,
    "release-show": _LISTED_RELEASE,
    "release-unlock": _FINDING | {"owner": str, "since": str, "container": str},
    "rollback": _RELEASE,
    "scrub": _CHECK
    | {
        "what?": str,
        "store?": str,
        "root?": str,
        "level?": str | None,
        "by?": str,
        "id?": str,
        "names?": list[str],
        "layers?": int,
        "entries?": int,
        "differences?": list[dict[str, Any]],
        "count?": int,
        "unknown?": list[str],
        "changed?": list[dict[str, Any]],
        "running?": int,
        "notes?": list[str],
        "unchecked?": list[str],
        "unchecked_count?": int,
        "unread?": int,
        "host?": str,
        "parts?": int,
        "read_bytes?": int,
        "unread_bytes?": int,
        "never_read?": int,
        "oldest?": TimeText,
        "remedy?": dict[str, Any] | None,
    },
    "tag-accept": _FINDING | {"digest": DigestText, "was": OptionalDigest, "entry?": int, "time?": TimeText},
    "tag-new": _FINDING | {"tag": str, "scheme": str, "applied?": str | None},
    "tag-purge": _PURGED,
    "tag-restore": _TAG_CHANGE | {"was": OptionalDigest},
    "tag-seal": _TAG_CHANGE,
    "tag-unseal": _TAG_CHANGE,
    "tags": {
        "ref": str,
        "status": str,
        "reason?": str,
        "tag?": str,
        "digest?": DigestText,
        "since?": TimeText,
        "mode?": str | None,
        "index?": int,
        "proven?": bool,
    },
    "update": _RELEASE | {"explanation?": dict[str, Any]},
    "verify": _CHECK
    | {
        "file?": str,
        "line?": int,
        "at?": str,
        "written?": str,
        "expected?": OptionalDigest,
        "resolves_to?": OptionalDigest,
        "locked_at?": OptionalTime,
        "platforms?": dict[str, list[str]] | None,
        "sealed?": bool | None,
        "sealed_by?": str | None,
        "moved_at?": OptionalTime,
        "left_at?": OptionalTime,
        "moved_by?": str | None,
        "entry?": int | None,
    },
    "verify-running": _CONTAINER,
    "version": {"version": str, "python": str, "sqlite": str, "granian?": str, "platform": str},
    "watch": _CHECK
    | {
        "alarm?": bool,
        "release?": bool,
        "digest?": OptionalDigest,
        "was?": OptionalDigest,
        "first_seen?": OptionalTime,
        "line?": int | None,
        "head?": str,
    },
}
"""The keys of one result, by the name in the envelope's `schema`."""


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


_REPORTING: Final = frozenset({"ps", "scrub", "deploy", "rollback"})
"""The commands that can report to a registry."""
_EXACT: Final[dict[str, Any]] = {"forbid_unknown_fields": True, "kw_only": True}


def _field(key: str, kind: Any) -> tuple[str, Any] | tuple[str, Any, Any]:
    return (key[:-1], kind | UnsetType, UNSET) if key.endswith("?") else (key, kind)
