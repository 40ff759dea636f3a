"""Is the store what it must be? Read-only, beside a running server or without one; repairs nothing.

In this order:

1. The ledger: every entry canonical and in its place, none missing, times rising, each pointing at the entry before it
   of the same name; no bound name with two digests.
2. The tags: each row is what the ledger's last word on its name says.
3. The manifests: bytes there, of that digest, size, canonical digest and media type; links as the bytes say.
4. What sealed tags need is held.
5. The blobs: every row has a file of that size whose bytes have that digest.
6. What nothing names is counted: bytes of refused pushes are no fault, `boltseal collect` takes them away.

Steps 1 to 4 read one snapshot of the database. Blobs are read after it, and a blob that is not as it must be is
looked at again before it is reported: the server may have deleted or replaced it meanwhile.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from sqlalchemy import select

from boltseal.errors import Invalid
from boltseal.ledger.audit import Audit
from boltseal.oci.digest import Digest
from boltseal.oci.manifest import ManifestInvalid, parse_manifest
from boltseal.storage import ledger_store, metadata, sqlite
from boltseal.storage.database import Transaction
from boltseal.storage.schema import blob, content, ledger_head, link, manifest, repository, tag

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from sqlalchemy import Connection

    from boltseal.storage.blobs import BlobReader

PIECE_BYTES: Final = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is not as it must be. `what`: the entry, tag, manifest or blob; `problem`: one sentence."""

    what: str
    problem: str


@dataclass(slots=True)
class Examined:
    """What was looked at, and what was found. Sizes in bytes."""

    entries: int = 0
    tags: int = 0
    manifests: int = 0
    blobs: int = 0
    blob_bytes: int = 0
    unnamed_blobs: int = 0
    unnamed_bytes: int = 0
    findings: list[Finding] = field(default_factory=list)

    def add(self, what: str, problem: str) -> None:
        """Report something."""
        self.findings.append(Finding(what, problem))


Progress = Callable[[str, int, int], None]
"""Called with the step's name, how much is done, and how much there is."""


def examine(database: Path, blobs: BlobReader, now_us: int, progress: Progress = lambda *_: None) -> Examined:
    """Look at a whole store. Raises only what keeps it from looking (Unavailable, OSError)."""
    examined = Examined()
    engine = sqlite.make_engine(database, read_only=True)
    try:
        with sqlite.errors_named(), engine.connect() as connection:
            sqlite.driver(connection).execute("BEGIN")
            tx = Transaction(connection, now_us)
            audit = _ledger(connection, examined, progress)
            _tags(connection, audit, examined)
            _manifests(connection, examined, progress)
            _closures(tx, examined)
            held = _blob_rows(connection)
            sqlite.driver(connection).execute("COMMIT")
            _blobs(connection, blobs, held, examined, progress)
            _unnamed(connection, blobs, examined)
    finally:
        engine.dispose()
    return examined


def _ledger(connection: Connection, examined: Examined, progress: Progress) -> Audit:
    head = connection.execute(select(ledger_head)).mappings().one_or_none()
    size = 0 if head is None else head["size"]
    audit = Audit(origin="" if head is None else head["origin"])
    for index, line in ledger_store.lines(connection):
        examined.entries += 1
        for problem in audit.take(index, line):
            examined.add(f"entry {index}", problem)
        if examined.entries % 1000 == 0:
            progress("ledger", examined.entries, size)
    if head is not None and audit.size != size:
        examined.add("ledger", f"it ends at entry {audit.size - 1}, but its head says that {size} entries were written")
    if head is not None and audit.last_time_us != head["last_time_us"]:
        examined.add("ledger", "its head has another time than its last entry")
    progress("ledger", examined.entries, size)
    return audit


def _tags(connection: Connection, audit: Audit, examined: Examined) -> None:
    rows = connection.execute(
        select(repository.c.name.label("repository"), tag).join(repository, repository.c.id == tag.c.repository_id)
    ).mappings()
    seen = set()
    for row in rows:
        examined.tags += 1
        name = (row["repository"], row["name"])
        seen.add(name)
        said = audit.names.get(name)
        shown = f"{row['repository']}:{row['name']}"
        if said is None:
            examined.add(shown, "the tag is there, but the ledger never spoke of it")
            continue
        if row["entry_index"] != said.index:
            examined.add(shown, f"the tag stands on entry {row['entry_index']}, the ledger's last is {said.index}")
        if (row["digest"] or "") != said.digest:
            examined.add(
                shown, f"the tag means {row['digest'] or 'nothing'}, the ledger says {said.digest or 'nothing'}"
            )
        if (row["sealed_digest"] or "") != said.bound:
            examined.add(
                shown,
                f"the tag is bound to {row['sealed_digest'] or 'nothing'}, the ledger says {said.bound or 'nothing'}",
            )
        if row["digest"] and not _holds(connection, row["repository_id"], row["digest"], row["media_type"]):
            examined.add(
                shown, f"the tag means {row['digest']} ({row['media_type']}), which the repository does not hold"
            )
    for unseen in sorted(set(audit.names) - seen):
        examined.add(":".join(unseen), "the ledger speaks of this tag, but it has no row")


def _holds(connection: Connection, repository_id: int, digest: str, media_type: str) -> bool:
    query = select(manifest.c.digest).where(
        manifest.c.repository_id == repository_id, manifest.c.digest == digest, manifest.c.media_type == media_type
    )
    return connection.execute(query).first() is not None


def _manifests(connection: Connection, examined: Examined, progress: Progress) -> None:
    query = (
        select(repository.c.name.label("repository"), manifest, content.c.raw)
        .join(repository, repository.c.id == manifest.c.repository_id)
        .join(content, content.c.canonical == manifest.c.canonical, isouter=True)
        .execution_options(yield_per=200)
    )
    for row in connection.execute(query).mappings():
        examined.manifests += 1
        shown = f"{row['repository']}@{row['digest']}"
        if not isinstance(row["raw"], bytes):  # None, or a text that somebody wrote by hand
            examined.add(shown, "the manifest's bytes are missing")
            continue
        for problem in _manifest_problems(connection, dict(row), row["raw"]):
            examined.add(shown, problem)
        if examined.manifests % 1000 == 0:
            progress("manifests", examined.manifests, 0)
    orphans = select(content.c.canonical).where(~select(1).where(manifest.c.canonical == content.c.canonical).exists())
    for canonical in connection.execute(orphans).scalars():
        examined.add(canonical, "manifest bytes that no repository names")
    progress("manifests", examined.manifests, examined.manifests)


def _manifest_problems(connection: Connection, row: dict[str, object], raw: bytes) -> Iterator[str]:
    try:
        digest = Digest.parse(str(row["digest"]))
    except Invalid as error:
        yield f"the row's digest can't be read: {error}"
        return
    if Digest.of(raw, digest.algorithm) != digest:
        yield f"the bytes have digest {Digest.of(raw, digest.algorithm)}"
        return
    if str(Digest.of(raw)) != row["canonical"]:
        yield f"the bytes have sha256 {Digest.of(raw)}, the row says {row['canonical']}"
    if len(raw) != row["size"]:
        yield f"the bytes are {len(raw)}, the row says {row['size']}"
    try:
        parsed = parse_manifest(raw, str(row["media_type"]))
    except ManifestInvalid as error:
        yield f"the bytes can't be read as {row['media_type']}: {error}"
        return
    links = select(link.c.child, link.c.kind).where(
        link.c.repository_id == row["repository_id"], link.c.parent == row["digest"], link.c.kind != "signature-tag"
    )
    written = {(child, kind.removeprefix("foreign-")) for child, kind in connection.execute(links).all()}
    said = {(str(reference.descriptor.digest), str(reference.kind)) for reference in parsed.references()}
    if written != said:
        yield f"the links differ from the bytes in {', '.join(sorted(child for child, _ in written ^ said)[:3])}"


def _closures(tx: Transaction, examined: Examined) -> None:
    sealed = (
        select(repository.c.name, tag.c.repository_id, tag.c.name, tag.c.digest)
        .join(repository, repository.c.id == tag.c.repository_id)
        .where(tag.c.digest.is_not(None), tag.c.sealed_digest.is_not(None))
    )
    for name, repository_id, tag_name, digest in tx.connection.execute(sealed).all():
        for absent in metadata.missing(tx, repository_id, digest):
            examined.add(f"{name}:{tag_name}", f"the sealed tag needs {absent}, which the repository does not hold")


def _blob_rows(connection: Connection) -> dict[str, int]:
    return {digest: size for digest, size in connection.execute(select(blob.c.digest, blob.c.size)).all()}  # noqa: C416 - rows are no pairs to mypy


def _blobs(
    connection: Connection, blobs: BlobReader, held: dict[str, int], examined: Examined, progress: Progress
) -> None:
    total = sum(held.values())
    for text, size in sorted(held.items()):
        examined.blobs += 1
        problem = _blob_problem(blobs, text, size)
        if problem is not None and _still_held(connection, text) and _blob_problem(blobs, text, size) is not None:
            examined.add(text, problem)
        examined.blob_bytes += size
        progress("blobs", examined.blob_bytes, total)


def _still_held(connection: Connection, digest: str) -> bool:
    return connection.execute(select(blob.c.digest).where(blob.c.digest == digest).limit(1)).first() is not None


def _blob_problem(blobs: BlobReader, text: str, size: int) -> str | None:
    try:
        digest = Digest.parse(text)
    except Invalid as error:
        return f"the row's digest can't be read: {error}"
    path = blobs.path(digest)
    if path is None:
        raise NotImplementedError("fsck reads stores of plain files; object stores come with their own reader")
    hasher = hashlib.new(digest.algorithm)
    read = 0
    try:
        with path.open("rb") as file:
            while piece := file.read(PIECE_BYTES):
                hasher.update(piece)
                read += len(piece)
    except FileNotFoundError:
        return "the blob's bytes are missing"
    if read != size:
        return f"the blob has {read} bytes, the row says {size}"
    return (
        None
        if hasher.hexdigest() == digest.hex
        else f"the blob's bytes have digest {digest.algorithm}:{hasher.hexdigest()}"
    )


def _unnamed(connection: Connection, blobs: BlobReader, examined: Examined) -> None:
    for stored in blobs.walk():
        if not _still_held(connection, str(stored.digest)):
            examined.unnamed_blobs += 1
            examined.unnamed_bytes += stored.size
    for stray in blobs.strays():
        examined.add(stray, "a file in the store that is neither blob nor upload")
