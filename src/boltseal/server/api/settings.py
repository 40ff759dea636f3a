"""The settings of the HTTP API, built by `app` from the configuration."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from boltseal.errors import Unavailable
from boltseal.policy.name_resolution import NO_UPSTREAMS, NameResolver
from boltseal.server.api.request import DEFAULT_LIMITS, BodyLimits

MIB: Final = 1024 * 1024


@dataclass(frozen=True, slots=True)
class ApiSettings:
    """The settings of the HTTP API.

    `public_url`: scheme and host for absolute locations; None: relative ones. `max_manifest_bytes`: the largest
    accepted manifest. `anonymous_pull`: everyone may pull everything, so that shared caches may store what never
    changes. `read_only`: the error message of writes to a registry whose settings allow none, which is 405; None: they are
    allowed. `unavailable`: returns the error of all writes now, for a condition that passes or that an operator can mend, or
    None; it is 503 with `Retry-After`. `body`: how slowly a body may arrive. `name_resolver`: maps names to upstreams.
    """

    public_url: str | None = None
    max_manifest_bytes: int = 4 * MIB
    anonymous_pull: bool = True
    read_only: str | None = None
    unavailable: Callable[[], Unavailable | None] = lambda: None
    body: BodyLimits = DEFAULT_LIMITS
    name_resolver: NameResolver = NO_UPSTREAMS
