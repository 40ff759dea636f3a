"""Podman's own database has the folder of the store that it uses: another one there makes Podman use other images."""

from __future__ import annotations

import sqlite3
import struct
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest

from boltseal.host.scrub.find_stores import store_at
from boltseal.host.scrub.report import ReportStatus, ScrubReport
from boltseal.host.scrub.scrub import ScrubRequest, scrub
from tests import servers
from tests.attacks.scrub.image import Layer, archive
from tests.programs import program
from tests.real.tools import run

pytestmark = [pytest.mark.real, pytest.mark.usefixtures("empty_home")]

NAME = "localhost/shop/app:1"


@dataclass(frozen=True, slots=True)
class Podman:
    """Podman with a store that only its configuration names. `folder`: of all its files."""

    folder: Path
    root: Path

    def run(self, *arguments: str | Path) -> str:
        """Run a command, and return what it writes."""
        config = self.folder / f"{self.root.parent.parent.name}.conf"
        config.write_text(f'[storage]\ndriver = "overlay"\ngraphroot = "{self.root}"\nrunroot = "{self.folder}/run"\n')
        podman = ("podman", "--cgroup-manager", "cgroupfs", "--events-backend", "file", "--log-level", "error")
        where = ("--runtime", "runc", "--tmpdir", str(self.folder / "tmp"))
        return run(*podman, *where, *arguments, env={"CONTAINERS_STORAGE_CONF": str(config)}).checked().strip()

    def load(self, content: str) -> None:
        """Load an image whose command prints `content`."""
        layer = Layer().folder("bin").add("message", content.encode())
        layer.add("bin/busybox", Path(program("busybox")).read_bytes(), mode=0o755)
        archive(self.folder / "image.tar", [layer.done()], NAME, ["/bin/busybox", "cat", "/message"])
        self.run("load", "-i", self.folder / "image.tar")

    def start(self) -> str:
        """Return what a new container prints."""
        return self.run("run", "--rm", "--pull", "never", "--network", "none", "--pids-limit", "0", NAME)

    def report(self) -> ScrubReport:
        """Return the report of the image."""
        (found,) = [
            each for each in scrub(store_at(self.root), ScrubRequest(), lambda *_: None) if each.what == "image"
        ]
        return found


@pytest.fixture
def stores(tmp_path: Path) -> Iterator[tuple[Podman, Podman]]:
    """The store of a host, and another one with another image of the same name."""
    used, other = (Podman(tmp_path, tmp_path / name / "containers/storage") for name in ("used", "other"))
    used.load("good")
    other.load("evil")
    yield used, other
    servers.unmounted(tmp_path)


def recorded(root: Path, store: Path) -> None:
    """Change the folder of the store in a database."""
    with closing(sqlite3.connect(root / "db.sql")) as database:
        database.execute("UPDATE DBConfig SET GraphRoot = ?", (str(store),))
        database.commit()


def test_a_store_that_podman_does_not_use_by_its_database_is_not_checked(stores: tuple[Podman, Podman]) -> None:
    """With another folder in Podman's database a new container has other content, and the image does not hold."""
    used, other = stores
    before, shown = used.report(), used.start()
    recorded(used.root, other.root)
    changed = used.start()
    report = used.report()

    assert (before.status, shown) == (ReportStatus.HOLDS, "good")
    assert changed == "evil"
    assert report.status is ReportStatus.UNKNOWN
    assert f"boltseal scrub --root {other.root}" in " ".join(report.unknown)


def test_an_interrupted_transaction_leaves_the_store_unknown(stores: tuple[Podman, Podman]) -> None:
    """A journal beside the database, which Podman would apply first, is a reason not to rely on what the database has."""
    used, _ = stores
    (used.root / "db.sql-journal").write_bytes(b"\xd9\xd5\x05\xf9 \xa1c\xd7")

    assert used.report().status is ReportStatus.UNKNOWN


def test_a_malformed_database_leaves_the_store_unknown(stores: tuple[Podman, Podman]) -> None:
    """A database that can't be read, or that never ends, leaves it unknown which store Podman uses."""
    used, _ = stores
    endless = "WITH RECURSIVE more(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM more) SELECT n AS GraphRoot FROM more"
    with closing(sqlite3.connect(used.root / "db.sql")) as database:
        database.execute("DROP TABLE DBConfig")
        database.execute(f"CREATE VIEW DBConfig AS {endless} WHERE n < 0")
        database.commit()
    without_end = used.report()
    (used.root / "db.sql").write_bytes(b"no database")

    assert without_end.status is ReportStatus.UNKNOWN
    assert used.report().status is ReportStatus.UNKNOWN


def test_a_copy_of_a_store_holds(stores: tuple[Podman, Podman]) -> None:
    """A copy of a store, whose database has the original's folder, can be checked: Podman uses it only by --root."""
    used, _ = stores
    copy = used.root.parents[2] / "backup"
    used.root.rename(copy)

    assert Podman(used.folder, copy).report().status is ReportStatus.HOLDS


def test_a_mounted_disk_holds_by_the_path_that_its_host_has(stores: tuple[Podman, Podman]) -> None:
    """On the disk of another host the database has the path of that host, which is the end of the path here."""
    used, other = stores
    recorded(used.root, Path("/containers/storage"))
    on_its_host = used.report()
    recorded(used.root, Path("/other/storage"))

    assert on_its_host.status is ReportStatus.HOLDS
    assert used.report().status is ReportStatus.UNKNOWN
    assert other.report().status is ReportStatus.HOLDS


def bolt_database(graph_root: str) -> bytes:
    """Return a bbolt file with one bucket that has the folder of a store, as earlier versions of Podman wrote it."""

    def leaf(elements: list[tuple[int, bytes, bytes]]) -> bytes:
        heads, data, at = b"", b"", 16 * len(elements)
        for index, (flags, key, value) in enumerate(elements):
            heads += struct.pack("<IIII", flags, at - 16 * index, len(key), len(value))
            data += key + value
            at += len(key) + len(value)
        return heads + data

    def page(number: int, flags: int, count: int, body: bytes) -> bytes:
        return (struct.pack("<QHHI", number, flags, count, 0) + body).ljust(4096, b"\0")

    def meta(number: int) -> bytes:
        body = struct.pack("<IIIIQQQQQ", 0xED0CDAED, 2, 4096, 0, 2, 0, 3, 4, number)
        checksum = 0xCBF29CE484222325
        for byte in body:
            checksum = (checksum ^ byte) * 0x100000001B3 & 0xFFFFFFFFFFFFFFFF
        return page(number, 4, 0, body + struct.pack("<Q", checksum))

    config = struct.pack("<QHHI", 0, 2, 1, 0) + leaf([(0, b"graph-root", graph_root.encode())])
    root = leaf([(1, b"runtime-config", struct.pack("<QQ", 0, 0) + config)])
    return meta(0) + meta(1) + page(2, 2, 1, root) + page(3, 16, 0, b"")


def test_the_database_of_earlier_versions_counts_as_well(stores: tuple[Podman, Podman]) -> None:
    """A planted libpod/bolt_state.db, which Podman prefers to db.sql, makes the store unknown."""
    used, other = stores
    (used.root / "libpod/bolt_state.db").write_bytes(bolt_database(str(used.root)))
    same = used.report()
    (used.root / "libpod/bolt_state.db").write_bytes(bolt_database(str(other.root)))
    report = used.report()

    assert same.status is ReportStatus.HOLDS
    assert report.status is ReportStatus.UNKNOWN
    assert used.start() == "evil"
