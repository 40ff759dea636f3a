"""Refusals for programs: the reason as a fixed word, and the facts of the decision. Pure.

    {"reason": "sealed", "tag": "1.4.2", "digest": "sha256:...", "pushed": "sha256:...",
     "since": "2026-11-24T08:29:01.123456Z", "by": "ci", "free": ["1.4.3"], "rule": "rule 1 (mode sealed)"}

This is the `detail` of every error response (docs/reference/http-api.md) and of `errors` in the `--json` of commands. It is an
API: a reason is never renamed, a key never changes its meaning, and keys that do not apply are absent. The message of the
error says the same to people. Here is the only place where the detail becomes JSON, and where it is parsed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Final, Self

import msgspec

from boltseal.oci.digest import Digest, DigestInvalid
from boltseal.oci.jsontext import DigestText, TimeText
from boltseal.oci.reference import Tag, TagInvalid

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


class RefusalReason(StrEnum):
    """Why a request is refused: the `reason` of a detail, and the label `reason` of `boltseal_refusals_total`."""

    SEALED = "sealed"
    TOMBSTONE = "tombstone"
    SETTLING = "settling"
    NOT_EXTENDED = "not-extended"
    UNSIGNED = "unsigned"
    PROTECTED = "protected"
    QUOTA = "quota"
    HELD = "held"
    INCOMPLETE = "incomplete"
    PRECONDITION = "precondition"
    DIGEST = "digest"
    INVALID = "invalid"
    ROUTE = "route"
    METHOD = "method"
    READ_ONLY = "read-only"
    TOO_LARGE = "too-large"
    RANGE = "range"
    LOGIN_REQUIRED = "login-required"
    LOGIN_INVALID = "login-invalid"
    DENIED = "denied"
    HOST = "host"
    MIRROR = "mirror"
    NOT_FOUND = "not-found"
    RATE_LIMIT = "rate-limit"
    STALLED = "stalled"
    UPSTREAM = "upstream"
    LEDGER = "ledger"
    CLOCK = "clock"
    UNAVAILABLE = "unavailable"
    DISK_FULL = "disk-full"


MEANINGS: Final[Mapping[RefusalReason, str]] = {
    RefusalReason.SEALED: "the tag is sealed and resolves to another digest",
    RefusalReason.TOMBSTONE: "the tag was sealed and deleted; it can come back only with the same digest",
    RefusalReason.SETTLING: "the tag is settling, and the push is not the index that completes it",
    RefusalReason.NOT_EXTENDED: "the tag is append-only and the push removes content",
    RefusalReason.UNSIGNED: "the rule requires signatures or attestations that the image does not have",
    RefusalReason.PROTECTED: "a delete of something that a sealed tag protects",
    RefusalReason.QUOTA: "over a user's quota, or over a limit on uploads or referrers",
    RefusalReason.HELD: "the upstream's tag moved against its rules and is held back",
    RefusalReason.INCOMPLETE: "the manifest refers to content that is not stored",
    RefusalReason.PRECONDITION: "If-Match or If-None-Match failed",
    RefusalReason.DIGEST: "a malformed digest, or content that does not match its digest",
    RefusalReason.INVALID: "a malformed request",
    RefusalReason.ROUTE: "a path that the server does not have",
    RefusalReason.METHOD: "a method that the path does not have",
    RefusalReason.READ_ONLY: "a write to a registry whose settings allow only reads",
    RefusalReason.TOO_LARGE: "a body or URL over a limit",
    RefusalReason.RANGE: "a byte range that cannot be served, or a chunk out of order",
    RefusalReason.LOGIN_REQUIRED: "no login was given; clients begin with such a request",
    RefusalReason.LOGIN_INVALID: "a wrong password, or an invalid or expired token",
    RefusalReason.DENIED: "the caller lacks the right",
    RefusalReason.HOST: "a registry without users was addressed by the name of another host",
    RefusalReason.MIRROR: "a push to a repository that only mirrors an upstream",
    RefusalReason.NOT_FOUND: "the content does not exist",
    RefusalReason.RATE_LIMIT: "too many failed logins, uploads or requests",
    RefusalReason.STALLED: "the client stopped sending its body, or sent too slowly",
    RefusalReason.UPSTREAM: "an upstream failed or refused, or its limit is reached",
    RefusalReason.LEDGER: "the ledger is in doubt, so nothing is written",
    RefusalReason.CLOCK: "the clock is behind the ledger, or has stepped forward",
    RefusalReason.UNAVAILABLE: "another condition that may pass",
    RefusalReason.DISK_FULL: "the disk is full, or its reserve is reached",
}


class DetailDocument(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A detail as JSON. Keys without a value are absent."""

    reason: RefusalReason
    tag: str | None = None
    digest: DigestText | None = None
    pushed: DigestText | None = None
    since: TimeText | None = None
    by: str | None = None
    free: list[str] = []
    rule: str | None = None
    missing: list[str] = []
    commands: list[str] = []


DETAIL_KEYS: Final[Mapping[str, str]] = {
    "reason": "why the request was refused; see below",
    "tag": "the tag that the refusal is about; of a protected manifest or blob, the first tag whose seal covers it",
    "digest": "what that tag is sealed at, or resolves to; of a delete, what was to be deleted; of an incomplete manifest, "
    "the first digest that is missing",
    "pushed": "the digest of the refused push",
    "since": "when the tag was sealed; of a tombstone, when it was deleted",
    "by": "the user who sealed the tag; of a settling tag, who pushed it",
    "free": "tags that the same content could be pushed to, at most one; absent where no next version is obvious or free",
    "rule": "the rule that applies to the tag",
    "missing": "of an unsigned image, the signatures and attestations that the rule requires and the image lacks",
    "commands": "of an unsigned image, the commands that add what is missing, each once; `REGISTRY` stands for the registry's address",
}
"""What each key says, for the docs."""


@dataclass(frozen=True, slots=True)
class RefusalDetail:
    """The facts of a refusal. `DETAIL_KEYS` has the meaning of each; `since_us`: microseconds since the epoch."""

    reason: RefusalReason
    tag: Tag | None = None
    digest: Digest | None = None
    pushed: Digest | None = None
    since_us: int | None = None
    by: str | None = None
    free: tuple[Tag, ...] = ()
    rule: str | None = None
    missing: tuple[str, ...] = ()
    commands: tuple[str, ...] = ()

    def without_content(self) -> Self:
        """Return the detail for a caller who may not pull: what the request itself had, and the reason."""
        return type(self)(self.reason, pushed=self.pushed)

    def document(self) -> DetailDocument:
        """Return the detail as JSON has it."""
        return DetailDocument(
            reason=self.reason,
            tag=None if self.tag is None else str(self.tag),
            digest=None if self.digest is None else str(self.digest),
            pushed=None if self.pushed is None else str(self.pushed),
            since=None if self.since_us is None else _time(self.since_us),
            by=self.by,
            free=[str(tag) for tag in self.free],
            rule=self.rule,
            missing=list(self.missing),
            commands=list(self.commands),
        )

    def as_json(self) -> dict[str, object]:
        """Return the detail as the values of a JSON object."""
        found: dict[str, object] = msgspec.to_builtins(self.document())
        return found

    @classmethod
    def parse(cls, value: object) -> Self | None:
        """Parse the `detail` of a registry's error. None: the registry sent another one, or a reason of a later version."""
        try:
            found = msgspec.convert(value, DetailDocument)
            return cls(
                found.reason,
                None if found.tag is None else Tag(found.tag),
                None if found.digest is None else Digest.parse(found.digest),
                None if found.pushed is None else Digest.parse(found.pushed),
                None if found.since is None else _time_us(found.since),
                found.by,
                tuple(Tag(tag) for tag in found.free),
                found.rule,
                tuple(found.missing),
                tuple(found.commands),
            )
        except (ValueError, DigestInvalid, TagInvalid):
            return None


class Refused(Exception):
    """Mixin of errors that carry the facts of a refusal; it stands before a kind of `boltseal.errors`."""

    def __init__(self, message: str, detail: RefusalDetail) -> None:
        super().__init__(message)
        self.detail = detail

    def refusal_facts(self) -> dict[str, object] | None:
        """Return the detail as JSON."""
        return self.detail.as_json()


def _time(time_us: int) -> str:
    return (_EPOCH + timedelta(microseconds=time_us)).isoformat(timespec="microseconds")[:26] + "Z"


def _time_us(text: str) -> int:
    return (datetime.fromisoformat(text) - _EPOCH) // timedelta(microseconds=1)
