"""Layers as the programs that build images pack them: Go's archive/tar, GNU tar, bsdtar, Python's tarfile and others.

`pack` has each program pack the same folder, which holds what tars differ in: long names, names that are not ASCII or not
UTF-8, large owners, times before 1970 and with fractions, hard links, devices, sparse files, attributes, access control
lists and capabilities. Of what a program or its format can't store, it leaves out the file or the value.
"""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import tarfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Final

from tests.attacks.scrub.image import ACL, CAPABILITY, MTIME
from tests.programs import program

GNU_FORMATS: Final = ("v7", "oldgnu", "gnu", "ustar", "pax")
BSD_FORMATS: Final = ("v7", "ustar", "pax", "restricted", "gnutar")
PYTHON_FORMATS: Final = {"ustar": tarfile.USTAR_FORMAT, "gnu": tarfile.GNU_FORMAT, "pax": tarfile.PAX_FORMAT}
GO_FORMATS: Final = ("unknown", "ustar", "pax", "gnu")
DEFAULT_ACL: Final = ACL


def make_tree(tree: Path) -> Path:
    """Create the folder that all programs pack."""
    for name in ("etc", "bin", "srv", "dev", "data", "usr/lib", "n" * 90, "data/フォルダ"):
        (tree / name).mkdir(parents=True)
    files: dict[bytes, bytes] = {
        b"bin/tool": b"#!tool\n" * 3000, b"bin/su": b"su" * 500, b"bin/ping": b"ping", b"etc/empty": b"",
        b"etc/passwd": b"root:x:0:0\n", b"usr/lib/a b\n\\c": b"odd", b"..x": b"x", b"etc/.hidden": b"h",
        b"n" * 90 + b"/" + b"m" * 60: b"prefix", b"n" * 90 + b"/" + b"m" * 200: b"long", b"data/" + b"k" * 100: b"100",
        "data/日本語".encode(): b"1", "data/フォルダ/名前".encode(): b"2", "größe".encode(): b"3", b"data/" + "長".encode() * 60: b"4",
        b"data/caf\xe9": b"latin", b"data/\xff\xfe": b"bytes", b"srv/large-owner": b"o", b"srv/nobody": b"n",
        b"srv/old": b"t", b"srv/fraction": b"t", b"srv/old-fraction": b"t", b"srv/far": b"t", b"srv/mine": b"x", b"srv/list": b"l",
        b"srv/block": b"b" * 512, b"srv/blocks": b"b" * 10240,
    }  # fmt: skip
    for raw_name, content in files.items():
        (tree / os.fsdecode(raw_name)).write_bytes(content)
    for name, target in (
        ("bin/su2", "bin/su"),
        ("data/別名", "data/日本語"),
        ("srv/mine2", "srv/mine"),
        (f"data/{'h' * 120}", "bin/tool"),
    ):
        (tree / name).hardlink_to(tree / target)
    for name, target in (
        ("lib", "usr/lib"),
        ("bin/sh", "tool"),
        ("data/リンク", "日本語"),
        ("data/away", "/" + "t" * 180),
        ("bin/none", ""),
    ):
        if target:
            (tree / name).symlink_to(target)
    with (tree / "srv/sparse").open("wb") as file:
        file.seek(2_000_000)
        file.write(b"x" * 1000)
        file.truncate(4_000_000)
    os.mkfifo(tree / "dev/pipe")
    os.mknod(tree / "dev/null", 0o20666, os.makedev(1, 3))
    os.mknod(tree / "dev/disk", 0o60660, os.makedev(259, 70000))
    _set_attributes(tree)
    return tree


def _set_attributes(tree: Path) -> None:
    os.chown(tree / "srv/large-owner", 3_000_000_000, 2_097_152)
    os.chown(tree / "srv/nobody", 4_294_967_294, 65534)
    os.chown(tree / "lib", 1000, 1001, follow_symlinks=False)
    os.setxattr(tree / "srv/mine", "user.mine", b"1\n=\0\xff")
    os.setxattr(tree / "srv", "user.folder", b"")
    os.setxattr(tree / "srv/list", "system.posix_acl_access", ACL)
    os.setxattr(tree / "data", "system.posix_acl_default", DEFAULT_ACL)
    os.setxattr(tree / "bin/ping", "security.capability", CAPABILITY.encode("latin-1"))
    (tree / "bin/su").chmod(0o4755)
    (tree / "srv").chmod(0o3777)
    (tree / "etc/empty").chmod(0)
    second = 1_000_000_000
    everything = sorted(tree.rglob("*"), key=lambda each: -len(each.parts))
    for path in everything:
        os.utime(path, (MTIME, MTIME), follow_symlinks=False)
    for name, ns in (
        ("srv/old", -5 * second), ("srv/fraction", MTIME * second + 123_456_789), ("srv/old-fraction", -1_500_000_000),
        ("srv/far", 9_000_000_000 * second), ("bin/sh", MTIME * second + 5), ("usr/lib", MTIME * second + 700_000_000),
    ):  # fmt: skip
        os.utime(tree / name, ns=(ns, ns), follow_symlinks=False)


def written(*argv: str | Path, fails: bool = False) -> bytes:
    """Return what a command writes to its standard output; with `fails`, although it could not pack some files."""
    done = subprocess.run(
        [program(str(argv[0])), *argv[1:]], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=not fails
    )

    assert done.stdout
    return done.stdout


def gnu_tar(tree: Path, format_: str) -> bytes:
    more = ("--xattrs", "--xattrs-include=*", "--acls", "--selinux") if format_ == "pax" else ()
    return written("tar", f"--format={format_}", *more, "-C", tree, "-c", ".", fails=True)


def gnu_tar_names(tree: Path, _: str = "") -> bytes:
    """Pack with a label of each entry's absolute name, sparse files in pax, and folders after their contents."""
    names = sorted((str(each.relative_to(tree)) for each in tree.rglob("*")), reverse=True)
    return written(
        "tar", "--format=pax", "-S", "--no-recursion", "--transform", "flags=rSh;s,^,/,", "-P", "--pax-option=globexthdr.name=%d/pax_global,comment=made",
        "-C", tree, "-c", *(f"./{each}" for each in names),
    )  # fmt: skip


def bsd_tar(tree: Path, format_: str) -> bytes:
    more = ("--xattrs", "--acls", "--fflags") if format_ in ("pax", "restricted") else ()
    format_ = "pax" if format_ == "pax" else {"restricted": "paxr", "gnutar": "gnutar"}.get(format_, format_)
    return written("bsdtar", f"--format={format_}", *more, "-C", tree, "-cf", "-", ".", fails=True)


def python_tar(tree: Path, format_: str) -> bytes:
    raw = io.BytesIO()
    with tarfile.open(
        fileobj=raw, mode="w", format=PYTHON_FORMATS[format_], encoding="utf-8", errors="surrogateescape"
    ) as tar:
        for path in (tree, *sorted(tree.rglob("*"))):
            try:
                tar.add(path, path.relative_to(tree), recursive=False)
            except ValueError:
                continue  # the format can't store it
    return raw.getvalue()


def busybox_tar(tree: Path, _: str = "") -> bytes:
    return written("busybox", "tar", "-C", tree, "-cf", "-", ".", fails=True)


def git_archive(tree: Path, scratch: Path) -> bytes:
    """Pack the files that git stores, after a pax global header with the commit."""
    git = (program("git"), "-C", str(scratch), "-c", "user.name=n", "-c", "user.email=e@example.com")
    if not scratch.exists():
        shutil.copytree(tree / "etc", scratch / "etc")
        shutil.copytree(tree / "data/フォルダ", scratch / "フォルダ")
        (scratch / ("l" * 90)).mkdir()
        (scratch / ("l" * 90) / ("k" * 90)).write_text("long")
        (scratch / "link").symlink_to("etc/passwd")
        for command in (("init", "-q"), ("add", "."), ("commit", "-q", "-m", "made")):
            subprocess.run([*git, *command], check=True)
    return subprocess.run([*git, "archive", "--format=tar", "HEAD"], stdout=subprocess.PIPE, check=True).stdout


PACKED: Final = (
    *(f"gnu-tar-{format_}" for format_ in GNU_FORMATS),
    *(f"bsdtar-{format_}" for format_ in BSD_FORMATS),
    *(f"python-{format_}" for format_ in PYTHON_FORMATS),
    *(f"go-{format_}" for format_ in GO_FORMATS),
    *("ko", "kaniko", "containerd", "gnu-tar-names", "busybox", "git-archive"),
)
"""The names of all programs and formats."""


def pack(tree: Path, go: Path, scratch: Path) -> dict[str, Callable[[], bytes]]:
    """Return by name how each program packs the folder. `go`: the program of builders/main.go."""
    return {
        **{f"gnu-tar-{format_}": partial(gnu_tar, tree, format_) for format_ in GNU_FORMATS},
        **{f"bsdtar-{format_}": partial(bsd_tar, tree, format_) for format_ in BSD_FORMATS},
        **{f"python-{format_}": partial(python_tar, tree, format_) for format_ in PYTHON_FORMATS},
        **{f"go-{format_}": partial(written, go, "tree", tree, format_) for format_ in GO_FORMATS},
        **{kind: partial(written, go, kind, tree) for kind in ("ko", "kaniko", "containerd")},
        "gnu-tar-names": partial(gnu_tar_names, tree),
        "busybox": partial(busybox_tar, tree),
        "git-archive": partial(git_archive, tree, scratch),
    }
