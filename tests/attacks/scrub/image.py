"""An image with every kind of entry that a layer can contain, as an archive that every engine loads."""

from __future__ import annotations

import hashlib
import io
import json
import struct
import tarfile
from collections.abc import Callable, Mapping
from pathlib import Path

NAME = "shop/app:1.4.2"
CAPABILITY = "\x01\x00\x00\x02\x00\x04\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"
ACL = struct.pack(
    "<I" + "HHI" * 5, 2,
    *(0x01, 7, 0xFFFFFFFF), *(0x02, 5, 1000), *(0x04, 5, 0xFFFFFFFF), *(0x10, 5, 0xFFFFFFFF), *(0x20, 5, 0xFFFFFFFF),
)  # fmt: skip
"""An access control list of a file of mode 0755 that names user 1000."""
MTIME = 1_700_000_000
LONG = "n" * 120 + "/" + "m" * 200
LATIN = "etc/caf\udce9"


class Layer:
    """A tar built entry by entry. `format`: the format, as a constant of Python's tarfile."""

    def __init__(self, format_: int = tarfile.PAX_FORMAT) -> None:
        self._raw = io.BytesIO()
        self._tar = tarfile.open(  # noqa: SIM115 - `done` closes it
            fileobj=self._raw, mode="w", format=format_, encoding="utf-8", errors="surrogateescape"
        )

    def add(
        self,
        name: str,
        content: bytes = b"",
        *,
        kind: bytes = tarfile.REGTYPE,
        mode: int = 0o644,
        owner: tuple[int, int] = (0, 0),
        mtime: float = MTIME,
        link: str = "",
        device: tuple[int, int] = (0, 0),
        pax: dict[str, str] | None = None,
    ) -> Layer:
        entry = tarfile.TarInfo(name)
        entry.type, entry.mode, entry.mtime, entry.linkname = kind, mode, mtime, link
        entry.uid, entry.gid = owner
        entry.devmajor, entry.devminor = device
        entry.size = len(content)
        entry.pax_headers = pax or {}
        self._tar.addfile(entry, io.BytesIO(content))
        return self

    def folder(self, name: str, mode: int = 0o755) -> Layer:
        return self.add(name, kind=tarfile.DIRTYPE, mode=mode)

    def done(self) -> bytes:
        self._tar.close()
        return self._raw.getvalue()


def base() -> bytes:
    """Return the lowest layer."""
    layer = Layer().folder("./").folder("bin").folder("etc").folder("dev").folder("opaque", 0o1777)
    layer.add("bin/tool", b"#!tool\n" * 3000, mode=0o755)
    layer.add("bin/su", b"su" * 1000, mode=0o4755)
    layer.add("bin/su2", kind=tarfile.LNKTYPE, link="bin/su", mode=0o4755)
    layer.add("bin/ping", b"ping" * 100, mode=0o755, pax={"SCHILY.xattr.security.capability": CAPABILITY})
    layer.add("etc/passwd", b"root:x:0:0\n").add("etc/empty").add("etc/gone", b"x").add(LATIN, b"latin")
    layer.add("lib", kind=tarfile.SYMTYPE, link="usr/lib", mode=0o777)
    layer.add("usr/lib/deep/file", b"in folders without entries", owner=(1000, 1001))
    layer.add("dev/null", kind=tarfile.CHRTYPE, mode=0o666, device=(1, 3)).add("dev/pipe", kind=tarfile.FIFOTYPE)
    layer.add("opaque/a", b"a").add("opaque/b", b"b")
    return layer.add(LONG, b"a long name", mtime=MTIME + 0.123456789).done()


def middle() -> bytes:
    """Return a layer that hides and changes files below."""
    layer = Layer().folder("etc").add("etc/.wh.gone").folder("opaque", 0o1777).add("opaque/.wh..wh..opq")
    return layer.add("opaque/c", b"c").add("etc/passwd", b"root:x:0:0\nshop:x:1:1\n").done()


def top() -> bytes:
    """Return a layer of one file."""
    return Layer().add("app", b"#!/bin/sh\nsleep 1000\n", mode=0o755).done()


def archive(path: Path, layers: list[bytes], name: str = NAME, cmd: list[str] | None = None) -> str:
    """Write an archive of one image; return the image's ID."""
    (image,) = archive_of(path, {name: layers}, cmd)
    return image


def archive_of(path: Path, images: Mapping[str, list[bytes]], cmd: list[str] | None = None) -> list[str]:
    """Write an archive in the format that `docker save` used before OCI layouts; return the images' IDs."""
    listed, ids, written = [], [], set()
    with tarfile.open(path, "w") as tar:
        write = member_of(tar)
        for name, layers in images.items():
            hashes = [hashlib.sha256(each).hexdigest() for each in layers]
            config = {
                "architecture": "amd64",
                "os": "linux",
                "config": {"Cmd": cmd or ["/app"]},
                "rootfs": {"type": "layers", "diff_ids": [f"sha256:{each}" for each in hashes]},
            }
            raw = json.dumps(config).encode()
            ids.append(hashlib.sha256(raw).hexdigest())
            write(f"{ids[-1]}.json", raw)
            for each, content in zip(hashes, layers, strict=True):
                if each not in written:
                    write(f"{each}.tar", content)
                    written.add(each)
            listed.append(
                {"Config": f"{ids[-1]}.json", "RepoTags": [name], "Layers": [f"{each}.tar" for each in hashes]}
            )
        write("manifest.json", json.dumps(listed).encode())
    return ids


def member_of(tar: tarfile.TarFile) -> Callable[[str, bytes], None]:
    """Write files into an archive."""

    def write(name: str, content: bytes) -> None:
        entry = tarfile.TarInfo(name)
        entry.size = len(content)
        tar.addfile(entry, io.BytesIO(content))

    return write
