"""Stores that Python writes byte for byte as engines do, without an engine or privileges.

`docker_store` writes Docker's own store; each layer is a tar that is unpacked by Python, owned by the user who runs the test.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import io
import json
import os
import subprocess
import sys
import tarfile
from dataclasses import dataclass
from pathlib import Path

from fastcrc import crc64

from boltseal.host.scrub.plans import chain_ids
from boltseal.oci.digest import Digest

Files = dict[str, bytes]
NAMES_BY_GO = Path(__file__).parents[2] / "data/scrub/names-by-go.tar.gz"
"""The layer that tests/attacks/scrub/names/main.go writes: names that do not fit into a tar header."""


def repository_of(name: str) -> str:
    """Return the repository of a name with a tag or digest, under which Docker lists it."""
    return name.partition("@")[0] if "@" in name else name.rpartition(":")[0]


def layer_tar(files: Files) -> bytes:
    """Return a layer of regular files with their folders, owned by root in the headers."""
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w", format=tarfile.PAX_FORMAT) as tar:
        made: set[str] = set()
        for name, content in files.items():
            parts = name.split("/")[:-1]
            for depth in range(1, len(parts) + 1):
                folder = "/".join(parts[:depth])
                if folder not in made:
                    made.add(folder)
                    entry = tarfile.TarInfo(folder)
                    entry.type, entry.mode, entry.mtime = tarfile.DIRTYPE, 0o755, 1_700_000_000
                    tar.addfile(entry)
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode, entry.mtime = len(content), 0o644, 1_700_000_000
            tar.addfile(entry, io.BytesIO(content))
    return raw.getvalue()


def extended(type_: bytes, data: bytes, following: bytes) -> bytes:
    """Return a header with the extended headers before it."""
    before = tarfile.TarInfo("extension")
    before.type, before.size = type_, len(data)
    return before.tobuf(tarfile.USTAR_FORMAT) + data.ljust(-(-len(data) // 512) * 512, b"\0") + following


def record(key: bytes, value: bytes) -> bytes:
    """Return a PAX record of less than a hundred bytes."""
    rest = b" " + key + b"=" + value + b"\n"
    size = next(size for size in range(100) if size == len(b"%d" % size + rest))
    return b"%d" % size + rest


def split(tar: bytes) -> bytes:
    """Return the layer's tar-split, as Docker writes it."""
    lines: list[dict[str, object]] = []
    at = 0
    with tarfile.open(fileobj=io.BytesIO(tar)) as opened:
        for entry in opened:
            lines.append({"type": 2, "payload": base64.b64encode(tar[at : entry.offset_data]).decode()})
            content = tar[entry.offset_data : entry.offset_data + entry.size]
            name = entry.name + "/" * entry.isdir()
            line: dict[str, object] = {"type": 1, "name": header_name(tar, entry, name), "payload": None}
            if content:
                line["size"] = entry.size
                line["payload"] = base64.b64encode(crc64.go_iso(content).to_bytes(8)).decode()
            lines.append(line)
            at = entry.offset_data + entry.size
    lines.append({"type": 2, "payload": base64.b64encode(tar[at:]).decode()})
    return split_of(lines)


def header_name(tar: bytes, entry: tarfile.TarInfo, name: str) -> str:
    """Return the name as in the header, with or without its trailing slash."""
    stored = tar[entry.offset_data - 512 : entry.offset_data - 412].split(b"\0", 1)[0].decode()
    return stored if stored.rstrip("/") == entry.name else name


def split_of(lines: list[dict[str, object]]) -> bytes:
    return gzip.compress(b"".join(json.dumps(line).encode() + b"\n" for line in lines))


@dataclass(frozen=True)
class DockerStore:
    """A Docker data root with some images."""

    root: Path

    @classmethod
    def at(cls, folder: Path) -> DockerStore:
        """Create an empty store. For a user other than root, its name has the owner as with userns-remap."""
        root = folder / ("store" if os.geteuid() == 0 else f"{os.geteuid()}.{os.getegid()}")
        for made in ("image/overlay2/imagedb/content/sha256", "image/overlay2/layerdb/sha256", "overlay2/l"):
            (root / made).mkdir(parents=True)
        (root / "image/overlay2/repositories.json").write_text('{"Repositories":{}}')
        return cls(root)

    def image(self, name: str, *layers: Files) -> Digest:
        """Add an image with a name; its layers are written as unpacked."""
        tars = [layer_tar(each) for each in layers]
        diffs = [Digest.of(each) for each in tars]
        config = {"rootfs": {"type": "layers", "diff_ids": [str(each) for each in diffs]}}
        image = self.config(name, json.dumps(config).encode())
        links: list[str] = []
        for index, (tar, diff, chain) in enumerate(zip(tars, diffs, chain_ids(diffs), strict=True)):
            self._layer(tar, diff, chain, chain_ids(diffs)[index - 1] if index else None, links)
        return image

    def config(self, name: str, raw: bytes) -> Digest:
        """Add a config and a name for it."""
        image = Digest.of(raw)
        (self.root / "image/overlay2/imagedb/content/sha256" / image.hex).write_bytes(raw)
        names = self.root / "image/overlay2/repositories.json"
        listed = json.loads(names.read_text())
        listed["Repositories"].setdefault(repository_of(name), {})[name] = str(image)
        names.write_text(json.dumps(listed))
        return image

    def image_of_empty_files(self, name: str, count: int, in_a_folder: int = 1000) -> None:
        """Add an image of one layer with so many empty files, without its tar in memory."""
        self.image(name, {"f": b"f"})
        top = self.layer()
        (top / "f").unlink()
        (database,) = (self.root / "image/overlay2/layerdb/sha256").iterdir()
        (config,) = (self.root / "image/overlay2/imagedb/content/sha256").iterdir()
        config.unlink()
        running, now = hashlib.sha256(), 1_700_000_000
        rest = _header_of_nobodys_file(now)[100:]
        with gzip.open(database / "tar-split.json.gz", "wb", compresslevel=1) as written:
            for number in range(count):
                path = f"usr/share/files/{number // in_a_folder}/a_module_with_a_name_{number}"
                if number % in_a_folder == 0:
                    (top / path).parent.mkdir(parents=True)
                os.close(os.open(top / path, os.O_CREAT | os.O_WRONLY, 0o644))
                os.utime(top / path, (now, now))
                header = path.encode().ljust(100, b"\0") + rest
                running.update(header)
                written.write(b'{"type":2,"payload":"%s"}\n' % base64.b64encode(header))
                written.write(b'{"type":1,"name":"%s","payload":null}\n' % path.encode())
            running.update(bytes(1024))
            written.write(b'{"type":2,"payload":"%s"}\n' % base64.b64encode(bytes(1024)))
        diff = Digest("sha256", running.hexdigest())
        (database / "diff").write_text(str(diff))
        database.rename(database.with_name(diff.hex))
        self.config(name, json.dumps({"rootfs": {"diff_ids": [str(diff)]}}).encode())

    def layer(self, index: int = 0) -> Path:
        """Return the folder of an added layer."""
        return sorted(self.root.glob("overlay2/*/diff"))[index]

    def _layer(self, tar: bytes, diff: Digest, chain: Digest, below: Digest | None, links: list[str]) -> None:
        database = self.root / "image/overlay2/layerdb/sha256" / chain.hex
        number = len(list(self.root.glob("overlay2/*/diff")))
        cache, link = f"{number:064x}", base64.b32encode(hashlib.sha256(chain.hex.encode()).digest())[:26].decode()
        folder = self.root / "overlay2" / cache
        database.mkdir()
        (database / "diff").write_text(str(diff))
        (database / "cache-id").write_text(cache)
        (database / "tar-split.json.gz").write_bytes(split(tar))
        if below is not None:
            (database / "parent").write_text(str(below))
        (folder / "diff").mkdir(parents=True, mode=0o755)
        (folder / "diff").chmod(0o755)
        (folder / "link").write_text(link)
        (self.root / "overlay2/l" / link).symlink_to(f"../{cache}/diff")
        if links:
            (folder / "lower").write_text(":".join(f"l/{each}" for each in reversed(links)))
        links.append(link)
        with tarfile.open(fileobj=io.BytesIO(tar)) as opened:
            opened.extractall(folder / "diff", filter=_as_it_is)  # noqa: S202 - written a few lines above


def _as_it_is(entry: tarfile.TarInfo, _: str) -> tarfile.TarInfo:
    """Set modes and times from the tar; the owner is the user who unpacks."""
    entry.uid, entry.gid, entry.uname, entry.gname = os.geteuid(), os.getegid(), "", ""
    return entry


def _header_of_nobodys_file(now: int) -> bytes:
    entry = tarfile.TarInfo("f")
    entry.mtime = now
    return entry.tobuf(tarfile.USTAR_FORMAT)


def peak_mb(root: Path, entries: int) -> float:
    """Return the peak memory of a process that checks a store of one image and finds it clean."""
    done = subprocess.run(
        [sys.executable, "-c", _PEAK, root, str(entries)], check=True, stdout=subprocess.PIPE, text=True
    )
    return int(done.stdout) / 1024


_PEAK = """
import re, resource, sys
from pathlib import Path
from boltseal.host.scrub.find_stores import store_at
from boltseal.host.scrub.scrub import ScrubRequest, scrub
(report,) = scrub(store_at(Path(sys.argv[1])), ScrubRequest(), lambda *_: None)
assert (report.status, report.entries) == ("holds", int(sys.argv[2])), report
mine = int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])
print(max(mine, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss))
"""
