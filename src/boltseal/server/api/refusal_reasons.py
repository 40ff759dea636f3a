"""Why requests are refused, as fixed words for `boltseal_refusals_total{reason}`.

The words are an API: dashboards and alert rules name them. So they are in one table and do not follow the names of error
classes. A class without a row has the reason of its nearest parent class; every kind of `boltseal.errors` has a row.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Final

from boltseal import errors
from boltseal.client.errors import RemoteBusy, RemoteDenied, RemoteMismatch, RemoteUnavailable
from boltseal.errors import BoltsealError
from boltseal.oci.digest import DigestInvalid
from boltseal.policy.name_resolution import MirrorOnly
from boltseal.policy.quotas import QuotaExceeded
from boltseal.server.api.auth import HostRefused
from boltseal.server.api.errors import BodyStalled, MethodNotAllowed, RegistryReadOnly, RouteUnknown
from boltseal.server.auth.access import LoginNeeded
from boltseal.server.mirror.errors import UpstreamFailed
from boltseal.server.mirror.push_proxy import PartMissing
from boltseal.server.mirror.upstream_tags import TagHeldBack
from boltseal.server.registry.integrator import LedgerInDoubt
from boltseal.server.registry.quota_checks import UploadsTooMany
from boltseal.server.registry.sequencer import ClockBehind, ClockStepped, LedgerFrozen, LedgerMissing
from boltseal.server.registry.tag_writer import NotExtended, ReferencesMissing, TagTombstoned


class RefusalReason(StrEnum):
    """The values of the label `reason`."""

    SEALED = "sealed"
    TOMBSTONE = "tombstone"
    NOT_EXTENDED = "not-extended"
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
    RefusalReason.NOT_EXTENDED: "the tag is append-only and the push removes content",
    RefusalReason.PROTECTED: "a delete of something that a sealed tag protects",
    RefusalReason.QUOTA: "over a user's quota, or over a limit on uploads or referrers",
    RefusalReason.HELD: "the upstream's tag moved against its rules and is held back",
    RefusalReason.INCOMPLETE: "the manifest refers to content that is not stored",
    RefusalReason.PRECONDITION: "If-Match or If-None-Match failed",
    RefusalReason.DIGEST: "a malformed digest, or content that does not match its digest",
    RefusalReason.INVALID: "a malformed request",
    RefusalReason.ROUTE: "a path that the server does not have",
    RefusalReason.METHOD: "a method that the path does not have",
    RefusalReason.READ_ONLY: "a write to a registry that is read-only or frozen",
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
    RefusalReason.UPSTREAM: "an upstream failed, or its limit is reached",
    RefusalReason.LEDGER: "the ledger does not match its checkpoint, so nothing is written",
    RefusalReason.CLOCK: "the clock is behind the ledger, or has stepped forward",
    RefusalReason.UNAVAILABLE: "another condition that may pass",
    RefusalReason.DISK_FULL: "the disk is full, or its reserve is reached",
}

REASONS: Final[Mapping[type[BoltsealError], RefusalReason]] = {
    errors.Invalid: RefusalReason.INVALID,
    DigestInvalid: RefusalReason.DIGEST,
    MethodNotAllowed: RefusalReason.METHOD,
    RegistryReadOnly: RefusalReason.READ_ONLY,
    PartMissing: RefusalReason.INCOMPLETE,
    ReferencesMissing: RefusalReason.INCOMPLETE,
    errors.Unauthenticated: RefusalReason.LOGIN_INVALID,
    LoginNeeded: RefusalReason.LOGIN_REQUIRED,
    errors.Denied: RefusalReason.DENIED,
    HostRefused: RefusalReason.HOST,
    MirrorOnly: RefusalReason.MIRROR,
    QuotaExceeded: RefusalReason.QUOTA,
    RemoteDenied: RefusalReason.UPSTREAM,
    TagHeldBack: RefusalReason.HELD,
    errors.NotFound: RefusalReason.NOT_FOUND,
    RouteUnknown: RefusalReason.ROUTE,
    errors.SealedPut: RefusalReason.SEALED,
    NotExtended: RefusalReason.NOT_EXTENDED,
    TagTombstoned: RefusalReason.TOMBSTONE,
    errors.SealedDelete: RefusalReason.PROTECTED,
    errors.Precondition: RefusalReason.PRECONDITION,
    errors.TooLarge: RefusalReason.TOO_LARGE,
    errors.RangeInvalid: RefusalReason.RANGE,
    errors.TooMany: RefusalReason.RATE_LIMIT,
    RemoteBusy: RefusalReason.UPSTREAM,
    UploadsTooMany: RefusalReason.QUOTA,
    errors.Unavailable: RefusalReason.UNAVAILABLE,
    BodyStalled: RefusalReason.STALLED,
    ClockBehind: RefusalReason.CLOCK,
    ClockStepped: RefusalReason.CLOCK,
    LedgerFrozen: RefusalReason.LEDGER,
    LedgerInDoubt: RefusalReason.LEDGER,
    LedgerMissing: RefusalReason.LEDGER,
    RemoteMismatch: RefusalReason.UPSTREAM,
    RemoteUnavailable: RefusalReason.UPSTREAM,
    UpstreamFailed: RefusalReason.UPSTREAM,
    errors.Full: RefusalReason.DISK_FULL,
}
"""The reason of each kind, and of the classes whose reason is another one."""


def reason_of(error: type[BoltsealError]) -> RefusalReason:
    """Return the reason of a class: its own row, else that of its nearest parent class."""
    return next(REASONS[cls] for cls in error.__mro__ if cls in REASONS)
