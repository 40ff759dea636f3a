"""`python -m bench.row_sizes`: what each kind of row takes on PostgreSQL, and what that is for many blobs, tags and entries.

A server on PostgreSQL and S3 gets one real image. Its rows are then copied in SQL (`bench.row_copies`), `--rows` of each table, and the
sizes of tables and indexes are compared before and after. So the widths are real, and fillfactor, page headers and index pages are
counted in; free space after many updates is not.

Also measured on these rows: reading all rows of a table by COPY, as `admin backup` does.

What the table of `docs/operations/scale.md` computes from it is printed last. `--rows 1000000` takes some minutes and 5 GB.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import httpx2
import psycopg

from bench.row_copies import DIGEST, copy_rows, size_of
from bench.shared_storage import LOGIN, config
from tests import servers
from tests.images import image, push
from tests.polling import until_signed
from tests.storage_servers import postgres, seaweedfs

LAYERS: Final = 5
REPOSITORY: Final = "team/service-name/app"
KEY: Final = "md5(i::text || 'k')"
KEY_OF_BLOB: Final = f"'blobs/' || {KEY}"
TABLES: Final[Mapping[str, Mapping[str, str]]] = {
    "repository": {"id": "1000 + i", "name": "'team-' || i || '/service-name/app'"},
    "blob": {"digest": DIGEST},
    "stored_blob": {
        "digest": DIGEST,
        "version": KEY_OF_BLOB,
        "index_key": f"'index/sha256/' || {KEY} || {KEY} || '/' || {KEY}",
    },
    "blob_key": {"digest": DIGEST, "key": KEY_OF_BLOB},
    "link": {"parent": DIGEST, "child": DIGEST},
    "manifest": {"digest": DIGEST, "canonical": DIGEST},
    "content": {"canonical": DIGEST},
    "manifest_object": {"digest": DIGEST, "key": f"'manifests/' || {KEY}"},
    "layer_chain": {"digest": DIGEST},
    "tag": {
        "name": "'2.' || i || '.0'",
        "digest": DIGEST,
        "canonical": DIGEST,
        "sealed_digest": DIGEST,
        "sealed_canonical": DIGEST,
    },
    "entry": {"idx": "1000 + i", "tag": "'2.' || i || '.0'"},
}
"""The tables that grow with content, and SQL for what differs in each row."""
WHERE: Final = {"entry": "tag = '1.0.0'", "tag": "name = '1.0.0'", "layer_chain": "document IS NOT NULL"}
TILE_BYTES_FOR_AN_ENTRY: Final = 33.0
"""32 bytes of a hash, and those of the tiles above; full tiles are rows of 8 KiB, whose overhead is a few bytes for each hash."""
OF_AN_IMAGE: Final[Mapping[str, float]] = {
    "blob": LAYERS + 1, "stored_blob": LAYERS + 1, "blob_key": LAYERS + 1, "link": LAYERS + 1, "manifest": 1, "content": 1,
    "manifest_object": 1, "layer_chain": 1, "tag": 1, "entry": 1,
}  # fmt: skip
"""How many rows of each table an image of five layers has, of which none is in another image."""
BLOBS: Final = ("blob", "stored_blob", "blob_key")


@dataclass(frozen=True, slots=True)
class Size:
    """Bytes for each row: of the table, and of its indexes. `read_per_s`: rows that COPY reads in a second."""

    rows: float
    indexes: float
    read_per_s: float

    @property
    def both(self) -> float:
        """Bytes for each row in all."""
        return self.rows + self.indexes


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m bench.row_sizes", description=__doc__)
    parser.add_argument("--rows", type=int, default=100_000, help="of each table")
    parser.add_argument(
        "--folder", type=Path, help="parent of the folders with the data; default: the temporary folder"
    )
    asked = parser.parse_args()
    with (
        tempfile.TemporaryDirectory(prefix="bench-rows-", dir=asked.folder) as scratch,
        postgres(settings={"fsync": "off", "max_wal_size": "8GB"}, inside=asked.folder) as database,
        seaweedfs(inside=asked.folder) as objects,
    ):
        url = database.url(database.create_database())
        folder = Path(scratch) / "registry"
        folder.mkdir()
        with servers.boltseal(folder / "data", config=config(folder, url, objects), settings=LOGIN) as server:
            asyncio.run(_publish(server.url))
        with psycopg.connect(url, autocommit=True) as connection:
            sizes = {table: _measured(connection, table, asked.rows) for table in TABLES}
    _print(sizes, asked.rows)
    return 0


async def _publish(url: str) -> None:
    async with httpx2.AsyncClient(base_url=url, timeout=60) as client:
        answer = await push(client, REPOSITORY, "1.0.0", image("a release", layer_count=LAYERS))
        answer.raise_for_status()
        await until_signed(client, 2)


def _measured(connection: psycopg.Connection, table: str, rows: int) -> Size:
    before = size_of(connection, table)
    copy_rows(connection, table, rows, TABLES[table], WHERE.get(table, "true"))
    connection.execute(f"VACUUM (ANALYZE) {table}".encode())
    after = size_of(connection, table)
    began_s = time.perf_counter()
    with connection.cursor().copy(f"COPY {table} TO STDOUT".encode()) as copy:
        for _ in copy:
            pass
    copied_s = time.perf_counter() - began_s
    return Size((after[0] - before[0]) / rows, (after[1] - before[1]) / rows, rows / copied_s)


def _print(sizes: Mapping[str, Size], rows: int) -> None:
    """Print what was measured, and what it is for many."""
    print(f"{rows:,} rows of each table, PostgreSQL; load {os.getloadavg()[0]:.0f}\n")
    print("| table | bytes of a row | of its indexes | both | rows read in a second |")
    print("| --- | ---: | ---: | ---: | ---: |")
    for table, size in sizes.items():
        print(f"| {table} | {size.rows:.0f} | {size.indexes:.0f} | {size.both:.0f} | {size.read_per_s:,.0f} |")
    blob = sum(sizes[table].both for table in BLOBS)
    entry = sizes["entry"].both + TILE_BYTES_FOR_AN_ENTRY
    tag = sizes["tag"].both
    of_image = sum(sizes[table].both * count for table, count in OF_AN_IMAGE.items()) + TILE_BYTES_FOR_AN_ENTRY
    shared = of_image - (LAYERS - 1) * (sizes["stored_blob"].both + sizes["blob_key"].both)
    print(f"\na blob: {blob:,.0f} bytes; a tag: {tag:,.0f}; an entry with its hashes: {entry:,.0f}")
    print(
        f"an image of {LAYERS} layers: {of_image:,.0f} bytes; of which {LAYERS - 1} are in another repository too: {shared:,.0f}\n"
    )
    print("| computed | PostgreSQL | read all rows once |\n| --- | ---: | ---: |")
    for blobs in (10**6, 10**7, 10**8, 10**9):
        images = blobs / (LAYERS + 1)
        seconds = sum(images * count / sizes[table].read_per_s for table, count in OF_AN_IMAGE.items())
        print(
            f"| {blobs:,} blobs, {images:,.0f} images and tags | {images * of_image / 1e9:,.1f} GB | {seconds / 3600:,.2f} h |"
        )


if __name__ == "__main__":
    raise SystemExit(main())
