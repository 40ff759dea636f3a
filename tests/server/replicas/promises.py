"""What several servers of one registry promise, as checks of a record of requests and answers.

Each function looks at the record alone, and returns what is wrong as sentences: nothing, if the promise was kept.

- `lost`: every 201 is true. Each acknowledged image is read from each server, byte for byte, its blobs too.
- `moved`: a sealed tag has one digest in all acknowledgements and reads, of all servers and times.
- `split`: the ledger has one signed root for each size.
- `gaps`: the entries of the ledger are those under every signed root, and each acknowledged push has the entry that its 201 named.
- `stale`: a request that was sent after something was acknowledged as taken away does not get it.
- `not_linearizable`: the answers about each tag are those of a single registry (`linear_checker`).

Times are seconds of one monotonic clock.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from tests.ledger.tree_oracle import mth
from tests.server.replicas.linear_checker import Operation, TagState, contradiction

OK: Final = 200
BLOB: Final = " blob "
"""Between the repository and the digest of a blob, in the subject of a read."""
MOST_STATED: Final = 20
"""At most so many of the findings of one check are shown."""


@dataclass(frozen=True, slots=True)
class Image:
    """A push that was answered with 201.

    `tag`: None if it was by digest. `blobs`: digests; of a blob alone it is `digest` as well. `entry`: of the ledger, that the answer named.
    """

    repository: str
    tag: str | None
    digest: str
    blobs: tuple[str, ...]
    entry: int | None = None
    sealed: bool = True

    @property
    def subjects(self) -> dict[str, str]:
        """What a pull reads, with the digest of each: REPOSITORY:TAG, REPOSITORY@DIGEST, and REPOSITORY BLOB DIGEST."""
        tags = {self.repository + ":" + self.tag: self.digest} if self.tag is not None and self.sealed else {}
        manifest = {} if self.digest in self.blobs else {self.repository + "@" + self.digest: self.digest}
        return tags | manifest | {self.repository + BLOB + each: each for each in self.blobs}


@dataclass(frozen=True, slots=True)
class Read:
    """A read from one server. `subject`: see `Image.subjects`. `digest`: of the bytes that came, None if none did."""

    server: int
    subject: str
    sent_s: float
    status: int | None
    digest: str | None = None


@dataclass(frozen=True, slots=True)
class Gone:
    """Something that was taken away, and when that was acknowledged: an image, a blob, or the rights of a user."""

    subject: str
    acknowledged_s: float


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A signed size and root that a server showed."""

    server: int
    size: int
    root: bytes


@dataclass(slots=True)
class Record:
    """All that clients saw. `entries`: of the ledger, read at the end. `sealed`: subjects of sealed tags, pushed or tried."""

    images: list[Image] = field(default_factory=list)
    reads: list[Read] = field(default_factory=list)
    gone: list[Gone] = field(default_factory=list)
    checkpoints: list[Checkpoint] = field(default_factory=list)
    entries: list[bytes] = field(default_factory=list)
    sealed: set[str] = field(default_factory=set)
    histories: dict[str, list[Operation]] = field(default_factory=lambda: defaultdict(list))


def lost(images: Iterable[Image], reads: Iterable[Read], servers: Iterable[int], since_s: float) -> list[str]:
    """Return what no read since a time has brought, from each of the servers."""
    found = {(each.server, each.subject): each.digest for each in reads if each.sent_s >= since_s and each.status == OK}
    wanted = {subject: digest for image in images for subject, digest in image.subjects.items()}
    return [
        f"{subject} was acknowledged as {digest}; server {server} gave {found.get((server, subject))}"
        for server in servers
        for subject, digest in wanted.items()
        if found.get((server, subject)) != digest
    ]


def moved(record: Record) -> list[str]:
    """Return the sealed tags with more than one digest."""
    digests: dict[str, set[str | None]] = defaultdict(set)
    for image in record.images:
        if image.sealed and image.tag is not None:
            digests[f"{image.repository}:{image.tag}"].add(image.digest)
    for read in record.reads:
        if read.status == OK and read.subject in record.sealed:
            digests[read.subject].add(read.digest)
    return [f"{subject} was {sorted(map(str, found))}" for subject, found in digests.items() if len(found) > 1]


def split(checkpoints: Iterable[Checkpoint]) -> list[str]:
    """Return the sizes that were signed with more than one root."""
    roots: dict[int, dict[bytes, int]] = defaultdict(dict)
    for each in checkpoints:
        roots[each.size].setdefault(each.root, each.server)
    return [
        f"size {size} has {len(found)} roots, of servers {sorted(found.values())}"
        for size, found in roots.items()
        if len(found) > 1
    ]


def gaps(record: Record) -> list[str]:
    """Return the signed roots that are not of these entries, and the pushes whose entry is missing or another push's."""
    wrong = [
        f"the checkpoint of size {each.size}, shown by server {each.server}, is not of the {len(record.entries)} entries"
        for each in record.checkpoints
        if each.size > len(record.entries) or mth(record.entries[: each.size]) != each.root
    ]
    for image in record.images:
        if image.entry is None or image.tag is None:
            continue
        stated = (image.repository, image.tag, image.digest)
        entry = json.loads(record.entries[image.entry]) if image.entry < len(record.entries) else {}
        if (entry.get("repository"), entry.get("tag"), entry.get("digest")) != stated:
            wrong.append(f"entry {image.entry} should be that of {stated}: {entry}")
    return wrong


def stale(reads: Iterable[Read], gone: Iterable[Gone]) -> list[str]:
    """Return the reads that got what had been taken away before they were sent."""
    since = {each.subject: each.acknowledged_s for each in gone}
    return [
        f"server {read.server} gave {read.subject} to a request sent {read.sent_s - since[read.subject]:.3f} s after it was taken away"
        for read in reads
        if read.status == OK and read.subject in since and read.sent_s > since[read.subject]
    ]


def not_linearizable(histories: Mapping[str, Sequence[Operation]], seals: Iterable[str]) -> list[str]:
    """Return the tags whose history no order of its operations explains. `seals`: the tags that a push seals."""
    sealing = frozenset(seals)
    found = {tag: contradiction(history, TagState(seals=tag in sealing)) for tag, history in histories.items()}
    return [f"{tag}: no order of these operations explains the answers: {each}" for tag, each in found.items() if each]


def broken(record: Record, seals: Iterable[str]) -> dict[str, list[str]]:
    """Return the findings of every check that needs no read of the end, by its name."""
    found = {
        "moved": moved(record),
        "split": split(record.checkpoints),
        "stale": stale(record.reads, record.gone),
        "not linearizable": not_linearizable(record.histories, seals),
    }
    return {name: sentences[:MOST_STATED] for name, sentences in found.items() if sentences}
