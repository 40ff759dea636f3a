"""This registry as a witness: what it cosigned is durable before the answer, never goes back, and is one for all processes."""

from __future__ import annotations

import asyncio
import errno
import signal
import subprocess
import sys
import threading
from base64 import b64decode
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from boltseal.errors import Unavailable
from boltseal.ledger.checkpoint import open_checkpoint
from boltseal.ledger.cosigning import NotConsistent, SizeDiffers, known_logs
from boltseal.ledger.note import COSIGNATURE, SigningKey, VerifierKey
from boltseal.server.registry.witness_service import (
    KEY_NAME,
    REPEATED_WITHIN_S,
    NothingCosigned,
    WitnessService,
    mark_name,
)
from boltseal.server.storage.ledger_key import LedgerKeys
from boltseal.server.storage.ledger_mark import MARK, LedgerKeyUnreadable, ObjectMark
from boltseal.server.storage.object_client import Bucket
from boltseal.server.storage.witness_statements import Stated, Statement, WitnessStatements
from tests.fakes.disk import FailingDisk
from tests.server.registry.ledgers import NOW_US, BareLedger
from tests.server.registry.other_ledger import OtherLedger
from tests.storage_servers import ACCESS_KEY, BUCKET, SECRET_KEY, ObjectServer

LOG = OtherLedger()
FORK = OtherLedger(fork=4)
NAME = "witness.example.com/w"
ROOT = Path(__file__).parents[3]


@dataclass
class Host:
    """One process with a witness service. `now_s`: its clock, in seconds."""

    service: WitnessService
    now_s: int = NOW_US // 1_000_000

    def add(self, request: bytes) -> bytes:
        return asyncio.run(self.service.add_checkpoint(request))

    def latest(self, ledger: OtherLedger = LOG) -> bytes:
        return asyncio.run(self.service.latest(mark_name(ledger.key.name).removeprefix("witnessed-")))

    def size(self) -> int:
        """Return the size that was cosigned last."""
        return open_checkpoint(self.latest(), LOG.key.verifier).checkpoint.size


def host(own: BareLedger, keys: LedgerKeys | None = None, clock_doubt: str | None = None) -> Host:
    """Return another process of the registry with this ledger of its own."""
    logs = known_logs([str(LOG.key.verifier)])
    made: list[Host] = []
    service = WitnessService(
        keys or LedgerKeys(own.keys.folder),
        own.database,
        logs,
        NAME,
        now_us=lambda: made[0].now_s * 1_000_000,
        clock_doubt=lambda: clock_doubt,
    )
    made.append(Host(service))
    return made[0]


def public_key(own: BareLedger) -> VerifierKey:
    key = own.keys.of(KEY_NAME).key()
    assert key is not None
    return key.verifier


@pytest.fixture
def own(tmp_path: Path) -> Iterator[BareLedger]:
    made = BareLedger(tmp_path / "data")
    yield made
    made.database.close()


# What is cosigned


def test_a_cosignature_is_what_the_specification_says(own: BareLedger) -> None:
    """The line verifies by plain Ed25519 over the header, the time and the body (C2SP tlog-cosignature, "Ed25519 signed message")."""
    (line,) = host(own).add(LOG.request(0, 3)).decode().splitlines()
    dash, name, encoded = line.split(" ")
    value = b64decode(encoded)
    body = LOG.note(3).decode().partition("\n\n")[0]
    time_s = int.from_bytes(value[4:12])
    message = f"cosignature/v1\ntime {time_s}\n{body}\n".encode()
    key = public_key(own)
    Ed25519PublicKey.from_public_bytes(key.public).verify(value[12:], message)

    assert (dash, name, time_s) == ("\u2014", NAME, NOW_US // 1_000_000)
    assert value[:4] == key.key_id
    assert key.type == COSIGNATURE


def test_the_last_checkpoint_is_shown_with_both_signatures(own: BareLedger) -> None:
    """The monitoring route has the checkpoint with the verified signature of the ledger and the cosignature that was returned."""
    one = host(own)
    with pytest.raises(NothingCosigned):
        one.latest()
    one.add(LOG.request(0, 3))
    line = one.add(LOG.request(3, 7))

    assert one.latest() == LOG.note(7) + line
    assert [
        seen.witness for seen in open_checkpoint(one.latest(), LOG.key.verifier, [public_key(own)]).cosignatures
    ] == [NAME]
    with pytest.raises(NothingCosigned):
        one.latest(OtherLedger("unknown.example.com"))


def test_a_fork_is_refused_after_a_restart(own: BareLedger) -> None:
    """Another process of the registry knows what was cosigned: it refuses a fork, a smaller size and a restart from zero."""
    host(own).add(LOG.request(0, 7))
    later = host(own)
    with pytest.raises(NotConsistent):
        later.add(FORK.request(7, 9))
    with pytest.raises(NotConsistent):
        later.add(FORK.request(7, 7))
    for old, new in ((0, 3), (3, 3), (0, 9), (6, 9)):
        with pytest.raises(SizeDiffers) as refused:
            later.add(LOG.request(old, new))
        assert refused.value.size == 7

    assert later.size() == 7


def test_a_repeated_request_gets_the_same_cosignature_and_writes_nothing(own: BareLedger) -> None:
    """Any client can repeat a request: for ten seconds that costs no write, and later the cosignature has the new time."""
    disk = FailingDisk()
    one = host(own, LedgerKeys(own.keys.folder, disk))
    first = one.add(LOG.request(0, 3))
    written = len(disk.order)
    one.now_s += REPEATED_WITHIN_S - 1
    again = one.add(LOG.request(3, 3))
    unchanged = len(disk.order)
    one.now_s += 1
    later = one.add(LOG.request(3, 3))

    assert (again, unchanged) == (first, written)
    assert later != first
    assert one.latest() == LOG.note(3) + later


def test_times_never_go_back(own: BareLedger) -> None:
    """After the clock was set back, a cosignature has the time of the one before, and not an earlier one."""
    one = host(own)
    one.add(LOG.request(0, 3))
    one.now_s -= 3600
    one.add(LOG.request(3, 4))
    cosignature = open_checkpoint(one.latest(), LOG.key.verifier, [public_key(own)]).cosignatures[0]

    assert cosignature.time_s == NOW_US // 1_000_000


# When nothing is cosigned


def test_nothing_is_cosigned_while_the_clock_is_in_doubt(own: BareLedger) -> None:
    """A cosignature states a time, so a clock that may be wrong signs none."""
    with pytest.raises(Unavailable, match="the clock stepped"):
        host(own, clock_doubt="the clock stepped").add(LOG.request(0, 3))


@pytest.mark.parametrize("stated", [Stated.LARGER, Stated.ANOTHER])
def test_nothing_is_cosigned_while_this_registry_may_be_an_old_copy(own: BareLedger, stated: Stated) -> None:
    """If a witness saw more of this registry's own ledger, the machine may be an old copy, with what it cosigned."""
    one = host(own)
    one.add(LOG.request(0, 3))
    statements = WitnessStatements(own.database, own.keys.folder)
    statements.note("w", Statement(stated, 9))
    with pytest.raises(Unavailable, match="old copy"):
        one.add(LOG.request(3, 4))
    statements.keep_only(())

    assert one.add(LOG.request(3, 4))


@pytest.mark.files_only("damages a mark in a file")
@pytest.mark.parametrize("content", [b"", b"7\n", OtherLedger("other.example.com").note(3), LOG.note(3)[:-40]])
def test_a_damaged_mark_is_not_taken_for_a_ledger_that_was_never_seen(own: BareLedger, content: bytes) -> None:
    """What can't be read, or is of another ledger, is an error and no permission to begin at zero."""
    one = host(own)
    one.add(LOG.request(0, 3))
    (own.keys.folder / f"{mark_name(LOG.key.name)}.mark").write_bytes(content)
    with pytest.raises(LedgerKeyUnreadable):
        one.add(LOG.request(0, 3))


# Failing writes, races, kills


CALLS = ("create", "append", "sync", "rename", "sync_folder")


@pytest.mark.parametrize("done", [False, True])
@pytest.mark.parametrize("call", CALLS)
def test_a_failed_write_never_lets_a_fork_in(own: BareLedger, call: str, done: bool) -> None:
    """Fail each write twice, not done, and done with the answer lost: what was returned before stands, and the ledger goes on."""
    disk = FailingDisk()
    one = host(own, LedgerKeys(own.keys.folder, disk))
    one.add(LOG.request(0, 5))
    disk.fail(call, errno.EIO, done=done)
    try:
        returned = one.add(LOG.request(5, 6))
    except LedgerKeyUnreadable:
        returned = b""
    known = one.size()
    for forked in (FORK.request(5, 8), FORK.request(6, 8)):
        with pytest.raises((NotConsistent, SizeDiffers)):
            one.add(forked)

    assert known == 6 or not returned
    assert known in (5, 6)
    assert one.add(LOG.request(known, 8))


def test_every_call_of_the_disk_is_failed(own: BareLedger) -> None:
    """The calls that the test before fails are those that a cosignature makes."""
    disk = FailingDisk()
    one = host(own, LedgerKeys(own.keys.folder, disk))
    one.add(LOG.request(0, 5))
    disk.order.clear()
    one.add(LOG.request(5, 6))

    assert set(disk.order) == set(CALLS)


def in_threads(work: list[Callable[[], object]]) -> list[object]:
    """Run all at once, and return what each returned or raised."""
    ready, results = threading.Barrier(len(work)), [object()] * len(work)

    def run(at: int, job: Callable[[], object]) -> None:
        ready.wait()
        try:
            results[at] = job()
        except (NotConsistent, SizeDiffers, Unavailable) as error:
            results[at] = error

    threads = [threading.Thread(target=run, args=(at, job)) for at, job in enumerate(work)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


@pytest.mark.parametrize("size", range(5, 9))
def test_of_two_forks_at_once_one_is_cosigned(own: BareLedger, size: int) -> None:
    """Many processes that get two histories at the same time cosign one of them, whichever came first."""
    host(own).add(LOG.request(0, 4))
    ledgers = [LOG, FORK]
    results = in_threads([partial(host(own).add, ledgers[at % 2].request(4, size)) for at in range(6)])
    cosigned = {at % 2 for at, result in enumerate(results) if isinstance(result, bytes)}

    assert len(cosigned) == 1
    assert host(own).latest().startswith(ledgers[cosigned.pop()].note(size))


def test_of_two_sizes_at_once_the_larger_one_stays(own: BareLedger) -> None:
    """Requests for N and N+K at once never leave the smaller one as the last: what was cosigned never goes back."""
    host(own).add(LOG.request(0, 1))
    known = 1
    for _ in range(4):
        sizes = [known + 1 + number for number in range(4)]
        results = in_threads([partial(host(own).add, LOG.request(known, size)) for size in sizes])
        returned = [size for size, result in zip(sizes, results, strict=True) if isinstance(result, bytes)]
        known = host(own).size()

        assert returned
        assert max(returned) == known


# The key


def test_all_processes_of_a_registry_make_one_key(own: BareLedger) -> None:
    """Workers that start at once make one key, and keep it."""
    hosts = [host(own) for _ in range(6)]
    in_threads([each.service.begin for each in hosts])
    first = public_key(own)
    lines = hosts[0].add(LOG.request(0, 3)), hosts[5].add(LOG.request(3, 3))

    assert lines[0] == lines[1]
    assert public_key(own) == first
    assert (own.keys.folder / f"{KEY_NAME}.key").stat().st_mode & 0o077 == 0


def test_a_lost_key_is_not_replaced_in_silence(own: BareLedger) -> None:
    """Without its key the witness cosigns nothing: a new key would be a witness that others do not know."""
    host(own).add(LOG.request(0, 3))
    (own.keys.folder / f"{KEY_NAME}.key").unlink()
    later = host(own)
    later.service.begin()

    assert later.service.trouble is not None
    assert f"{KEY_NAME}.key is missing" in later.service.trouble
    with pytest.raises(LedgerKeyUnreadable):
        later.add(LOG.request(3, 4))


@pytest.mark.parametrize("key", [SigningKey(NAME, bytes(32), COSIGNATURE), SigningKey(NAME, bytes(32))])
def test_another_key_than_the_other_servers_have_is_refused(own: BareLedger, key: SigningKey) -> None:
    """A server whose key is not the registry's, or not one of cosignatures, cosigns nothing until it has the right one."""
    host(own).add(LOG.request(0, 3))
    right = (own.keys.folder / f"{KEY_NAME}.key").read_bytes()
    own.keys.of(KEY_NAME).put_key(key)
    later = host(own)
    with pytest.raises(LedgerKeyUnreadable):
        later.add(LOG.request(3, 4))
    troubled = later.service.trouble
    (own.keys.folder / f"{KEY_NAME}.key").write_bytes(right)
    later.add(LOG.request(3, 4))

    assert troubled is not None
    assert later.service.trouble is None


def test_a_new_key_keeps_what_was_cosigned(own: BareLedger) -> None:
    """An operator who removes the key and its mark gets a new key; a fork of what the old key cosigned is still refused."""
    host(own).add(LOG.request(0, 7))
    old = public_key(own)
    for name in ("key", "mark"):
        (own.keys.folder / f"{KEY_NAME}.{name}").unlink()
    later = host(own)
    with pytest.raises(NotConsistent):
        later.add(FORK.request(7, 9))
    later.add(LOG.request(7, 9))

    assert public_key(own) != old


# Several hosts


def on_hosts(server: ObjectServer, folder: Path) -> LedgerKeys:
    """Return the keys of a host with a folder of its own and the marks in a bucket."""
    place = Bucket(BUCKET, "", server.endpoint, "us-east-1", (ACCESS_KEY, SECRET_KEY))
    return LedgerKeys(folder, marks=lambda log: ObjectMark(place.connect(MARK), f"{folder.parent.name}/mark.{log}"))


def test_hosts_without_a_common_folder_have_one_memory_and_one_key(
    own: BareLedger, tmp_path: Path, object_server: ObjectServer
) -> None:
    """With the marks in a bucket a second host needs the first one's key, and then refuses a fork of what the first one cosigned."""
    first = on_hosts(object_server, tmp_path / "one.keys")
    second = on_hosts(object_server, tmp_path / "two.keys")
    host(own, first).add(LOG.request(0, 7))
    other = host(own, second)
    with pytest.raises(LedgerKeyUnreadable, match="copy it from another server"):
        other.add(LOG.request(7, 9))
    (second.folder / f"{KEY_NAME}.key").write_bytes((first.folder / f"{KEY_NAME}.key").read_bytes())
    with pytest.raises(NotConsistent):
        other.add(FORK.request(7, 9))
    line = other.add(LOG.request(7, 9))

    assert host(own, first).latest() == LOG.note(9) + line


KILLED = """
import asyncio, os, signal, sys
from pathlib import Path
from boltseal.files.atomic_files import Disk
from boltseal.ledger.cosigning import known_logs
from boltseal.server.registry.witness_service import WitnessService
from boltseal.server.storage.ledger_key import LedgerKeys
from boltseal.server.storage.metadata.sqlite import open_database
from boltseal.server.storage.metadata.migrate import prepare_data

call, folder, key = sys.argv[1:]

class Dying(Disk):
    pass

data = Path(folder) / "own"
prepare_data(data)
database = open_database(data / "boltseal.db", data / "generation", lambda: 1_795_500_000_000_000)
service = WitnessService(
    LedgerKeys(Path(folder) / "data.keys", Dying()), database, known_logs([key]), "w", now_us=lambda: 1_795_500_000_000_000
)
service.begin()
made = getattr(Disk, call)

def dies(disk, *arguments):
    made(disk, *arguments)
    os.kill(os.getpid(), signal.SIGKILL)

setattr(Dying, call, dies)
from tests.server.registry.other_ledger import OtherLedger
print(asyncio.run(service.add_checkpoint(OtherLedger().request(5, 6))))
"""


@pytest.mark.files_only("opens the folder of keys in another process")
@pytest.mark.parametrize("call", ["append", "sync", "rename", "sync_folder"])
def test_a_kill_between_the_write_and_the_answer_lets_no_fork_in(own: BareLedger, call: str) -> None:
    """A process that is killed at any step has cosigned nothing that a later one contradicts, and the ledger goes on."""
    folder = own.keys.folder.parent
    host(own).add(LOG.request(0, 5))
    words = [call, str(folder), str(LOG.key.verifier)]
    killed = subprocess.run([sys.executable, "-c", KILLED, *words], capture_output=True, cwd=ROOT, check=False)
    later = host(own)
    known = later.size()
    with pytest.raises((NotConsistent, SizeDiffers)):
        later.add(FORK.request(known, 9))

    assert (killed.returncode, killed.stdout) == (-signal.SIGKILL, b"")
    assert known == (6 if call in ("rename", "sync_folder") else 5)
    assert later.add(LOG.request(known, 9))
