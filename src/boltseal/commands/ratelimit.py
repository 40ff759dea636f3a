"""Ask registries for the remaining pulls of their pull limits, by one HEAD request each, which does not count as a pull."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from boltseal.client.errors import RemoteBusy
from boltseal.client.pull_limit import PullLimit
from boltseal.client.registry_request import RegistryRequest
from boltseal.client.transport import Transport
from boltseal.commands.registry_access import RegistryOptions, ask
from boltseal.errors import BoltsealError, Invalid, quote
from boltseal.oci.reference import HUB, Reference

HUB_PROBE: Final = "ratelimitpreview/test"
"""The repository that Docker Hub provides for this question."""


@dataclass(frozen=True, slots=True)
class UpstreamLimit:
    """An upstream's pull limit at `time_us`; `limit` None: it reported none. `down_us`: since when it does not answer.

    `paused_until_us`: it gets no request until then, for `pause_reason`; None: it may get one.
    """

    registry: str
    reserve: int
    limit: PullLimit | None
    time_us: int | None
    down_us: int | None
    down_reason: str
    paused_until_us: int | None
    pause_reason: str


def pull_limits(registries: Sequence[str], options: RegistryOptions) -> dict[str, PullLimit | BoltsealError | None]:
    """Return the pull limit of each registry; None for one whose answer has none, and the error of one that gave no answer.

    Raises: Invalid: a registry has no valid name.
    """

    for name in registries:
        if Reference.parse(f"{name}/library/name").registry != name:
            raise Invalid(
                f"{quote(name)} is not a registry; expected a host, optionally with a port, such as docker.io"
            )

    async def run(transport: Transport) -> dict[str, PullLimit | BoltsealError | None]:
        found: dict[str, PullLimit | BoltsealError | None] = {}
        for name in dict.fromkeys(registries):
            if name == HUB:
                path, scopes = f"/v2/{HUB_PROBE}/manifests/latest", frozenset({f"repository:{HUB_PROBE}:pull"})
            else:
                path, scopes = "/v2/", frozenset[str]()
            try:
                await transport.request(
                    RegistryRequest(name, "HEAD", path, "its pull limit", scopes, ok=frozenset({200, 401, 404}))
                )
            except Invalid:
                raise
            except BoltsealError as error:
                of_pulls = isinstance(error, RemoteBusy) and name in transport.quotas  # else a limit of requests
                if not of_pulls:
                    found[name] = error
                    continue
            found[name] = transport.quotas.get(name)
        return found

    return ask(options, registries, run)
