"""The counted work of an edit: which files and documents are parsed again, and how often."""

from __future__ import annotations

import cProfile
import pstats
from collections.abc import Callable
from pathlib import Path

import pytest

from boltseal.project.edits import EditResult, ScanRequest, edit
from boltseal.project.references import yaml_tree
from boltseal.project.scan import scan_project
from boltseal.project.source_files import CACHED_CHARACTERS, ProjectTree
from tests.project.projects import DATA as TRAPS
from tests.project.projects import digest_of, found_in, pinned, put, trap, written

DOCUMENTS = 40
POD = "---\napiVersion: v1\nkind: Pod\nmetadata: {name: pod%d}\nspec:\n  containers:\n  - image: team/app:1.0.%d\n"
DATA = "---\napiVersion: v1\nkind: ConfigMap\ndata:\n" + "".join(f"  key{number}: value\n" for number in range(200))


def calls(function: Callable[..., object], work: Callable[[], object]) -> int:
    """Return how often a function was called."""
    profile = cProfile.Profile()
    profile.runcall(work)
    code = function.__code__
    counted = pstats.Stats(profile).stats  # type: ignore[attr-defined]  # typeshed leaves it out
    return int(counted.get((code.co_filename, code.co_firstlineno, code.co_name), (0,))[0])


def edited(root: Path) -> tuple[int, int, EditResult]:
    """Pin the first reference; return the documents that the scan parsed, those that the edit parsed, and its result."""
    asked = ScanRequest(ProjectTree(root))
    scanned = calls(yaml_tree._read, lambda: scan_project(asked.project))
    found = scan_project(asked.project)
    results: list[EditResult] = []
    first = found.image_refs[0]
    parsed = calls(yaml_tree._read, lambda: results.append(edit(asked, found, {first: digest_of(first)})))
    return scanned, parsed, results[0]


def test_an_edit_parses_its_document_of_a_large_stream_and_the_new_stream_once(tmp_path: Path) -> None:
    """An edit of one document of a large stream parses the new stream once, and besides it only that document."""
    stream = "".join(POD % (number, number) + DATA for number in range(DOCUMENTS))
    scanned, parsed, result = edited(written(tmp_path, {"all.yaml": stream}))

    assert len(stream) > CACHED_CHARACTERS
    assert not result.refusals
    assert len(result.changes) == 1
    assert scanned < parsed < 1.1 * scanned


def test_an_edit_parses_no_file_again_that_it_does_not_change(tmp_path: Path) -> None:
    """An edit of one file parses none of the other files again, large or small."""
    large = "".join(POD % (number, number) + DATA for number in range(DOCUMENTS))
    files = {f"{number}/small.yaml": POD % (number, number) for number in range(100)}
    scanned, parsed, result = edited(written(tmp_path, {"0/pod.yaml": POD % (0, 0), **files, "large.yaml": large}))

    assert len(result.changes) == 1
    assert 0 < parsed < 100 < scanned


@pytest.mark.parametrize("name", sorted(path.name for path in TRAPS.iterdir() if path.is_dir()))
def test_a_scan_that_uses_former_results_returns_those_of_a_new_scan(name: str, tmp_path: Path) -> None:
    """After an edit, the scan that uses results of unchanged files again returns what a scan of the new files returns."""
    root = trap(name, tmp_path)
    project = ProjectTree(root)
    scan_project(project)
    result = pinned(root)
    put(root, result)

    assert scan_project(project.with_texts({change.path: change.after for change in result.changes})) == found_in(root)


def test_a_former_result_is_not_used_if_another_file_changed_it(tmp_path: Path) -> None:
    """A result that depends on another file is computed again when that file has changed."""
    root = written(
        tmp_path, {"values.yaml": "image: {repository: team/app, tag: ''}\n", "Chart.yaml": "appVersion: '1.0'\n"}
    )
    project = ProjectTree(root)
    before = scan_project(project)
    chart = project.read("Chart.yaml")
    after = scan_project(project.with_texts({"Chart.yaml": chart.with_text("appVersion: '2.0'\n")}))

    assert before != after


def test_a_former_result_is_not_used_with_other_paths_in_resources(tmp_path: Path) -> None:
    """A result is computed again if the user's paths inside resources differ."""
    root = written(tmp_path, {"thing.yaml": "apiVersion: v1\nkind: Thing\nspec: {proxy: 'team/app:1'}\n"})
    project = ProjectTree(root)
    before = scan_project(project)
    after = scan_project(project, crds={"Thing": ["spec.proxy"]})

    assert not before.image_refs
    assert len(after.image_refs) == 1
