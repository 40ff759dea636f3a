"""The manipulations that root can make to a layer, in each engine's store: each is found and named, or is harmless.

The tables are in `file_manipulations`, `more_manipulations`, `structure_manipulations` and `harmless_manipulations`; what is
beside a layer's files is in `test_records`, `test_stacks`, `test_layer_folders` and `test_mounts`. `test_differential` generates
manipulations and lets a container decide.
"""

from __future__ import annotations

from stat import S_ISREG
from typing import Final

import pytest

from boltseal.host.scrub.differences import DifferenceKind
from boltseal.host.scrub.report import ReportStatus
from tests.attacks.scrub.file_manipulations import OF_FILES, Manipulation
from tests.attacks.scrub.harmless_manipulations import HARMLESS
from tests.attacks.scrub.more_manipulations import MORE_OF_FILES
from tests.attacks.scrub.stores import Store
from tests.attacks.scrub.structure_manipulations import OF_STRUCTURE

pytestmark = pytest.mark.real

FOUND: Final[dict[Manipulation, tuple[DifferenceKind, str]]] = {**OF_FILES, **MORE_OF_FILES, **OF_STRUCTURE}


def test_an_unmodified_store_is_clean(store: Store) -> None:
    """An unmodified store has no difference and no unknown result, and all three layers were checked."""
    report = store.image_report()

    assert report.differences == ()
    assert report.unknown == ()
    assert report.status is ReportStatus.HOLDS
    assert (report.layers, report.entries) == (3, 27)


def test_a_check_writes_nothing(store: Store) -> None:
    """A check changes no byte and no time, and of files not even the access time."""

    def state() -> list[tuple[object, ...]]:
        return [
            (
                path,
                at.st_ino,
                at.st_mode,
                at.st_uid,
                at.st_size,
                at.st_mtime_ns,
                at.st_ctime_ns,
                S_ISREG(at.st_mode) and at.st_atime_ns,
            )
            for path in sorted(store.root.rglob("*"))
            for at in [path.lstat()]
        ]

    before = state()
    store.scrub()

    assert state() == before


@pytest.mark.parametrize("manipulation", FOUND, ids=lambda each: each.__name__)
def test_a_change_of_a_layer_is_found_and_named(store: Store, manipulation: Manipulation) -> None:
    """The report has the kind of difference and the path."""
    manipulation(store)

    report = store.image_report()

    assert report.status is ReportStatus.DIFFERS
    assert FOUND[manipulation] in {(each.kind, each.path) for each in report.differences}


@pytest.mark.parametrize("manipulation", HARMLESS, ids=lambda each: each.__name__)
def test_a_change_that_no_container_sees_is_no_finding(store: Store, manipulation: Manipulation) -> None:
    """A change of a layer that changes nothing for a container is neither a difference nor unknown."""
    manipulation(store)

    report = store.image_report()

    assert (report.status, report.differences, report.unknown) == (ReportStatus.HOLDS, (), ())
