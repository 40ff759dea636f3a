"""`boltseal scrub --write-baseline` and `--baseline`: what a person recorded, and whose word it is."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from boltseal.ledger.note import SigningKey, format_note
from tests.boltseal_process import BoltsealProcess
from tests.cli import program
from tests.host.scrub.made_stores import DockerStore
from tests.polling import wait_until

KEY = SigningKey("ann/baseline", bytes(range(32)))
OTHER = SigningKey("ann/baseline", bytes(reversed(range(32))))


@pytest.fixture
def store(tmp_path: Path) -> DockerStore:
    """A store with an image that was built here: no registry has it."""
    made = DockerStore.at(tmp_path)
    made.image("shop/app:1.4.2", {"etc/passwd": b"root"}, {"bin/tool": b"tool" * 1000})
    return made


@pytest.fixture
def key(tmp_path: Path) -> Path:
    file = tmp_path / "key"
    file.write_text(f"{KEY.private_text()}\n")
    return file


@pytest.fixture
def baseline(tmp_path: Path, store: DockerStore, key: Path) -> Path:
    """A baseline of the store, signed with KEY."""
    file = tmp_path / "baseline"
    done = record(store, file, key)

    assert done.code == 0, done

    return file


def record(store: DockerStore, file: Path, key: Path) -> program.Run:
    return program.call("scrub", "--root", store.root, "--write-baseline", file, "--signing-key", key)


def check(store: DockerStore, file: Path, key: SigningKey = KEY) -> program.Run:
    return program.call("scrub", "--root", store.root, "--baseline", file, "--trusted-key", str(key.verifier))


def test_a_recorded_image_holds_by_the_word_of_the_key(store: DockerStore, baseline: Path) -> None:
    """An image that was built here is proven to level L1 by a baseline, and the output says who signed it."""
    done = check(store, baseline)

    assert (done.code, done.err) == (0, "")
    assert done.out.startswith("holds L1: shop/app:1.4.2")
    assert f"signed by ann/baseline (key ID {KEY.verifier.key_id.hex()})" in done.out


def test_layers_behind_a_link_are_recorded(tmp_path: Path, store: DockerStore, key: Path) -> None:
    """The files of layers in a folder that is a link to another disk, which the engine of the store follows, are recorded."""
    (store.root / "overlay2").rename(tmp_path / "other disk")
    (store.root / "overlay2").symlink_to(tmp_path / "other disk")
    (store.root / "volumes").mkdir()
    with (store.root / "volumes/metadata.db").open("w") as database:
        fcntl.flock(database, fcntl.LOCK_EX)  # as a running engine does
        done = record(store, tmp_path / "baseline", key)

    assert done.code == 0, done
    assert b'"p":"bin/tool"' in (tmp_path / "baseline").read_bytes()


def test_another_image_under_a_recorded_name_differs(store: DockerStore, baseline: Path) -> None:
    """Another image under a recorded name differs, although it is consistent in itself."""
    store.image("shop/app:1.4.2", {"etc/passwd": b"evil"})
    done = check(store, baseline)

    assert done.code == 1
    assert "\n  tag: expected " in done.out


def test_an_image_without_its_name_is_still_recorded(store: DockerStore, baseline: Path) -> None:
    """An image that lost its name is recognized by its config."""
    (store.root / "image/overlay2/repositories.json").write_text(json.dumps({"Repositories": {}}))

    assert check(store, baseline).out.startswith("holds L1: sha256:")


def test_a_changed_image_that_is_kept_as_evidence_does_not_prevent_a_baseline(
    tmp_path: Path, store: DockerStore, key: Path
) -> None:
    """A copy of an image with layers of its own is recorded beside the changed image, which is not recorded."""
    store.image("copy:1", {}, {"etc/passwd": b"root"}, {"bin/tool": b"tool" * 1000})
    changed = next(each for each in store.root.glob("overlay2/*/diff/bin/tool"))
    changed.write_bytes(b"evil" * 1000)
    done = record(store, tmp_path / "baseline", key)
    checked = check(store, tmp_path / "baseline")

    assert done.code == checked.code == 1, done
    assert "recorded 1 image in" in done.err
    assert "and not 1 that do not hold" in done.err
    assert (checked.out.count("holds L1"), checked.out.count("DIFFERS")) == (1, 1)


def test_an_image_that_was_not_recorded_has_no_more_than_its_own_word(store: DockerStore, baseline: Path) -> None:
    """An image that is not in the baseline is checked as without one, and its level is L0."""
    store.image("other:1", {"f": b"f"})
    done = check(store, baseline)

    assert done.code == 0
    assert "holds L0: other:1" in done.out


def _unsigned(raw: bytes) -> bytes:
    head, _, rest = raw.partition(b"\n\n")
    return head + b"\n\n\n" + rest.partition(b"\n\n")[2]


@pytest.mark.parametrize(
    "change",
    [
        _unsigned,
        lambda raw: raw.replace(b"time 2", b"time 3", 1),
        lambda raw: raw.replace(b"shop/app:1.4.2", b"shop/app:1.4.3"),
        lambda raw: raw[:200],
        lambda raw: raw[: raw.index(b"\n\n") + 2],
        lambda _: b"",
        lambda _: b"\xff" * 100,
    ],
    ids=["unsigned", "other-text", "other-index", "cut-off", "without-signature", "empty", "no-text"],
)
def test_a_changed_baseline_checks_nothing(
    store: DockerStore, baseline: Path, change: Callable[[bytes], bytes]
) -> None:
    """A baseline that is damaged or not signed is not used, and nothing counts as checked."""
    baseline.write_bytes(change(baseline.read_bytes()))
    done = check(store, baseline)

    assert (done.code, done.out) == (3, "")
    assert "baseline" in done.err


def test_a_baseline_of_another_key_checks_nothing(store: DockerStore, baseline: Path) -> None:
    """A baseline that another key of the same name signed is not used."""
    done = check(store, baseline, OTHER)

    assert (done.code, done.out) == (3, "")


def test_another_signed_note_is_no_baseline(store: DockerStore, baseline: Path) -> None:
    """A note that the trusted key signed for another purpose is not used as a baseline."""
    text = "boltseal.dev/ledger\n1\n"
    baseline.write_bytes(format_note(text, [KEY.sign(text)]) + b"\n{}")
    done = check(store, baseline)

    assert (done.code, done.out) == (3, "")


def test_an_image_that_differs_is_not_recorded(tmp_path: Path, store: DockerStore, key: Path) -> None:
    """An image that differs while the baseline is written is not part of it; without any image no file is written."""
    (store.layer() / "etc/passwd").write_bytes(b"evil")
    alone = record(store, tmp_path / "alone", key)
    store.image("other:1", {"f": b"f"})
    both = record(store, tmp_path / "both", key)

    assert (alone.code, (tmp_path / "alone").exists()) == (1, False)
    assert both.code == 1
    assert "recorded 1 image in" in both.err
    assert b"shop/app" not in (tmp_path / "both").read_bytes()


def test_a_missing_key_is_created_for_its_owner_only(tmp_path: Path, store: DockerStore) -> None:
    """A key file that does not exist is created, readable by its owner only, and its public half is printed."""
    done = record(store, tmp_path / "baseline", tmp_path / "new")
    made = SigningKey.parse((tmp_path / "new").read_text().strip())

    assert done.code == 0
    assert (tmp_path / "new").stat().st_mode & 0o777 == 0o600
    assert str(made.verifier) in done.err
    assert check(store, tmp_path / "baseline", made).code == 0


def test_a_file_that_is_no_key_is_refused(tmp_path: Path, store: DockerStore) -> None:
    """A key file with other content is refused, and not replaced."""
    (tmp_path / "text").write_text("text")
    done = record(store, tmp_path / "baseline", tmp_path / "text")

    assert (done.code, (tmp_path / "text").read_text()) == (2, "text")
    assert not (tmp_path / "baseline").exists()


def test_a_baseline_is_not_replaced(store: DockerStore, baseline: Path, key: Path) -> None:
    """An existing baseline is not replaced by a new one."""
    before = baseline.read_bytes()
    done = record(store, baseline, key)

    assert (done.code, baseline.read_bytes()) == (2, before)


@pytest.mark.parametrize(
    "options",
    [
        ("--baseline", "baseline"),
        ("--trusted-key", str(KEY.verifier)),
        ("--write-baseline", "new"),
        ("--signing-key", "key"),
        ("--write-baseline", "new", "--signing-key", "key", "--quick"),
        (
            "--write-baseline",
            "new",
            "--signing-key",
            "key",
            "--baseline",
            "baseline",
            "--trusted-key",
            str(KEY.verifier),
        ),
    ],
    ids=["no-trusted-key", "no-baseline", "no-signing-key", "nothing-to-sign", "quick", "both"],
)
def test_options_that_do_not_belong_together_are_usage_errors(
    tmp_path: Path, store: DockerStore, baseline: Path, options: tuple[str, ...]
) -> None:
    """Recording needs a file and a private key, checking a file and a public key; anything else is a usage error."""
    done = program.call("scrub", "--root", store.root, *options, cwd=tmp_path)

    assert (done.code, done.out) == (2, "")


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT], ids=lambda each: each.name)
@pytest.mark.parametrize("phase", ["inventory", "check"])
def test_a_recording_that_is_ended_leaves_nothing_behind(
    tmp_path: Path, store: DockerStore, key: Path, how: signal.Signals, phase: str
) -> None:
    """A recording that is ended leaves no inventories, no part of a baseline and no worker process, also after a kill."""
    store.image("large:1", {"f": os.urandom(8 << 20)})
    scratch, target = tmp_path / "scratch", tmp_path / "target"
    scratch.mkdir()
    target.mkdir()
    rate = "64K" if phase == "inventory" else "4M"
    argv = ("scrub", "--root", store.root, "--write-baseline", target / "b", "--signing-key", key)
    with BoltsealProcess(
        [*argv, "--bytes-per-second", rate],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=program.clean_environment({"TMPDIR": str(scratch)}),
        start_new_session=True,
    ) as running:
        try:
            if phase == "inventory":
                wait_until(lambda: has_unnamed_file(running.pid, scratch), "the inventory has begun")
            else:
                wait_until(lambda: workers_of(running.pid), "workers check the layers")
            workers = workers_of(running.pid)
            running.send_signal(how)
            running.wait(20)
            wait_until(
                lambda: not [each for each in workers if Path(f"/proc/{each}").exists()], "the workers have ended"
            )
        finally:
            with suppress(ProcessLookupError):
                os.killpg(running.pid, signal.SIGKILL)

    assert running.returncode != 0
    assert [*scratch.iterdir(), *target.iterdir()] == []


def has_unnamed_file(pid: int, folder: Path) -> bool:
    """Return whether a process has a file of a folder open that has no name any more."""
    with suppress(OSError):
        opened = [each.readlink() for each in Path(f"/proc/{pid}/fd").iterdir()]
        return any(str(each).startswith(f"{folder}/") and str(each).endswith("(deleted)") for each in opened)
    return False


def workers_of(pid: int) -> list[int]:
    """Return the processes that a process has started."""
    return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
