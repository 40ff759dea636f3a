"""Flags that root sets on a layer's files with chattr: a container sees them, and no tar has them."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from boltseal.host.scrub.differences import DifferenceKind
from boltseal.host.scrub.layer_check import CheckMode
from boltseal.host.scrub.report import ReportStatus
from boltseal.host.scrub.scrub import ScrubRequest
from tests.attacks.scrub.stores import Store
from tests.programs import program

pytestmark = pytest.mark.real

SEEN = ["bin/tool", "etc/empty", "bin/su", "bin/su2", "bin/ping", "opaque", "usr/lib", "usr/lib/deep/file", ""]
"""A plain file, an empty one, both names of one file, one with a capability, a folder, one without an entry, a file in
it, and the layer's own folder."""


@pytest.fixture
def flagged(tmp_path: Path) -> Iterator[Callable[[Path, str], None]]:
    """Set a flag on a file, until the test ends: files with flags can't be removed."""
    done: list[Path] = []

    def set_flag(path: Path, flag: str) -> None:
        subprocess.run([program("chattr"), f"+{flag}", path], check=True)
        done.append(path)

    yield set_flag
    for path in done:
        subprocess.run([program("chattr"), "-ia", path], check=True)


@pytest.mark.parametrize("path", SEEN, ids=lambda path: path or "root")
def test_an_immutable_file_of_a_layer_differs(store: Store, flagged: Callable[[Path, str], None], path: str) -> None:
    """A container can't write to an immutable file or folder of a layer, which is a difference of the kind flag."""
    flagged(store.at(path), "i")

    report = store.image_report()

    assert report.status is ReportStatus.DIFFERS
    assert {each.kind for each in report.differences} == {DifferenceKind.FLAG}
    assert {each.got for each in report.differences} == {"immutable"}
    assert {each.path for each in report.differences} <= ({"bin/su", "bin/su2"} if "su" in path else {path})


@pytest.mark.parametrize("path", ["bin/tool", "opaque"])
def test_an_append_only_file_of_a_layer_differs(store: Store, flagged: Callable[[Path, str], None], path: str) -> None:
    """A container can't replace an append-only file or remove files from an append-only folder, which is a difference."""
    flagged(store.at(path), "a")

    report = store.image_report()

    assert [(each.kind, each.path, each.got) for each in report.differences] == [
        (DifferenceKind.FLAG, path, "append-only")
    ]


def test_flags_are_found_without_reading_content(
    copy_of: Callable[[str], Store], flagged: Callable[[Path, str], None]
) -> None:
    """A check without contents finds an immutable file."""
    store = copy_of("docker")
    flagged(store.at("bin/tool"), "i")

    report = store.image_report(ScrubRequest(check_mode=CheckMode(quick=True)))

    assert [each.kind for each in report.differences] == [DifferenceKind.FLAG]


def test_flags_that_no_container_sees_are_no_difference(store: Store, flagged: Callable[[Path, str], None]) -> None:
    """Flags of the file system, such as no access times or no copy on write, change nothing for a container."""
    flagged(store.at("bin/tool"), "d")

    assert store.image_report().status is ReportStatus.HOLDS
