"""`boltseal tag new` and `build --print-labels`: tags for a build, and labels about its origin."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
from collections.abc import Callable
from pathlib import Path

import httpx2
import pytest

from tests.cli import program
from tests.cli.program import Run
from tests.images import Document, image, push
from tests.ports import free_port
from tests.servers import Server

SHOP = "shop/app"
PREFIX = "org.opencontainers.image."


@pytest.fixture(autouse=True)
def _no_logins(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Use no login, setting or pipeline variable of this machine."""
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/none.sock")
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1795543200")
    for name in [*os.environ]:
        if name.startswith(("GIT_", "CI_", "BUILD", "GITHUB_")):
            monkeypatch.delenv(name)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A repository with a Dockerfile, one commit, and a tag."""
    folder = tmp_path / "project"
    folder.mkdir()
    (folder / "Dockerfile").write_text("FROM scratch\nCOPY . /\n")
    git(folder, "init", "--quiet")
    git(folder, "add", ".")
    git(folder, "commit", "--quiet", "-m", "First")
    git(folder, "tag", "v1.4.2+7")
    git(folder, "remote", "add", "origin", "https://me:s3cret@git.example.com/shop/app.git")
    return folder


def git(folder: Path, *arguments: str) -> None:
    who = ("-c", "user.name=Tester", "-c", "user.email=tester@example.com")
    subprocess.run(["git", *who, *arguments], cwd=folder, check=True)


async def publish(server: Server, tag: str, document: Document) -> None:
    async with httpx2.AsyncClient(base_url=server.url, trust_env=False) as client:
        assert (await push(client, SHOP, tag, document)).status_code == 201


def tag_of(*arguments: str | Path, run: Callable[..., Run] = program.call) -> str:
    result = run("tag", "new", *arguments)

    assert result.code == 0, result.err
    return result.out.removesuffix("\n")


def test_a_tag_of_git_names_commit_and_changes(project: Path) -> None:
    """A tag from git replaces the `+` of a version and has a hash of uncommitted changes."""
    clean = tag_of(project)
    (project / "app.py").write_text("print(1)\n")
    first = tag_of(project)
    (project / "app.py").write_text("print(2)\n")

    assert clean == "v1.4.2_7"
    assert re.fullmatch(r"v1\.4\.2_7-dirty-[0-9a-f]{12}", first)
    assert tag_of(project) not in (clean, first)


def test_a_tag_of_the_time_and_of_the_pipeline(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Outside of a pipeline there is no pipeline number, and none is invented."""
    refused = program.call("tag", "new", "--scheme", "build")
    monkeypatch.setenv("CI_PIPELINE_IID", "123")

    assert re.fullmatch(r"20\d{6}-\d{6}", tag_of("--scheme", "date"))
    assert (refused.code, "expected one of GITHUB_RUN_NUMBER" in refused.err) == (2, True)
    assert tag_of("--scheme", "build") == "build-123"


def test_the_same_inputs_have_the_same_tag(project: Path) -> None:
    """Equal inputs give one tag; another file, argument or platform gives another; excluded files do not count."""
    same = tag_of(project, "--scheme", "input")
    (project / ".dockerignore").write_text("*.log\n")
    (project / "Other").write_text("FROM scratch\n")
    ignoring = tag_of(project, "--scheme", "input")
    (project / "a.log").write_text("noise")
    others = [
        tag_of(project, "--scheme", "input", "--build-arg", "V=1"),
        tag_of(project, "--scheme", "input", "--platform", "linux/arm64"),
        tag_of(project, "--scheme", "input", "--dockerfile", project / "Other"),
    ]

    assert same.startswith("in-")
    assert tag_of(project, "--scheme", "input") == ignoring != same
    assert len({same, ignoring, *others}) == 5


def test_a_dockerfile_may_have_its_own_ignore_file(project: Path) -> None:
    """Like BuildKit, an ignore file named after the Dockerfile replaces the context's."""
    (project / "Dockerfile.dockerignore").write_text("*.log\n")
    (project / ".dockerignore").write_text("Dockerfile\n")
    before = tag_of(project, "--scheme", "input")
    (project / "a.log").write_text("noise")

    assert tag_of(project, "--scheme", "input") == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--scheme", "content"), "needs an image of the daemon"),
        (("--scheme", "input", "--build-arg", "V"), "expected NAME=VALUE"),
        (("--scheme", "input", "--dockerfile", "none"), "no such file or folder; check the path"),
        (("--scheme", "input", "--target", "none"), "has no stage"),
        (("--check", "localhost:5000/shop/app:1"), "expected a repository"),
    ],
)
def test_mistyped_input_is_reported(project: Path, arguments: tuple[str, ...], message: str) -> None:
    """Invalid input is exit code 2."""
    result = program.call("tag", "new", project, *arguments)

    assert result.code == 2
    assert message in result.err


@pytest.mark.slow
def test_an_undecidable_input_gives_no_tag(project: Path) -> None:
    """No tag is made if the base is unknown, a registry does not answer, or an ignore file can't be read."""
    codes = []
    bases = {"${NOBODY}": "can't be determined", f"127.0.0.1:{free_port()}/shop/app:1": "can't be resolved"}
    for base, reason in bases.items():
        (project / "Dockerfile").write_text(f"FROM {base}\n")
        result = program.call("tag", "new", project, "--scheme", "input")
        codes.append(result.code)

        assert reason in result.err
        assert result.out == ""
    (project / ".dockerignore").write_bytes(b"\xff")
    (project / "Dockerfile").write_text("FROM scratch\n")

    assert codes == [3, 3]
    assert program.call("tag", "new", project, "--scheme", "input").code == 2


def test_without_a_daemon_there_is_no_content_tag(project: Path) -> None:
    """Without a daemon the content tag could not be determined: exit code 3."""
    result = program.call("tag", "new", "--scheme", "content", "--image", "app")

    assert (result.code, result.out) == (3, "")
    assert "no engine listens at unix:" in result.err


@pytest.mark.slow
async def test_a_taken_tag_is_reported(server: Server, project: Path) -> None:
    """A taken tag is exit code 1 without any output on stdout, so no script can push to it."""
    free = program.call("tag", "new", project, "--check", f"{server.address}/{SHOP}", "--json")
    app = image("app")
    await publish(server, "v1.4.2_7", app)
    taken = program.call("tag", "new", project, "--check", f"{server.address}/{SHOP}")
    unreachable = program.call("tag", "new", project, "--check", f"127.0.0.1:{free_port()}/{SHOP}")

    assert (free.code, free.json["results"][0]["status"], free.json["results"][0]["tag"]) == (0, "free", "v1.4.2_7")
    assert (taken.code, taken.out) == (1, "")
    assert f"is taken: it resolves to {app.digest}" in taken.err
    assert (unreachable.code, unreachable.out) == (3, "")


@pytest.mark.slow
async def test_a_deleted_sealed_tag_is_not_free(server: Server, project: Path) -> None:
    """A deleted sealed tag is refused as a new tag."""
    app = image("app")
    await publish(server, "v1.4.2_7", app)
    unsealed = program.call(
        *("tag", "unseal", f"{server.address}/{SHOP}:v1.4.2_7", "--reason", "test", "--data", server.folder)
    )
    httpx2.delete(f"{server.url}/v2/{SHOP}/manifests/v1.4.2_7", trust_env=False).raise_for_status()
    result = program.call("tag", "new", project, "--check", f"{server.address}/{SHOP}")

    assert unsealed.code == 0
    assert result.code == 1
    assert f"not free: it was deleted, and can come back only as {app.digest}" in result.err


@pytest.mark.slow
async def test_another_base_behind_the_same_tag_is_another_input(server: Server, project: Path) -> None:
    """The base's digest, from the lock or else from the registry, changes the input hash."""
    (project / "Dockerfile").write_text(f"FROM {server.address}/{SHOP}:latest\n")
    await publish(server, "latest", image("older"))
    program.call("digest", f"{server.address}/{SHOP}:latest")  # prints the notice of the first use of its ledger
    older = tag_of(project, "--scheme", "input", run=program.call)
    await publish(server, "latest", image("newer"))
    newer = tag_of(project, "--scheme", "input", run=program.call)
    (project / ".dockerignore").write_text("boltseal.lock\n.dockerignore\n")
    program.call("lock", cwd=project)
    locked = tag_of(project, "--scheme", "input", run=program.call)
    await publish(server, "latest", image("newest"))

    assert older != newer
    assert tag_of(project, "--scheme", "input", run=program.call) == locked


def test_the_labels_describe_the_origin(project: Path) -> None:
    """Labels have commit, source without a password, version and time; a shell reads each line as one flag."""
    result = program.call("build", "--print-labels", project)
    flags = dict(shlex.split(line)[1].split("=", 1) for line in result.out.splitlines())

    assert result.code == 0
    assert flags[f"{PREFIX}source"] == "https://git.example.com/shop/app"
    assert flags[f"{PREFIX}version"] == "v1.4.2_7"
    assert flags[f"{PREFIX}created"] == "2026-11-24T18:00:00Z"
    assert re.fullmatch("[0-9a-f]{40}", flags[f"{PREFIX}revision"])
    assert "s3cret" not in result.out


@pytest.mark.slow
async def test_the_base_is_shown_by_name_and_digest(server: Server, project: Path) -> None:
    """The labels name the last stage's base with name and digest."""
    app = image("app")
    await publish(server, "1.0.0", app)
    (project / "Dockerfile").write_text(f"FROM scratch AS a\nFROM {server.address}/{SHOP}:1.0.0\n")
    labels = program.call("build", "--print-labels", project, "--json").json["results"][0]["labels"]

    assert labels[f"{PREFIX}base.name"] == f"{server.address}/{SHOP}:1.0.0"
    assert labels[f"{PREFIX}base.digest"] == app.digest


def test_outside_of_git_only_known_labels_are_printed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Outside of git only the time and given values become labels."""
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    result = program.call("build", "--print-labels", tmp_path, "--version", "1.0", "--annotations")

    assert [line.partition("=")[0] for line in result.out.splitlines()] == [
        f"{flag} {PREFIX}{name}" for name in ("created", "version") for flag in ("--label", "--annotation")
    ]
    assert f"left out: the labels {PREFIX}revision, {PREFIX}source: {tmp_path} is in no git repository" in result.err


def test_labels_that_are_left_out_are_named(project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A notice names labels that are left out, such as the source without a public remote; JSON is one object."""
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    outside = program.call("build", "--print-labels", tmp_path, "--json")
    git(project, "remote", "set-url", "origin", "/srv/git/shop.git")
    local = program.call("build", "--print-labels", project)

    assert f"{PREFIX}revision, {PREFIX}source, {PREFIX}version:" in outside.err
    assert list(outside.json["results"][0]["labels"]) == [f"{PREFIX}created"]
    assert f"left out: the label {PREFIX}source: the git remote `origin` has no public address" in local.err
