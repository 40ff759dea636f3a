"""Proves what tags of trusted registries resolve to, by the signed ledger. The rules are in `ledger.tag_proof`.

A registry is trusted if its ledger's key was given (`boltseal ledger trust`), or if the project's lock file names it. A
tag of any other registry is not proven. The steps for one tag:

1. Follow the registry's ledger, once in a run (`client.ledger_trust`).
2. Ask the registry what the tag resolves to.
3. Read the entries of the tag with their proofs: with all announced tags of the registry, in one request.
4. Compare. On a contradiction ask again a few times, with the newest checkpoint: the tag may have moved between the
   requests, or its entry may not be signed yet.
5. A tag of a mirror's upstream is not in the mirror's ledger. It is proven by the log of observations, whose key must be
   given as well. What was observed never lifts a seal that the mirror's own ledger shows.
6. For a tag that is not sealed, read the entries after the shown one, if it is in the last bundle and the login may read
   that: then no newer entry about the tag is hidden.

A contradiction that remains is saved as evidence and raised as LedgerBroken. Anything that can't be read, such as a
missing route, is TagUnproven: nothing is used.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, NamedTuple

from boltseal.client.errors import RemoteNotFound
from boltseal.client.ledger_client import LedgerClient
from boltseal.client.ledger_trust import LedgerCheck, LedgerUnchecked
from boltseal.client.state import ClientState, StateUnusable
from boltseal.client.tag_prover import Answer
from boltseal.client.transport import Transport
from boltseal.errors import BoltsealError
from boltseal.ledger.entry import format_time
from boltseal.ledger.follow import Fault, LedgerBroken, TrustedCheckpoint
from boltseal.ledger.merkle import leaf_hash
from boltseal.ledger.note import VerifierKey
from boltseal.ledger.tag_proof import Freshness, ProvenTag, ShownEntry, TagAnswer, mentions, prove_tag
from boltseal.ledger.tiles import WIDTH, edge, grow
from boltseal.oci.digest import Digest
from boltseal.oci.reference import Reference, Repository, Tag

PAUSES_S: Final = (0.1, 0.2, 0.4, 0.8, 1.6)
MAX_TAGS: Final = 500
MAX_REPOSITORIES: Final = 50
"""How many repositories one request may name: it needs a right on each, in one token."""
Follow = Callable[[str, VerifierKey | None], Awaitable[LedgerCheck]]
Name = tuple[Repository, Tag]


class TagUnproven(LedgerUnchecked):
    """The ledger of a registry is trusted, and what a tag resolves to could not be proven by it. Nothing is used."""


@dataclass(frozen=True, slots=True)
class TagProof:
    """The proof of one tag. `ledger`: the origin of the log that proves it."""

    reference: Reference
    ledger: str
    proven: ProvenTag

    def as_json(self) -> Mapping[str, Any]:
        """Return the proof as one object of `proofs` in the JSON of a command."""
        proven = self.proven
        return {
            "ref": str(self.reference),
            "state": proven.state,
            "digest": proven.digest or None,
            "ledger": self.ledger,
            "entry": proven.entry if proven.entry >= 0 else None,
            "time": format_time(proven.time_us) if proven.entry >= 0 else None,
            "size": proven.size,
            "freshness": proven.freshness,
        }


class _Shown(NamedTuple):
    """Entries of a tag, unverified, of the tree of a checked head. `entries`: None if the login may not read them."""

    head: TrustedCheckpoint
    entries: tuple[ShownEntry, ...] | None


@dataclass(slots=True)
class _Log:
    """State of one log in a run. `check`: None until followed. `newest`: the entries from an index on, None if not read."""

    check: LedgerCheck | None = None
    shown: dict[Name, _Shown] = field(default_factory=dict)
    alone: asyncio.Lock = field(default_factory=asyncio.Lock)
    newest: tuple[int, list[bytes]] | None = None
    newest_refused: bool = False


class TagProofs:
    """Proves the tags of one run. `on_proof` gets every proof. `follow`: checks a registry's ledger, also against a key that a
    lock file names. `pauses_s`: how long to wait before a contradiction that may pass is checked again.
    """

    def __init__(
        self,
        transport: Transport,
        state: ClientState,
        follow: Follow,
        on_proof: Callable[[TagProof], None] = lambda _: None,
        pauses_s: Sequence[float] = PAUSES_S,
    ) -> None:
        self._transport = transport
        self._state = state
        self._follow = follow
        self._on_proof = on_proof
        self._pauses_s = pauses_s
        self._announced: defaultdict[str, dict[Name, None]] = defaultdict(dict)
        self._logs: defaultdict[str, _Log] = defaultdict(_Log)
        self._untrusted: set[str] = set()
        self._named: dict[str, VerifierKey] = {}
        self._entries_by: dict[tuple[Reference, str], int] = {}

    def followed(self, check: LedgerCheck, named: VerifierKey | None = None) -> None:
        """Use a check of a ledger that was done in this run. `named`: the key that a lock file names for it."""
        if named is not None:
            self._named[check.registry] = named
        self._logs[check.registry].check = check
        self._untrusted.discard(check.registry)

    def announce(self, references: Iterable[Reference]) -> None:
        """Name tags that will be resolved, so that one request proves many of them."""
        for reference in references:
            if reference.tag is not None and reference.digest is None:
                self._announced[reference.registry][reference.repository, reference.tag] = None

    def entry(self, reference: Reference, digest: Digest) -> int | None:
        """Return the index of the ledger entry that proved what a tag resolves to; None if none did."""
        return self._entries_by.get((reference, str(digest)))

    async def proven(
        self, registry: str, repository: Repository, tag: Tag, ask: Callable[[], Awaitable[Answer]]
    ) -> Answer:
        """Return the registry's answer, proven; see `client.tag_prover`."""
        log = await self._trusted(registry)  # 1
        if log is None:
            return await ask()
        for pause_s in (*self._pauses_s, None):
            missing: RemoteNotFound | None = None
            answer: Answer | None = None
            try:
                answer = await ask()  # 2
            except RemoteNotFound as error:
                missing = error
            answered = TagAnswer(str(answer.digest) if answer else "", (missing and missing.bound) or "")
            try:
                await self._prove(registry, (repository, tag), answered)
            except LedgerBroken as broken:  # 4
                if pause_s is None or broken.fault is not Fault.OTHER_DIGEST:
                    raise self._with_evidence(registry, (repository, tag), answered, broken) from broken
                await asyncio.sleep(pause_s)
                await self._ask_again(registry, (repository, tag))
                continue
            if answer is None:
                raise missing or AssertionError("neither an answer nor an error")
            return answer
        raise AssertionError("the last try returns or raises")

    async def _trusted(self, name: str) -> _Log | None:
        """Return a log whose key is trusted, followed in this run; None for an untrusted one."""
        if name in self._untrusted:
            return None
        log = self._logs[name]
        async with log.alone:
            if log.check is None:
                known = self._state.known(name)
                if known is None or known.trusted.key is None:
                    self._untrusted.add(name)
                    return None
                log.check = await self._follow(name, None)
        if log.check.head is None or not (log.check.given or log.check.named is not None):
            self._untrusted.add(name)
            return None
        return log

    async def _prove(self, registry: str, name: Name, answered: TagAnswer) -> None:
        """Prove one answer by the ledger, else by the log of observations. Raises: LedgerBroken, TagUnproven."""
        try:
            proof = await self._prove_by(registry, name, answered)
            self._entries_by[proof.reference, answered.digest] = proof.proven.entry
        except LedgerBroken as broken:
            if broken.fault is Fault.SECOND_DIGEST:
                raise  # upstream does not decide about a tag that the mirror has sealed
            proof = await self._prove_observed(registry, name, answered, broken)
        self._on_proof(proof)

    async def _prove_observed(self, registry: str, name: Name, answered: TagAnswer, broken: LedgerBroken) -> TagProof:
        """Step 5. Raises: LedgerBroken: `broken`, if the tag is not of an upstream or the observations contradict it too."""
        if not answered.digest or not await self._observed(registry, name):
            raise broken
        observations = f"{registry}/observations"
        if await self._trusted(observations) is None:
            raise TagUnproven(
                f"{registry}/{name[0]}:{name[1]} is a tag of an upstream: what it resolves to is in the log of observations "
                f"of {registry}, whose key is not trusted; get the key from its operator (`boltseal ledger key "
                f"--observations`), then run `boltseal ledger trust {observations} KEY`"
            )
        return await self._prove_by(observations, name, answered)

    async def _observed(self, registry: str, name: Name) -> bool:
        """Return whether the registry shows observations of a tag. They are not verified here."""
        try:
            async for _ in LedgerClient(self._transport, f"{registry}/observations").observed(*name):
                return True
        except RemoteNotFound:
            pass
        return False

    async def _prove_by(self, name: str, tag: Name, answered: TagAnswer) -> TagProof:
        registry, _, observations = name.partition("/")
        reference = Reference(registry, *tag)
        try:
            shown = await self._entries(name, tag)  # 3
            if shown.entries is None:
                raise TagUnproven(f"this login may not read the ledger's entries of {reference}")
            found = prove_tag(*tag, answered, shown.entries, shown.head.checkpoint, observed=bool(observations))
            found = await self._fresh(name, tag, shown.head, found)  # 6
        except (LedgerBroken, TagUnproven):
            raise
        except BoltsealError as error:
            raise TagUnproven(
                f"the ledger of {name} is trusted, and can't prove what {reference} resolves to: {error.message}; "
                "nothing is used"
            ) from error
        return TagProof(reference, shown.head.checkpoint.origin, found)

    async def _entries(self, name: str, tag: Name) -> _Shown:
        """Return the shown entries of a tag. Those of the other announced tags are read with them."""
        log = self._logs[name]
        async with log.alone:
            if tag in log.shown:
                return log.shown[tag]
            if log.check is None or log.check.head is None:
                raise AssertionError(f"the ledger of {name} was not followed")
            head = log.check.head
            client = LedgerClient(self._transport, name)
            wanted = self._batch(name, tag)
            try:
                found = await client.tags(wanted, head.checkpoint.size)
            except BoltsealError:
                if len(wanted) == 1:
                    raise
                wanted = [tag]  # another tag may be the reason
                found = await client.tags(wanted, head.checkpoint.size)
            log.shown |= {one: _Shown(head, found.get(one)) for one in wanted}
            return log.shown[tag]

    def _batch(self, name: str, tag: Name) -> list[Name]:
        """Return a tag, and the announced ones of its registry that were not read yet, as many as fit into a request."""
        registry, shown = name.partition("/")[0], self._logs[name].shown
        batch, repositories = [tag], {tag[0]}
        for other in self._announced[registry]:
            if len(batch) == MAX_TAGS:
                break
            if other == tag or other in shown or len(repositories | {other[0]}) > MAX_REPOSITORIES:
                continue
            batch.append(other)
            repositories.add(other[0])
        return batch

    async def _ask_again(self, registry: str, tag: Name) -> None:
        """Forget what was shown of a tag, and follow the logs again. Raises: LedgerBroken, LedgerUnchecked."""
        for name in (registry, f"{registry}/observations"):
            log = self._logs[name]
            async with log.alone:
                log.shown.pop(tag, None)
                if log.check is not None:
                    log.check = await self._follow(name, self._named.get(name))

    async def _fresh(self, name: str, tag: Name, head: TrustedCheckpoint, found: ProvenTag) -> ProvenTag:
        """Step 6. The login may lack the right to read entries: then freshness is not proven, which is no error."""
        first = (head.checkpoint.size - 1) // WIDTH * WIDTH
        if found.freshness is not Freshness.NOT_PROVEN or found.entry < first:
            return found
        newest = await self._newest(name, head)
        if newest is None:
            return found
        if any(mentions(line, *tag) for line in newest[1][found.entry + 1 - newest[0] :]):
            return found
        return replace(found, freshness=Freshness.PROVEN)

    async def _newest(self, name: str, head: TrustedCheckpoint) -> tuple[int, list[bytes]] | None:
        """Return the last entries under a head and the index of the first, verified; None if they can't be read."""
        log = self._logs[name]
        size = head.checkpoint.size
        async with log.alone:
            if log.newest_refused:
                return None
            if log.newest is not None and log.newest[0] + len(log.newest[1]) == size:
                return log.newest
            client, start = LedgerClient(self._transport, name), (size - 1) // WIDTH * WIDTH
            try:
                lines = await client.entries(start, size)
                grown = grow(start, await client.hashes(edge(start)), [leaf_hash(line) for line in lines])
            except BoltsealError:
                log.newest_refused = True
                return None
            if (grown.size, grown.root) != (size, head.checkpoint.root):
                log.newest_refused = True
                return None
            log.newest = (start, lines)
            return log.newest

    def _with_evidence(self, registry: str, name: Name, answered: TagAnswer, broken: LedgerBroken) -> LedgerBroken:
        files = {
            "fault.txt": f"{broken.fault}: {broken.message}\n".encode(),
            "answer.txt": f"{answered.digest}\n".encode(),
        }
        for log in (registry, f"{registry}/observations"):
            shown = self._logs[log].shown.get(name)
            if shown is not None:
                files[f"{log.rpartition('/')[2]}.checkpoint"] = shown.head.raw
                files |= {f"entry-{one.index}.json": one.line for one in shown.entries or ()}
        try:
            where = f"the evidence is in {self._state.save_evidence(registry, files)}"
        except StateUnusable as error:
            where = f"the evidence could not be saved: {error.message}"
        reference = Reference(registry, *name)
        return LedgerBroken(
            broken.fault,
            f"{registry} can't be trusted: {reference}: {broken.message}; do not deploy it, and ask the operator; {where}",
        )
