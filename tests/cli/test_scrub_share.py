"""`boltseal scrub --share 1/N`: a rotating share of the content in each run."""

from __future__ import annotations

import fcntl
import os
import re
from pathlib import Path

import pytest

from tests.cli import program
from tests.host.scrub.made_stores import DockerStore

LAYERS = 6
IMAGE = "shop/app:1.4.2"


@pytest.fixture
def store(tmp_path: Path) -> DockerStore:
    """A store with one image whose layers have a file of equal size each."""
    made = DockerStore.at(tmp_path)
    made.image(IMAGE, *({f"f{number}": bytes([number]) * 5000} for number in range(LAYERS)))
    return made


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The client state folder."""
    monkeypatch.setenv("BOLTSEAL_STATE", str(tmp_path / "state"))
    return tmp_path / "state"


def scrub(store: DockerStore, share: str, *more: str | Path) -> program.Run:
    return program.call("scrub", "--root", store.root, "--share", share, *more)


def tamper(store: DockerStore, number: int) -> None:
    """Change the content of a layer's file, and keep its size and time."""
    (file,) = store.root.glob(f"overlay2/*/diff/f{number}")
    before = file.stat()
    file.write_bytes(b"e" * 5000)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))


def found(run: program.Run) -> set[str]:
    """Return the files that a run reports as changed."""
    return set(re.findall(r"content (f\d) ", run.out))


def test_a_run_reads_a_share_and_never_looks_like_a_full_one(store: DockerStore, state: Path) -> None:
    """A run prints no level, what it did not read of the image, and what all runs have not read yet."""
    done = scrub(store, "1/3")

    image, share = done.out.splitlines()
    assert done.code == 0
    assert image.startswith(f"holds: {IMAGE} ")
    assert re.search(r", content of [34] layers not read in this run \(--share\)$", image)
    assert re.fullmatch(
        r"partial: share 1/3: read [23] of 6 parts, about .*; "
        r"not read in this run: ([34]) parts, about .* \(\1 never yet\)",
        share,
    )


def test_the_runs_together_read_everything_once(store: DockerStore, state: Path) -> None:
    """Six changed layers of six are found by three runs of a third, each of which finds other ones."""
    for number in range(LAYERS):
        tamper(store, number)
    runs = [scrub(store, "1/3") for _ in range(3)]
    new = [found(run) - set().union(*map(found, runs[:at])) for at, run in enumerate(runs)]

    assert {run.code for run in runs} == {1}
    assert len(new[0]) in {2, 3}  # their sizes differ by a few bytes
    assert set().union(*new) == {f"f{number}" for number in range(LAYERS)}


def test_a_difference_is_reported_until_it_is_repaired(store: DockerStore, state: Path) -> None:
    """A layer that differs is read in each further run, although its turn is over."""
    tamper(store, 3)
    runs = [scrub(store, "1/6") for _ in range(9)]
    first = next(at for at, run in enumerate(runs) if run.code == 1)

    assert first < LAYERS
    assert [found(run) for run in runs[first:]] == [{"f3"}] * (9 - first)


def test_metadata_is_compared_in_every_run(store: DockerStore, state: Path) -> None:
    """A changed mode, and an additional file, are found by the first run whose share has another layer."""
    for number in range(LAYERS):
        (file,) = store.root.glob(f"overlay2/*/diff/f{number}")
        file.chmod(0o4755)
    done = scrub(store, "1/6")

    assert done.code == 1
    assert len(re.findall(r"mode f\d ", done.out)) == LAYERS


def test_json_has_what_was_not_read(store: DockerStore, state: Path) -> None:
    """The object has the unread layers of each image, and a row for the share with bytes and the oldest reading."""
    (image, share) = scrub(store, "1/6", "--json").json["results"]
    left = image["unread"]
    for _ in range(5):
        last = scrub(store, "1/6", "--json").json["results"][1]

    assert left in {4, 5}  # the sizes of the layers differ by a few bytes
    assert (image["level"], image["status"]) == (None, "holds")
    assert (share["what"], share["status"], share["parts"], share["unread"]) == ("share", "partial", 6, left)
    assert share["never_read"] == left
    assert share["unread_bytes"] > share["read_bytes"] > 0
    assert (last["never_read"], last["status"]) == (0, "partial")
    assert share["oldest"] <= last["oldest"]


def test_unread_parts_are_no_complete_check(store: DockerStore, state: Path) -> None:
    """With --complete, a run that did not read all content is exit code 3."""
    assert scrub(store, "1/3", "--complete").code == 3


def test_a_share_of_everything_is_complete(store: DockerStore, state: Path) -> None:
    """With 1/1 each run reads everything, and has the level of a full run."""
    runs = [scrub(store, "1/1") for _ in range(2)]

    assert [run.out.splitlines()[0].partition(":")[0] for run in runs] == ["holds L0", "holds L0"]
    assert all("complete: share 1/1: read 6 of 6 parts" in run.out for run in runs)


def test_an_image_pulled_again_counts_as_never_read(store: DockerStore, state: Path) -> None:
    """A layer that was unpacked anew is read again soon, although it was read before under the same path."""
    scrub(store, "1/1")
    for folder in store.root.glob("overlay2/*/diff"):
        aside = folder.rename(folder.with_name("aside"))
        folder.mkdir(mode=0o755)
        for file in aside.iterdir():
            file.rename(folder / file.name)
        aside.rmdir()
    done = scrub(store, "1/6", "--json")

    assert done.json["results"][1]["never_read"] in {4, 5}


def test_other_arguments_have_a_rotation_of_their_own(store: DockerStore, state: Path) -> None:
    """A run for one image neither advances nor forgets the rotation of all images."""
    scrub(store, "1/1")
    scrub(store, "1/6", IMAGE)
    done = scrub(store, "1/6", "--json")

    assert done.json["results"][1]["never_read"] == 0
    assert len(list((state / "scrub").iterdir())) == 2


@pytest.mark.parametrize(
    "damage",
    [b"", b"{", b"[]", b'{"format":2,"run":1,"parts":{}}', b'{"format":1,"run":1,"parts":{"a":[2,0,false,0]}}',
     b'{"format":1,"run":-1,"parts":{}}', b'{"format":1,"run":1,"parts":{"a":[1,0,false]}}', b"[" * 100_000],
)  # fmt: skip
def test_a_damaged_state_is_reported(store: DockerStore, state: Path, damage: bytes) -> None:
    """A state that can't be read is "could not check" with its path, since the rotation would begin anew every time."""
    scrub(store, "1/3")
    (file,) = (state / "scrub").iterdir()
    file.write_bytes(damage)
    done = scrub(store, "1/3")

    assert (done.code, done.out) == (3, "")
    assert f"{file} is damaged: " in done.err


def test_a_state_that_can_not_be_written_hides_no_result(store: DockerStore, state: Path) -> None:
    """Results are printed although the state can't be saved, which is "could not check" unless something differs."""
    state.mkdir()
    (state / "scrub").symlink_to(state / "nowhere")
    clean = scrub(store, "1/1")
    tamper(store, 0)
    differs = scrub(store, "1/1")

    assert (clean.code, differs.code) == (3, 1)
    assert (clean.out.startswith("holds L0"), differs.out.startswith("DIFFERS")) == (True, True)
    assert "what this run read counts as not read" in clean.err


def test_two_runs_at_once_are_refused(store: DockerStore, state: Path) -> None:
    """A second run of a rotation at the same time is "could not check": both would record other parts as read."""
    scrub(store, "1/3")
    (lock,) = state.glob("scrub-*.lock")
    with lock.open() as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        done = scrub(store, "1/3")

    assert done.code == 3
    assert "another scrub --share of the same images runs" in done.err


@pytest.mark.parametrize("more", [("7",), ("2/7",), ("1/0",), ("1/7", "--quick")])
def test_an_invalid_share_is_a_usage_error(store: DockerStore, state: Path, more: tuple[str, ...]) -> None:
    """A share that is not 1/N, or beside --quick, is a usage error."""
    assert scrub(store, *more).code == 2


def test_the_metrics_of_a_share_are_no_metrics_of_a_full_run(store: DockerStore, state: Path, tmp_path: Path) -> None:
    """The metrics of a run with --share have a mode of their own, and what was left to other runs."""
    file = tmp_path / "scrub.prom"
    scrub(store, "1/3", "--metrics-file", file)
    text = file.read_text()

    assert 'mode="full"' not in text
    assert re.search(r'boltseal_scrub_oldest_read_timestamp_seconds\{mode="share"\} [1-9]\d+\n', text)
    assert re.search(r'boltseal_scrub_unread_bytes\{mode="share"\} [1-9]\d+\n', text)
