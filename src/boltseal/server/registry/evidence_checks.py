"""Judges the evidence that rules require for tags, before the transaction that gives them.

What counts as evidence of an image is in its own repository:

    sha256-<hex>.sig, sha256-<hex>.att      the manifests that these tags resolve to (cosign)
    referrers                               manifests whose subject is the image (bundles; cosign with OCI 1.1; Notation)

Of these, layers of known formats are read and verified (`boltseal.signatures`). An attacker who may push can add any number
of manifests, so a check reads at most MAX_MANIFESTS manifests, MAX_LAYERS layers and MAX_BYTES bytes; the signature tags
come first, then referrers whose artifact type is that of a signature. Evidence over these limits counts as missing: it can
delay a tag, and never gives one. CHECKS_AT_ONCE checks of one process read at the same time: each has its evidence in memory.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from typing import Final

from boltseal.errors import NotFound
from boltseal.keyless.verifier import KeylessVerifier
from boltseal.oci.digest import Digest
from boltseal.oci.manifest import parse_manifest
from boltseal.oci.reference import Repository, Tag
from boltseal.policy.requirements import StoredEvidence, judge_evidence, trusted_roots
from boltseal.policy.rule_decision import decide
from boltseal.policy.rules import Rule, RuleSet
from boltseal.policy.seal import Identity
from boltseal.server.registry.models import JudgedEvidence, ManifestAnswer, ReferrerRow
from boltseal.server.registry.pulls import BlobUnknown, Pulls
from boltseal.signatures.certificate_chains import Authorities
from boltseal.signatures.evidence import (
    MAX_BYTES,
    MAX_LAYER_BYTES,
    MAX_LAYERS,
    MAX_MANIFESTS,
    SIGNATURE_TYPES,
    EvidenceLayer,
)
from boltseal.signatures.signed_image import SignedImage
from boltseal.signatures.simple_signing import SIGNATURE_ANNOTATION
from boltseal.signatures.trusted_root import TrustedRoot

CHECKS_AT_ONCE: Final = 4
MAX_LISTED: Final = 1000
"""How many referrers are listed to find those of signatures, as long as their manifests have at most MAX_BYTES."""

_SIGNATURE_TAGS: Final = (".sig", ".att")


class EvidenceChecks:
    """Judges evidence by one set of rules.

    `pulls`: reads the repository; without it there is no evidence. `keyless`: verifies the signatures of identities.
    """

    def __init__(self, rules: RuleSet, pulls: Pulls | None, keyless: KeylessVerifier | None = None) -> None:
        self._rules = rules
        self._pulls = pulls
        self._keyless = keyless or KeylessVerifier()
        self._places = asyncio.Semaphore(CHECKS_AT_ONCE)
        self._keyless_places = asyncio.Semaphore(CHECKS_AT_ONCE)  # of their own: the process of a check may take long

    async def judged(self, repository: Repository, image: Identity, tags: Sequence[Tag]) -> JudgedEvidence | None:
        """Return the judgement on an image for the rules of all tags; None if none of these requires anything.

        Raises: KeylessUnavailable: a keyless signature could not be verified.
        """
        decided = {rule.number: rule for tag in tags if (rule := decide(self._rules, repository, tag)).require}
        if not decided:
            return None
        roots = dict.fromkeys(root for rule in decided.values() for root in trusted_roots(rule.require))
        async with self._keyless_places if roots else self._places:
            return await self._judged(repository, image, decided, roots)

    async def _judged(
        self,
        repository: Repository,
        image: Identity,
        decided: Mapping[int, Rule],
        roots: Iterable[TrustedRoot | Authorities],
    ) -> JudgedEvidence:
        digest = image.canonical
        evidence = [] if self._pulls is None else await _evidence_of(self._pulls, repository, digest)
        signed = SignedImage(repository, digest, image.media_type)
        now_us = time.time_ns() // 1000
        keyless = await self._keyless.results(roots, evidence)
        verdicts = {
            number: await asyncio.to_thread(judge_evidence, rule.require, signed, evidence, now_us, keyless)
            for number, rule in decided.items()
        }
        return JudgedEvidence(self._rules, digest, verdicts)


async def _evidence_of(pulls: Pulls, repository: Repository, digest: Digest) -> list[StoredEvidence]:
    evidence: list[StoredEvidence] = []
    count, left_bytes = 0, MAX_BYTES
    async for answer in _manifests(pulls, repository, digest):
        layers: list[EvidenceLayer] = []
        for layer in parse_manifest(answer.raw, answer.media_type).layers:
            most = min(MAX_LAYER_BYTES.get(layer.media_type, 0), left_bytes)
            if layer.size > most or count == MAX_LAYERS:
                continue
            try:
                raw = await _blob(pulls, repository, layer.digest, most)
            except BlobUnknown:
                continue
            layers.append(EvidenceLayer(layer.media_type, raw, layer.annotations.get(SIGNATURE_ANNOTATION, "")))
            count, left_bytes = count + 1, left_bytes - len(raw)
        if layers:
            evidence.append(StoredEvidence(answer.digest, tuple(layers)))
    return evidence


async def _manifests(pulls: Pulls, repository: Repository, digest: Digest) -> AsyncIterator[ManifestAnswer]:
    """Yield the manifests that can be evidence of an image, each once: signature tags first, then referrers by digest."""
    seen: set[Digest] = set()
    for suffix in _SIGNATURE_TAGS:
        try:
            answer = await pulls.manifest(repository, Tag(f"{digest.algorithm}-{digest.hex}{suffix}"))
        except NotFound:
            continue
        seen.add(answer.digest)
        yield answer
    for row in await _referrers(pulls, repository, digest):
        found = None if row.digest in seen else await pulls.stored_manifest(repository, row.digest)
        if found is not None:
            yield found


async def _referrers(pulls: Pulls, repository: Repository, digest: Digest) -> list[ReferrerRow]:
    """Return the referrers that are read: those of signatures first, by digest."""
    rows: list[ReferrerRow] = []
    after, left_bytes = "", MAX_BYTES
    while len(rows) < MAX_LISTED and left_bytes > 0:
        page = await pulls.referrers(repository, digest, None, after=after, n=MAX_LISTED - len(rows))
        rows += page.rows
        if not page.more or not page.rows:
            break
        after = str(page.rows[-1].digest)
        left_bytes -= sum(row.size for row in page.rows)
    return sorted(rows, key=lambda row: row.artifact_type not in SIGNATURE_TYPES)[:MAX_MANIFESTS]


async def _blob(pulls: Pulls, repository: Repository, digest: Digest, most: int) -> bytes:
    stored = await pulls.blob(repository, digest)
    pieces = [piece async for piece in pulls.read_blob(digest, 0, min(stored.size, most))]
    return b"".join(pieces)
