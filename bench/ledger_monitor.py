"""`python -m bench.ledger_monitor`: the rate and memory of a monitor over a million entries.

The entries come from memory, a bundle at a time, so that nothing of a network or a server is measured. All work of a
monitor is: parsing bundles and entries, rules, hashes, tree, and finally its file.
"""

from __future__ import annotations

import argparse
import hashlib
import resource
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from boltseal.client.ledger_monitor.progress_file import MonitorMemory
from boltseal.ledger.entry import Entry, EntryKind, encode
from boltseal.ledger.tiles import WIDTH, encode_bundle, parse_bundle

MILLION = 1_000_000
START_US = 1_795_500_000_000_000
OCI = "application/vnd.oci.image.manifest.v1+json"


def main() -> int:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--entries", type=int, default=MILLION)
    parser.add_argument(
        "--moves", type=int, default=0, help="of so many entries in a hundred the tag was there already"
    )
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bench-monitor-", dir=".") as folder:
        memory = MonitorMemory(Path(folder), "reg.example")
        progress = memory.load()
        before_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        elapsed = cpu = 0.0
        for raw, width in bundles(asked.entries, asked.moves):
            started, worked = time.perf_counter(), time.process_time()
            for line in parse_bundle(raw, width):
                problems = progress.take(line)
                if problems:
                    raise AssertionError(problems)
            elapsed, cpu = elapsed + time.perf_counter() - started, cpu + time.process_time() - worked
        progress.grow()
        names, held = len(progress.audit.hashed), progress.audit.hashed.size_bytes
        grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kib) * 1024
        saving = time.perf_counter()
        memory.save(progress)
        saved = time.perf_counter()
        again = memory.load()
        loaded = time.perf_counter()
        if (again.root, again.size) != (progress.root, progress.size):
            raise AssertionError("the memory is not what it was")
        print(f"{asked.entries:,} entries, {names:,} names")
        print(
            f"{asked.entries / elapsed:,.0f} entries/s by the clock, {asked.entries / cpu:,.0f} by the processor's time"
        )
        print(f"{held / names:.0f} bytes for each name in memory, {memory.path.stat().st_size / names:.0f} in the file")
        print(f"{grown / names:.0f} bytes for each name by which the process grew at its largest")
        print(f"saved in {saved - saving:.2f} s, loaded in {loaded - saved:.2f} s")
    return 0


def bundles(entries: int, moves: int) -> Iterator[tuple[bytes, int]]:
    """Bundles of tags that are published once, and of `latest` that moves."""
    last: dict[str, tuple[int, str]] = {}
    lines: list[bytes] = []
    for index in range(entries):
        moving = index * 37 % 100 < moves
        repository, tag = f"team{index % 50}/app{index % 5000}", "latest" if moving else f"1.{index}.0"
        name = f"{repository}:{tag}" if moving else ""
        previous, was = last.get(name, (-1, ""))
        digest = f"sha256:{hashlib.sha256(index.to_bytes(8)).hexdigest()}"
        extra = {"mode": "floating"} if moving else {"mode": "sealed", "keep": "forever"}
        entry = Entry(
            kind=EntryKind.TAG_MOVED if was else EntryKind.TAG_CREATED,
            time_us=START_US + index,
            registry="reg.example",
            repository=repository,
            tag=tag,
            digest=digest,
            type=OCI,
            size=1234,
            was=was,
            previous=previous,
            actor="ci",
            salt=f"{index:032x}",
            extra=extra,
        )
        if moving:
            last[name] = index, digest
        lines.append(encode(entry))
        if len(lines) == WIDTH:
            yield encode_bundle(lines), WIDTH
            lines = []
    if lines:
        yield encode_bundle(lines), len(lines)


if __name__ == "__main__":
    raise SystemExit(main())
