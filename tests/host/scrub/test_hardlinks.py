"""Extended attributes of hard-linked files, with `user.` attributes, which need no engine and no privileges."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from boltseal.engines.safe_open import SafeFolder
from boltseal.host.scrub.differences import DifferenceKind
from boltseal.host.scrub.file_contents import FileReader
from boltseal.host.scrub.inodes import MAX_SHARED_ATTRIBUTES_BYTES
from boltseal.host.scrub.layer_comparison import LayerComparison
from boltseal.host.scrub.ownership import Ownership
from boltseal.host.scrub.tar_header import HARDLINK, REGULAR, Header, TarMalformed, UnusualTraits


@pytest.fixture
def layer(tmp_path: Path) -> Path:
    """An unpacked layer of one empty file with three names."""
    folder = tmp_path / "layer"
    folder.mkdir()
    (folder / "a").touch(0o644)
    for name in ("b", "c"):
        (folder / name).hardlink_to(folder / "a")
    os.utime(folder / "a", (0, 0))
    return folder


def header(name: bytes, link: bytes = b"", mode: int = 0o644, **attributes: str) -> Header:
    """Return the header of the file or of a link to it."""
    traits = UnusualTraits(HARDLINK if link else REGULAR, mode, (os.geteuid(), os.getegid()), link)
    xattrs = {f"user.{key}".encode(): value.encode() for key, value in attributes.items()}
    return Header(name, traits, 0, 0, False, xattrs, 0, None)


def differences(layer: Path, *headers: Header) -> list[tuple[DifferenceKind, str, str, str]]:
    """Return the differences with expected and actual values."""
    with SafeFolder(layer) as tree:
        comparison = LayerComparison(tree, "", Ownership(), FileReader(tree, lambda _: None))
        for each in headers:
            comparison.entry(each)
        comparison.finish()
        return [(each.kind, each.path, each.expected, each.got) for each in comparison.findings.all()]


PLAIN = header(b"a"), header(b"b", b"a"), header(b"c", b"b")


@pytest.mark.parametrize("name", ["a", "b", "c"])
def test_an_attribute_without_a_header_is_found_by_any_name(layer: Path, name: str) -> None:
    """An attribute without a header is reported once, at the first of the file's names."""
    os.setxattr(layer / name, "user.evil", b"1")

    assert differences(layer, *PLAIN) == [(DifferenceKind.XATTR, "a", "user.evil=none", "user.evil=1")]


def test_attributes_of_all_headers_are_merged(layer: Path) -> None:
    """As in engines, the attributes of each header are added to the file and none is removed."""
    headers = header(b"a", x="1", y="1"), header(b"b", b"a", x="2"), header(b"c", b"a", z="3")
    for name, value in (("x", b"2"), ("y", b"1"), ("z", b"3")):
        os.setxattr(layer / "a", f"user.{name}", value)

    clean = differences(layer, *headers)
    os.setxattr(layer / "a", "user.x", b"1")
    os.removexattr(layer / "a", "user.y")

    assert clean == []
    assert differences(layer, *headers) == [
        (DifferenceKind.XATTR, "a", "user.x=2", "user.x=1"),
        (DifferenceKind.XATTR, "a", "user.y=1", "user.y=none"),
    ]


def test_the_last_header_of_a_chain_of_links_counts(layer: Path) -> None:
    """The last header of a chain of links decides the mode."""
    (layer / "a").chmod(0o600)

    assert differences(layer, header(b"a"), header(b"b", b"a"), header(b"c", b"b", 0o600)) == []
    assert [each[0] for each in differences(layer, header(b"a", mode=0o600), *PLAIN[1:])] == [DifferenceKind.MODE]


def test_a_replaced_file_has_the_attributes_of_its_new_header(layer: Path) -> None:
    """A file that a later entry replaces has the attributes of the later header."""
    os.setxattr(layer / "a", "user.x", b"2")

    assert differences(layer, header(b"a", x="1", y="1"), header(b"a", x="2"), *PLAIN[1:]) == []


def test_endless_attributes_are_refused(layer: Path) -> None:
    """A tar with endless attributes is refused, since it could fill the memory."""
    large = bytes(1 << 22)
    one, count = header(b"b", b"a"), MAX_SHARED_ATTRIBUTES_BYTES // len(large)
    repeated = [one._replace(xattrs={b"user.x": large})] * (count + 1)
    others = [one._replace(xattrs={b"user.%d" % number: large}) for number in range(count + 1)]

    assert (DifferenceKind.XATTR, "a") in {each[:2] for each in differences(layer, header(b"a"), *repeated)}
    with pytest.raises(TarMalformed, match="bytes of attributes"):
        differences(layer, header(b"a"), *others)
