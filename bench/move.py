"""`python -m bench.move`: `admin migrate`, `admin backup --with-objects` and `admin restore`, beside raw copies of the same bytes.

    cp -a             copies the data folder, hashes nothing and leaves the writing to the kernel
    raw puts          writes the same files to the same S3 server by the client that boltseal uses, as many at once, hashing nothing
    raw gets          reads them back into files, as many at once, each of which is waited for to be on the disk

Two data folders: many small blobs, and some large ones. Each round runs all of them; a figure is the median of the rounds. A move
and a restore also hash every byte, write an index object for each blob and one for each manifest, copy all rows and compare
them. A restore then checks everything as `admin fsck` does. PostgreSQL and SeaweedFS run as in the tests, with fsync.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import obstore

from bench import restore
from bench.content import MIB, DistinctBlobs
from bench.shared_storage import LOGIN, config
from boltseal.server.storage.blobs.blob_copies import AT_ONCE
from tests.serving import serving
from tests.storage_servers import ObjectServer, Postgres, postgres, seaweedfs

LARGE_BYTES = 64 * MIB
MOVE, BACKUP, RESTORE, COPY, PUTS, GETS = (
    "admin migrate", "admin backup --with-objects", "admin restore", "cp -a", "raw puts", "raw gets",
)  # fmt: skip
BESIDE = {MOVE: (COPY, PUTS), BACKUP: (COPY, GETS), RESTORE: (COPY, PUTS)}


def main() -> int:
    """Measure and print a table for each data folder."""
    parser = argparse.ArgumentParser(prog="python -m bench.move", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--images", type=int, default=200, help=f"of {restore.LAYERS} small layers each")
    parser.add_argument("--large", type=int, default=32, help="blobs of 64 MiB")
    parser.add_argument("--folder", type=Path, help="parent of the scratch folder; default: the temporary folder")
    asked = parser.parse_args()
    with (
        tempfile.TemporaryDirectory(prefix="bench-move-", dir=asked.folder) as scratch,
        seaweedfs(inside=asked.folder) as store,
        postgres(inside=asked.folder) as database,
    ):
        folder = Path(scratch)
        asyncio.run(restore.publish(folder / "small", asked.images))
        asyncio.run(_publish_large(folder / "large", asked.large))
        print(f"load: {os.getloadavg()[0]:.0f}, {asked.rounds} rounds\n")
        for source in (folder / "small", folder / "large"):
            _table(source, folder, database, store, asked.rounds)
        print(f"load: {os.getloadavg()[0]:.0f}")
    return 0


async def _publish_large(data: Path, count: int) -> None:
    async with serving(data) as registry:
        blobs = iter(DistinctBlobs.of(LARGE_BYTES))
        for _ in range(count):
            head, tail, digest = next(blobs)
            begun = (await registry.client.post("/v2/shop/app/blobs/uploads/")).headers["location"]
            joint = "&" if "?" in begun else "?"
            answer = await registry.client.put(f"{begun}{joint}digest={digest}", content=head + tail)
            assert answer.status_code == 201, answer.text


def _table(source: Path, folder: Path, database: Postgres, store: ObjectServer, rounds: int) -> None:
    files = [path for path in (source / "blobs").glob("*/*/*") if path.is_file()]
    size = sum(path.stat().st_size for path in files)
    taken: dict[str, list[float]] = {}
    for number in range(rounds):
        for name, seconds in _round(source, files, folder / f"{source.name}{number}", database, store).items():
            taken.setdefault(name, []).append(seconds)
    medians = {name: statistics.median(each) for name, each in taken.items()}
    print(f"{len(files)} blobs, {size / MIB:,.0f} MiB\n")
    print("| | seconds | MiB/s | blobs/s | beside |\n| --- | ---: | ---: | ---: | --- |")
    for name, seconds in medians.items():
        beside = ", ".join(f"{seconds / medians[other]:.2f} x {other}" for other in BESIDE.get(name, ()))
        print(f"| {name} | {seconds:.1f} | {size / MIB / seconds:,.0f} | {len(files) / seconds:,.0f} | {beside} |")
    print(flush=True)


def _round(
    source: Path, files: list[Path], folder: Path, database: Postgres, store: ObjectServer
) -> Mapping[str, float]:
    folder.mkdir()
    moved, restored = (_new_server(folder / f"{name}-{folder.name}", database, store) for name in ("moved", "restored"))
    keys = _Keys(store)
    own = folder / source.name
    shutil.copytree(source, own)
    shutil.copytree(source.with_name(f"{source.name}.keys"), own.with_name(f"{own.name}.keys"))
    steps: Mapping[str, Callable[[], object]] = {
        COPY: lambda: subprocess.run(["cp", "-a", str(source), str(folder / "copy")], check=True),
        PUTS: lambda: keys.put(files),
        GETS: lambda: keys.get(folder / "got"),
        MOVE: lambda: _boltseal("migrate", "--from", str(own), place=moved),
        BACKUP: lambda: _boltseal("backup", str(folder / "backup"), "--with-objects", place=moved),
        RESTORE: lambda: _boltseal("restore", str(folder / "backup"), place=restored),
    }
    taken = {}
    for name, run in steps.items():
        os.sync()
        started = time.perf_counter()
        run()
        taken[name] = time.perf_counter() - started
    shutil.rmtree(folder)
    keys.delete()
    return taken


class _Keys:
    """Objects that are written and read by the client alone."""

    def __init__(self, store: ObjectServer) -> None:
        self._client = store.store(f"raw-{uuid.uuid4().hex}")
        self._keys: list[str] = []

    def put(self, files: list[Path]) -> None:
        """Write files as objects, as many at once as a move does."""

        def written(path: Path) -> str:
            key = uuid.uuid4().hex
            obstore.put(self._client, key, path)
            return key

        with ThreadPoolExecutor(AT_ONCE) as pool:
            self._keys = list(pool.map(written, files))

    def get(self, folder: Path) -> None:
        """Read the objects into files."""
        folder.mkdir()

        def read(key: str) -> None:
            with (folder / key).open("wb") as file:
                for piece in obstore.get(self._client, key).stream():
                    file.write(piece)
                file.flush()
                os.fsync(file.fileno())

        with ThreadPoolExecutor(AT_ONCE) as pool:
            list(pool.map(read, self._keys))

    def delete(self) -> None:
        """Delete the objects, so that the disk does not fill."""
        with suppress(Exception):
            obstore.delete(self._client, self._keys)


def _new_server(place: Path, database: Postgres, store: ObjectServer) -> Path:
    """Write the settings of a server with an empty database and prefix into a new folder, and return it."""
    place.mkdir()
    (place / "boltseal.toml").write_text(config(place, database.url(database.create_database()), store))
    return place


def _boltseal(*words: str, place: Path) -> None:
    argv = [
        sys.executable,
        "-m",
        "boltseal",
        "admin",
        *words,
        "--config",
        str(place / "boltseal.toml"),
        "--data",
        str(place / "data"),
    ]
    ran = subprocess.run(argv, env=os.environ | LOGIN, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout[-2000:] + ran.stderr[-2000:]


if __name__ == "__main__":
    sys.exit(main())
