"""Layers with the odd things that tars can contain, each on its own; ODD has the layers of one image by name."""

from __future__ import annotations

import tarfile
from typing import Final

from tests.attacks.scrub.image import ACL, CAPABILITY, MTIME, Layer, base
from tests.host.scrub.made_stores import extended, record

END: Final = bytes(1024)
LIST: Final = ACL.decode("utf-8", "surrogateescape")
FOLDER, LINK, HARD, PIPE, CHARACTER = (
    tarfile.DIRTYPE,
    tarfile.SYMTYPE,
    tarfile.LNKTYPE,
    tarfile.FIFOTYPE,
    tarfile.CHRTYPE,
)


def attributes(**values: str) -> dict[str, str]:
    """Return the records of attributes; the first `_` of a name is its dot."""
    return {f"SCHILY.xattr.{name.replace('_', '.', 1)}": value for name, value in values.items()}


def patched(name: str, *patches: tuple[int, bytes], type_: bytes = b"0", mode: int = 0o644, link: str = "") -> bytes:
    """Return a header of which some bytes are replaced, with the right checksum."""
    entry = tarfile.TarInfo(name)
    entry.type, entry.mode, entry.mtime, entry.linkname = type_, mode, MTIME, link
    raw = bytearray(entry.tobuf(tarfile.USTAR_FORMAT))
    for at, data in patches:
        raw[at : at + len(data)] = data
    raw[148:156] = b" " * 8
    raw[148:156] = b"%06o\0 " % sum(raw)
    return bytes(raw)


def file(size: int = 600) -> bytes:
    """Return one file without the zeros at a tar's end."""
    content = b"f" * size
    return patched("f", (124, b"%011o\0" % size)) + content.ljust(-(-size // 512) * 512, b"\0")


def default_list() -> Layer:
    """Return a layer whose first folder has a default access control list, which all that follows gets from the kernel."""
    layer = (
        Layer().add("before/f", b"b").add("d", kind=FOLDER, mode=0o755, pax=attributes(system_posix_acl_default=LIST))
    )
    layer.add("before", kind=FOLDER, mode=0o755, pax=attributes(system_posix_acl_default=LIST, user_kept="1"))
    layer.add("d/f", b"f").folder("d/e").add("d/e/f", b"x", mode=0o600).add("d/i/j/f", b"").add(
        "d/n", kind=CHARACTER, device=(1, 3)
    )
    layer.add("d/l", kind=LINK, link="f", mode=0o777).add("d/p", kind=PIPE).add("d/h", kind=HARD, link="d/f")
    own = attributes(system_posix_acl_access=LIST)
    return layer.add("d/own", b"own", pax=own, mode=0o755).add("d/.hidden", b"h")


def trusted() -> bytes:
    """Return attributes that only privileged processes see, which containerd does not set."""
    mine = attributes(trusted_mine="1")
    layer = (
        Layer()
        .add("f", b"f", pax=mine)
        .folder("d")
        .add("g", b"", pax=mine)
        .add("dd", kind=FOLDER, mode=0o755, pax=mine)
    )
    layer.add("h", kind=HARD, link="g", pax=attributes(trusted_more="1")).add(
        "l", kind=LINK, link="f", mode=0o777, pax=mine
    )
    of_overlayfs = {f"SCHILY.xattr.trusted.overlay.{name}": "y" for name in ("origin", "impure")}
    return layer.add("upper", kind=FOLDER, mode=0o755, pax=of_overlayfs).add("upper/f", b"f", pax=of_overlayfs).done()


def through_links() -> Layer:
    """Return a layer of joined packages, one with `lib` as a link and others with files in it."""
    layer = Layer().folder("usr").folder("usr/lib").add("lib", kind=LINK, link="usr/lib", mode=0o777)
    layer.add("lib/libc.so", b"libc" * 300).folder("lib/deep").add("lib/deep/f", b"f").add("lib/implied/f", b"f")
    layer.add("usr/lib64", kind=LINK, link="/lib", mode=0o777).add("usr/lib64/ld.so", b"ld").add(
        "lib/hard", kind=HARD, link="lib/libc.so"
    )
    layer.add("hard", kind=HARD, link="usr/lib64/libc.so").add("up", kind=LINK, link="../../usr", mode=0o777)
    return layer.add("up/f", b"f").add("usr/lib/libz.so", b"z")


def times() -> bytes:
    """Return times before 1970, with fractions and after 2262, of each type of file."""
    layer = Layer().add("zero", b"z", mtime=0).add("half", b"h", mtime=-0.5).add("far", b"f", mtime=99_999_999_999)
    for name, kind in (("l", LINK), ("d", FOLDER), ("p", PIPE)):
        link, mode = ("zero", 0o777) if kind == LINK else ("", 0o755)
        for number, mtime in enumerate((-5, -7.25, 1.987654321, 99_999_999_999)):
            layer.add(f"{name}{number}", kind=kind, link=link, mode=mode, mtime=mtime)
    return layer.add("hard", kind=HARD, link="zero", mtime=-9.5).done()


def pax_records() -> bytes:
    """Return records that engines ignore beside some that they do not."""
    ignored = {
        "hdrcharset": "BINARY", "comment": "c", "atime": "1.5", "ctime": "9", "SCHILY.dev": "5", "SCHILY.nlink": "2",
        "SCHILY.fflags": "nodump", "RHT.security.selinux": "u:r:t:s0", "LIBARCHIVE.xattr.user.b": "MQ", "uname": "u" * 300,
        "SCHILY.acl.access": "user::rw-", "SCHILY.acl.default": "user::rw-", "gname": "ü", "LIBARCHIVE.creationtime": "5",
    }  # fmt: skip
    layer = Layer().add("ignored", b"f", pax=ignored)
    layer.add("values", b"e", pax=attributes(user_empty="", user_nul="a\0b", user_long="v" * 3000))
    return layer.add("selinux", b"f", pax=attributes(security_selinux="system_u:object_r:usr_t:s0")).done()


def numbers() -> bytes:
    """Return numbers that fill their field, that are padded with spaces, and that are not terminated."""
    full = patched("far", (136, b"105000000000")) + patched("size", (124, b"000000000003")) + b"abc".ljust(512, b"\0")
    owner = patched("owner", (108, b"00001234"), (116, b"77777777"), (100, b"00000755"))
    spaces = ((136, b" 14524542400"), (108, b"    12 \0"), (100, b"   644 \0"), (124, b"          3 "))
    return full + owner + patched("spaces", *spaces) + b"abc".ljust(512, b"\0") + END


def owners() -> bytes:
    """Return owners of which the kernel takes the lowest 32 bits, and -1, which changes nothing."""
    layer = Layer().add("max", b"f", owner=(0xFFFFFFFF, 5)).add("over", b"f", owner=(2**32 + 5, 2**33 + 6)).folder("d")
    return layer.add("nobody", b"f", owner=(0xFFFFFFFE, 0xFFFFFFFE)).done()


def sizes() -> bytes:
    """Return sizes in the headers of entries without content, which readers ignore."""
    four = (124, b"00000000004\0")
    link = patched("hard", four, type_=b"1", link="f") + patched("l", four, type_=b"2", link="f", mode=0o777)
    return (
        file(4)
        + link
        + patched("d", (124, b"00000010000\0"), type_=b"5", mode=0o755)
        + patched("p", four, type_=b"6")
        + END
    )


def prefixes() -> bytes:
    """Return name prefixes of several versions of ustar, of star, and of Go before 1.8; and the times in their place."""
    pre, time = (345, b"some/prefix\0"), (345, b"14524542400\0")
    return (
        patched("gnu", (257, b"ustar  \0"), pre) + patched("gnu-times", (257, b"ustar  \0"), time, (357, time[1]))
        + patched("spaces", (263, b"  "), pre) + patched("nul", (263, b"\0\0"), pre)
        + patched("star", pre, (476, b"14524542400\0"), (488, b"14524542400\0"), (508, b"tar\0")) + END
    )  # fmt: skip


def v7() -> bytes:
    """Return headers of the oldest format, which has no type for folders."""
    old = (257, bytes(255))
    return patched("f", old) + patched("d/", old, (156, b"\0"), mode=0o755) + patched("d/f", old, (156, b"\0")) + END


def global_headers() -> bytes:
    """Return a layer with global headers before and between its entries, which engines ignore, whatever they set."""
    comment = record(b"comment", b"made")
    first = patched("first", (124, b"%011o\0" % len(comment)), type_=b"g") + comment.ljust(512, b"\0")
    later = extended(b"g", record(b"path", b"evil") + record(b"uid", b"5"), Layer().add("g", b"g").done())
    return first + file() + later


def duplicates() -> bytes:
    """Return entries of the same name, of which the last counts."""
    layer = (
        Layer().add("f", b"one").add("f", b"twotwo", mode=0o600).folder("d").add("d/x", b"x").add("d", b"a file now")
    )
    layer.add("k", b"k").folder("k").add("k/z", b"z").add("m", kind=FOLDER, mode=0o700, pax=attributes(user_a="1"))
    return layer.folder("m", 0o711).folder("./m/").add("./n", b"n").add("n", b"n").done()


ODD: Final[dict[str, list[bytes]]] = {
    "opaque-without-folder": [base(), Layer().add("opaque/.wh..wh..opq").done()],
    "opaque-before-file": [base(), Layer().add("opaque/.wh..wh..opq").add("opaque/c", b"c").add("new/d/.wh..wh..opq").done()],
    "opaque-root": [base(), Layer().add(".wh..wh..opq").add("c", b"c").done()],
    "opaque-last": [base(), Layer().folder("opaque").add("opaque/c", b"c").add("opaque/.wh..wh..opq").done()],
    "opaque-lowest": [Layer().add("d/.wh..wh..opq").add("d/f", b"f").folder("e").add("e/.wh..wh..opq").done()],
    "opaque-attribute": [base(), Layer().add("opaque", kind=FOLDER, mode=0o755, pax={"SCHILY.xattr.trusted.overlay.opaque": "y"}).done()],
    "whiteout-lowest": [Layer().add("d/.wh.x").add(".wh.y").add("d/f", b"f").done()],
    "whiteout-types": [base(), Layer().folder("etc/.wh.passwd").add("etc/.wh.gone", b"content" * 99).add("bin/.wh.su", kind=LINK, link="x").done()],
    "whiteout-link": [base(), Layer().add("etc/.wh.passwd", kind=HARD, link="etc/.wh.gone").done()],
    "whiteout-in-whiteout": [base(), Layer().add(".wh.etc").add("etc/.wh.passwd").done()],
    "whiteout-device": [base(), Layer().folder("etc").add("etc/passwd", kind=CHARACTER, device=(0, 0), mode=0).done()],
    "aufs": [base(), Layer().add(".wh..wh.aufs").folder(".wh..wh.orph").folder(".wh..wh.plnk").add(".wh..wh.plnk/1.2", b"f").done()],
    "aufs-nested": [base(), Layer().add("etc/.wh..wh.thing").done()],
    "trusted": [trusted()],
    "folder-after-contents": [
        Layer().add("d", kind=FOLDER, mode=0o2750, owner=(7, 8), pax=attributes(user_lower="1", system_posix_acl_default=LIST))
        .add("e", kind=FOLDER, mode=0o755, pax=attributes(user_lower="1", trusted_lower="1"))
        .add("s", kind=FOLDER, mode=0o2755, owner=(7, 8)).done(),
        Layer().add("d/f", b"f").add("d/e/f", b"f").folder("d/e").add("d", kind=FOLDER, mode=0o755, pax=attributes(user_mine="1"))
        .add("d/g", b"g").folder("d/h").add("e/f/f", b"f").folder("e/f").folder("e").add("s/new/f", b"f").folder("s").done(),
    ],
    "through-links": [through_links().done()],
    "through-links-whiteout": [base(), through_links().add("lib/.wh.gone").add("lib/deep/.wh..wh..opq").done()],
    "through-links-below": [through_links().done(), Layer().add("lib/libc.so", b"x").done()],
    "link-over-folder": [Layer().add("a/b", b"b").add("a", kind=LINK, link="c", mode=0o777).done()],
    "default-list": [default_list().done()],
    "default-list-upper": [default_list().done(), Layer().folder("d").add("d/f", b"f").add("d/.wh.own").done()],
    "list-and-mode": [
        Layer().add("f", b"f", mode=0o640, pax=attributes(system_posix_acl_access=LIST))
        .add("g", b"g", mode=0o4755, pax=attributes(system_posix_acl_access=LIST))
        .add("d", kind=FOLDER, mode=0o1700, pax=attributes(system_posix_acl_access=LIST)).done()
    ],
    "root": [Layer().add("./", kind=FOLDER, mode=0o777, owner=(1000, 1001), pax=attributes(user_mine="1")).add("f", b"f").done()],
    "root-slash": [Layer().add("/", kind=FOLDER, mode=0o777, owner=(1000, 1001), pax=attributes(user_mine="1")).add("f", b"f").done()],
    "root-list": [Layer().add("/", kind=FOLDER, mode=0o755, pax=attributes(system_posix_acl_default=LIST)).add("f", b"f").folder("d").done()],
    "names-up": [Layer().add("../x", b"x").add("/../y", b"y").add("a/../../z", b"z").add("h", kind=HARD, link="/../x").done()],
    "name-empty": [patched("x", (0, bytes(100)), type_=b"5", mode=0o755) + file() + END],
    "name-slash": [Layer().add("l/", kind=LINK, link="x", mode=0o777).add("p/", kind=PIPE).add("f/", b"f").done()],
    "owners": [owners()],
    "owners-negative": [Layer(tarfile.GNU_FORMAT).add("f", b"f", owner=(-1, -1)).add("g", b"g", owner=(-2, -2)).done()],
    "numbers": [numbers()],
    "sizes": [sizes()],
    "prefixes": [prefixes()],
    "v7": [v7()],
    "mode-with-type": [patched("f", (100, b"0100644\0")) + patched("d/", (100, b"0040755\0"), type_=b"5") + END],
    "end-missing": [file()],
    "end-half": [file() + bytes(512)],
    "end-garbage": [file() + END + b"garbage" * 1000],
    "end-unpadded": [file()[: 512 + 600]],
    "times": [times()],
    "pax-records": [pax_records()],
    "pipe-attribute": [Layer().add("p", kind=PIPE, pax=attributes(user_mine="1")).done()],
    "link-attribute": [Layer().add("l", kind=LINK, link="x", mode=0o777, pax=attributes(user_mine="1")).done()],
    "global": [global_headers()],
    "devices": [Layer().add("a", kind=tarfile.BLKTYPE, device=(259, 70000)).add("b", kind=CHARACTER, device=(0, 5)).done()],
    "capability": [Layer().add("f", b"f", mode=0o6755, owner=(1000, 1000), pax=attributes(security_capability=CAPABILITY)).done()],
    "setgid-folder": [Layer().add("d", kind=FOLDER, mode=0o2775, owner=(0, 50)).add("d/f", b"f").folder("d/e").add("d/i/f", b"f").done()],
    "link-long": [Layer().add("l", kind=LINK, link="t/" * 1500, mode=0o777).done()],
    "link-empty": [Layer().add("l", kind=LINK, link="", mode=0o777).done()],
    "hard-to-link": [Layer().add("a", b"a").add("l", kind=LINK, link="a", mode=0o777).add("h", kind=HARD, link="l", mode=0o777).add("i", kind=HARD, link="/a").add("j", kind=HARD, link="./a").done()],
    "hard-to-devices": [Layer().add("p", kind=PIPE).add("q", kind=HARD, link="p").add("c", kind=CHARACTER, device=(1, 3)).add("e", kind=HARD, link="c").done()],
    "hard-before-file": [Layer().add("h", kind=HARD, link="f").add("f", b"f").done()],
    "duplicates": [duplicates()],
}  # fmt: skip

OF_ALL: Final = frozenset({"link-empty", "hard-before-file"})
"""Images that every engine refuses."""
REFUSED: Final[dict[str, frozenset[str]]] = {
    "docker": OF_ALL | {"duplicates", "whiteout-in-whiteout"},
    "docker-containerd": OF_ALL | {"whiteout-in-whiteout"},
    "containerd": OF_ALL | {"whiteout-in-whiteout"},
    "podman": OF_ALL | {"duplicates", "pipe-attribute", "link-attribute"},
}
"""The images that an engine refuses; it loads all others."""
