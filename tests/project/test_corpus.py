"""A corpus of files of every format: nothing is unseen, nothing is invented, and pinning is reversible.

The expected references are extracted from the texts by a pattern that knows nothing of formats: see
tests/data/corpus/README.md.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from boltseal.project.edits import EditResult, ScanRequest, edit
from boltseal.project.image_references import ScanResult
from boltseal.project.references.formats import BY_NAME
from boltseal.project.scan import scan, scan_project
from boltseal.project.source_files import ProjectTree
from tests.project.projects import digest_of, pinned, put

CORPUS = Path(__file__).parent.parent / "data" / "corpus"
FOLDERS = sorted(path.name for path in CORPUS.iterdir() if path.is_dir())
NAMED = re.compile(r"(?P<kind>img|report|decoy)\.example(?::5000)?(?:/[\w.-]+)*(?::[\w.-]+)?(?:@sha256:[0-9a-f]{64})?")
SPLIT = {
    "compose/default/compose.yml": ["tag:2"],
    "compose/env/compose.yml": ["env:1.2"],
    "compose/envtwice/compose.yml": ["a:3", "b:3"],
    "devcontainer/b/.devcontainer.json": ["dev:2"],
    "devcontainer/b/Image.dev": ["dev:1"],
    "dockerfile/argtag/Dockerfile": ["node:22"],
    "gitlab/.gitlab-ci.yml": ["var:3"],
    "helm/chart/values.yaml": ["app:1.4.2", "side:1"],
    "helm/names/values.yaml": ["n1:1", "n2:2"],
    "helm/numbers/values.yaml": ["num:16"],
    "helm/pairs/values.yaml": ["p1:1", "p2:2", "p3:3", "p4:4"],
    "helm/prod/prod.yaml": ["prod:v1"],
    "kubernetes/helmrelease.yaml": ["web:1"],
    "kustomize/a/kustomization.yaml": ["new:2"],
    "kustomize/b/kustomization.yaml": [f"b:1@sha256:{'d' * 64}"],
    "nomad/job.hcl": ["v:7"],
    "woodpecker/.woodpecker/matrix.yml": ["m:1", "m:2"],
}
"""References that are assembled from several texts, by file."""


def named(folder: str, kind: str) -> set[tuple[str, str]]:
    """Return the names of a registry in a folder's texts, each with its file."""
    return {
        (path.relative_to(CORPUS / folder).as_posix(), match[0])
        for path in (CORPUS / folder).rglob("*")
        if path.is_file()
        for match in NAMED.finditer(path.read_text())
        if match["kind"] == kind
    }


def resolved(found: ScanResult) -> set[tuple[str, str]]:
    return {(image_ref.path, str(image_ref.resolved)) for image_ref in found.image_refs}


def files(root: Path) -> dict[str, bytes]:
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def test_the_corpus_has_every_format() -> None:
    """The corpus has at least 120 files, and a reference in each format."""
    formats = {image_ref.format for folder in FOLDERS for image_ref in scan(CORPUS / folder).image_refs}

    assert len(files(CORPUS)) > 120
    assert formats == set(BY_NAME) - {"kustomize-patch"}


@pytest.mark.parametrize("folder", FOLDERS)
def test_nothing_is_unseen_and_nothing_is_invented(folder: str) -> None:
    """Every image is a reference, those in unknown places are reported with their line, and nothing else is."""
    found = scan(CORPUS / folder)
    split = {
        (path.partition("/")[2], f"split.example/{name}")
        for path, each in SPLIT.items()
        if path.startswith(f"{folder}/")
        for name in each
    }
    reported = {
        (each.path, match[0])
        for each in found.unknown
        for match in NAMED.finditer((CORPUS / folder / each.path).read_text().splitlines()[each.line - 1])
        if match[0] in each.message
    }

    assert resolved(found) == named(folder, "img") | split
    assert reported == named(folder, "report")
    assert len(found.unknown) == len(reported)
    assert found.problems == ()


@pytest.mark.parametrize("folder", FOLDERS)
def test_pinning_changes_no_model_and_is_reversible(tmp_path: Path, folder: str) -> None:
    """With digests the documents are the same except for those, and without them the files have their former bytes."""
    root = Path(shutil.copytree(CORPUS / folder, tmp_path / folder))
    before = files(root)
    models = {name: list(documents(name, text)) for name, text in before.items()}
    own = {(image_ref.path, image_ref.where) for image_ref in scan(root).image_refs if image_ref.pinned}
    edited = pinned_where_unpinned(root)
    put(root, edited)
    after = {name: list(documents(name, text)) for name, text in files(root).items()}

    assert without_digests(after) == without_digests(models)
    assert {change.path for change in edited.changes} == {name for name in before if files(root)[name] != before[name]}
    put(root, without(root, own))
    assert files(root) == before


def pinned_where_unpinned(root: Path) -> EditResult:
    """Pin all references that have no digest."""
    asked = ScanRequest(ProjectTree(root))
    found = scan_project(asked.project)
    free = [each for each in found.image_refs if each.resolved and not each.build and not each.pinned]
    return edit(asked, found, {each: digest_of(each) for each in free})


def without(root: Path, own: set[tuple[str, str]]) -> EditResult:
    """Unpin all references except those that were pinned before."""
    asked = ScanRequest(ProjectTree(root))
    found = scan_project(asked.project)
    added = [each for each in found.image_refs if each.pinned and (each.path, each.where) not in own]
    return edit(asked, found, dict.fromkeys(added))


@pytest.mark.slow
@pytest.mark.parametrize("project", ["anchors", "built", "default", "env", "extends", "include", "override", "text"])
def test_compose_sees_the_same_project_with_digests(tmp_path: Path, project: str) -> None:
    """`docker compose config` prints the same model before and after pinning, except for the digests."""
    root = Path(shutil.copytree(CORPUS / "compose" / project, tmp_path / project))
    before = compose_config(root)
    put(root, pinned(root))
    after = compose_config(root)

    assert without_digests(after) == without_digests(before)
    assert "@sha256:" in json.dumps(after) or project == "built"


def compose_config(root: Path) -> Any:
    argv = ["docker", "compose", "--project-name", "corpus", "config", "--format", "json"]
    return json.loads(subprocess.run(argv, cwd=root, check=True, stdout=subprocess.PIPE).stdout)


def documents(name: str, text: bytes) -> Iterator[Any]:
    """Yield the documents of a file as a YAML parser of its own loads them; a text by lines if it is none."""
    try:
        if name.endswith((".yml", ".yaml")):
            yield from (json.loads(json.dumps(each)) for each in yaml.load_all(text, Loader))
            return
    except yaml.YAMLError:
        pass
    yield text.decode().splitlines()


class Loader(yaml.SafeLoader):
    """Loads unknown tags (`!reset`, `!reference`) as their values."""


Loader.add_multi_constructor("!", lambda loader, _suffix, node: [type(node).__name__, str(node.value)])


def without_digests(value: Any) -> str:
    return re.sub(r"@?sha256:[0-9a-f]{64}", "", json.dumps(value, sort_keys=True))
