"""Attacks on owners, with everything in a store from which the expected owners could be concluded changed as well."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from boltseal.host.scrub.report import ReportStatus
from boltseal.host.scrub.scrub import ScrubRequest
from boltseal.host.scrub.trust import Expectation, Level
from boltseal.oci.digest import Digest
from tests.attacks.scrub.image import NAME
from tests.attacks.scrub.stores import Store
from tests.attacks.scrub.users import given_to_others

pytestmark = pytest.mark.real

USER, FIRST = 900, 901
"""A user whose IDs in containers follow the own ID, so that all owners are shifted by one number."""


def users_listed(disk: Path, home: str) -> None:
    (disk / "etc").mkdir()
    (disk / "etc/passwd").write_text(f"shop:x:{USER}:{USER}::{home}:/bin/sh\n")
    for name in ("subuid", "subgid"):
        (disk / "etc" / name).write_text(f"shop:{FIRST}:65536\n")


def given_to_user(store: Store) -> None:
    """Give a store of root's and all files of its layers to a user."""
    os.chown(store.root, USER, USER)
    for layer in store.layers:
        given_to_others(store.root / layer, USER)


def test_a_store_of_root_given_to_a_user_could_not_be_checked(store: Store, tmp_path: Path) -> None:
    """Root's engine would run containers in which a user owns every file, so the owner of the store's folder proves
    nothing."""
    users_listed(tmp_path, "/home/shop")
    given_to_user(store)
    expected = Expectation(Digest("sha256", store.image), Level.L1, "what was written down")

    report = store.image_report(ScrubRequest((NAME,), {NAME: expected}))

    assert (report.status, report.differences) == (ReportStatus.UNKNOWN, ())
    assert f"a store of user {USER}" in report.unknown[0]


def test_a_store_in_its_users_home_has_the_users_owners(store: Store, tmp_path: Path) -> None:
    """A store in the home folder that /etc/passwd names for its owner is the user's, and matches with the user's ids; it
    has no device nodes."""
    users_listed(tmp_path, "/store")
    given_to_user(store)

    report = store.image_report()

    assert (report.status, report.unknown) == (ReportStatus.HOLDS, ())
