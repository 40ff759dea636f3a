"""A check that finds nothing to check is no success: exit code 3 and a reason, unless --allow-empty is given."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from boltseal.lockfile.document import LOCK_NAME, Lock
from boltseal.lockfile.format import format_lock
from tests.cli import program
from tests.host.scrub.made_stores import DockerStore
from tests.project.projects import written

CHART = {
    "Chart.yaml": "apiVersion: v1\nname: shop\nversion: 1.0.0\n",
    "templates/pod.yaml": "kind: Pod\nspec:\n  containers:\n    - image: {{ .Values.image }}\n",
}
PROJECTS: dict[str, dict[str, str]] = {
    "no file": {},
    "no reference": {"compose.yaml": "services:\n  web:\n    build: .\n"},
    "an empty lock": {LOCK_NAME: format_lock(Lock(()))},
    "only excluded": {
        "compose.yaml": "services:\n  web:\n    image: nginx:1.25\n",
        ".boltseal.toml": '[lock]\nexclude = ["compose.yaml"]\n',
    },
    "only a template": CHART,
}


@pytest.fixture(params=PROJECTS)
def project(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A project in which no image reference is found."""
    folder = tmp_path / "project"
    folder.mkdir()
    return written(folder, PROJECTS[request.param])


@pytest.mark.parametrize("more", [(), ("--offline",), ("--github",)], ids=lambda more: "".join(more) or "plain")
def test_verify_of_a_project_without_references_could_not_check(project: Path, more: tuple[str, ...]) -> None:
    """A wrong folder in a pipeline looks like this."""
    told = program.call("verify", "--project", project, *more)

    assert told.code == 3
    assert f'nothing to check: found 0 image references in "{project}"; expected at least 1; check PATH' in told.err
    assert ("::error::nothing to check" in told.out) == ("--github" in more)


@pytest.mark.parametrize("words", [("verify", "--offline"), ("pin",)], ids=" ".join)
def test_the_reason_is_the_only_line(words: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It names the searched folder as it is found from anywhere, and no count of nothing stands before it."""
    monkeypatch.chdir(tmp_path)
    told = program.call(*words)

    assert (told.out, told.err.count("\n")) == ("", 1)
    assert told.err.startswith(
        f'boltseal: nothing to check: found 0 image references in "{tmp_path}"; expected at least 1;'
    )


def test_verify_says_so_to_programs(project: Path) -> None:
    """The outcome is unknown, and the reason is a result."""
    told = program.call("verify", "--project", project, "--json")

    assert (told.code, told.json["outcome"], told.json["errors"]) == (3, "unknown", [])
    assert (told.json["results"][-1]["status"], told.json["results"][-1]["weight"]) == ("unknown", "unknown")
    assert told.json["results"][-1]["reason"].startswith("nothing to check: found 0 image references in ")


@pytest.mark.parametrize("verb", ["verify", "lock", "pin"])
def test_a_project_may_be_empty_where_that_is_said(project: Path, verb: str) -> None:
    """With --allow-empty it is a success, as the person asked for."""
    assert program.call(verb, "--project", project, "--allow-empty").code == 0


def test_strict_makes_nothing_of_it_a_success(tmp_path: Path) -> None:
    """An empty folder is no more checked by --strict; and what is only noted of a chart still does not hold."""
    assert program.call("verify", "--project", tmp_path, "--strict").code == 3
    assert program.call("verify", "--project", written(tmp_path, CHART), "--strict").code == 1


def test_a_file_without_references_could_not_be_checked_beside_one_with(tmp_path: Path) -> None:
    """Only what was named counts; the message names it."""
    written(
        tmp_path, {"compose.yaml": "services:\n  web:\n    image: nginx:1.25\n", "other/compose.yaml": "services: {}\n"}
    )
    told = program.call("verify", "--offline", "--project", tmp_path, tmp_path / "other")

    assert told.code == 3
    assert f'"{tmp_path / "other"}"; expected' in told.err


def test_a_file_that_can_not_be_read_is_the_reason_by_itself(tmp_path: Path) -> None:
    """It is not said that there is no reference where that could not be seen."""
    told = program.call("verify", "--project", written(tmp_path, {"compose.yaml": "services: [\n"}), "--allow-empty")

    assert told.code == 3
    assert "nothing to check" not in told.err


def test_lock_of_a_project_without_references_writes_nothing(tmp_path: Path) -> None:
    """The lock that was there stays, as it does when a reference can't be resolved."""
    before = (
        format_lock(
            Lock(()),
        )
        + "# kept\n"
    )
    told = program.call("lock", "--project", written(tmp_path, {LOCK_NAME: before}))

    assert told.code == 3
    assert "nothing to check: found 0 image references" in told.err
    assert (tmp_path / LOCK_NAME).read_text() == before


def test_lock_emits_nothing_of_a_project_without_references(project: Path) -> None:
    """A generated file without digests would hold nothing, and look like one that does."""
    (project / LOCK_NAME).write_text(format_lock(Lock(())))
    told = program.call("lock", "--project", project, "--emit", "kustomize")

    assert (told.code, told.out) == (3, "")


def test_pin_of_a_project_without_references_pinned_nothing(project: Path) -> None:
    """A lock or none beside it."""
    assert program.call("pin", "--project", project).code == 3
    assert program.call("pin", "--project", project, "--write").code == 3


def test_pin_passes_a_file_without_references_through(tmp_path: Path) -> None:
    """`--stdout` is a filter: what holds no image goes on to kubectl as it is."""
    text = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: shop}\n"
    told = program.call("pin", "--stdout", "--project", written(tmp_path, {"config.yaml": text}), "config.yaml")

    assert (told.code, told.out) == (0, text)


def _lock_file(folder: Path) -> tuple[str | Path, ...]:
    (folder / LOCK_NAME).write_text(format_lock(Lock(())))
    return ("--lock", folder / LOCK_NAME)


def _compose_file(folder: Path) -> tuple[str | Path, ...]:
    (folder / "compose.yaml").write_text("services:\n  web:\n    build: .\n")
    return ("--compose", folder / "compose.yaml")


@pytest.mark.parametrize("source", [_lock_file, _compose_file], ids=["lock", "compose"])
@pytest.mark.parametrize(("verb", "what"), [("outdated", "images"), ("watch", "tags")])
def test_a_file_that_names_no_image(
    tmp_path: Path, verb: str, what: str, source: Callable[[Path], tuple[str | Path, ...]]
) -> None:
    """Neither is current what was not looked at, nor has it stayed where it was."""
    arguments = source(tmp_path)
    told = program.call(verb, *arguments, "--json")

    assert (told.code, told.json["outcome"], told.json["errors"]) == (3, "unknown", [])
    assert f'nothing to check: found 0 {what} in "{arguments[1]}"; expected at least 1' in told.err
    assert program.call(verb, *arguments, "--allow-empty").code == 0


def _empty_layout(folder: Path) -> Path:
    (folder / "layout/blobs/sha256").mkdir(parents=True)
    (folder / "layout/oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}')
    (folder / "layout/index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": []}))
    return folder / "layout"


@pytest.mark.parametrize("store", [_empty_layout, lambda folder: DockerStore.at(folder).root], ids=["layout", "docker"])
def test_scrub_of_a_store_without_images(tmp_path: Path, store: Callable[[Path], Path]) -> None:
    """A store that lost all of its images does not hold by that."""
    root = store(tmp_path)
    told = program.call("scrub", "--root", root, "--json")

    assert (told.code, told.json["outcome"], told.json["errors"]) == (3, "unknown", [])
    assert f'nothing to check: found 0 images in "{root}"; expected at least 1; check --root' in told.err
    assert program.call("scrub", "--root", root, "--allow-empty").code == 0
