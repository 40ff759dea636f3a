"""The `rebuild.requested` entry of an image. Pure.

base.name, base.digest   the base, and what its tag means now
base.was                 what the image was built on
outcome, told            done or failed, and how it ended: what a command printed is not written down for others
"""

from __future__ import annotations

from boltseal.errors import quote
from boltseal.oci.digest import Digest
from boltseal.oci.reference import Reference


def rebuild_entry_extra(base: Reference, built_on: Digest, now: Digest, outcome: str, told: str) -> dict[str, str]:
    """What an entry says."""
    return {
        "base.name": str(base),
        "base.digest": str(now),
        "base.was": str(built_on),
        "outcome": outcome,
        "told": quote(told, 300)[1:-1],
    }
