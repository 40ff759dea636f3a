"""Checking all stores of a host: shared layers, concurrent changes, and worker processes."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from multiprocessing import get_context
from pathlib import Path

import pytest

from boltseal.engines.safe_open import SafeFolder
from boltseal.host.scrub.differences import DifferenceKind
from boltseal.host.scrub.file_contents import FileReader
from boltseal.host.scrub.find_stores import store_at
from boltseal.host.scrub.layer_check import CheckMode, check
from boltseal.host.scrub.layer_comparison import LayerComparison
from boltseal.host.scrub.report import ReportStatus, ScrubReport, outcome
from boltseal.host.scrub.scrub import ScrubRequest, scrub
from boltseal.host.scrub.tar_split import entries
from boltseal.host.scrub.workers import ALONE_BYTES, Meter, WorkRate
from tests.host.scrub.made_stores import DockerStore
from tests.polling import wait_until

LOWER = {"etc/passwd": b"root", "bin/tool": b"tool" * 1000}


@pytest.fixture
def store(tmp_path: Path) -> DockerStore:
    return DockerStore.at(tmp_path)


def checked(store: DockerStore, wanted: ScrubRequest | None = None) -> dict[str, ScrubReport]:
    found = scrub(store_at(store.root), wanted or ScrubRequest(), lambda *_: None)
    return {each.ref: each for each in found}


def test_an_image_removed_during_the_check_is_no_difference(store: DockerStore) -> None:
    """An image removed during the check is reported as not checked, not as modified."""
    image = store.image("going:1", LOWER, {"app": b"app"})

    def remove(*_: int) -> None:
        (store.root / "image/overlay2/imagedb/content/sha256" / image.hex).unlink(missing_ok=True)
        for folder in store.root.glob("overlay2/*/diff"):
            shutil.rmtree(folder)

    (report,) = scrub(store_at(store.root), ScrubRequest(), remove)

    assert report.status is ReportStatus.UNKNOWN
    assert "while it was checked" in report.unknown[0]


def test_a_folder_of_another_engine_hides_no_difference(store: DockerStore) -> None:
    """A difference in Docker's store is reported although its root also has a folder as Podman's store has."""
    store.image("shop/app:1.4.2", LOWER)
    (store.layer() / "etc/passwd").write_bytes(b"evil")
    (store.root / "overlay-images").mkdir()
    (store.root / "overlay-images/images.json").write_text("[]")

    found = scrub(store_at(store.root), ScrubRequest(), lambda *_: None)

    assert [each.status for each in found if each.what == "image"] == [ReportStatus.DIFFERS]


def test_a_stack_link_redirected_during_the_check_is_never_clean(store: DockerStore) -> None:
    """A stack link changed during the check is never clean, since the next mount would use another layer."""
    store.image("turning:1", LOWER, {"app": b"app"})
    (lower,) = store.root.glob("overlay2/*/lower")
    link = store.root / "overlay2" / lower.read_text()

    def turn(*_: int) -> None:
        link.unlink()
        link.symlink_to("../evil/diff")

    (report,) = scrub(store_at(store.root), ScrubRequest(), turn)

    assert report.status is ReportStatus.UNKNOWN
    assert "changed while it was checked" in report.unknown[0]


def container(store: DockerStore, **state: bool) -> Path:
    """Return the folder of a container whose own layer Docker has already removed, as it does first."""
    id_ = "c" * 64
    (image,) = json.loads((store.root / "image/overlay2/repositories.json").read_text())["Repositories"][
        "boxed"
    ].values()
    folder, mount = store.root / "containers" / id_, store.root / "image/overlay2/layerdb/mounts" / id_
    for made in (folder, mount):
        made.mkdir(parents=True)
    config = {"Name": "/box", "Image": image, "Driver": "overlay2", "State": state}
    (folder / "config.v2.json").write_text(json.dumps(config))
    (mount / "mount-id").write_text("d" * 64)
    (chain,) = (store.root / "image/overlay2/layerdb/sha256").iterdir()
    (mount / "parent").write_text(f"sha256:{chain.name}")
    return folder


def test_a_container_removed_during_the_check_is_gone(store: DockerStore) -> None:
    """A container that is removed during the check, its layer first, is neither a difference nor a doubt."""
    store.image("boxed:1", LOWER)
    going = container(store)

    found = scrub(store_at(store.root), ScrubRequest(), lambda *_: shutil.rmtree(going, ignore_errors=True))

    assert {each.ref: each.status for each in found} == {"boxed:1": ReportStatus.HOLDS, "box": ReportStatus.GONE}
    assert found[1].unknown == ()
    assert outcome(found) is ReportStatus.HOLDS


@pytest.mark.parametrize(
    ("state", "status"),
    [
        ({}, ReportStatus.DIFFERS),
        ({"Dead": True}, ReportStatus.UNKNOWN),
        ({"RemovalInProgress": True}, ReportStatus.UNKNOWN),
    ],
)
def test_a_container_without_its_layer_differs_unless_docker_is_removing_it(
    store: DockerStore, state: dict[str, bool], status: ReportStatus
) -> None:
    """A container without its layer differs, unless Docker records that a removal is running or failed."""
    store.image("boxed:1", LOWER)
    container(store, **state)

    assert checked(store)["box"].status is status


def test_an_image_renamed_during_the_check_is_clean(store: DockerStore) -> None:
    """An image renamed during the check is clean, since a tag is not part of its files."""
    store.image("named:1", LOWER)

    def name(*_: int) -> None:
        names = store.root / "image/overlay2/repositories.json"
        names.write_text(names.read_text().replace("named:1", "named:2"))

    (report,) = scrub(store_at(store.root), ScrubRequest(), name)

    assert report.status is ReportStatus.HOLDS


def test_a_layer_that_two_images_share_is_read_once(store: DockerStore) -> None:
    """A layer that two images share is read once, and its differences are reported for both."""
    store.image("one:1", LOWER)
    chain = store.root / "image/overlay2/layerdb/sha256"
    (config,) = (store.root / "image/overlay2/imagedb/content/sha256").iterdir()
    store.config("two:1", config.read_bytes() + b"\n")
    (store.layer() / "etc/passwd").write_bytes(b"evil")
    reported: list[tuple[int, ...]] = []

    found = scrub(store_at(store.root), ScrubRequest(), lambda *numbers: reported.append(numbers))

    assert len(list(chain.iterdir())) == 1
    assert reported[-1][1:] == (1, 1)
    assert [each.status for each in found] == [ReportStatus.DIFFERS, ReportStatus.DIFFERS]


def test_parallel_checks_have_the_same_result(store: DockerStore) -> None:
    """Several processes find what one process finds."""
    large = os.urandom(ALONE_BYTES // 4)
    store.image("large:1", *({f"f{number}": large + bytes([number])} for number in range(6)))
    for index in range(6):
        chain = sorted((store.root / "image/overlay2/layerdb/sha256").iterdir())[index]
        (chain / "size").write_text(str(len(large)))
    (store.layer(3) / "f3").chmod(0o777)
    (store.layer(4) / "f4").write_bytes(large + b"\0")

    alone = checked(store, ScrubRequest(pace=WorkRate(workers=1)))["large:1"]
    together = checked(store, ScrubRequest(pace=WorkRate(workers=3)))["large:1"]

    assert alone == together
    assert {(each.kind, each.path) for each in alone.differences} >= {
        (DifferenceKind.MODE, "f3"),
        (DifferenceKind.CONTENT, "f4"),
    }


def large_image(store: DockerStore) -> None:
    large = os.urandom(ALONE_BYTES // 2)
    store.image("large:1", *({f"f{number}": large + bytes([number])} for number in range(4)))
    for chain in (store.root / "image/overlay2/layerdb/sha256").iterdir():
        (chain / "size").write_text(str(len(large)))


def test_layers_of_a_killed_worker_could_not_be_checked(store: DockerStore) -> None:
    """Layers of a worker that was killed, for example for lack of memory, could not be checked."""
    large_image(store)
    killed: list[int] = []

    def kill(*_: int) -> None:
        for child in multiprocessing.active_children() if not killed else ():
            killed.append(child.pid or 0)
            child.kill()

    (report,) = scrub(store_at(store.root), ScrubRequest(pace=WorkRate(workers=2, bytes_per_second=20_000_000)), kill)

    assert killed
    assert (report.status, report.differences) == (ReportStatus.UNKNOWN, ())
    assert "was killed" in report.unknown[0]


def test_an_interrupt_ends_all_processes_at_once(store: DockerStore) -> None:
    """Ctrl-C ends the whole process group with exit code 130 and no traceback."""
    large_image(store)
    argv = [sys.executable, "-m", "boltseal", "scrub", "--root", str(store.root), "--bytes-per-second", "1M"]
    argv = ["env", "--default-signal=INT", *argv]  # the process that started the tests may ignore it
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, process_group=0) as running:
        children = Path(f"/proc/{running.pid}/task/{running.pid}/children")
        wait_until(lambda: len(children.read_text().split()) >= 2, "the workers run")
        workers = children.read_text().split()
        os.killpg(running.pid, signal.SIGINT)
        try:
            out, err = running.communicate(timeout=60)
        finally:
            running.kill()  # else the test would wait for a command that hangs

    assert running.returncode == 130
    assert (out, err) == (b"", b"")
    assert len(workers) == 2
    assert not any(Path(f"/proc/{worker}").exists() for worker in workers)


def test_repeated_interrupts_end_it_without_a_traceback(store: DockerStore) -> None:
    """Impatient users press Ctrl-C many times: an interrupt in the middle of the end neither hangs nor prints where it was."""
    large_image(store)
    argv = [sys.executable, "-m", "boltseal", "scrub", "--root", str(store.root), "--bytes-per-second", "1M"]
    argv = ["env", "--default-signal=INT", *argv]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, process_group=0) as running:
        children = Path(f"/proc/{running.pid}/task/{running.pid}/children")
        wait_until(lambda: len(children.read_text().split()) >= 2, "the workers run")
        for _ in range(30):
            os.killpg(running.pid, signal.SIGINT)  # reaches it, or its zombie
            time.sleep(0.002)
        try:
            out, err = running.communicate(timeout=60)
        finally:
            running.kill()

    assert running.returncode in (130, -signal.SIGINT)  # the last ones arrive when Python has ended its handler
    assert (out, err) == (b"", b"")


@pytest.mark.parametrize("killing", [signal.SIGKILL, signal.SIGTERM])
def test_no_worker_survives_its_killed_parent(store: DockerStore, killing: signal.Signals) -> None:
    """Workers end when their parent is killed, although it can't end them."""
    large_image(store)
    argv = [sys.executable, "-m", "boltseal", "scrub", "--root", str(store.root), "--bytes-per-second", "1M"]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, process_group=0) as running:
        children = Path(f"/proc/{running.pid}/task/{running.pid}/children")
        try:
            wait_until(lambda: len(children.read_text().split()) >= 2, "the workers run")
            workers = children.read_text().split()
            running.send_signal(killing)
            running.wait()
            wait_until(lambda: not any(map(runs, workers)), "the workers ended")
        finally:
            with suppress(ProcessLookupError):
                os.killpg(running.pid, signal.SIGKILL)

    assert running.returncode == -killing
    assert len(workers) == 2


def runs(pid: str) -> bool:
    """Return whether a process exists and has not ended; one that nothing waits for stays as a zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][:1] not in {"Z", "X"}
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_a_worker_whose_parent_was_killed_before_its_first_step_ends() -> None:
    """A worker that starts after its parent has ended ends at once, since it gets no signal for that."""
    code = "import os; from boltseal.host.scrub.worker_lifetime import end_with_parent; end_with_parent(1 << 30); print('runs')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)

    assert (done.returncode, done.stdout, done.stderr) == (1, "", "")


def test_a_meter_counts_bytes_and_waits_for_the_rate() -> None:
    """A meter counts bytes; the time of the next read is shared by all processes."""
    context = get_context("spawn")
    count, free_at = context.Value("q", 0), context.Value("d", 0.0)
    meter = Meter(count, free_at, 10**9)
    meter(1000)
    first = free_at.value
    meter(1_000_000)

    assert count.value == 1_001_000
    assert free_at.value - first >= 1_000_000 / 10**9 - 1e-6


def test_the_rate_applies_to_all_reads(store: DockerStore) -> None:
    """The rate limit applies to all reads together, by a clock that only sleeping advances."""
    store.image("app:1", {f"f{number}": os.urandom(300_000) for number in range(10)})
    (layer,) = store_at(store.root)[0].plan(store.root).images[0].layers
    context, now = get_context("spawn"), [1000.0]
    count, free_at = context.Value("q", 0), context.Value("d", 0.0)

    def sleep(seconds: float) -> None:
        now[0] += seconds

    result = check(layer, CheckMode(), Meter(count, free_at, 1_000_000, lambda: now[0], sleep))

    assert (result.count, result.unknown) == (0, ())
    assert count.value > 3_000_000
    assert free_at.value - 1000 == pytest.approx(count.value / 1_000_000)
    assert free_at.value - now[0] < 1  # after the last read there is no wait


def test_progress_is_reported_while_a_single_layer_is_read(store: DockerStore) -> None:
    """Progress is reported while a single layer is read, not only after it."""
    store.image("large:1", {f"f{number}": bytes(1 << 18) for number in range(8)})
    reported: list[tuple[int, int]] = []
    wanted = ScrubRequest(pace=WorkRate(bytes_per_second=2 << 20))

    scrub(store_at(store.root), wanted, lambda read, done, _: reported.append((read, done)))

    assert [each for each in reported if each[0] > 0 and each[1] == 0]
    assert reported[-1][1] == 1


def test_a_difference_takes_precedence_over_unknown() -> None:
    """Exit code 1 takes precedence over 3."""
    reports = [
        ScrubReport("image", "a", status, "", "")
        for status in (ReportStatus.UNKNOWN, ReportStatus.DIFFERS, ReportStatus.HOLDS)
    ]

    assert outcome(reports) is ReportStatus.DIFFERS
    assert outcome([reports[0], reports[2]]) is ReportStatus.UNKNOWN
    assert outcome([]) is ReportStatus.HOLDS


def test_a_check_of_which_everything_is_gone_is_no_success() -> None:
    """What is gone counts neither as checked nor as a doubt, so that nothing else means "could not check"."""
    gone, holds = (ScrubReport("container", "a", each, "", "") for each in (ReportStatus.GONE, ReportStatus.HOLDS))

    assert outcome([gone]) is ReportStatus.UNKNOWN
    assert outcome([gone, holds]) is ReportStatus.HOLDS


def test_quick_compares_metadata_only(store: DockerStore) -> None:
    """With --quick, no file content is read."""
    store.image("app:1", LOWER)
    (store.layer() / "bin/tool").chmod(0o4755)
    (store.layer() / "bin/evil").touch()

    report = checked(store, ScrubRequest(check_mode=CheckMode(quick=True)))["app:1"]

    assert {(each.kind, each.path) for each in report.differences} == {(DifferenceKind.MODE, "bin/tool"), (DifferenceKind.EXTRA, "bin/evil")} | {
        (DifferenceKind.MTIME, "bin")
    }  # fmt: skip


def test_a_file_written_to_during_the_check_is_reported_as_such(store: DockerStore) -> None:
    """A file written to during the check is a difference, because nothing legitimate writes to a layer."""
    large = os.urandom(3 << 20)
    store.image("app:1", {"a": large, "b": large[1:]})
    written: list[int] = []

    def spend(_: int) -> None:
        if not written:
            written.append(1)
            at = store.layer() / "b"
            before = at.stat()
            at.write_bytes(large[:-1])
            os.utime(at, ns=(before.st_atime_ns, before.st_mtime_ns))

    (layer,) = store_at(store.root)[0].plan(store.root).images[0].layers
    result = check(layer, CheckMode(), spend)

    assert [(each.kind, each.path) for each in result.differences] == [(DifferenceKind.CONTENT, "b")]
    assert result.differences[0].got == "a file that was written to during the check"


def test_a_folder_with_too_many_names_is_never_clean(store: DockerStore) -> None:
    """A folder with too many names is never clean, since a file could be hidden among millions."""
    store.image("app:1", LOWER)
    (layer,) = store_at(store.root)[0].plan(store.root).images[0].layers
    for number in range(20):
        (store.layer() / "bin" / f"{number}").touch()
    with SafeFolder(store.root) as files, files.below(layer.folder or b"") as tree:
        tree.max_names = 10
        comparison = LayerComparison(tree, "", layer.ownership, FileReader(tree, lambda _: None))
        with (store.root / os.fsdecode(layer.tar_split or b"")).open("rb") as split:
            for _, header in entries(split):
                if header is not None:
                    comparison.entry(header)
        comparison.finish()

    assert "more than 10 names" in comparison.findings.unreadable[0]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give files to others")
def test_owners_of_a_rootless_store_are_compared_by_etc_subuid(tmp_path: Path) -> None:
    """A rootless store's owners are compared by /etc/subuid; without entries only the user's own files are."""
    root = rootless(tmp_path)
    known = [scrub(store_at(root), ScrubRequest(), lambda *_: None)]
    (tmp_path / "disk/etc/subuid").unlink()
    known.append(scrub(store_at(root), ScrubRequest(), lambda *_: None))
    for path in root.glob("overlay2/*/diff/f"):
        os.chown(path, 0, 0)
    known.append(scrub(store_at(root), ScrubRequest(), lambda *_: None))

    assert [each[0].status for each in known] == [ReportStatus.HOLDS, ReportStatus.HOLDS, ReportStatus.DIFFERS]


def rootless(folder: Path) -> Path:
    """Return a store of user 12345, who owns all its files."""
    (folder / "disk/etc").mkdir(parents=True)
    (folder / "disk/etc/passwd").write_text("shop:x:12345:12345::/home/shop:/bin/sh\n")
    for name in ("subuid", "subgid"):
        (folder / "disk/etc" / name).write_text("shop:200000:65536\n")
    made = DockerStore.at(folder / "disk/home/shop")
    made.image("app:1", {"f": b"f"})
    for path in (made.root, *made.root.rglob("*")):
        os.chown(path, 12345, 12345, follow_symlinks=False)
    return made.root
