"""When a process takes the database for gone, so that it does not wait for it in each request."""

from __future__ import annotations

from typing import Final

from boltseal.server.storage.coordination.protocol import Generation

ASK_S: Final = 2.0
"""How long a request waits for the database while there is an answer that may be sent without it."""
GIVE_UP_S: Final = 4.0
"""How long a request waits where there is none, while the generation is not confirmed: longer than it takes to find out that the database is gone."""


def is_outage(generation: Generation) -> bool:
    """Return whether the database was asked a moment ago, and failed."""
    stale = generation.stale()
    return stale is not None and stale.failed


def may_serve_stale(generation: Generation) -> bool:
    """Return whether the generation is not confirmed, and sealed content may be sent from caches nevertheless."""
    stale = generation.stale()
    return stale is not None and stale.left_s > 0
