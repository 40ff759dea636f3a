"""Fill a data folder with many rows at once, because pushing a hundred thousand tags would take hours.

Every store has these repositories, each with `size` of one thing:

    many/tags        tags, sealed, each at a manifest of its own; all manifests share config and layer
    many/sealed      sealed tags of one manifest
    many/mutable     mutable tags of one manifest; so have the `many/mutable-<n>`, for requests that delete them
    many/expired     sealed tags whose keep time is over, of one manifest
    many/referrers   referrers of the image 1.0
    many/platforms   platforms of the index 1.0, at most `PLATFORM_LIMIT`
    many/moves       moves of the tag `latest`
    many/blobs       blobs without a manifest
    r/000000, ...    `size` repositories with the tag 1.0, which share config, layer and manifest

Each `r/...` and each tag of `many/sealed` has a refused push. Beside them the store has `size` sessions of pipelines, and `size` rows and
files of unreferenced content. Rows, entries and bytes agree, as `admin fsck` checks.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final

from sqlalchemy import Table, insert

from boltseal.ledger.entry import EntryKind
from boltseal.oci.digest import Digest
from boltseal.oci.reference import Repository, Tag
from boltseal.server.registry import sequencer
from boltseal.server.storage.batches import batches
from boltseal.server.storage.metadata import queries, schema, usage
from boltseal.server.storage.metadata.migrate import DATABASE_NAME, GENERATION_NAME
from boltseal.server.storage.metadata.pipeline_schema import pipeline_session
from boltseal.server.storage.metadata.pipeline_table import PipelineSessionRow
from boltseal.server.storage.metadata.protocol import Metadata, UnitOfWork
from boltseal.server.storage.metadata.refused_push_table import RefusedPush, RefusedTimes
from boltseal.server.storage.metadata.refused_schema import refused_push
from boltseal.server.storage.metadata.sqlite import open_database
from tests.images import OCI_CONFIG, OCI_INDEX, OCI_LAYER, OCI_MANIFEST, SBOM_TYPE, Blob, digest_of

ACTOR: Final = "anonymous"
DAY_US: Final = 86_400_000_000
PLATFORM_LIMIT: Final = 10_000
"""The most entries of an index that the registry takes."""
BATCH: Final = 1000
ISSUER: Final = "https://ci.example"
CLAIMS: Final = json.dumps({"subject": "shop", "id": "1", "ends_s": 2**32, "texts": {}})
DESTRUCTIBLE: Final = 4
"""Repositories with many mutable tags of one manifest, beside the first."""

CONFIG: Final = Blob(b"{}", OCI_CONFIG)
LAYER: Final = Blob(b"layer", OCI_LAYER)


def manifest(name: str, **more: Any) -> bytes:
    """Return an image of the shared config and layer that differs by its name from every other."""
    document = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": CONFIG.descriptor(),
        "layers": [LAYER.descriptor()],
        "annotations": {"name": name},
        **more,
    }
    return json.dumps(document).encode()


def session_id(number: int) -> str:
    """Return the ID of the session of a pipeline."""
    return hashlib.sha256(b"%d" % number).hexdigest()


def entry_of(raw: bytes, media_type: str = OCI_MANIFEST) -> dict[str, Any]:
    """Return the descriptor of a manifest."""
    return {"mediaType": media_type, "digest": str(Digest.of(raw)), "size": len(raw)}


@dataclass(frozen=True, slots=True)
class NewTag:
    """A tag to write. `keep`: of a sealed tag; None: mutable. `kind`, `was`, `previous`: of its ledger entry."""

    name: str
    raw: bytes
    media_type: str = OCI_MANIFEST
    keep: str | None = "forever"
    kept_until_us: int | None = None


@dataclass(slots=True)
class BigStore:
    """A data folder that is filled in batches. `now_us`: the time of all of its rows."""

    data: Path
    size: int
    now_us: int
    _database: Metadata = field(init=False)

    def fill(self) -> None:
        """Write every repository. The folder must have been started once."""
        self._database = open_database(self.data / DATABASE_NAME, self.data / GENERATION_NAME, lambda: self.now_us)
        try:
            self._fill()
        finally:
            self._database.close()

    def _fill(self) -> None:
        size = self.size
        one = manifest("one")
        numbered = [manifest(f"{number:06}") for number in range(size)]
        self.repository("many/tags", numbered)
        self.tags("many/tags", (NewTag(f"1.{number:06}", raw) for number, raw in enumerate(numbered)))
        self.repository("many/sealed", [one])
        self.tags("many/sealed", (NewTag(f"1.{number:06}", one) for number in range(size)))
        for name in ("many/mutable", *(f"many/mutable-{number}" for number in range(DESTRUCTIBLE))):
            self.repository(name, [one])
            self.tags(name, (NewTag(f"edge-{number:06}", one, keep=None) for number in range(size)))
        self.repository("many/expired", [one])
        until_us = self.now_us + DAY_US
        self.tags("many/expired", (NewTag(f"1.{n:06}", one, keep="1d", kept_until_us=until_us) for n in range(size)))
        self.repository("many/referrers", [one])
        self.tags("many/referrers", [NewTag("1.0", one)])
        subject = {"subject": entry_of(one), "artifactType": SBOM_TYPE}
        self.manifests("many/referrers", (manifest(f"referrer {n:06}", **subject) for n in range(size)))
        self.platforms("many/platforms", numbered[:PLATFORM_LIMIT])
        self.moves("many/moves", numbered[:2])
        self.blobs("many/blobs", (Blob(f"blob {number}".encode()) for number in range(size)))
        for numbers in batches(range(size), BATCH):
            self._write(partial(self._add_repositories, numbers, one))
            self._write(partial(_add_refused, numbers, digest_of(one)))
            self._write(partial(_add_sessions, numbers))
        self.unreferenced()

    def repository(self, name: str, manifests: Iterable[bytes]) -> None:
        """Create a repository with config and layer, and add manifests of them."""
        self.blobs(name, (CONFIG, LAYER))
        self.manifests(name, manifests)

    def blobs(self, name: str, blobs: Iterable[Blob]) -> None:
        """Add blobs with their bytes to a repository."""
        for some in batches(blobs, BATCH):
            for blob in some:
                self._store(blob.digest, blob.data)
            self._write(partial(_to, name, partial(_add_blobs, some)))

    def manifests(self, name: str, raws: Iterable[bytes]) -> None:
        """Add manifests of config and layer to a repository."""
        for some in batches(raws, BATCH):
            self._write(partial(_to, name, partial(_add_manifests, some)))

    def tags(self, name: str, tags: Iterable[NewTag]) -> None:
        """Add tags of manifests that the repository has, each with its ledger entry."""
        for some in batches(tags, BATCH):
            self._write(partial(_to, name, partial(_add_tags, name, some)))

    def platforms(self, name: str, children: list[bytes]) -> None:
        """Add an index of these images."""
        self.repository(name, children)
        entries = [entry_of(raw) for raw in children]
        index = json.dumps({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries}).encode()
        links = [(entry["digest"], "child") for entry in entries]
        self._write(lambda tx: queries.add_manifest(tx, _id(tx, name), _row(index, tx.now_us, OCI_INDEX), index, links))
        self.tags(name, [NewTag("1.0", index, OCI_INDEX)])

    def moves(self, name: str, between: list[bytes]) -> None:
        """Add the tag `latest`, and move it back and forth."""
        self.repository(name, between)
        for numbers in batches(range(self.size), BATCH):
            self._write(partial(_move, name, between, numbers))

    def unreferenced(self) -> None:
        """Add manifest bytes that no repository refers to, old bytes of blobs without a row, and abandoned sessions."""
        for numbers in batches(range(self.size), BATCH):
            for number in numbers:
                blob = Blob(f"unreferenced {number}".encode())
                os.utime(self._store(blob.digest, blob.data), (0, 0))
            self._write(partial(_add_unreferenced, numbers))

    def _add_repositories(self, numbers: Iterable[int], raw: bytes, tx: UnitOfWork) -> None:
        places = {name: _id(tx, name) for name in (f"r/{number:06}" for number in numbers)}
        _add_blobs((CONFIG, LAYER), tx, *places.values())
        _add_manifests([raw], tx, *places.values())
        _insert(tx, schema.tag, [_tag_row(tx, name, place, NewTag("1.0", raw)) for name, place in places.items()])

    def _store(self, digest: str, data: bytes) -> Path:
        algorithm, _, hex_ = digest.partition(":")
        at = self.data / "blobs" / algorithm / hex_[:2] / hex_
        at.parent.mkdir(parents=True, exist_ok=True)
        at.write_bytes(data)
        return at

    def _write(self, job: Callable[[UnitOfWork], None]) -> None:
        self._database.write_and_wait(job, limited=False)


def _id(tx: UnitOfWork, name: str) -> int:
    return queries.ensure_repository(tx, name, ACTOR)


def _to(name: str, add: Callable[[UnitOfWork, int], None], tx: UnitOfWork) -> None:
    add(tx, _id(tx, name))


def _insert(tx: UnitOfWork, table: Table, rows: Iterable[dict[str, Any]]) -> None:
    listed = list(rows)
    if listed:
        tx.sql.connection.execute(insert(table), listed)


def _add_refused(numbers: Iterable[int], pushed: str, tx: UnitOfWork) -> None:
    """Add a refused push to each of these repositories, and one to a tag of `many/sealed`."""
    for number in numbers:
        for repository, tag in ((f"r/{number:06}", "1.0"), ("many/sealed", f"1.{number:06}")):
            push = RefusedPush(repository, tag, "sealed", pushed, "", ACTOR, ACTOR, "192.0.2.1", "{}")
            when = RefusedTimes(first_us=number, last_us=number, times=1, free="")
            _insert(tx, refused_push, [{"id": push.id, **push._asdict(), **when._asdict()}])


def _add_sessions(numbers: Iterable[int], tx: UnitOfWork) -> None:
    """Add sessions of pipelines that have not ended."""
    names = PipelineSessionRow._fields
    rows = [PipelineSessionRow(session_id(n), ISSUER, CLAIMS, "", tx.now_us, tx.now_us + DAY_US) for n in numbers]
    _insert(tx, pipeline_session, [dict(zip(names, row, strict=True)) for row in rows])


def _add_blobs(blobs: Iterable[Blob], tx: UnitOfWork, *places: int) -> None:
    rows = [
        {
            "repository_id": place,
            "digest": blob.digest,
            "size": len(blob.data),
            "added_us": tx.now_us,
            "added_by": ACTOR,
        }
        for blob in blobs
        for place in places
    ]
    _insert(tx, schema.blob, rows)
    usage.add(tx, ACTOR, sum(map(_size, rows)))


def _size(row: dict[str, Any]) -> int:
    size: int = row["size"]
    return size


def _row(raw: bytes, now_us: int, media_type: str = OCI_MANIFEST) -> queries.ManifestRow:
    document = json.loads(raw)
    subject = document.get("subject")
    annotations = document.get("annotations")
    digest = str(Digest.of(raw))
    return queries.ManifestRow(
        digest=digest,
        canonical=digest,
        media_type=media_type,
        size=len(raw),
        subject=subject["digest"] if subject else None,
        artifact_type=document.get("artifactType") or document.get("config", {}).get("mediaType"),
        annotations=json.dumps(annotations) if annotations else None,
        pushed_us=now_us,
        pushed_by=ACTOR,
    )


def _add_manifests(raws: Iterable[bytes], tx: UnitOfWork, *places: int) -> None:
    rows, contents, links = [], [], []
    for raw in raws:
        row = _row(raw, tx.now_us)
        values = {name: getattr(row, name) for name in queries.ManifestRow.__slots__}
        children = ((CONFIG.digest, "config"), (LAYER.digest, "layer"), (row.subject, "subject"))
        contents.append({"canonical": row.canonical, "raw": raw})
        for place in places:
            rows.append({"repository_id": place, **values})
            for child, kind in children:
                if child is not None:
                    links.append({"repository_id": place, "parent": row.digest, "child": child, "kind": kind})
    tx.sql.connection.execute(insert(schema.content).prefix_with("OR IGNORE"), contents)
    _insert(tx, schema.manifest, rows)
    _insert(tx, schema.link, links)
    usage.add(tx, ACTOR, sum(map(_size, rows)))


def _add_tags(name: str, tags: Iterable[NewTag], tx: UnitOfWork, place: int) -> None:
    _insert(tx, schema.tag, [_tag_row(tx, name, place, each) for each in tags])


def _tag_row(tx: UnitOfWork, name: str, place: int, new: NewTag) -> dict[str, Any]:
    """Append the ledger entry of a new tag, and return the row that belongs to it."""
    digest = str(Digest.of(new.raw))
    sealed = new.keep is not None
    index = sequencer.append(
        tx,
        EntryKind.TAG_CREATED,
        repository=Repository(name),
        tag=Tag(new.name),
        digest=digest,
        media_type=new.media_type,
        size_bytes=len(new.raw),
        actor=ACTOR,
        extra={"mode": "floating"} if new.keep is None else {"mode": "sealed", "keep": new.keep},
    )
    return {
        "repository_id": place,
        "name": new.name,
        "digest": digest,
        "canonical": digest,
        "media_type": new.media_type,
        "entry_index": index,
        "changed_us": tx.now_us,
        "changed_by": ACTOR,
        "sealed_digest": digest if sealed else None,
        "sealed_canonical": digest if sealed else None,
        "sealed_media_type": new.media_type if sealed else None,
        "sealed_us": tx.now_us if sealed else None,
        "sealed_by": ACTOR if sealed else None,
        "keep": new.keep,
        "keep_until_us": new.kept_until_us,
    }


def _move(name: str, between: list[bytes], numbers: Iterable[int], tx: UnitOfWork) -> None:
    place = _id(tx, name)
    latest = schema.tag.c
    query = schema.tag.select().where(latest.repository_id == place, latest.name == "latest")
    for number in numbers:
        to = between[number % 2]
        before = tx.sql.connection.execute(query).mappings().one_or_none()
        if before is None:
            _add_tags(name, [NewTag("latest", to, keep=None)], tx, place)
            continue
        digest = str(Digest.of(to))
        index = sequencer.append(
            tx,
            EntryKind.TAG_MOVED,
            repository=Repository(name),
            tag=Tag("latest"),
            digest=digest,
            media_type=OCI_MANIFEST,
            size_bytes=len(to),
            was=before["digest"],
            previous=before["entry_index"],
            actor=ACTOR,
            extra={"mode": "floating"},
        )
        change = schema.tag.update().where(latest.repository_id == place, latest.name == "latest")
        tx.sql.connection.execute(change.values(digest=digest, canonical=digest, entry_index=index))


def _add_unreferenced(numbers: Iterable[int], tx: UnitOfWork) -> None:
    raws = [manifest(f"unreferenced {number}") for number in numbers]
    _insert(tx, schema.content, ({"canonical": str(Digest.of(raw)), "raw": raw} for raw in raws))
    released = (Blob(f"unreferenced {number}".encode()) for number in numbers)
    _insert(tx, schema.released, ({"digest": blob.digest, "released_us": 1} for blob in released))
