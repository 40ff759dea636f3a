"""Asks an upstream for the evidence that an `[[upstream.rule]]` requires for one of its tags, and judges it.

A tag that the upstream gave and a tag that is pushed through this registry need the same (`upstream_tags`, `push_proxy`).

The evidence is what the upstream has: its signature tags and referrers, read within the limits of `signatures.evidence`. It
counts as pulls, where an upstream counts those, so it is read only for a digest that is not served yet, once a window. Doubt
refuses: evidence that can't be read is an error, and the tag keeps its recorded state.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from boltseal.client.errors import RemoteUnavailable
from boltseal.keyless.verifier import KeylessVerifier
from boltseal.oci.reference import Repository
from boltseal.policy.requirements import MissingEvidence, Requirement, judge_evidence, trusted_roots
from boltseal.server.mirror.upstream_limits import UpstreamLimits
from boltseal.server.mirror.upstreams import Upstream
from boltseal.signatures.signed_image import SignedImage
from boltseal.transfer.evidence import read_evidence
from boltseal.transfer.remote import RepositoryLocation

TIMEOUT_S: Final = 30.0


async def missing_evidence(
    limits: UpstreamLimits,
    upstream: Upstream,
    image: SignedImage,
    requirements: Sequence[Requirement],
    keyless: KeylessVerifier,
    *,
    also_named: Repository | None = None,
) -> tuple[MissingEvidence, ...]:
    """Return what an image of an upstream lacks; nothing if it meets all requirements.

    `image`: under its name upstream, which signatures name. `also_named`: another name that all of them may have instead.

    Raises: RemoteUnavailable, RemoteBusy and other errors of the upstream; KeylessUnavailable.
    """
    source = RepositoryLocation(upstream.transport, upstream.terms.authority, image.repository)
    async with limits.asking(upstream, pull=True):
        try:
            async with asyncio.timeout(TIMEOUT_S):
                evidence = await read_evidence(source, image.digest)
        except TimeoutError as error:
            raise RemoteUnavailable(
                f"{upstream.terms.name} did not send the signatures of {image.repository}@{image.digest.short} within {TIMEOUT_S:g} seconds"
            ) from error
    results = await keyless.results(trusted_roots(requirements), evidence)
    missing: tuple[MissingEvidence, ...] = ()
    for name in (image.repository,) if also_named is None else (also_named, image.repository):
        named, now_us = replace(image, repository=name), time.time_ns() // 1000
        missing = (await asyncio.to_thread(judge_evidence, requirements, named, evidence, now_us, results)).missing
        if not missing:
            break
    return missing
