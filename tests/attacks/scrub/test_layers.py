"""Changes that root can make to a layer's files, in each engine's store: each is found and named."""

from __future__ import annotations

import json
import os
import shutil
import stat
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from stat import S_ISREG

import pytest

from boltseal.host.scrub.baseline import Baseline, open_baseline
from boltseal.host.scrub.differences import DifferenceKind
from boltseal.host.scrub.report import ReportStatus
from boltseal.host.scrub.scrub import ScrubRequest
from boltseal.host.scrub.trust import Level
from boltseal.ledger.note import SigningKey
from tests.attacks.scrub.file_changes import kept_times, rewritten
from tests.attacks.scrub.image import CAPABILITY, LATIN, LONG
from tests.attacks.scrub.stores import Store
from tests.cli import program

pytestmark = pytest.mark.real

Attack = Callable[[Store], None]


def content_of_the_same_size(store: Store) -> None:
    rewritten(store.at("bin/tool"), store.at("bin/tool").read_bytes()[:-4] + b"EVIL")


def content_in_a_folder_without_entries(store: Store) -> None:
    rewritten(store.at("usr/lib/deep/file"), b"IN FOLDERS WITHOUT ENTRIES")


def content_of_a_long_name(store: Store) -> None:
    rewritten(store.at(LONG), b"A LONG NAME")


def content_of_a_name_that_is_no_utf8(store: Store) -> None:
    rewritten(store.at(LATIN), b"LATIN")


def content_in_an_upper_layer(store: Store) -> None:
    rewritten(store.at("app", 2), store.at("app", 2).read_bytes().replace(b"sleep", b"SLEEP"))


def grown(store: Store) -> None:
    rewritten(store.at("bin/tool"), store.at("bin/tool").read_bytes() + b"more")


def shortened(store: Store) -> None:
    rewritten(store.at("bin/tool"), store.at("bin/tool").read_bytes()[:-1])


def deleted(store: Store) -> None:
    kept_times(store.at("bin"), store.at("bin/tool").unlink)


def empty_one_deleted(store: Store) -> None:
    kept_times(store.at("etc"), store.at("etc/empty").unlink)


def empty_one_filled(store: Store) -> None:
    rewritten(store.at("etc/empty"), b"evil")


def permissions_changed(store: Store) -> None:
    store.at("bin/tool").chmod(0o4777)


def setuid_added(store: Store) -> None:
    store.at("bin/tool").chmod(0o4755)


def setgid_added(store: Store) -> None:
    store.at("bin/tool").chmod(0o2755)


def setuid_dropped(store: Store) -> None:
    store.at("bin/su").chmod(0o755)


def sticky_dropped_from_a_folder(store: Store) -> None:
    store.at("opaque", 1).chmod(0o777)


def owner_changed(store: Store) -> None:
    os.chown(store.at("etc/passwd"), 1000, 0)


def group_changed(store: Store) -> None:
    os.chown(store.at("etc/passwd"), -1, 42)


def owner_of_a_link_changed(store: Store) -> None:
    os.chown(store.at("lib"), 1000, 1000, follow_symlinks=False)


def mtime_changed(store: Store) -> None:
    os.utime(store.at("bin/tool"), (1, 1))


def nanoseconds_changed(store: Store) -> None:
    at = store.at(LONG)
    os.utime(at, ns=(at.stat().st_atime_ns, at.stat().st_mtime_ns + 1))


def capability_removed(store: Store) -> None:
    os.removexattr(store.at("bin/ping"), "security.capability")


def capability_widened(store: Store) -> None:
    os.setxattr(store.at("bin/ping"), "security.capability", CAPABILITY.encode("latin-1").replace(b"\x04", b"\xff"))


def capability_added(store: Store) -> None:
    os.setxattr(store.at("bin/tool"), "security.capability", CAPABILITY.encode("latin-1"))


def attribute_added(store: Store) -> None:
    os.setxattr(store.at("bin/tool"), "user.evil", b"1")


def attribute_of_a_folder_without_an_entry(store: Store) -> None:
    os.setxattr(store.at("usr/lib"), "trusted.overlay.redirect", b"/etc")


def setuid_file_planted(store: Store) -> None:
    def plant() -> None:
        store.at("bin/evil").write_bytes(b"evil")
        store.at("bin/evil").chmod(0o4755)

    kept_times(store.at("bin"), plant)


def file_planted_in_the_root(store: Store) -> None:
    store.at("evil").write_bytes(b"evil")


def file_planted_in_a_folder_without_an_entry(store: Store) -> None:
    store.at("usr/lib/evil").write_bytes(b"evil")


def file_planted_under_an_opaque_folder(store: Store) -> None:
    def plant() -> None:
        store.at("opaque/evil", 1).write_bytes(b"evil")

    kept_times(store.at("opaque", 1), plant)


def folder_planted(store: Store) -> None:
    kept_times(store.at("etc"), store.at("etc/evil").mkdir)


def socket_planted(store: Store) -> None:
    kept_times(store.at("etc"), lambda: os.mknod(store.at("etc/evil"), stat.S_IFSOCK | 0o644))


def link_retargeted(store: Store) -> None:
    before = store.at("lib").lstat()
    store.at("lib").unlink()
    store.at("lib").symlink_to("tmp/ev1")
    os.utime(store.at("lib"), ns=(before.st_atime_ns, before.st_mtime_ns), follow_symlinks=False)


def link_deleted(store: Store) -> None:
    store.at("lib").unlink()


def _unlinked(store: Store, content: bytes) -> None:
    path = store.at("bin/su2")
    before = path.stat()

    def replace() -> None:
        path.unlink()
        path.write_bytes(content)
        path.chmod(stat.S_IMODE(before.st_mode))
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))

    kept_times(path.parent, replace)


def hard_link_replaced_by_another_file(store: Store) -> None:
    _unlinked(store, b"evil")


def hard_link_replaced_by_a_file_of_the_same_size(store: Store) -> None:
    _unlinked(store, b"ev" * 1000)


def hard_link_replaced_by_a_copy(store: Store) -> None:
    _unlinked(store, b"su" * 1000)


def two_files_made_one(store: Store) -> None:
    path = store.at("etc/passwd")

    def replace() -> None:
        path.unlink()
        path.hardlink_to(store.at("etc/gone"))

    kept_times(path.parent, replace)


def device_swapped(store: Store) -> None:
    path = store.at("dev/null")
    before = path.stat()

    def swap() -> None:
        path.unlink()
        os.mknod(path, before.st_mode, os.makedev(1, 1))
        path.chmod(stat.S_IMODE(before.st_mode))
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))

    kept_times(path.parent, swap)


def device_replaced_by_a_file(store: Store) -> None:
    store.at("dev/null").unlink()
    store.at("dev/null").write_bytes(b"")


def file_replaced_by_a_device(store: Store) -> None:
    store.at("etc/passwd").unlink()
    os.mknod(store.at("etc/passwd"), stat.S_IFCHR | 0o644, os.makedev(1, 5))


def file_replaced_by_a_pipe(store: Store) -> None:
    store.at("bin/tool").unlink()
    os.mkfifo(store.at("bin/tool"))


def file_replaced_by_a_link_to_the_host(store: Store) -> None:
    store.at("etc/passwd").unlink()
    store.at("etc/passwd").symlink_to("/etc/passwd")


def folder_replaced_by_a_link(store: Store) -> None:
    store.at("bin").rename(store.at("bin2"))
    store.at("bin").symlink_to("bin2")


def whiteout_removed(store: Store) -> None:
    kept_times(store.at("etc", 1), store.at("etc/gone", 1).unlink)


def whiteout_replaced_by_a_file(store: Store) -> None:
    def replace() -> None:
        store.at("etc/gone", 1).unlink()
        store.at("etc/gone", 1).write_bytes(b"back")

    kept_times(store.at("etc", 1), replace)


def whiteout_added(store: Store) -> None:
    kept_times(store.at("etc", 1), lambda: os.mknod(store.at("etc/empty", 1), stat.S_IFCHR, os.makedev(0, 0)))


def opaque_mark_removed(store: Store) -> None:
    os.removexattr(store.at("opaque", 1), "trusted.overlay.opaque")


def opaque_mark_added(store: Store) -> None:
    os.setxattr(store.at("etc", 1), "trusted.overlay.opaque", b"y")


def redirect_planted(store: Store) -> None:
    os.setxattr(store.at("etc", 1), "trusted.overlay.redirect", b"/opaque")


def metacopy_planted(store: Store) -> None:
    os.setxattr(store.at("etc/passwd", 1), "trusted.overlay.metacopy", b"")


def whiteout_mark_planted(store: Store) -> None:
    os.setxattr(store.at("etc/empty"), "trusted.overlay.whiteout", b"")


def layer_replaced_by_a_link(store: Store) -> None:
    shutil.move(store.at(""), store.root / "moved")
    store.at("").symlink_to(store.root / "moved")


def root_writable_for_all_users(store: Store) -> None:
    store.at("").chmod(0o777)


ATTACKS: dict[Attack, tuple[DifferenceKind, str]] = {
    content_of_the_same_size: (DifferenceKind.CONTENT, "bin/tool"),
    content_in_a_folder_without_entries: (DifferenceKind.CONTENT, "usr/lib/deep/file"),
    content_of_a_long_name: (DifferenceKind.CONTENT, LONG),
    content_of_a_name_that_is_no_utf8: (DifferenceKind.CONTENT, "etc/caf\\xe9"),
    content_in_an_upper_layer: (DifferenceKind.CONTENT, "app"),
    grown: (DifferenceKind.SIZE, "bin/tool"),
    shortened: (DifferenceKind.SIZE, "bin/tool"),
    deleted: (DifferenceKind.MISSING, "bin/tool"),
    empty_one_deleted: (DifferenceKind.MISSING, "etc/empty"),
    empty_one_filled: (DifferenceKind.SIZE, "etc/empty"),
    permissions_changed: (DifferenceKind.MODE, "bin/tool"),
    setuid_added: (DifferenceKind.MODE, "bin/tool"),
    setgid_added: (DifferenceKind.MODE, "bin/tool"),
    setuid_dropped: (DifferenceKind.MODE, "bin/su"),
    sticky_dropped_from_a_folder: (DifferenceKind.MODE, "opaque"),
    owner_changed: (DifferenceKind.OWNER, "etc/passwd"),
    group_changed: (DifferenceKind.OWNER, "etc/passwd"),
    owner_of_a_link_changed: (DifferenceKind.OWNER, "lib"),
    mtime_changed: (DifferenceKind.MTIME, "bin/tool"),
    nanoseconds_changed: (DifferenceKind.MTIME, LONG),
    capability_removed: (DifferenceKind.CAPABILITY, "bin/ping"),
    capability_widened: (DifferenceKind.CAPABILITY, "bin/ping"),
    capability_added: (DifferenceKind.CAPABILITY, "bin/tool"),
    attribute_added: (DifferenceKind.XATTR, "bin/tool"),
    attribute_of_a_folder_without_an_entry: (DifferenceKind.XATTR, "usr/lib"),
    setuid_file_planted: (DifferenceKind.EXTRA, "bin/evil"),
    file_planted_in_the_root: (DifferenceKind.EXTRA, "evil"),
    file_planted_in_a_folder_without_an_entry: (DifferenceKind.EXTRA, "usr/lib/evil"),
    file_planted_under_an_opaque_folder: (DifferenceKind.EXTRA, "opaque/evil"),
    folder_planted: (DifferenceKind.EXTRA, "etc/evil"),
    socket_planted: (DifferenceKind.EXTRA, "etc/evil"),
    link_retargeted: (DifferenceKind.LINK, "lib"),
    link_deleted: (DifferenceKind.MISSING, "lib"),
    hard_link_replaced_by_another_file: (DifferenceKind.HARDLINK, "bin/su2"),
    hard_link_replaced_by_a_file_of_the_same_size: (DifferenceKind.HARDLINK, "bin/su2"),
    hard_link_replaced_by_a_copy: (DifferenceKind.HARDLINK, "bin/su2"),
    two_files_made_one: (DifferenceKind.HARDLINK, "etc/gone"),
    device_swapped: (DifferenceKind.DEVICE, "dev/null"),
    device_replaced_by_a_file: (DifferenceKind.TYPE, "dev/null"),
    file_replaced_by_a_device: (DifferenceKind.TYPE, "etc/passwd"),
    file_replaced_by_a_pipe: (DifferenceKind.TYPE, "bin/tool"),
    file_replaced_by_a_link_to_the_host: (DifferenceKind.TYPE, "etc/passwd"),
    folder_replaced_by_a_link: (DifferenceKind.TYPE, "bin"),
    whiteout_removed: (DifferenceKind.WHITEOUT, "etc/gone"),
    whiteout_replaced_by_a_file: (DifferenceKind.WHITEOUT, "etc/gone"),
    whiteout_added: (DifferenceKind.WHITEOUT, "etc/empty"),
    opaque_mark_removed: (DifferenceKind.OPAQUE, "opaque"),
    opaque_mark_added: (DifferenceKind.OPAQUE, "etc"),
    redirect_planted: (DifferenceKind.XATTR, "etc"),
    metacopy_planted: (DifferenceKind.XATTR, "etc/passwd"),
    whiteout_mark_planted: (DifferenceKind.XATTR, "etc/empty"),
    layer_replaced_by_a_link: (DifferenceKind.METADATA, ""),
    root_writable_for_all_users: (DifferenceKind.MODE, ""),
}


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


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.__name__)
def test_a_change_of_a_layer_is_found_and_named(store: Store, attack: Attack) -> None:
    """The report has the kind of difference and the path."""
    attack(store)

    report = store.image_report()

    assert report.status is ReportStatus.DIFFERS
    assert ATTACKS[attack] in {(each.kind, each.path) for each in report.differences}


@pytest.fixture(scope="module")
def recorded(originals: Callable[[str], Store], tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, Baseline]:
    """containerd's store after it discarded the blobs of unpacked layers, and a baseline that was recorded then."""
    folder = tmp_path_factory.mktemp("recorded")
    store = originals("containerd").copy(folder / "store")
    blobs = store.root / "io.containerd.content.v1.content/blobs/sha256"
    for raw in [each.read_bytes() for each in blobs.iterdir()]:
        if raw.startswith(b"{"):
            for layer in json.loads(raw).get("layers", ()):
                (blobs / layer["digest"].removeprefix("sha256:")).unlink(missing_ok=True)
    done = program.call(
        "scrub", "--root", store.root, "--write-baseline", folder / "baseline", "--signing-key", folder / "key"
    )

    assert done.code == 0, done

    key = SigningKey.parse((folder / "key").read_text().strip())
    return store, open_baseline(folder / "baseline", key.verifier)


def test_a_store_without_blobs_is_clean_against_its_baseline(recorded: tuple[Store, Baseline]) -> None:
    """Without blobs a layer can't be checked; with a baseline it is, and the level says so."""
    store, baseline = recorded
    without, checked = store.image_report(), store.image_report(ScrubRequest(baseline=baseline))

    assert (without.status, without.differences) == (ReportStatus.UNKNOWN, ())
    assert (checked.status, checked.level, checked.differences, checked.unknown) == (
        ReportStatus.HOLDS,
        Level.B,
        (),
        (),
    )
    assert "signed by" in checked.by


NAMED_BY_A_BASELINE: dict[Attack, tuple[DifferenceKind, str]] = {
    two_files_made_one: (DifferenceKind.HARDLINK, "etc/passwd")
}
"""Where a baseline names another file of the two: it has them in the order of their names."""


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.__name__)
def test_a_change_of_a_layer_without_its_blob_is_found_by_a_baseline(
    recorded: tuple[Store, Baseline], tmp_path: Path, attack: Attack
) -> None:
    """A baseline finds each change in a layer whose blob is gone, and names it."""
    original, baseline = recorded
    store = original.copy(tmp_path / "store")
    attack(store)

    report = store.image_report(ScrubRequest(baseline=baseline))

    assert report.status is ReportStatus.DIFFERS
    assert NAMED_BY_A_BASELINE.get(attack, ATTACKS[attack]) in {(each.kind, each.path) for each in report.differences}


def test_a_damaged_inventory_checks_nothing(recorded: tuple[Store, Baseline], tmp_path: Path) -> None:
    """An inventory that was changed after it was signed is not used: its layer could not be checked."""
    store, baseline = recorded
    ((_, inventory), *_) = baseline.inventories.items()
    damaged = tmp_path / "baseline"
    damaged.write_bytes(inventory.file.read_bytes().replace(b'"t":"f","m":493', b'"t":"f","m":511'))
    forged = {diff_id: replace(each, file=damaged) for diff_id, each in baseline.inventories.items()}

    report = store.image_report(ScrubRequest(baseline=replace(baseline, inventories=forged)))

    assert (report.status, report.differences) == (ReportStatus.UNKNOWN, ())
    assert "not the one that was signed" in report.unknown[0]


def test_recorded_layers_prove_no_image_that_was_not_recorded(recorded: tuple[Store, Baseline]) -> None:
    """An image made of recorded layers, but not recorded itself, could not be checked."""
    store, baseline = recorded
    report = store.image_report(ScrubRequest(baseline=replace(baseline, images=())))

    assert report.status is ReportStatus.UNKNOWN
