"""The newest event of a tag in the tag-history extension of the distribution spec (PR #606, experimental)."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Final, NamedTuple

from boltseal.errors import BoltsealError
from boltseal.oci.digest import Digest
from boltseal.oci.manifest import parse_manifest
from boltseal.oci.mediatype import OCI_INDEX

_TIMESTAMP: Final = "org.opencontainers.distribution.tag.timestamp"
_EVENT: Final = "org.opencontainers.distribution.tag.event"
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


class LastEvent(NamedTuple):
    """The last event of a tag by its registry's own account: assigned to a manifest (`digest`) or deleted (None)."""

    time_us: int
    digest: Digest | None


def parse_last_event(raw: bytes) -> LastEvent | None:
    """Return the first event of a history, which has the newest event first; None if it is empty or malformed."""
    try:
        (event,) = parse_manifest(raw, OCI_INDEX).manifests[:1]
        time = datetime.fromisoformat(event.annotations[_TIMESTAMP].upper())
    except (BoltsealError, ValueError, KeyError):
        return None
    if time.tzinfo is None:
        return None
    created = event.annotations.get(_EVENT) == "created"
    return LastEvent((time - _EPOCH) // timedelta(microseconds=1), event.digest if created else None)
