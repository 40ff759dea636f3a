"""Decides about the images of a cluster's objects: a tag becomes the digest that the registry's ledger proves.

The steps for one image:

1. It is a valid reference.
2. One that matches `unchecked` is admitted as it is.
3. Its registry must be one whose ledger key was given. No other registry is asked anything, so an object can't send the webhook anywhere.
4. A digest of such a registry is admitted as it is: its bytes can't change. So a second review changes nothing.
5. A tag is resolved as `digest`, `lock` and `check` do it, and the ledger must prove the answer (`client.tag_proofs`). A settling tag
   is refused: it may still move.
6. If witnesses are required, the receipt of the entry must have the cosignature of each.

Fail closed: what contradicts the ledger is refused. So is what can't be checked now, unless the operator chose `fail_open`.

What was proven is remembered: that of a sealed tag for an hour, since it can't change; that of another for `remembered_s`. Requests at
once for one image are one request to the registry.

A registry is asked about one image at a time, and namespaces get their turn one after another: a user who names hundreds of tags delays
the objects of that namespace. An image that no review waits for any longer is not asked about. What had no turn, although the registry
answers about others, is refused also with `fail_open`: otherwise such a user could get an image admitted without a proof.
"""

from __future__ import annotations

import asyncio
import math
from collections import Counter, OrderedDict, defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Final

from boltseal.client.errors import RemoteMismatch
from boltseal.client.ledger_client import LedgerClient
from boltseal.client.ledger_trust import give_key
from boltseal.client.registry_client import RegistryClient
from boltseal.client.tag_proofs import TagProof
from boltseal.client.transport import Transport
from boltseal.commands.fair_lock import FairLock
from boltseal.commands.ledger_trust import ledger_name
from boltseal.commands.registry_access import RegistryOptions
from boltseal.deploy.kube.admission_review import Verdict, VerdictKind
from boltseal.errors import BoltsealError, Full, Invalid, Mismatch, NotFound, TooMany, Unavailable, quote
from boltseal.ledger.note import KeyInvalid, VerifierKey
from boltseal.ledger.proof import open_receipt
from boltseal.ledger.tag_proof import ProvenState
from boltseal.oci.reference import Reference, Tag
from boltseal.policy.globs import Glob, parse_repository_glob

SEALED_REMEMBERED_S: Final = 3600
MAX_REMEMBERED: Final = 10_000
MAX_WAITING: Final = 10_000
MAX_WAITING_OF_ONE: Final = 1_000
"""How many images of one namespace wait for their turn: twice as many as one object may name."""
MAX_TRUST_BYTES: Final = 1024 * 1024
_BUSY: Final = Verdict(VerdictKind.REFUSE, "too many other images are being resolved now; try again")
_CANNOT_CHECK: Final = (Unavailable, TooMany, Full)
"""Kinds of error that may pass. Contradictions of the ledger (`Mismatch`) are none of them."""


class CosignatureMissing(Unavailable):
    """The newest receipt of a tag lacks the cosignature of a required witness. It may come a moment later."""


@dataclass(frozen=True, slots=True)
class ImageGlob:
    """Repositories of one registry."""

    registry: str
    repositories: Glob

    @classmethod
    def parse(cls, text: str) -> ImageGlob:
        """Parse `registry.k8s.io/**`. Raises: Invalid: it names no registry, or the rest is no glob."""
        registry, _, rest = text.partition("/")
        if Reference.parse(f"{registry}/name").registry != registry or not rest:
            raise Invalid(f"{quote(text)} names no registry; expected one and a glob, such as registry.k8s.io/**")
        return cls(registry, parse_repository_glob(rest))

    def matches(self, reference: Reference) -> bool:
        """Return whether the image is of this registry and one of these repositories."""
        return reference.registry == self.registry and self.repositories.matches(reference.repository)


@dataclass(frozen=True, slots=True)
class AdmissionTerms:
    """What is admitted. `registries`: those whose ledger key was given. `unchecked`: images that are admitted as they are.

    `witnesses`: keys whose cosignatures each receipt needs. `remembered_s`: how long what a mutable tag resolved to is used again.
    """

    registries: frozenset[str]
    witnesses: tuple[VerifierKey, ...] = ()
    unchecked: tuple[ImageGlob, ...] = ()
    fail_open: bool = False
    remembered_s: float = 10.0


@dataclass(frozen=True, slots=True)
class _Remembered:
    verdict: Verdict
    until_s: float


@dataclass(slots=True)
class _Running:
    """The resolution of an image. `since_s`: when it began. `until_s`: when the last review stops waiting for it.

    `has_turn`: the registry is asked about it.
    """

    registry: str
    namespace: str
    since_s: float
    until_s: float
    has_turn: bool = False
    task: asyncio.Task[Verdict] | None = None
    """None only until it was made."""


def read_trust(raw: bytes) -> Mapping[str, VerifierKey]:
    """Parse a file of trusted ledgers: lines of a registry and a key; empty lines and those with # are ignored. Raises: Invalid."""
    found: dict[str, VerifierKey] = {}
    try:
        lines = raw.decode("utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise Invalid(f"the file of trusted ledgers is not UTF-8 at byte {error.start}") from error
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        words = line.split()
        if len(words) != 2:
            raise Invalid(f"line {number} of the trusted ledgers has {len(words)} words; expected a registry and a key")
        name = ledger_name(words[0])
        if name in found:
            raise Invalid(f"line {number} of the trusted ledgers names {name} a second time")
        try:
            found[name] = VerifierKey.parse(words[1])
        except KeyInvalid as error:
            raise Invalid(f"line {number} of the trusted ledgers: {error.message}") from error
    if not found:
        raise Invalid("the file of trusted ledgers names none; expected lines of a registry and a key")
    return found


def trust_ledgers(options: RegistryOptions, ledgers: Mapping[str, VerifierKey]) -> frozenset[str]:
    """Give the keys to the client's state, in place of others; return the registries. Raises: LedgerBroken, StateUnusable."""
    for name, key in ledgers.items():
        give_key(options.client.state, name, key, options.client.now_s(), replace=True)
    return frozenset(name.partition("/")[0] for name in ledgers)


class AdmissionImages:
    """Judges images. `clock_s`: a clock that only goes forward. Use it in one event loop."""

    def __init__(self, options: RegistryOptions, terms: AdmissionTerms, clock_s: Callable[[], float]) -> None:
        self._options = replace(options, strict=True)
        self._terms = terms
        self._clock_s = clock_s
        self._remembered: OrderedDict[str, _Remembered] = OrderedDict()
        self._running: dict[str, _Running] = {}
        self._waiting_of = Counter[str]()
        self._registry_locks = defaultdict[str, FairLock](FairLock)
        self._answered_s: dict[str, float] = {}

    async def judge_all(self, images: Iterable[str], within_s: float, namespace: str = "") -> Mapping[str, Verdict]:
        """Return a verdict for each image of an object in a namespace, within the time (seconds)."""
        until_s = self._clock_s() + within_s
        judging = {written: self._begin(written, namespace, until_s) for written in dict.fromkeys(images)}
        tasks = [each.task for each in judging.values() if isinstance(each, _Running) and each.task is not None]
        if tasks:
            await asyncio.wait(tasks, timeout=within_s)

        def verdict(judged: Verdict | _Running) -> Verdict:
            if isinstance(judged, Verdict):
                return judged
            if judged.task is not None and judged.task.done():
                return judged.task.result()
            return self._late(judged)

        return {written: verdict(judged) for written, judged in judging.items()}

    def _late(self, running: _Running) -> Verdict:
        """Return the verdict on an image that was not resolved in time."""
        if not running.has_turn and self._answered_s.get(running.registry, -math.inf) >= running.since_s:
            return _BUSY
        return self._unknown(f"{running.registry} did not answer in time")

    def judge_final(self, written: str) -> Verdict:
        """Decide about an image after all changes of the object: only what needs no further change is admitted."""
        decided = self._without_asking(written)
        if decided is not None:
            return decided
        reason = "it is a tag, and not a digest: another webhook changed it, or the mutating webhook of boltseal was not asked"
        return Verdict(VerdictKind.UNCHECKED if self._terms.fail_open else VerdictKind.REFUSE, reason)

    def _begin(self, written: str, namespace: str, until_s: float) -> Verdict | _Running:
        decided = self._without_asking(written) or self._recalled(written)
        if decided is not None:
            return decided
        running = self._running.get(written)
        if running is not None:
            running.until_s = max(running.until_s, until_s)
            return running
        if len(self._running) >= MAX_WAITING or self._waiting_of[namespace] >= MAX_WAITING_OF_ONE:
            return _BUSY
        reference = Reference.parse(written).complete
        running = self._running[written] = _Running(reference.registry, namespace, self._clock_s(), until_s)
        self._waiting_of[namespace] += 1
        running.task = asyncio.create_task(self._judge(written, reference, running))
        running.task.add_done_callback(lambda _: self._end(written, namespace))
        return running

    def _end(self, written: str, namespace: str) -> None:
        del self._running[written]
        self._waiting_of[namespace] -= 1
        if not self._waiting_of[namespace]:
            del self._waiting_of[namespace]

    def _without_asking(self, written: str) -> Verdict | None:
        """Steps 1 to 4. Return None for a tag of a registry whose ledger is trusted."""
        try:
            reference = Reference.parse(written)  # 1
        except Invalid as error:
            return Verdict(VerdictKind.REFUSE, error.message)
        if any(glob.matches(reference) for glob in self._terms.unchecked):  # 2
            return Verdict(VerdictKind.KEEP, "it is admitted unchecked")
        if reference.registry not in self._terms.registries:  # 3
            return Verdict(
                VerdictKind.REFUSE,
                f"no ledger key is trusted for {reference.registry}, so nothing proves the image; pull it through a trusted registry, "
                "or ask the operator of the webhook",
            )
        if reference.digest is not None:  # 4
            return Verdict(VerdictKind.KEEP, "it is a digest")
        return None

    def _recalled(self, written: str) -> Verdict | None:
        found = self._remembered.get(written)
        if found is None:
            return None
        if found.until_s <= self._clock_s():
            del self._remembered[written]
            return None
        self._remembered.move_to_end(written)
        return found.verdict

    async def _judge(self, written: str, reference: Reference, running: _Running) -> Verdict:
        try:
            # One at a time for each registry: each run follows and stores the state of its ledger.
            async with self._registry_locks[reference.registry].taken(running.namespace):
                if running.until_s <= self._clock_s():
                    return self._late(running)
                running.has_turn = True
                proof = await self._proof(reference, reference.tag or Tag("latest"))
        except RemoteMismatch as error:  # an answer that is wrong, and not one that is missing
            return Verdict(VerdictKind.REFUSE, error.message)
        except _CANNOT_CHECK as error:
            return self._unknown(error.message)
        except BoltsealError as error:
            self._answered_s[reference.registry] = self._clock_s()
            return Verdict(VerdictKind.REFUSE, error.message)
        self._answered_s[reference.registry] = self._clock_s()
        proven = proof.proven
        verdict = Verdict(
            VerdictKind.PIN, f"entry {proven.entry} of the ledger {proof.ledger}", f"{written}@{proven.digest}"
        )
        kept_s = SEALED_REMEMBERED_S if proven.state is ProvenState.SEALED else self._terms.remembered_s
        self._remembered[written] = _Remembered(verdict, self._clock_s() + kept_s)
        if len(self._remembered) > MAX_REMEMBERED:
            self._remembered.popitem(last=False)
        return verdict

    async def _proof(self, reference: Reference, tag: Tag) -> TagProof:
        """Steps 5 and 6."""
        proofs: list[TagProof] = []
        client = replace(self._options.client, proven=proofs.append)
        transport = replace(self._options, client=client).transport([reference.registry])
        try:
            resolved = await RegistryClient(transport, reference.registry).resolve(reference.repository, tag)
            proof = next((each for each in proofs if each.proven.digest == str(resolved.digest)), None)
            if proof is None:
                raise Mismatch(f"the ledger of {reference.registry} proves nothing about this tag")
            if resolved.settles:
                raise NotFound(f"the tag is settling: it is not sealed before {resolved.settles}")
            if self._terms.witnesses:
                await self._check_cosigned(transport, reference, proof)
            return proof
        finally:
            await transport.aclose()

    async def _check_cosigned(self, transport: Transport, reference: Reference, proof: TagProof) -> None:
        """Step 6. Raises: CosignatureMissing; Mismatch: the receipt is of another entry, or invalid."""
        name = self._log_of(reference.registry, proof.ledger)
        known = self._options.client.state.known(name)
        if known is None or known.trusted.key is None:
            raise Mismatch(f"no key is trusted for the ledger {quote(proof.ledger)}")
        raw = await LedgerClient(transport, name).receipt(proof.proven.entry, reference.repository)
        try:
            receipt = open_receipt(raw, known.trusted.key, self._terms.witnesses)
        except Invalid as error:
            raise Mismatch(f"the receipt of entry {proof.proven.entry} is invalid: {error.message}") from error
        entry = receipt.entry
        if (receipt.index, entry.repository, entry.digest) != (
            proof.proven.entry,
            reference.repository,
            proof.proven.digest,
        ):
            raise Mismatch(f"the receipt of entry {proof.proven.entry} is of another entry")
        cosigned = {one.witness for one in receipt.signed.cosignatures}
        missing = sorted({key.name for key in self._terms.witnesses} - cosigned)
        if missing:
            raise CosignatureMissing(f"the receipt has no cosignature of {', '.join(missing)} yet")

    def _log_of(self, registry: str, ledger: str) -> str:
        """Return the name of the log that proved a tag: the registry's ledger, or its observations of an upstream."""
        known = self._options.client.state.known(registry)
        return registry if known is not None and known.trusted.origin == ledger else f"{registry}/observations"

    def _unknown(self, reason: str) -> Verdict:
        return Verdict(
            VerdictKind.UNCHECKED if self._terms.fail_open else VerdictKind.REFUSE, f"it can't be checked: {reason}"
        )
