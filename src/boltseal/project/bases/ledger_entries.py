"""The `rebuild.requested` ledger entry of an image. Pure.

base.name, base.digest   the base, and what its tag resolves to now
base.was                 the base that the image was built on
outcome, told            done or failed, and how it ended; a command's output is not published
"""

from __future__ import annotations

from boltseal.errors import quote
from boltseal.oci.digest import Digest
from boltseal.oci.reference import Reference


def rebuild_entry_extra(base: Reference, built_on: Digest, now: Digest, outcome: str, summary: str) -> dict[str, str]:
    """Return the entry's `extra`."""
    return {
        "base.name": str(base),
        "base.digest": str(now),
        "base.was": str(built_on),
        "outcome": outcome,
        "told": quote(summary, 300)[1:-1],
    }
