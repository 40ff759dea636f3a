"""Resolve a tag to its digest by one HEAD, at any registry."""

from __future__ import annotations

from dataclasses import dataclass

from boltseal.client.pull_limit import PullLimit
from boltseal.client.registry_client import RegistryClient, Resolved
from boltseal.client.transport import Transport
from boltseal.commands.registry_access import RegistryOptions, ask_followed, tag_or_digest
from boltseal.oci.reference import Reference


@dataclass(frozen=True, slots=True)
class DigestResult:
    """A resolved reference. `pull_limit`: from the registry's answer, None if it has none."""

    reference: Reference
    resolved: Resolved
    pull_limit: PullLimit | None


def resolve_digest(reference: Reference, options: RegistryOptions) -> DigestResult:
    """Resolve a reference at its registry. Raises: RemoteNotFound, LedgerBroken and other errors of the registry client."""

    async def resolve(transport: Transport) -> DigestResult:
        client = RegistryClient(transport, reference.registry)
        resolved = await client.resolve_explained(reference.repository, tag_or_digest(reference))
        return DigestResult(reference, resolved, transport.quotas.get(reference.registry))

    return ask_followed(options, [reference.registry], resolve)
