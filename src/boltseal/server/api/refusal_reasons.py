"""Which error class has which reason (`policy.refusals`): for `detail` in responses, and `boltseal_refusals_total{reason}`.

The words are an API: programs, dashboards and alert rules name them. So they are in one table and do not follow the names of
error classes. A class without a row has the reason of its nearest parent class; every kind of `boltseal.errors` has a row.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from boltseal import errors
from boltseal.client.errors import RemoteBusy, RemoteDenied, RemoteMismatch, RemoteUnavailable
from boltseal.errors import BoltsealError
from boltseal.oci.digest import DigestInvalid
from boltseal.policy.name_resolution import MirrorOnly
from boltseal.policy.quotas import QuotaExceeded
from boltseal.policy.refusals import RefusalDetail, RefusalReason, Refused
from boltseal.server.api.errors import BodyStalled, HostRefused, MethodNotAllowed, RegistryReadOnly, RouteUnknown
from boltseal.server.auth.caller import LoginNeeded
from boltseal.server.mirror.errors import UpstreamFailed
from boltseal.server.mirror.push_parts import PartMissing
from boltseal.server.mirror.push_proxy import UpstreamRefused
from boltseal.server.mirror.upstream_tags import TagHeldBack
from boltseal.server.registry.ledger_in_doubt import LedgerInDoubt
from boltseal.server.registry.quota_checks import UploadsTooMany
from boltseal.server.registry.sequencer import ClockBehind, ClockStepped, LedgerFrozen, LedgerMissing
from boltseal.server.registry.tag_refusals import (
    NotExtended,
    ReferencesMissing,
    TagSettling,
    TagTombstoned,
    TagUnsigned,
)

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
    UpstreamRefused: RefusalReason.UPSTREAM,
    NotExtended: RefusalReason.NOT_EXTENDED,
    TagTombstoned: RefusalReason.TOMBSTONE,
    TagSettling: RefusalReason.SETTLING,
    TagUnsigned: RefusalReason.UNSIGNED,
    errors.SealedDelete: RefusalReason.PROTECTED,
    errors.Precondition: RefusalReason.PRECONDITION,
    errors.Mismatch: RefusalReason.PRECONDITION,
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


def detail_of(error: BoltsealError) -> RefusalDetail:
    """Return what an error response says to programs: the facts that the error has, or only its reason."""
    return error.detail if isinstance(error, Refused) else RefusalDetail(reason_of(type(error)))
