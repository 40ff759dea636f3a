"""`release ls`, `release show` and `release diff` of any files on the disk: one line, the right exit code, no
traceback."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from boltseal.deploy.release_file import StoredRelease
from boltseal.deploy.release_store import ReleaseFolder
from boltseal.deploy.releases import ReleaseContents, ReleaseEnd
from tests.cli.program import call
from tests.deploy.samples import DIGEST, release
from tests.fakes.engine import FakeEngine

TEXT = {"name": "shop", "services": {"app": {"image": "x", "environment": {"TOKEN": "sesame"}}, "db": {"image": "y"}}}
CONTENTS = ReleaseContents(json.dumps(TEXT).encode())


@pytest.fixture
def engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A default engine that has no releases."""
    with FakeEngine().in_thread(tmp_path) as address:
        monkeypatch.setenv("DOCKER_HOST", str(address))
        yield


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, engine: None) -> ReleaseFolder:
    """A project with a release that ran, one that failed, and one that was left unfinished."""
    monkeypatch.setenv("BOLTSEAL_STATE", str(tmp_path / "state"))
    monkeypatch.chdir(tmp_path)
    made = ReleaseFolder(tmp_path / "state", "shop")
    for number, end in ((1, ReleaseEnd.HEALTHY), (2, ReleaseEnd.PUT_BACK), (3, None)):
        made.begin(release(number, end), CONTENTS)
    return made


def test_releases_are_listed_with_the_running_one_and_how_to_resume(folder: ReleaseFolder) -> None:
    """`release ls` marks the running release and names the command that resumes one, in 80 columns and UTC."""
    result = call("release", "ls")
    lines = result.out.splitlines()

    assert result.code == 0, result.err
    assert lines[0].split() == ["RELEASE", "WHEN", "BY", "REVISION", "HOW", "IT", "ENDED"]
    assert [line.split()[0] for line in lines[1:]] == ["*", "shop/2", "shop/3"]
    assert max(map(len, lines)) <= 80
    assert (
        "release 3 of shop was left waiting: `boltseal deploy --resume --project-name shop` continues it" in result.err
    )


def test_of_each_engine_the_one_that_runs_is_marked(folder: ReleaseFolder, tmp_path: Path) -> None:
    """For each engine the running release is marked; --images lists the images by service."""
    there = ReleaseFolder(tmp_path / "state", "shop", engine="ssh://web2")
    there.begin(release(4), CONTENTS)
    there.begin(release(5, None), CONTENTS)
    result, images = call("release", "ls"), call("release", "ls", "--images")
    found = call("release", "ls", "--json").json["results"]

    assert [(each["runs"], each["engine"]) for each in found if each["runs"]] == [(True, None), (True, "ssh://web2")]
    assert "at ssh://web2, healthy" in " ".join(result.out.split())
    assert "`boltseal rollback --project-name shop --host ssh://web2` goes back" in result.err
    assert images.out.splitlines()[1].split() == [
        "*",
        "shop/1",
        "app",
        "planned",
        "localhost:5000/shop/app:1.0.0",
    ]
    assert images.out.splitlines()[2].split() == [DIGEST]
    assert len(images.out.splitlines()) == 21


@pytest.mark.parametrize(
    ("arguments", "message"),
    [((), "no releases on this host yet"), (("--project-name", "other"), "no releases of other on this host yet")],
)
def test_an_empty_list_of_releases_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, engine: None, arguments: tuple[str, ...], message: str
) -> None:
    """An empty list of releases is reported for the host or the named project."""
    monkeypatch.setenv("BOLTSEAL_STATE", str(tmp_path))
    result = call("release", "ls", *arguments)

    assert (result.code, result.err) == (0, "")
    assert message in result.out


@pytest.mark.parametrize(
    "command",
    [
        ("ls",),
        ("ls", "--project-name", "other"),
        ("show", "1", "--project-name", "other"),
        ("show", "--project-name", "other"),
        ("show",),
        ("diff", "1", "2", "--project-name", "other"),
        ("diff", "1", "2"),
        ("hold",),
        ("unlock",),
    ],
    ids=" ".join,
)
def test_an_engine_that_can_not_be_asked_is_no_engine_without_releases(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: tuple[str, ...]
) -> None:
    """If the default engine can't be asked, a command about releases says so in one line with exit code 3, and nothing else."""
    monkeypatch.setenv("BOLTSEAL_STATE", str(tmp_path))
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/none.sock")
    monkeypatch.chdir(tmp_path)
    result, envelope = call("release", *command), call("release", *command, "--json").json

    assert (result.code, result.out) == (3, "")
    assert "could not check the releases on the default engine" in result.err
    assert "none.sock" in result.err
    assert len(result.err.splitlines()) == 1
    assert (envelope["outcome"], envelope["results"]) == ("unknown", [])
    assert [each["code"] for each in envelope["errors"]] == ["UNAVAILABLE"]


def test_releases_that_are_known_are_listed_without_the_engine(
    folder: ReleaseFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If the default engine can't be asked, the releases of this machine are listed with exit code 3, and one of them is shown."""
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/none.sock")
    listed, shown = call("release", "ls"), call("release", "show", "1", "--project-name", "shop")
    envelope = call("release", "ls", "--json").json

    assert (listed.code, shown.code) == (3, 0)
    assert "shop/2" in listed.out
    assert "could not check the releases on the default engine, only those of this machine" in listed.err
    assert (envelope["outcome"], len(envelope["results"]), len(envelope["errors"])) == ("unknown", 3, 1)


@pytest.mark.parametrize(
    ("name", "text", "code"),
    [
        ("4/release.json", "{}", 3),
        ("4/release.json", "\x1b[31m", 3),
        ("4/release.json", "[" * 100_000, 3),
        ("2/compose.json", "no JSON", 0),
        ("9/other", "", 3),
        ("4.release.1", "no release", 0),
        ("99999999999999999999/release.json", "{}", 0),
        ("0/release.json", "{}", 0),
    ],
)
def test_a_damaged_record_is_reported(folder: ReleaseFolder, name: str, text: str, code: int) -> None:
    """A damaged release record is reported with its path; other files are ignored."""
    (folder.folder / name).parent.mkdir(exist_ok=True)
    (folder.folder / name).write_text(text)
    result = call("release", "ls")

    assert result.code == code
    assert len([line for line in result.err.splitlines() if line.startswith("boltseal: ")]) == (code != 0)
    assert "Traceback" not in result.err
    assert (str(folder.folder) in result.err) == (code != 0)


def test_a_torn_release_is_ignored_with_a_notice(folder: ReleaseFolder) -> None:
    """The file of a release that a crash left incomplete is ignored, and `release ls` names it."""
    path = folder.folder / "2.release"
    path.write_bytes(path.read_bytes()[:-30])
    result = call("release", "ls")

    assert result.code == 0
    assert "shop/2 " not in result.out
    assert f"{path} is incomplete and ignored" in result.err


def test_one_release_is_shown_with_its_images(folder: ReleaseFolder) -> None:
    """`release show` prints complete digests, and the command that continues an unfinished release."""
    shown, unfinished = (
        call("release", "show", "1", "--project-name", "shop"),
        call("release", "show", "3", "--project-name", "shop"),
    )
    found = call("release", "show", "1", "--project-name", "shop", "--json").json

    assert shown.code == 0, shown.err
    assert shown.out.splitlines()[0] == "release   shop/1, running"
    assert f"  digest  {DIGEST}" in shown.out.splitlines()
    assert "`boltseal deploy --resume --project-name shop` continues it" in unfinished.err
    assert found["schema"] == "boltseal.release-show/1"
    assert (found["results"][0]["ref"], found["results"][0]["runs"]) == ("shop/1", True)
    assert found["results"][0]["services"][0]["digest"] == DIGEST


def test_a_missing_release_is_not_found(folder: ReleaseFolder) -> None:
    """A missing release is exit code 1; the message names the command that lists releases."""
    shown = call("release", "show", "9", "--project-name", "shop")

    assert (shown.code, shown.out) == (1, "")
    assert "shop has no release 9 on this host; see `boltseal release ls`" in shown.err


def test_a_modified_release_text_is_not_compared(folder: ReleaseFolder) -> None:
    """If a release's text was modified, the comparison is "could not check" instead of "the same"."""
    same = call("release", "diff", "1", "2", "--project-name", "shop")
    stored = folder.stored()[1]
    folder.put(StoredRelease(revision=9, release=stored.release, contents=ReleaseContents(b'{"services": []}')))
    harmed = call("release", "diff", "1", "2", "--project-name", "shop")

    assert (same.code, same.out) == (0, "releases 1 and 2 of shop are the same\n")
    assert (harmed.code, harmed.out) == (3, "")
    assert "2.release" in harmed.err


def test_values_are_compared_and_never_shown(folder: ReleaseFolder) -> None:
    """`release diff` shows which values changed, but no value, also in JSON."""
    other = json.dumps(TEXT).replace("sesame", "swordfish").encode()
    folder.begin(release(4), ReleaseContents(other))
    result = [call("release", "diff", "1", "4", "--project-name", "shop", *more) for more in ((), ("--json",))]

    assert not any(word in each.out + each.err for each in result for word in ("sesame", "swordfish"))
