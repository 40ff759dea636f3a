"""Asks an upstream for the evidence that a rule requires for one of its tags, and judges it.

The evidence is what the upstream has: its signature tags and referrers, read within the limits of `signatures.evidence`. It
counts as pulls, where an upstream counts those, so it is read only for a digest that is not served yet, once a window. Doubt
refuses: evidence that can't be read is an error, and the tag keeps its recorded state.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Final

from boltseal.client.errors import RemoteUnavailable
from boltseal.keyless.verifier import KeylessVerifier
from boltseal.policy.requirements import Requirement, judge_evidence, trusted_roots
from boltseal.server.mirror.upstream_limits import UpstreamLimits
from boltseal.server.mirror.upstreams import Upstream
from boltseal.signatures.signed_image import SignedImage
from boltseal.transfer.evidence import read_evidence
from boltseal.transfer.remote import RepositoryLocation

TIMEOUT_S: Final = 30.0
MAX_TEXT: Final = 2000
"""Characters of what is missing: an entry of the log has a bounded size, and a rule may have 256 alternatives."""


async def missing_evidence(
    limits: UpstreamLimits,
    upstream: Upstream,
    image: SignedImage,
    requirements: Sequence[Requirement],
    keyless: KeylessVerifier,
) -> str:
    """Return what an image of an upstream lacks, as text; "" if it meets all requirements.

    `image`: under its name upstream, which signatures name. Raises: RemoteUnavailable, RemoteBusy and other errors of the
    upstream; KeylessUnavailable.
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
    verdict = await asyncio.to_thread(judge_evidence, requirements, image, evidence, time.time_ns() // 1000, results)
    return " and ".join(map(str, verdict.missing))[:MAX_TEXT]
