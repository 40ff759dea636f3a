"""The upstreams of this process, each with its terms and a client of its own, so that no login reaches another host."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from boltseal.client.registry_client import RegistryClient
from boltseal.client.transport import Transport
from boltseal.oci.reference import Repository
from boltseal.policy.name_resolution import MIRROR_ACTOR
from boltseal.policy.upstreams import UpstreamTerms
from boltseal.server.auth.actor import Actor


@dataclass(frozen=True, slots=True)
class Upstream:
    """A registry that is mirrored here. `client` uses its login only.

    `pushing` is a client with longer timeouts for pushes, over the transport `patient`: upstream may take minutes to
    store a large blob.
    """

    terms: UpstreamTerms
    transport: Transport
    client: RegistryClient
    patient: Transport
    pushing: RegistryClient

    @classmethod
    def over(cls, terms: UpstreamTerms, transport: Transport, patient: Transport | None = None) -> Upstream:
        """Return an upstream that is read over `transport`, and pushed to over `patient`, by default the same."""
        pushing = patient or transport
        return cls(
            terms,
            transport,
            RegistryClient(transport, terms.authority),
            pushing,
            RegistryClient(pushing, terms.authority),
        )

    @property
    def actor(self) -> Actor:
        """The actor of everything that the mirror stores from this upstream. No user can have this name."""
        return Actor(f"{MIRROR_ACTOR}{self.terms.name}")

    def remote(self, repository: Repository) -> Repository:
        """Return the upstream name of a local repository: `library/node` for `docker.io/library/node`."""
        return Repository(repository.removeprefix(f"{self.terms.name}/"))


class Upstreams:
    """All upstreams by name. Closed with `aclose`."""

    def __init__(self, upstreams: Iterable[Upstream]) -> None:
        self.by_name: Mapping[str, Upstream] = {each.terms.name: each for each in upstreams}

    async def aclose(self) -> None:
        """Close every connection."""
        for each in self.by_name.values():
            await each.transport.aclose()
            if each.patient is not each.transport:
                await each.patient.aclose()
