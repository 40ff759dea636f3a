"""What `Mark` promises (`server.storage.ledger_mark`), on a file and on an object of a real S3 server."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import uuid
from collections.abc import Callable
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from boltseal.files.atomic_files import Disk, locked
from boltseal.ledger.note import MAX_NOTE_BYTES
from boltseal.server.storage.ledger_mark import (
    MARK,
    FileMark,
    LedgerKeyUnreadable,
    Mark,
    MarkMoved,
    MarkUnfit,
    MarkUnreachable,
    ObjectMark,
)
from boltseal.server.storage.object_client import Bucket
from tests.polling import wait_until
from tests.ports import free_port
from tests.storage_servers import ACCESS_KEY, BUCKET, SECRET_KEY, ObjectServer, seaweedfs

OpenMark = Callable[[], Mark]


def place(server: ObjectServer) -> Bucket:
    return Bucket(BUCKET, "", server.endpoint, "us-east-1", (ACCESS_KEY, SECRET_KEY))


@pytest.fixture(params=["file", "object"])
def open_mark(request: pytest.FixtureRequest, tmp_path: Path) -> OpenMark:
    """Open the mark as another process would."""
    if request.param == "file":
        return lambda: FileMark(tmp_path / "data.keys" / "ledger.mark")
    server: ObjectServer = request.getfixturevalue("object_server")
    key = f"{uuid.uuid4().hex}/ledger.mark"
    return lambda: ObjectMark(place(server).connect(MARK), key)


def test_a_mark_is_what_was_written_last(open_mark: OpenMark) -> None:
    """There is no mark at first; then every process reads what was written last."""
    one, other = open_mark(), open_mark()
    found = [other.read()]
    one.replace(b"first\n", None)
    found.append(other.read())
    one.replace(b"second\n", b"first\n")
    other.replace(b"third\n", b"second\n")
    found += [one.read(), other.read()]

    assert found == [None, b"first\n", b"third\n", b"third\n"]


def test_a_writer_that_read_an_older_mark_changes_nothing(open_mark: OpenMark) -> None:
    """A writer that has not seen the newest mark is refused, also a second one that creates it, and then reads again."""
    one, other = open_mark(), open_mark()
    other.read()
    one.replace(b"5\n", None)
    with pytest.raises(MarkMoved):
        other.replace(b"4\n", None)
    one.replace(b"6\n", b"5\n")
    with pytest.raises(MarkMoved):
        other.replace(b"7 with other entries\n", b"5\n")
    before = other.read()
    other.replace(b"7\n", before)

    assert one.read() == b"7\n"


def test_of_many_writers_exactly_one_wins(open_mark: OpenMark) -> None:
    """In each round of writers that read the same mark exactly one replaces it, and the mark is that writer's."""
    marks = [open_mark() for _ in range(6)]
    for number in range(4):
        before = marks[0].read()
        won = list[bytes]()
        ready = threading.Barrier(len(marks))

        def run(each: Mark, note: bytes, before: bytes | None, ready: threading.Barrier, won: list[bytes]) -> None:
            ready.wait()
            if replaces(each, note, before):
                won.append(note)

        threads = [
            threading.Thread(target=run, args=(each, f"{number} {at}\n".encode(), before, ready, won))
            for at, each in enumerate(marks)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

        assert len(won) == 1
        assert marks[0].read() == won[0]


def replaces(mark: Mark, note: bytes, before: bytes | None) -> bool:
    """Replace the mark, and return whether this writer won. A store that gives no answer in time is asked what became of it."""
    try:
        mark.replace(note, before)
    except MarkMoved:
        return False
    except MarkUnreachable:  # on a busy machine requests for one key take seconds
        answered = wait_until(partial(answer, mark), "the store answers")
        assert answered is not None
        return answered == (note,) or (answered == (before,) and replaces(mark, note, before))
    return True


def answer(mark: Mark) -> tuple[bytes | None] | None:
    """Return the mark as a value of one, None without an answer."""
    try:
        return (mark.read(),)
    except MarkUnreachable:
        return None


def test_a_mark_that_is_too_large_is_not_read(open_mark: OpenMark) -> None:
    """What is larger than a checkpoint can be is an error and no mark."""
    mark = open_mark()
    mark.replace(b"x" * (MAX_NOTE_BYTES + 1), None)
    with pytest.raises(LedgerKeyUnreadable, match="more than"):
        mark.read()


def test_a_lock_of_the_folder_does_not_hinder_a_file(tmp_path: Path) -> None:
    """A mark in a file is replaced under the lock of a file of its own that is open to write: some NFS servers refuse to lock a folder."""
    mark = FileMark(tmp_path / "ledger.mark")
    folder = Disk().lock_folder(os.fspath(tmp_path), exclusive=True)
    try:
        replacing = threading.Thread(target=mark.replace, args=(b"first\n", None), daemon=True)
        replacing.start()
        replacing.join(10.0)
        unhindered = mark.read()
    finally:
        os.close(folder)
    with locked(f"{tmp_path}/ledger.mark.lock"):
        waiting = threading.Thread(target=mark.replace, args=(b"second\n", b"first\n"))
        waiting.start()
        waiting.join(0.2)
        meanwhile = mark.read()
    waiting.join()

    assert unhindered == meanwhile == b"first\n"
    assert mark.read() == b"second\n"


# An S3 server that does not answer, or does not compare


def test_without_a_store_there_is_no_answer() -> None:
    """A store that can't be reached is neither "no mark" nor a written one."""
    nowhere = Bucket("bucket", "", f"http://127.0.0.1:{free_port()}", "us-east-1", ("a", "very-secret"))
    mark = ObjectMark(nowhere.connect(MARK), "ledger.mark")
    with pytest.raises(MarkUnreachable) as unread:
        mark.read()
    with pytest.raises(MarkUnreachable):
        mark.replace(b"1\n", None)
    with pytest.raises(MarkUnreachable):
        mark.check()

    assert "very-secret" not in str(unread.value)


def test_a_wrong_login_or_bucket_is_no_missing_mark(object_server: ObjectServer) -> None:
    """A refused login can't be taken for "there is no mark"; without its bucket no mark is created."""
    wrong = Bucket(BUCKET, "", object_server.endpoint, "us-east-1", (ACCESS_KEY, "another-secret"))
    missing = Bucket("missing-bucket", "", object_server.endpoint, "us-east-1", (ACCESS_KEY, SECRET_KEY))
    with pytest.raises(MarkUnreachable):
        ObjectMark(wrong.connect(MARK), "ledger.mark").read()
    with pytest.raises(MarkUnreachable):
        ObjectMark(missing.connect(MARK), "ledger.mark").read()


def test_a_server_that_compares_is_accepted(object_server: ObjectServer) -> None:
    """The check at the start accepts an S3 server with conditional writes, and leaves the mark alone."""
    mark = ObjectMark(place(object_server).connect(MARK), f"{uuid.uuid4().hex}/ledger.mark")
    mark.check()
    mark.check()

    assert mark.read() is None


class Careless(BaseHTTPRequestHandler):
    """An S3 server that stores whatever it gets."""

    def do_PUT(self) -> None:
        """Accept an object without looking at If-Match."""
        self.rfile.read(int(self.headers["content-length"]))
        self.send_response(200)
        self.send_header("ETag", '"1"')
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Print nothing."""


def test_a_server_that_replaces_without_comparing_is_refused() -> None:
    """The check at the start refuses an S3 server that ignores If-Match and If-None-Match."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Careless)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    careless = Bucket("bucket", "", f"http://127.0.0.1:{server.server_port}", "us-east-1", ("a", "b"))
    try:
        with pytest.raises(MarkUnfit, match="conditional writes"):
            ObjectMark(careless.connect(MARK), "ledger.mark").check()
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


WRITES = """
import sys
from boltseal.server.storage.ledger_mark import MARK, Mark, MarkMoved, ObjectMark
from boltseal.server.storage.object_client import Bucket

endpoint, bucket, key, secret = sys.argv[1:]
mark = ObjectMark(Bucket(bucket, "", endpoint, "us-east-1", (key, secret)).connect(MARK), "ledger.mark")
before = mark.read()
number = int(before or 0)
while True:
    number += 1
    note = b"%d" % number
    mark.replace(note, before)
    print(number, flush=True)
    before = note
"""


def test_what_was_acknowledged_survives_kills_of_writer_and_server() -> None:
    """After kill -9 of the writer, and of the S3 server, the mark is the last one that was acknowledged, or the one after it."""
    with seaweedfs() as server:
        found = []
        for round_ in range(4):
            writer = subprocess.Popen(
                [sys.executable, "-c", WRITES, server.endpoint, BUCKET, ACCESS_KEY, SECRET_KEY],
                stdout=subprocess.PIPE,
            )
            assert writer.stdout is not None
            lines = [writer.stdout.readline() for _ in range(10)]
            server.kill() if round_ % 2 else writer.kill()
            lines += writer.stdout.readlines()
            writer.kill()
            writer.wait()
            writer.stdout.close()
            if round_ % 2:
                server.start()
                wait_until(server.answers, "SeaweedFS stores an object")
            mark = ObjectMark(place(server).connect(MARK), "ledger.mark")
            acknowledged = [int(line) for line in lines if line.strip().isdigit()]
            found.append(int(mark.read() or 0) - acknowledged[-1])

    assert set(found) <= {0, 1}
