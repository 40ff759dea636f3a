"""`python -m bench.scrub`: verifying an image of 60,000 files and 800 MB on the disk, compared with other programs
that read all of it.

    docker save             puts every layer together again, and compares its digest: content only
    sha256sum               hashes the same files on both cores (`xargs -P2`), and compares nothing: the limit
    podman system check     compares content, and part of the attributes, in Podman's store

in turn, in the same run, on the same bytes; a figure is the median of the rounds. Beside the elapsed time, the
processor time is printed, including the daemon's, since that hardly depends on other load. Warm: everything was read a moment ago.
From the disk: it was dropped from the page cache before each run, by `posix_fadvise`; boltseal does that itself (`--from-disk`).
At the end the memory of a check of one layer with a million entries. As root, with docker and podman; takes some minutes.
"""

from __future__ import annotations

import argparse
import io
import os
import random
import resource
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from tests import servers
from tests.attacks.scrub.image import archive
from tests.attacks.scrub.stores import podman_on
from tests.host.scrub.made_stores import DockerStore, peak_mb
from tests.programs import program
from tests.servers import unmounted

FILES, BYTES, LAYERS = 60_000, 800_000_000, 6
NAME = "bench/large:1"
BOLTSEAL = (sys.executable, "-m", "boltseal", "scrub")
ENTRIES = 1_000_000


@dataclass(frozen=True)
class Row:
    """A compared program. `drop`: what is dropped from the page cache before it reads from the disk; boltseal does
    that itself."""

    title: str
    argv: tuple[str | Path, ...]
    drop: tuple[Path, ...] = ()


def main() -> int:
    """Run the benchmark and print a table."""
    parser = argparse.ArgumentParser(prog="python -m bench.scrub", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--layers", type=int, default=LAYERS)
    parser.add_argument("--no-memory", action="store_true", help="leave out the million entries")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bench-scrub-") as scratch:
        folder = Path(scratch)
        archive(folder / "image.tar", list(_layers(asked.layers)), NAME)
        podman = podman_on(folder / "podman", folder)
        subprocess.run([*podman, "load", "-i", folder / "image.tar"], check=True, stdout=subprocess.DEVNULL)
        with servers.dockerd(folder / "docker", driver="overlay2") as server:
            docker = (program("docker"), "-H", f"unix://{server.address}")
            subprocess.run([*docker, "load", "-i", folder / "image.tar"], check=True, stdout=subprocess.DEVNULL)
            (folder / "image.tar").unlink()
            root = folder / "docker" / "data"
            hashed = f"find {root}/overlay2/*/diff -type f -print0 | xargs -0 -P2 -n 500 sha256sum > /dev/null"
            saved = f"{' '.join(docker)} save {NAME} > /dev/null"
            print(f"{FILES} files, {BYTES // 10**6} MB, {asked.layers} layers; median of {asked.rounds} rounds\n")
            print("| | warm | | worked | | from the disk | |\n| --- | ---: | --- | ---: | --- | ---: | --- |")
            rows = [
                Row("boltseal scrub (Docker)", (*BOLTSEAL, "--root", root)),
                Row("docker save", ("sh", "-c", saved), (root / "overlay2",)),
                Row("sha256sum, both cores", ("sh", "-c", hashed), (root / "overlay2",)),
                Row("boltseal scrub (Podman)", (*BOLTSEAL, "--root", folder / "podman")),
                Row("podman system check", (*podman, "system", "check"), (folder / "podman" / "overlay",)),
            ]
            (warm, worked), (cold, _) = (_taken(rows, asked.rounds, server.pid, cold=cold) for cold in (False, True))
            for row in rows:
                ours = "boltseal scrub (Podman)" if "odman" in row.title else "boltseal scrub (Docker)"
                cells = (
                    f"{each[row.title]:.2f} s | {each[row.title] / each[ours]:.2f} x" for each in (warm, worked, cold)
                )
                print(f"| {row.title} | {' | '.join(cells)} |")
        unmounted(folder)
        if asked.no_memory:
            return 0
        print(f"\nmemory of a check of {ENTRIES} entries in one layer: {_memory(folder):.0f} MB")
    return 0


def _taken(rows: list[Row], rounds: int, daemon: int, *, cold: bool) -> tuple[dict[str, float], dict[str, float]]:
    """Return elapsed seconds and processor seconds."""
    taken: dict[str, list[float]] = {row.title: [] for row in rows}
    worked: dict[str, list[float]] = {row.title: [] for row in rows}
    # As pip leaves an installed program: not each start compiles all of it anew.
    compiled = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    for number in range(rounds + 1):  # the first round warms, and is not counted
        for row in rows:
            for folder in row.drop if cold else ():
                _drop(folder)
            argv = (*row.argv, "--from-disk") if cold and not row.drop else row.argv
            began, before = time.monotonic(), _work(daemon)
            subprocess.run(argv, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=compiled)
            if number:
                taken[row.title].append(time.monotonic() - began)
                worked[row.title].append(_work(daemon) - before)
    return _medians(taken), _medians(worked)


def _medians(taken: dict[str, list[float]]) -> dict[str, float]:
    return {title: statistics.median(each) for title, each in taken.items()}


def _work(daemon: int) -> float:
    """Return the processor seconds of started processes that have ended, and of the daemon."""
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    fields = Path(f"/proc/{daemon}/stat").read_text().rpartition(")")[2].split()
    return ended.ru_utime + ended.ru_stime + (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _drop(folder: Path) -> None:
    """Take every file out of the page cache, as `--from-disk` does."""
    os.sync()
    for path, _, names in os.walk(folder):
        for name in names:
            with suppress(OSError):
                fd = os.open(Path(path) / name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
                os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
                os.close(fd)


def _layers(count: int) -> Iterator[bytes]:
    """Write files of sizes as installed software has them: most of a few KB, some of megabytes."""
    chance = random.Random(1)  # noqa: S311 - the same image each time
    sizes = [min(int(chance.lognormvariate(7.6, 1.9)), 6_000_000) for _ in range(FILES)]
    scale = BYTES / sum(sizes)
    noise = chance.randbytes(8 << 20) * 2
    for layer in range(count):
        raw = io.BytesIO()
        with tarfile.open(fileobj=raw, mode="w", format=tarfile.PAX_FORMAT) as tar:
            made: set[str] = set()
            for number in range(layer, FILES, count):
                folder = f"usr/lib{layer}/{number // 1200}/{number // 40}"
                for name in _above(folder):
                    if name not in made:
                        made.add(name)
                        _add(tar, name, None)
                start = chance.randrange(8 << 20)
                _add(tar, f"{folder}/module_{number}.py", noise[start : start + int(sizes[number] * scale)])
        yield raw.getvalue()


def _above(folder: str) -> list[str]:
    parts = folder.split("/")
    return ["/".join(parts[: depth + 1]) for depth in range(len(parts))]


def _add(tar: tarfile.TarFile, name: str, content: bytes | None) -> None:
    entry = tarfile.TarInfo(name)
    entry.mtime = 1_700_000_000
    if content is None:
        entry.type, entry.mode = tarfile.DIRTYPE, 0o755
        tar.addfile(entry)
    else:
        entry.size = len(content)
        tar.addfile(entry, io.BytesIO(content))


def _memory(folder: Path) -> float:
    """Return the peak memory of a check of a layer with ENTRIES empty files, in MB. The store is written here, without
    an engine."""
    store = DockerStore.at(folder)
    store.image_of_empty_files("bench/million:1", ENTRIES)
    return peak_mb(store.root, ENTRIES)


if __name__ == "__main__":
    sys.exit(main())
