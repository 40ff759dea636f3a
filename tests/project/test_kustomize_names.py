"""Images of resources that kustomizations rename: each is resolved under the name by which it is deployed."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
import yaml

from boltseal.project.image_references import ImageReference
from boltseal.project.references.kustomize_names import SUFFIX
from tests.programs import program
from tests.project.projects import digest_of, found_in, names, pinned, put, written

POD = """apiVersion: v1
kind: Pod
metadata: {name: a}
spec:
  initContainers: [{name: i, image: "init:1"}]
  containers: [{name: web, image: "nginx:1.25"}]
"""
COMPONENT = "kind: Component\napiVersion: kustomize.config.k8s.io/v1alpha1\n"
PATCH = """apiVersion: v1
kind: Pod
metadata: {name: a}
spec:
  containers: [{name: web, image: "nginx:1.27"}]
"""
PROJECTS = {
    "new name": {
        "k/pod.yaml": POD,
        "k/kustomization.yaml": "resources: [pod.yaml]\nimages:\n- {name: nginx, newName: m/nginx}\n- {name: init, newName: m/i}\n",
    },
    "new name twice": {
        "k/pod.yaml": POD,
        "k/kustomization.yaml": "resources: [pod.yaml]\nimages:\n- {name: nginx, newName: m/a}\n- {name: m/a, newName: m/b}\n",
    },
    "new tag": {
        "k/pod.yaml": POD,
        "k/kustomization.yaml": 'resources: [pod.yaml]\nimages:\n- {name: nginx, newTag: "9"}\n',
    },
    "new tag below, new name above": {
        "b/pod.yaml": POD,
        "b/kustomization.yaml": 'resources: [pod.yaml]\nimages:\n- {name: nginx, newTag: "9"}\n',
        "k/kustomization.yaml": "resources: [../b]\nimages:\n- {name: nginx, newName: m/n}\n",
    },
    "component": {
        "b/pod.yaml": POD,
        "b/kustomization.yaml": "resources: [pod.yaml]\n",
        "c/kustomization.yaml": COMPONENT + "images: [{name: nginx, newName: c/n}]\n",
        "k/kustomization.yaml": "resources: [../b]\ncomponents: [../c]\nimages: [{name: c/n, newName: d/n}]\n",
    },
    "patch": {
        "k/pod.yaml": POD,
        "k/patch.yaml": PATCH,
        "k/kustomization.yaml": "resources: [pod.yaml]\npatches: [{path: patch.yaml}]\nimages: [{name: nginx, newName: m/n}]\n",
    },
    "another name": {
        "k/pod.yaml": POD.replace("nginx:", "docker.io/library/nginx:"),
        "k/kustomization.yaml": "resources: [pod.yaml]\nimages: [{name: nginx, newName: m/n}]\n",
    },
    "a part of the name": {
        "k/pod.yaml": POD,
        "k/kustomization.yaml": "resources: [pod.yaml]\nimages: [{name: ngin, newName: m/n}, {name: ngin., newName: m/k}]\n",
    },
}


def deployed(root: Path) -> set[str]:
    """Return the images that `kubectl kustomize k` prints."""
    argv = [program("kubectl"), "kustomize", "k"]
    output = subprocess.run(argv, cwd=root, check=True, stdout=subprocess.PIPE).stdout
    (pod,) = yaml.safe_load_all(output)
    return {each["image"] for kind in ("initContainers", "containers") for each in pod["spec"][kind]}


def with_digest(image_ref: ImageReference) -> str:
    return f"{image_ref.resolved.familiar() if image_ref.resolved else None}@{digest_of(image_ref)}"


@pytest.mark.real
@pytest.mark.parametrize("project", PROJECTS)
def test_kustomize_deploys_the_resolved_names_with_their_digests(tmp_path: Path, project: str) -> None:
    """After pinning, kustomize prints each image by the name and digest under which boltseal resolves it."""
    root = written(tmp_path, PROJECTS[project])
    expected = {with_digest(image_ref) for image_ref in found_in(root).image_refs if image_ref.edit_range}
    put(root, pinned(root))
    images = {image.replace("docker.io/library/", "") for image in deployed(root)}

    assert images <= expected
    assert {image_ref.pinned for image_ref in found_in(root).image_refs} >= {
        digest_of(image_ref) for image_ref in found_in(root).image_refs if image_ref.resolved
    }


def test_an_image_with_several_names_is_locked_under_each_and_not_edited(tmp_path: Path) -> None:
    """An image that overlays deploy under two names is a reference for each, without a digest in the file."""
    files = {
        "b/pod.yaml": POD,
        "b/kustomization.yaml": "resources: [pod.yaml]\n",
        "k/kustomization.yaml": "resources: [../b]\nimages: [{name: nginx, newName: m/n}]\n",
        "l/kustomization.yaml": "resources: [../b]\n",
    }
    found = found_in(written(tmp_path, files))

    assert names(found) == [
        ("Pod a spec.initContainers[i].image", "init:1"),
        ("Pod a spec.containers[web].image as m/n:1.25", "m/n:1.25"),
        ("Pod a spec.containers[web].image as nginx:1.25", "nginx:1.25"),
    ]
    assert [each.edit_range is None for each in found.image_refs] == [False, True, True]


def test_an_image_whose_tag_a_kustomization_replaces_is_no_reference(tmp_path: Path) -> None:
    """A placeholder such as `controller:latest` is not resolved, because the kustomization sets its tag."""
    files = {
        "k/pod.yaml": POD.replace("nginx:1.25", "controller:latest"),
        "k/kustomization.yaml": 'resources: [pod.yaml]\nimages: [{name: controller, newName: m/c, newTag: "3"}]\n',
    }
    found = found_in(written(tmp_path, files))

    assert [name for _, name in names(found)] == ["m/c:3", "init:1"]
    assert found.unknown == ()
    assert [each.reason for each in found.accounted if each.path == "k/pod.yaml"] == [
        "k/kustomization.yaml:2 sets its tag"
    ]


def test_a_tag_with_a_suffix_is_not_resolved(tmp_path: Path) -> None:
    """A `tagSuffix` changes the tag and drops the digest, so the reference is reported with that reason."""
    files = {
        "k/pod.yaml": POD,
        "k/kustomization.yaml": "resources: [pod.yaml]\nimages: [{name: nginx, tagSuffix: -debug}]\n",
    }
    found = found_in(written(tmp_path, files))

    assert [name for _, name in names(found)] == ["init:1", f"? {SUFFIX}"]


def test_kustomizations_that_name_each_other_end(tmp_path: Path) -> None:
    """Kustomizations that name each other, or themselves, are read once each."""
    files = {
        "a/kustomization.yaml": "resources: [../b, pod.yaml]\nimages: [{name: nginx, newName: m/n}]\n",
        "a/pod.yaml": POD,
        "b/kustomization.yaml": "resources: [../a]\n",
        "c/kustomization.yaml": "resources: [../c, ../../outside, 'https://example.com/x', missing.yaml]\n",
    }

    assert [name for _, name in names(found_in(written(tmp_path, files)))][-1] == "nginx:1.25"
