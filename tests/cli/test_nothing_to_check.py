"""A check without anything to check is exit code 3 with a reason, unless --allow-empty is given."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from boltseal.errors import quote
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
    """verify in a folder without references, as with a wrong path in a pipeline, is exit code 3."""
    result = program.call("verify", "--project", project, *more)

    assert result.code == 3
    assert f'nothing to check: found 0 image references in "{project}"; expected at least 1; check PATH' in result.err
    assert ("::error::nothing to check" in result.out) == ("--github" in more)


@pytest.mark.parametrize("words", [("verify", "--offline"), ("pin",)], ids=" ".join)
def test_the_reason_is_the_only_line(words: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The message names the searched folder by its absolute path, and no count precedes it."""
    monkeypatch.chdir(tmp_path)
    result = program.call(*words)

    assert (result.out, result.err.count("\n")) == ("", 1)
    assert result.err.startswith(
        f'boltseal: nothing to check: found 0 image references in "{tmp_path}"; expected at least 1;'
    )


def test_verify_reports_it_in_json(project: Path) -> None:
    """JSON has the outcome `unknown` and the reason."""
    result = program.call("verify", "--project", project, "--json")

    assert (result.code, result.json["outcome"], result.json["errors"]) == (3, "unknown", [])
    assert (result.json["results"][-1]["status"], result.json["results"][-1]["weight"]) == ("unknown", "unknown")
    assert result.json["results"][-1]["reason"].startswith("nothing to check: found 0 image references in ")


@pytest.mark.parametrize("verb", ["verify", "lock", "pin"])
def test_allow_empty_makes_an_empty_project_a_success(project: Path, verb: str) -> None:
    """With --allow-empty a project without references is a success."""
    assert program.call(verb, "--project", project, "--allow-empty").code == 0


def test_strict_does_not_make_an_empty_project_a_success(tmp_path: Path) -> None:
    """--strict does not make an empty project a success, and still fails on unpinned chart templates."""
    assert program.call("verify", "--project", tmp_path, "--strict").code == 3
    assert program.call("verify", "--project", written(tmp_path, CHART), "--strict").code == 1


def test_a_file_without_references_could_not_be_checked_beside_one_with(tmp_path: Path) -> None:
    """Of several files named on the command line, the one without references is reported as not checked."""
    written(
        tmp_path, {"compose.yaml": "services:\n  web:\n    image: nginx:1.25\n", "other/compose.yaml": "services: {}\n"}
    )
    result = program.call("verify", "--offline", "--project", tmp_path, tmp_path / "other")

    assert result.code == 3
    assert f'"{tmp_path / "other"}"; expected' in result.err


def test_a_file_that_can_not_be_read_is_the_reason_by_itself(tmp_path: Path) -> None:
    """An unreadable file is the only reason given: the message does not claim that there is no reference."""
    result = program.call("verify", "--project", written(tmp_path, {"compose.yaml": "services: [\n"}), "--allow-empty")

    assert result.code == 3
    assert "nothing to check" not in result.err


def test_lock_without_references_writes_nothing(tmp_path: Path) -> None:
    """`lock` without references keeps the existing lock, as it does for an unresolvable reference."""
    before = (
        format_lock(
            Lock(()),
        )
        + "# kept\n"
    )
    result = program.call("lock", "--project", written(tmp_path, {LOCK_NAME: before}))

    assert result.code == 3
    assert "nothing to check: found 0 image references" in result.err
    assert (tmp_path / LOCK_NAME).read_text() == before


def test_lock_without_references_emits_nothing(project: Path) -> None:
    """`lock --emit` without references writes no file, because an empty override would look like a complete one."""
    (project / LOCK_NAME).write_text(format_lock(Lock(())))
    result = program.call("lock", "--project", project, "--emit", "kustomize")

    assert (result.code, result.out) == (3, "")


def test_pin_without_references_pins_nothing(project: Path) -> None:
    """`pin` without references is exit code 3, with or without a lock."""
    assert program.call("pin", "--project", project).code == 3
    assert program.call("pin", "--project", project, "--write").code == 3


def test_pin_passes_a_file_without_references_through(tmp_path: Path) -> None:
    """`pin --stdout` passes a file without images to kubectl unchanged."""
    text = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: shop}\n"
    result = program.call("pin", "--stdout", "--project", written(tmp_path, {"config.yaml": text}), "config.yaml")

    assert (result.code, result.out) == (0, text)


def _lock_file(folder: Path) -> tuple[str | Path, ...]:
    (folder / LOCK_NAME).write_text(format_lock(Lock(())))
    return ("--lock", folder / LOCK_NAME)


def _compose_file(folder: Path) -> tuple[str | Path, ...]:
    (folder / "compose.yaml").write_text("services:\n  web:\n    build: .\n")
    return ("--compose", folder / "compose.yaml")


@pytest.mark.parametrize("source", [_lock_file, _compose_file], ids=["lock", "compose"])
@pytest.mark.parametrize(("verb", "what"), [("outdated", "images"), ("watch", "tags")])
def test_a_file_without_images_could_not_be_checked(
    tmp_path: Path, verb: str, what: str, source: Callable[[Path], tuple[str | Path, ...]]
) -> None:
    """For a file without images, neither `outdated` nor `verify` claims success."""
    arguments = source(tmp_path)
    result = program.call(verb, *arguments, "--json")

    assert (result.code, result.json["outcome"], result.json["errors"]) == (3, "unknown", [])
    assert f'nothing to check: found 0 {what} in "{arguments[1]}"; expected at least 1' in result.err
    assert program.call(verb, *arguments, "--allow-empty").code == 0


def _empty_layout(folder: Path) -> Path:
    (folder / "layout/blobs/sha256").mkdir(parents=True)
    (folder / "layout/oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}')
    (folder / "layout/index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": []}))
    return folder / "layout"


@pytest.mark.parametrize("store", [_empty_layout, lambda folder: DockerStore.at(folder).root], ids=["layout", "docker"])
def test_scrub_of_a_store_without_images_could_not_check(tmp_path: Path, store: Callable[[Path], Path]) -> None:
    """Scrub of a store without images is not a success, because a store may have lost them all."""
    root = store(tmp_path)
    result = program.call("scrub", "--root", root, "--json")

    assert (result.code, result.json["outcome"], result.json["errors"]) == (3, "unknown", [])
    assert f"nothing to check: found 0 images in {quote(str(root))}; expected at least 1; check --root" in result.err
    assert program.call("scrub", "--root", root, "--allow-empty").code == 0
