"""Changing the tags of a project's references, also where a variable supplies them."""

from __future__ import annotations

from pathlib import Path

import pytest

from boltseal.oci.reference import Tag
from boltseal.project.edits import ScanRequest
from boltseal.project.retag import NewImage, retag
from boltseal.project.scan import scan_project
from boltseal.project.source_files import ProjectTree


def retagged(folder: Path, tags: dict[str, str]) -> tuple[dict[str, str], list[str]]:
    """Return the new texts by path, and the reasons of refusals. `tags`: new tags by service."""
    request = ScanRequest(ProjectTree(folder), [])
    found = scan_project(request.project, request.paths)
    wanted = {
        each: NewImage(Tag(tags[each.where.split(".")[1]]))
        for each in found.image_refs
        if each.where.split(".")[1] in tags
    }
    result = retag(request, found, wanted)
    return {each.path: each.after.text for each in result.changes}, [each.reason for each in result.refusals]


def written(folder: Path, compose: str, env: str = "") -> Path:
    """Write a project's files."""
    (folder / "compose.yaml").write_text(compose)
    if env:
        (folder / ".env").write_text(env)
    return folder


@pytest.mark.parametrize("build", ["", "    build: .\n"])
@pytest.mark.parametrize(
    ("image", "env", "edited"),
    [
        ("reg.test/web:1.4.2", "", "compose.yaml"),
        ('"reg.test/web:1.4.2"', "", "compose.yaml"),
        ("reg.test/web:${WEB_TAG}", "A=1\nWEB_TAG=1.4.2\n", ".env"),
        ("reg.test/web:${WEB_TAG:-1.4.2}", "", "compose.yaml"),
        ("${WEB_IMAGE}", "WEB_IMAGE='reg.test/web:1.4.2' # web\n", ".env"),
        ("${WEB_IMAGE:-reg.test/web:1.4.2}", "", "compose.yaml"),
    ],
)
def test_a_tag_is_changed_where_it_is_written(tmp_path: Path, image: str, env: str, edited: str, build: str) -> None:
    """A tag is changed in the Compose file, in a default, or in `.env`, for services with a build as well."""
    (tmp_path / "Dockerfile").write_text("FROM scratch\n")
    compose = f"services:\n  web:\n    image: {image}\n{build}"
    folder = written(tmp_path, compose, env)
    changed, refused = retagged(folder, {"web": "1.4.2.1"})

    assert refused == []
    assert list(changed) == [edited]
    assert changed[edited] == (env if edited == ".env" else compose).replace("1.4.2", "1.4.2.1")


def test_a_variable_of_several_places_is_changed_once(tmp_path: Path) -> None:
    """A variable that two services and a setting use is changed once, and all of them follow."""
    compose = (
        "services:\n  web:\n    image: reg.test/web:${TAG}\n    environment: {VERSION: '${TAG}'}\n"
        "  worker:\n    image: reg.test/worker:${TAG}\n"
    )
    folder = written(tmp_path, compose, "TAG=1.4.2\n")
    changed, refused = retagged(folder, {"web": "1.4.2.1", "worker": "1.4.2.1"})

    assert (changed, refused) == ({".env": "TAG=1.4.2.1\n"}, [])


@pytest.mark.parametrize(
    ("image", "env", "words"),
    [
        ("reg.test/web:${MAJOR}.4.2", "MAJOR=1\n", "in one place"),
        ("reg.test/web:1.${REST}", "REST=4.2\n", "not the whole tag"),
        ("reg.test/web:${TAG}", "REST=4.2\nTAG=1.${REST}\n", "in one place"),
        ("reg.test/web:1.4.2@sha256:" + "1" * 64, "", "unpin it first"),
    ],
)
def test_a_tag_that_is_not_written_in_one_place_is_refused(tmp_path: Path, image: str, env: str, words: str) -> None:
    """A tag that is assembled from several texts, or pinned by digest, is refused, and no file is changed."""
    folder = written(tmp_path, f"services:\n  web:\n    image: {image}\n", env)
    changed, refused = retagged(folder, {"web": "1.4.2.1"})

    assert changed == {}
    assert words in refused[0]


def test_a_variable_that_another_reference_needs_is_refused(tmp_path: Path) -> None:
    """A variable that another service needs with its present value is refused: that service would change as well."""
    compose = "services:\n  web:\n    image: reg.test/web:${TAG}\n  worker:\n    image: reg.test/worker:${TAG}\n"
    folder = written(tmp_path, compose, "TAG=1.4.2\n")
    changed, refused = retagged(folder, {"web": "1.4.2.1"})

    assert changed == {}
    assert "services.worker.image would not name the expected image" in refused[0]
