"""Parts of the envelope of `--json` that all commands share: errors, reports to a registry, and proofs of tags."""

from __future__ import annotations

from typing import Literal

import msgspec
from msgspec import UNSET, UnsetType

from boltseal.errors import CommandErrorCode
from boltseal.oci.jsontext import DigestText, TimeText
from boltseal.policy.refusals import DetailDocument

OptionalDigest = DigestText | None
OptionalTime = TimeText | None


class ReportedError(msgspec.Struct, forbid_unknown_fields=True):
    """An error. `code`: its kind. `detail`: of a refusal."""

    code: CommandErrorCode
    message: str
    detail: DetailDocument | UnsetType = UNSET


class SentReportRow(msgspec.Struct, forbid_unknown_fields=True):
    """How a report to a registry ended. `received`: when the registry stored it; null with `error`."""

    registry: str
    host: str
    received: OptionalTime
    left_out: int
    error: ReportedError | None


class TagProofRow(msgspec.Struct, forbid_unknown_fields=True):
    """How a tag of a registry whose ledger is trusted was proven, by entry `entry` of the log `ledger`.

    `size`: the entries under the checked checkpoint. `freshness`: whether a newer entry about the tag is ruled out; null for
    a sealed tag, which needs none.
    """

    ref: str
    state: Literal["sealed", "mutable", "deleted", "absent", "observed"]
    digest: OptionalDigest
    ledger: str
    entry: int | None
    time: OptionalTime
    size: int
    freshness: Literal["proven", "not proven"] | None
