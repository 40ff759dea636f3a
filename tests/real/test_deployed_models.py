"""What Compose and kustomize deploy after pinning has exactly the digests of the lock, for every project of the corpus."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from boltseal.oci.digest import Digest
from boltseal.oci.reference import Reference
from boltseal.project.generated_files import SeveralFolders, compose_override
from boltseal.project.image_references import COMPOSE_NAMES, COMPOSE_OVERRIDES, ImageReference, ScanResult
from tests.programs import program
from tests.project.projects import digest_of, found_in, pinned, put

pytestmark = pytest.mark.real

MUST = "registry.example.com/must:1"
"""An image that a variable of the shell names in a trap, which boltseal does not know."""
DATA = Path(__file__).parent.parent / "data"
NOT_READ_BY_COMPOSE_2_26 = {
    *("beyond", "hooks", "models", "provider", "compose_beyond_ascii", "compose_include_and_extends"),
    *("compose_other_places", "compose_override_tags"),
}
COMPOSE = sorted(
    path
    for path in (*(DATA / "corpus" / "compose").iterdir(), *(DATA / "pin").glob("compose_*"))
    if path.is_dir()
    and path.name not in NOT_READ_BY_COMPOSE_2_26
    and any((path / name).exists() for name in COMPOSE_NAMES)
)
IN_SEVERAL_FOLDERS = {"include", "compose_include_variables"}
KUSTOMIZE = ("corpus/kustomize/e/overlay", "corpus/kustomize/f/top")


def locked(found: ScanResult) -> dict[ImageReference, Digest]:
    """Return the digests that a lock has for the references."""
    return {each: digest_of(each) for each in found.image_refs if each.resolved is not None and not each.build}


def with_digests(digests: dict[ImageReference, Digest]) -> set[tuple[str, str]]:
    return {(str(each.unpinned), str(digest)) for each, digest in digests.items()}


def of_images(images: Iterator[str]) -> set[tuple[str, str | None]]:
    """Return each image's name with its tag, and its digest."""
    parsed = [Reference.parse(image.strip()) for image in images if "$" not in image]
    return {(str(replace(each, digest=None)), None if each.digest is None else str(each.digest)) for each in parsed}


def compose_images(root: Path, *more: Path) -> Iterator[str]:
    """Yield the images that Compose pulls for a project's services and image volumes."""
    listed = [next(root / name for name in COMPOSE_NAMES if (root / name).exists())]
    listed += [root / name for name in COMPOSE_OVERRIDES if (root / name).exists()]
    named = [part for file in (*listed, *more) for part in ("-f", str(file))]
    argv = [program("docker-compose"), "-p", "x", *named, "config", "--format", "json"]
    env = {"PATH": os.environ["PATH"], "MUST": MUST, "COMPOSE_PROFILES": "*"}
    model = json.loads(subprocess.run(argv, cwd=root, env=env, check=True, stdout=subprocess.PIPE).stdout)
    for service in model["services"].values():
        if "build" not in service:
            yield service["image"].replace("$$", "$")
        yield from (each["source"] for each in service.get("volumes", ()) if each["type"] == "image")


def kustomize_images(folder: Path) -> Iterator[str]:
    """Yield the images of the containers that `kubectl kustomize` prints."""
    argv = [program("kubectl"), "kustomize", str(folder)]
    for document in yaml.safe_load_all(subprocess.run(argv, check=True, stdout=subprocess.PIPE).stdout):
        spec = document["spec"].get("template", document)["spec"]
        yield from (each["image"] for kind in ("initContainers", "containers") for each in spec.get(kind, ()))


@pytest.mark.parametrize("path", COMPOSE, ids=lambda path: path.name)
def test_compose_deploys_the_digests_of_the_lock(tmp_path: Path, path: Path) -> None:
    """After pinning, each image of Compose's model has its locked digest, except where no digest can be written."""
    root = Path(shutil.copytree(path, tmp_path / "x"))
    before = of_images(compose_images(root))
    found = found_in(root)
    digests = locked(found)
    put(root, pinned(root))
    after = of_images(compose_images(root))
    unpinned = {name for name, digest in after if digest is None and not any(each.why for each in found.image_refs)}

    assert {name for name, _ in after} == {name for name, _ in before}
    assert {each for each in after if each[1] is not None} <= with_digests(digests)
    assert unpinned <= {str(each.unpinned) for each in digests if each.edit_range is None} | {MUST}


@pytest.mark.parametrize(
    "path", [path for path in COMPOSE if path.name not in IN_SEVERAL_FOLDERS], ids=lambda path: path.name
)
def test_compose_deploys_the_digests_of_the_lock_with_an_override(tmp_path: Path, path: Path) -> None:
    """With the generated override, each service of Compose's model has its locked digest, and no file is changed."""
    root = Path(shutil.copytree(path, tmp_path / "x"))
    digests = locked(found_in(root))
    emitted = compose_override(digests)
    (tmp_path / "digests.yml").write_text(emitted.text)
    left = {str(each.image_ref.unpinned) for each in emitted.left_out}
    after = {each for each in of_images(compose_images(root, tmp_path / "digests.yml")) if each[0] not in {*left, MUST}}

    assert after <= with_digests(digests)


@pytest.mark.parametrize("name", sorted(IN_SEVERAL_FOLDERS))
def test_no_override_is_made_for_files_in_several_folders(name: str) -> None:
    """An override is for the files of one folder; the projects that the test above leaves out have files in several."""
    (root,) = (path for path in COMPOSE if path.name == name)
    with pytest.raises(SeveralFolders):
        compose_override(locked(found_in(root)))


@pytest.mark.parametrize("path", KUSTOMIZE)
def test_kustomize_deploys_the_digests_of_the_lock(tmp_path: Path, path: str) -> None:
    """After pinning, the images that kustomize prints are exactly those of the lock, with their digests."""
    folder = "/".join(path.split("/")[:3])
    root = Path(shutil.copytree(DATA / folder, tmp_path / "x"))
    digests = locked(found_in(root))
    put(root, pinned(root))
    deployed = of_images(kustomize_images(root / path.removeprefix(folder).lstrip("/")))

    assert deployed <= with_digests(digests)
    assert {image[0] for image in with_digests(digests) - deployed} <= {"img.example/f/log:1"}  # patched
