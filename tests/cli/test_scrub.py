"""`boltseal scrub` on the command line."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from boltseal.lockfile.document import LOCK_NAME, Lock, LockedImage, LockedPlatform
from boltseal.lockfile.format import format_lock
from boltseal.oci.digest import Digest
from boltseal.oci.mediatype import OCI_INDEX
from boltseal.oci.reference import Reference
from tests.cli import program
from tests.cli.terminal import read_to_end, screen
from tests.host.scrub.made_stores import DockerStore, repository_of
from tests.host.scrub.receipts import KEY, receipt
from tests.polling import wait_until


@pytest.fixture
def store(tmp_path: Path) -> DockerStore:
    """A store with one image of two layers."""
    made = DockerStore.at(tmp_path)
    made.image("shop/app:1.4.2", {"etc/passwd": b"root"}, {"bin/tool": b"tool" * 1000})
    return made


NAME = "localhost:5000/shop/app:1.4.2"


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The project's folder, in which the command is called."""
    folder = tmp_path / "project"
    folder.mkdir(mode=0o755)
    monkeypatch.chdir(folder)
    return folder


def locked(image: Digest) -> str:
    """Write a lock in which NAME has this image."""
    platform = LockedPlatform("linux/amd64", Digest.of(b"manifest"), image)
    index = LockedImage(
        Reference.parse(NAME), Digest.of(b"index"), 1_795_000_000_000_000, OCI_INDEX, (platform,)
    )  # fmt: skip
    return format_lock(Lock((index,)))


def image_of(store: DockerStore) -> str:
    (image,) = (store.root / "image/overlay2/imagedb/content/sha256").iterdir()
    return image.name


def test_a_clean_store_holds(store: DockerStore) -> None:
    """A clean store prints the level that was verified, and exit code 0."""
    done = program.call("scrub", "--root", store.root)

    assert (done.code, done.err) == (0, "")
    assert done.out == f"holds L0: shop/app:1.4.2 sha256:{image_of(store)} (docker): 2 layers, 4 entries\n"


def test_two_stores_of_a_kind_are_distinguished(store: DockerStore, tmp_path: Path) -> None:
    """Two stores of one kind are distinguished by their paths, with the verified level below each."""
    other = DockerStore.at(tmp_path / "other")
    other.image("a:1", {"f": b"f"})
    done = program.call("scrub", "--root", store.root, "--root", other.root)

    assert [line.partition(" (")[2].partition(")")[0] for line in done.out.splitlines()] == [
        f"docker {store.root}",
        f"docker {other.root}",
    ]


def test_the_source_of_an_expectation_is_shown(store: DockerStore) -> None:
    """The source of an expected digest is printed on a line of its own."""
    done = program.call("scrub", "--root", store.root, "shop/app:1.4.2", "--expect", image_of(store))

    assert done.out.splitlines()[1:] == ["  by --expect"]


def test_a_difference_is_reported_with_path_layer_kind_expected_and_got(store: DockerStore) -> None:
    """A difference prints one line for the image and one per path; exit code 1."""
    (store.layer() / "etc/passwd").chmod(0o4755)

    done = program.call("scrub", "--root", store.root, "shop/app:1.4.2")

    assert done.code == 1
    assert done.out.splitlines()[0].startswith("DIFFERS: shop/app:1.4.2")
    assert "mode etc/passwd [layer " in done.out.splitlines()[1]
    assert done.out.splitlines()[1].endswith("expected 0644; got 4755")


def test_a_difference_is_followed_by_the_steps_that_replace_the_image(store: DockerStore) -> None:
    """Below the differences the output says what to do, as numbered steps with their commands."""
    digest = Digest.of(b"manifest")
    name = f"localhost:5000/shop/app@{digest}"
    listed = {repository_of(NAME): {each: f"sha256:{image_of(store)}" for each in (NAME, name)}}
    (store.root / "image/overlay2/repositories.json").write_text(json.dumps({"Repositories": listed}))
    (store.layer() / "etc/passwd").chmod(0o4755)
    done = program.call("scrub", "--root", store.root)
    remedy = program.call("scrub", "--root", store.root, "--json").json["results"][0]["remedy"]

    assert "\n  what to do:\n    1. keep the evidence" in done.out
    assert f"         boltseal pull --replace {NAME}@{digest}\n" in done.out
    assert remedy["digest"] == str(digest)
    assert f"boltseal pull --replace {NAME}@{digest}" in [each["command"] for each in remedy["steps"]]


def test_json_has_everything_in_one_object(store: DockerStore) -> None:
    """JSON is one object with all fields for scripts."""
    (store.layer() / "etc/passwd").write_bytes(b"evil")

    done = program.call("scrub", "--root", store.root, "--json")

    (result,) = done.json["results"]
    (difference, *_) = [each for each in result["differences"] if each["kind"] == "content"]
    assert (done.json["schema"], done.json["outcome"], done.json["errors"]) == ("boltseal.scrub/1", "differs", [])
    assert {"what", "ref", "status", "reason", "store", "root", "level", "by", "id", "names", "layers", "entries"} <= {
        *result
    }
    assert {"differences", "count", "unknown", "changed", "running"} <= {*result}
    assert (difference["path"], difference["expected"]) == ("etc/passwd", "the content of the layer")
    assert difference["layer"].startswith("sha256:")


@pytest.mark.parametrize("how", ["typed", "expected", "short"])
def test_an_image_id_proves_the_image(store: DockerStore, how: str) -> None:
    """An expected image ID, as the reference or beside it, proves the image."""
    image = image_of(store)
    arguments = {"typed": [image], "expected": ["shop/app:1.4.2", "--expect", f"sha256:{image}"]}
    done = program.call("scrub", "--root", store.root, *arguments.get(how, [image[:12]]))

    assert done.code == 0
    assert done.out.startswith("holds L0" if how == "short" else "holds L1")


@pytest.mark.parametrize(("digits", "line"), [
    (12, "holds L0: shop/app:1.4.2"),
    (32, "holds L1: shop/app:1.4.2"),
])  # fmt: skip
def test_the_first_digits_of_an_id_are_compared(store: DockerStore, digits: int, line: str) -> None:
    """--expect takes an ID as engines shorten it; so few digits, which another image could have too, prove nothing."""
    expected = image_of(store)[:digits]

    done = program.call("scrub", "--root", store.root, "shop/app:1.4.2", "--expect", expected)

    assert (done.code, done.out.startswith(line)) == (0, True)
    assert done.out.splitlines()[1].startswith("  by --expect")


@pytest.mark.parametrize("typed", ["sha256:aaaaaaaaaaaa", "aaaaaaaaaaaa"])
def test_other_first_digits_than_expected_are_a_difference(store: DockerStore, typed: str) -> None:
    """An image whose ID and digests begin with other digits than the expected ones is exit code 1."""
    done = program.call("scrub", "--root", store.root, "shop/app:1.4.2", "--expect", typed)

    assert done.code == 1
    assert "\n  manifest: expected aaaaaaaaaaaa..., by --expect; got sha256:" in done.out


def test_another_image_id_than_expected_is_a_difference(store: DockerStore) -> None:
    """An image ID other than the expected one is exit code 1."""
    done = program.call("scrub", "--root", store.root, "shop/app:1.4.2", "--expect", "a" * 64)

    assert done.code == 1
    assert "\n  manifest: expected sha256:aaa" in done.out


def test_a_receipt_whose_manifest_is_not_at_hand_could_not_be_checked(store: DockerStore, tmp_path: Path) -> None:
    """A receipt without its manifest is "could not check" (3), and the message says what to do."""
    (tmp_path / "app.tlog-proof").write_bytes(receipt(Digest.of(b"a manifest")))
    done = program.call(
        "scrub", "--offline", "--root", store.root, "--receipt", tmp_path / "app.tlog-proof", "--key", str(KEY.verifier)
    )  # fmt: skip

    assert done.code == 3
    assert done.out.startswith("could not check: shop/app:1.4.2")
    assert "--documents" in done.out


def test_a_receipt_for_a_missing_image_is_reported(tmp_path: Path) -> None:
    """A receipt for an image that no store has is reported."""
    (tmp_path / "r").write_bytes(receipt(Digest.of(b"m")))
    empty = DockerStore.at(tmp_path / "empty")
    empty.image("other:1", {"f": b"f"})

    done = program.call("scrub", "--root", empty.root, "--receipt", tmp_path / "r", "--key", str(KEY.verifier))

    assert done.code == 3
    assert "could not check: shop/app:1.4.2" in done.out


def test_a_receipt_without_a_key_is_a_usage_error(store: DockerStore, tmp_path: Path) -> None:
    """A receipt without a ledger key is a usage error."""
    (tmp_path / "r").write_bytes(receipt(Digest.of(b"m")))

    done = program.call("scrub", "--root", store.root, "--receipt", tmp_path / "r")

    assert done.code == 2
    assert "--key" in done.err


def test_a_missing_image_could_not_be_checked(store: DockerStore) -> None:
    """For an image in no store, the reason names the stores that were searched."""
    done = program.call("scrub", "--root", store.root, "shop/other:1")

    assert done.code == 3
    assert f"could not check: shop/other:1: not found in the searched stores ({store.root}); name another" in done.out


@pytest.mark.parametrize(("typed", "reported"), [("shop/app", True), ("shop/app:9", False), ("0123456789ab", False)])
def test_the_error_about_a_missing_name_without_tag_has_its_default_tag(
    store: DockerStore, typed: str, reported: bool
) -> None:
    """The error for a reference without a tag says that `latest` was searched, since another tag may exist."""
    done = program.call("scrub", "--root", store.root, typed)

    assert done.code == 3
    assert ("A name without a tag has the tag latest" in done.out) is reported


def test_a_folder_that_is_no_store_is_a_usage_error(tmp_path: Path) -> None:
    """A folder that is no store is a usage error that describes a store."""
    done = program.call("scrub", "--root", tmp_path)

    assert done.code == 2
    assert "is not an image store" in done.err


def test_a_whole_disk_is_searched_for_stores(store: DockerStore, tmp_path: Path) -> None:
    """On a whole disk, stores are searched at the paths that packages use."""
    (tmp_path / "disk/var/lib").mkdir(parents=True)
    store.root.rename(tmp_path / "disk/var/lib/docker")
    if store.root.name != "store":
        (tmp_path / "disk/var/lib/docker").rename(tmp_path / "disk/var/lib/inner")
        (tmp_path / "disk/var/lib/docker/image").mkdir(parents=True)
        (tmp_path / "disk/var/lib/inner").rename(tmp_path / "disk/var/lib/docker" / store.root.name)

    done = program.call("scrub", "--root", tmp_path / "disk")

    assert done.code == 0
    assert "shop/app:1.4.2" in done.out


def test_quick_reads_no_content_and_says_so(store: DockerStore) -> None:
    """--quick compares attributes but not contents, and prints that."""
    before = (store.layer() / "etc/passwd").stat()
    (store.layer() / "etc/passwd").write_bytes(b"evil")
    os.utime(store.layer() / "etc/passwd", ns=(before.st_atime_ns, before.st_mtime_ns))

    quick, whole = (program.call("scrub", "--root", store.root, *more) for more in (["--quick"], []))

    assert (quick.code, whole.code) == (0, 1)
    assert "no content read" in quick.out


def test_quick_claims_no_level(store: DockerStore) -> None:
    """--quick claims no verified level, in text or JSON, whatever was expected."""
    expected = ("scrub", "--root", store.root, "shop/app:1.4.2", "--expect", image_of(store), "--quick")
    done, as_json = program.call(*expected), program.call(*expected, "--json")

    assert done.out.startswith("holds: shop/app:1.4.2")
    assert as_json.json["results"][0]["level"] is None


@pytest.mark.parametrize("more", [["--bytes-per-second", "1G"], ["--from-disk"]])
def test_the_way_of_reading_changes_no_finding(store: DockerStore, more: list[str]) -> None:
    """Reading at a limited rate, or from the disk, gives the same findings."""
    clean = program.call("scrub", "--root", store.root, *more)
    (store.layer() / "etc/passwd").write_bytes(b"evil")

    assert clean.code == 0
    assert program.call("scrub", "--root", store.root, *more).code == 1


@pytest.mark.parametrize("rate", ["fast", "0", "-1", "1.5M", "1T", "50", "63K"])
def test_an_invalid_rate_is_a_usage_error(store: DockerStore, rate: str) -> None:
    """An invalid rate is a usage error with an example."""
    done = program.call("scrub", "--root", store.root, f"--bytes-per-second={rate}")

    assert done.code == 2
    assert "50M" in done.err


def test_nothing_of_the_store_is_changed(store: DockerStore) -> None:
    """Scrub changes no byte, no modification time and no access time."""

    def state() -> list[tuple[str, int, int, int, int]]:
        found = []
        for path in sorted(store.root.rglob("*")):
            at = path.lstat()
            found.append(
                (str(path), at.st_mode, at.st_mtime_ns, at.st_ctime_ns, at.st_atime_ns if path.is_file() else 0)
            )
        return found

    before = state()
    program.call("scrub", "--root", store.root)

    assert state() == before


def test_the_lock_in_this_folder_is_found_and_named(tmp_path: Path, project: Path) -> None:
    """The lock in the current folder is used without an option, and printed beside the level."""
    store = DockerStore.at(tmp_path)
    (project / LOCK_NAME).write_text(locked(store.image(NAME, {"f": b"f"})))

    done = program.call("scrub", "--root", store.root, "--json")

    assert done.code == 0
    assert done.err == "using ./boltseal.lock: it has 1 tag (--no-lock ignores it)\n"
    assert (done.json["results"][0]["level"], done.json["results"][0]["by"]) == ("L1", f"the lock of {NAME}")


def test_an_image_that_differs_from_the_lock_in_this_folder(tmp_path: Path, project: Path) -> None:
    """An image that differs from the current folder's lock is a difference; without the lock it is not."""
    store = DockerStore.at(tmp_path)
    store.image(NAME, {"f": b"f"})
    (project / LOCK_NAME).write_text(locked(Digest.of(b"another image")))

    by_lock, without = (
        program.call("scrub", "--root", store.root),
        program.call("scrub", "--root", store.root, "--no-lock"),
    )

    assert (by_lock.code, "\n  tag: expected image" in by_lock.out) == (1, True)
    assert (without.code, without.err) == (0, "")


@pytest.mark.parametrize("what", ["lock", "folder"])
def test_a_lock_in_a_folder_that_others_may_write_to_is_not_used(tmp_path: Path, project: Path, what: str) -> None:
    """A lock in a folder that others may write to is used only if it is named on the command line."""
    store = DockerStore.at(tmp_path)
    (project / LOCK_NAME).write_text(locked(store.image(NAME, {"f": b"f"})))
    (project / LOCK_NAME if what == "lock" else project).chmod(0o777)

    found, named = (program.call("scrub", "--root", store.root, *more) for more in ([], ["--lock", LOCK_NAME]))

    assert (found.out.startswith("holds L0"), "every user may write to" in found.err) == (True, True)
    assert named.out.startswith("holds L1")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give files to others")
def test_a_lock_of_another_user_is_used_only_for_who_called_sudo(
    tmp_path: Path, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A lock owned by another user is used only if that user called sudo."""
    store = DockerStore.at(tmp_path)
    (project / LOCK_NAME).write_text(locked(store.image(NAME, {"f": b"f"})))
    os.chown(project / LOCK_NAME, 1234, 1234)

    as_root = program.call("scrub", "--root", store.root)
    monkeypatch.setenv("SUDO_UID", "1234")
    behind_sudo = program.call("scrub", "--root", store.root)

    assert (as_root.out.startswith("holds L0"), "belongs to user 1234" in as_root.err) == (True, True)
    assert behind_sudo.out.startswith("holds L1")


def test_a_damaged_lock_in_this_folder_is_reported(store: DockerStore, project: Path) -> None:
    """A damaged lock in the current folder is an error, with the option to go without it."""
    (project / LOCK_NAME).write_text("version = ")

    done = program.call("scrub", "--root", store.root)

    assert done.code == 2
    assert "--no-lock" in done.err


def test_a_lock_that_is_a_link_is_not_followed(store: DockerStore, project: Path, tmp_path: Path) -> None:
    """A symbolic link as the lock is not followed, because it may have come with a checked-out project."""
    (tmp_path / "elsewhere").write_text(locked(Digest.of(b"x")))
    (project / LOCK_NAME).symlink_to(tmp_path / "elsewhere")

    assert program.call("scrub", "--root", store.root).code == 2


def test_a_lock_together_with_no_lock_is_a_usage_error(store: DockerStore) -> None:
    """A named lock together with --no-lock is a usage error."""
    assert program.call("scrub", "--root", store.root, "--lock", "x", "--no-lock").code == 2


def test_progress_shows_bytes_and_rate_on_a_terminal(store: DockerStore) -> None:
    """On a terminal, progress with bytes and rate is one line on stderr, cleared at the end."""
    ours, theirs = os.openpty()
    argv = [sys.executable, "-m", "boltseal", "scrub", "--root", str(store.root)]
    done = subprocess.run(argv, stdout=subprocess.PIPE, stderr=theirs, env=program.clean_environment(), check=False)
    os.close(theirs)
    shown = read_to_end(ours)
    os.close(ours)

    assert done.returncode == 0
    plain = re.sub(r"\x1b\[[0-9;]*m", "", shown)
    assert re.search(r"layers .* (50|100)% +[0-9.]+ (B|KiB|MiB) read, [0-9.]+ (B|KiB|MiB)/s [0-9-]", plain)
    assert [line for line in screen(shown) if "layers" in line] == []
    assert screen(shown)[-1].startswith("L0: ")  # the explanation of L0 for new users


def test_nice_lowers_the_priority(store: DockerStore) -> None:
    """--nice sets the lowest CPU priority and the idle class of the disk, as read from the running process."""
    store.image("large:1", {"f": os.urandom(8 << 20)})
    argv = [
        sys.executable,
        "-m",
        "boltseal",
        "scrub",
        "--root",
        str(store.root),
        "--nice",
        "--bytes-per-second",
        "100K",
    ]
    with subprocess.Popen(
        argv, stdout=subprocess.DEVNULL, env=program.clean_environment(), start_new_session=True
    ) as running:
        stat = Path(f"/proc/{running.pid}/stat")
        try:
            wait_until(lambda: stat.read_text().rpartition(")")[2].split()[16] == "19", "the nice value is 19")
            wait_until(
                lambda: subprocess.check_output(["ionice", "-p", str(running.pid)], text=True).strip() == "idle",
                "the class of disk access is idle",
            )
            ended = running.poll()
        finally:
            os.killpg(running.pid, signal.SIGKILL)  # its worker processes as well

    assert ended is None
