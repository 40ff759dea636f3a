"""What the HTTP side may be told: values only, built from the configuration by `app`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from boltseal.policy.name_resolution import NO_UPSTREAMS, NameResolver
from boltseal.server.api.request import DEFAULT_LIMITS, BodyLimits

MIB: Final = 1024 * 1024


@dataclass(frozen=True, slots=True)
class ApiSettings:
    """`public_url`: scheme and host that clients reach us by, for absolute locations; None: relative ones.

    `max_manifest_bytes`: the largest manifest taken in. `anonymous_pull`: whether everybody may read everything,
    so that caches between us and a client may keep what never changes. `read_only`: why nothing may be changed now, as
    the sentence that refuses it; None where things may be. `body`: how slowly a body may come. `leads`: where names lead.
    """

    public_url: str | None = None
    max_manifest_bytes: int = 4 * MIB
    anonymous_pull: bool = True
    read_only: Callable[[], str | None] = lambda: None
    body: BodyLimits = DEFAULT_LIMITS
    leads: NameResolver = NO_UPSTREAMS
