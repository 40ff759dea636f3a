"""Layers as many tools write them, none manipulated."""

from __future__ import annotations

import gzip
import tarfile

from tests.attacks.scrub.image import ACL, CAPABILITY, LATIN, LONG, Layer, base, middle, top
from tests.host.scrub.made_stores import NAMES_BY_GO


def links_with_other_modes() -> bytes:
    """Return hard links whose headers have other modes: engines set the last header's mode, which removes a setuid bit
    here."""
    layer = Layer().folder("bin").add("bin/su", b"su" * 300, mode=0o4755)
    return layer.add("bin/su2", kind=tarfile.LNKTYPE, link="bin/su", mode=0o644, mtime=5).done()


def links_with_attributes() -> bytes:
    """Return hard links whose headers repeat, omit, change or add attributes, which engines apply to the shared file."""
    layer = Layer().folder("bin")

    def add(name: str, link: str = "", *, mode: int = 0o755, mtime: int = 1, **attributes: str) -> None:
        pax = {f"SCHILY.xattr.{key.replace('_', '.', 1)}": value for key, value in attributes.items()}
        kind, content = (tarfile.LNKTYPE, b"") if link else (tarfile.REGTYPE, b"content")
        layer.add(name, content, kind=kind, link=link, mode=mode, mtime=mtime, pax=pax)

    acl = ACL.decode("utf-8", "surrogateescape")
    add("bin/repeated", security_capability=CAPABILITY, user_a="1")
    add("bin/repeated2", "bin/repeated", security_capability=CAPABILITY, user_a="1")
    add("bin/omitted", security_capability=CAPABILITY, user_a="1")
    add("bin/omitted2", "bin/omitted")
    add("bin/omitted3", "bin/omitted2", mtime=2)
    add("bin/added")
    add("bin/added2", "bin/added", security_capability=CAPABILITY, user_a="1")
    add("bin/changed", user_a="1", user_z="1")
    add("bin/changed2", "bin/changed", user_b="2")
    add("bin/changed3", "bin/changed2", user_a="3", mode=0o4755)
    add("bin/changed4", "bin/changed2", mode=0o600)
    add("bin/list", system_posix_acl_access=acl)
    add("bin/list2", "bin/list")
    add("bin/list3", "bin/list2", mode=0o600)
    layer.add("lib", kind=tarfile.SYMTYPE, link="bin", mode=0o777, pax={"SCHILY.xattr.trusted.a": "1"})
    layer.add("lib2", kind=tarfile.LNKTYPE, link="lib", mode=0o777, owner=(5, 6), mtime=77)
    return layer.done()


def no_folders() -> bytes:
    """Return a layer of deeply nested files only."""
    return Layer().add("x/y/z", b"z").add("x/y2/z", b"z").add("a/b/c/d/e/f", b"f").done()


def nothing() -> bytes:
    """Return a tar without entries, as `RUN true` creates it."""
    return Layer().done()


def gnu() -> bytes:
    """Return a layer with GNU's long names and large numbers."""
    layer = Layer(tarfile.GNU_FORMAT).folder("n" * 90).add("n" * 90 + "/" + "m" * 150, b"long")
    layer.add("owner", b"x", owner=(3_000_000, 3_000_001)).add("old", b"x", mtime=-5)
    return layer.add("link", kind=tarfile.SYMTYPE, link="t" * 180, mode=0o777).done()


def pax() -> bytes:
    """Return a layer with attributes, times with nanoseconds, long links, and names that are not UTF-8 or ASCII."""
    layer = Layer().add(LONG, b"x", mtime=1.123456789).add(LATIN, b"x").add("etc/größe", b"x")
    layer.add("ping", b"x", mode=0o755, pax={"SCHILY.xattr.security.capability": CAPABILITY})
    layer.add("mine", b"x", pax={"SCHILY.xattr.user.mine": "1"})
    layer.add("future", b"x", mtime=4_000_000_000.5).add("before", b"x", mtime=-1.5)
    return layer.add("link", kind=tarfile.SYMTYPE, link="t" * 300, mode=0o777).done()


def ustar() -> bytes:
    """Return a layer in the oldest format, with name prefixes."""
    return Layer(tarfile.USTAR_FORMAT).folder("p" * 90).add("p" * 90 + "/" + "q" * 90, b"x").done()


def odd_names() -> bytes:
    """Return a layer with names that engines normalize."""
    layer = Layer().folder("./a/").add("./a/./b", b"b").add("/c", b"c").folder("d//").add("d/e f\n", b"f")
    return layer.add("a/.hidden", b"h").add("..x", b"x").done()


def slashes() -> bytes:
    """Return names with a final slash, which makes a folder of a v7 entry but not of a ustar file."""
    layer = (
        Layer()
        .folder("d")
        .add("d/file/", b"content")
        .add("d/empty/")
        .add("d/folder/", kind=tarfile.AREGTYPE, mode=0o755)
    )
    return layer.add("d/folder/file", kind=tarfile.AREGTYPE).add("e/" + "n" * 120 + "/", b"content").done()


def changing() -> bytes:
    """Return a layer with a folder whose entry comes after its contents, and is repeated."""
    layer = Layer().add("d/f", b"f").folder("d", 0o700)
    return layer.add("e/f", b"f").done()


def set_group_id() -> bytes:
    """Return folders with the set-group-id bit and folders without entries in them, before and after the bit is set."""
    layer = Layer().add("d", kind=tarfile.DIRTYPE, mode=0o2775, owner=(0, 1001)).add("d/e/f/g", b"g")
    return layer.add("h/i/j", b"j").add("h", kind=tarfile.DIRTYPE, mode=0o2755, owner=(5, 6)).done()


def set_group_id_first() -> bytes:
    """Return folders that have the set-group-id bit, or not, before an upper layer lists them after their contents."""
    layer = Layer().add("taken", kind=tarfile.DIRTYPE, mode=0o2755, owner=(5, 6))
    return layer.folder("given").add("kept", kind=tarfile.DIRTYPE, mode=0o2750, owner=(7, 8)).done()


def set_group_id_later() -> bytes:
    """Return folders without entries in ones whose set-group-id bit is set or removed by a later entry of the same layer."""
    layer = Layer().add("taken/new/deep/f", b"f").folder("taken").add("taken/late/f", b"f").add("kept/new/f", b"f")
    layer.add("given/new/f", b"f").add("given", kind=tarfile.DIRTYPE, mode=0o2755, owner=(9, 10))
    return layer.add("given/late/deep/f", b"f").done()


def upper_of_everything() -> bytes:
    """Return whiteouts beside files of the same name, for folders, and for names that do not exist."""
    layer = Layer().add("etc/.wh.passwd").add("etc/.wh.nothing").folder("opaque").add("opaque/.wh..wh..opq")
    return layer.add("bin/.wh.tool").add("lib", b"a file now").done()


def implied_base() -> bytes:
    """Return a layer with folders of many kinds."""
    layer = Layer().folder("etc").folder("shared", 0o1777).folder("usr").folder("usr/lib")
    layer.add("owned", kind=tarfile.DIRTYPE, mode=0o750, owner=(1000, 1000))
    layer.add("attributes", kind=tarfile.DIRTYPE, mode=0o755, pax={"SCHILY.xattr.user.a": "1"})
    layer.add("link", kind=tarfile.SYMTYPE, link="usr/lib", mode=0o777).add("file", b"a file")
    return layer.add("etc/passwd", b"root:x:0:0\n").done()


def implied_top() -> bytes:
    """Return a layer of files in folders without entries: new ones, and ones that lower layers have."""
    layer = (
        Layer().add("etc/myapp.conf", b"x").add("new/deep/file", b"x").add("shared/file", b"x").add("owned/file", b"x")
    )
    return layer.add("attributes/file", b"x").add("link/file", b"x").add("file/file", b"x").done()


LAYERS: dict[str, list[bytes]] = {
    "everything": [base(), middle(), top()],
    "links-with-other-modes": [links_with_other_modes()],
    "links-with-attributes": [links_with_attributes()],
    "no-folders": [no_folders(), no_folders()],
    "nothing": [no_folders(), nothing()],
    "gnu": [gnu()],
    "pax": [pax()],
    "ustar": [ustar()],
    "odd-names": [odd_names()],
    "slashes": [slashes()],
    "names-by-go": [gzip.decompress(NAMES_BY_GO.read_bytes())],
    "set-group-id": [set_group_id(), no_folders(), set_group_id()],
    "set-group-id-later": [set_group_id_first(), set_group_id_later()],
    "changing": [changing()],
    "upper": [base(), upper_of_everything()],
    "implied": [implied_base(), implied_top()],
}
