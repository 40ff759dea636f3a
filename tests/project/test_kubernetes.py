"""References in Kubernetes manifests, kustomizations and Helm values, with one trap file for each case."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from boltseal.project.references.helm import OVERRIDDEN, OWN_DIGEST
from boltseal.project.references.kustomize import INLINE_PATCH
from boltseal.project.scan import scan
from tests.project.projects import digest_of, found_in, names, pinned, put, shown, trap, unpinned, written

DIGEST = "sha256:" + "0" * 64


def test_every_kind_of_workload_is_read(tmp_path: Path) -> None:
    """Containers, init and ephemeral containers and image volumes are read in every document, also of custom kinds."""
    root = trap("kubernetes_kinds", tmp_path)
    found = found_in(root)

    assert names(found) == [
        ("[0].Deployment web spec.template.spec.initContainers[wait].image", "busybox:1.36"),
        ("[0].Deployment web spec.template.spec.containers[web].image", "nginx:1.25"),
        ("[0].Deployment web spec.template.spec.containers[app].image", "registry.example.com/shop/app:1.4.2"),
        ("[0].Deployment web spec.template.spec.volumes[assets].image.reference", "registry.example.com/assets:1"),
        ("[1].CronJob nightly spec.jobTemplate.spec.template.spec.containers[job].image", "alpine:3.20"),
        ("[2].Pod debug spec.ephemeralContainers[shell].image", "busybox:1.36"),
        ("[3].Rollout own-kind spec.template.spec.containers[web].image", "nginx:1.25"),
    ]
    assert shown(pinned(root))["all.yaml"][1:3] == [
        'image: "nginx:1.25@DIGEST" # quoted',
        '- "image": registry.example.com/shop/app:1.4.2@DIGEST',
    ]


def test_lists_and_json_are_read_and_edited(tmp_path: Path) -> None:
    """Kubernetes lists and JSON, with tabs and escapes, are read and edited in place."""
    root = trap("kubernetes_list_and_json", tmp_path)

    assert shown(pinned(root)) == {
        "list.yaml": ["spec: {containers: [{name: a, image: nginx:1.25@DIGEST}]}"],
        "pod.json": [
            '"spec": {"containers": [{"name": "a", "image": "nginx:1.25@DIGEST"}, '
            '{"name": "b", "image": "shop\\/app:1@DIGEST"}]}'
        ],
    }


def test_other_keys_named_image_are_not_references(tmp_path: Path) -> None:
    """`image` in a ConfigMap's text, a CRD's schema or an unknown resource is no reference."""
    assert found_in(trap("kubernetes_image_is_no_image", tmp_path)).image_refs == ()


def test_resources_of_another_shape_are_read_by_paths(tmp_path: Path) -> None:
    """Resources of another shape have references at known paths, some of which depend on the kind."""
    root = trap("kubernetes_operators", tmp_path)
    known, given = scan(root), scan(root, crds={"Thing": ["spec.parts[].picture"]})

    assert [image_ref.where for image_ref in known.image_refs] == [
        "[0].Prometheus main spec.image",
        "[1].Task build spec.steps[0].image",
    ]
    assert [image_ref.where for image_ref in given.image_refs][2:] == ["[2].Thing thing spec.parts[0].picture"]


def test_a_template_is_a_problem_with_its_line(tmp_path: Path) -> None:
    """A template that is not YAML, or that YAML reads differently, is a problem with its line."""
    broken = found_in(trap("kubernetes_template", tmp_path))
    parsing = found_in(trap("kubernetes_template_that_parses", tmp_path))

    assert (broken.image_refs, [str(problem) for problem in broken.problems]) == (
        (),
        ["deployment.yaml:1: is a template, not YAML: pin the images in the files that supply its values"],
    )
    assert [(problem.line, problem.message) for problem in parsing.problems] == [(7, "is a template: not evaluated")]
    assert [image_ref.written for image_ref in parsing.image_refs] == ["{{ image }}", "nginx:1.25"]
    assert parsing.image_refs[0].resolved is None


def test_a_kustomization_entry_is_assembled_from_its_parts(tmp_path: Path) -> None:
    """A kustomization's digest is appended to the tag, written into `digest`, or appended to a whole name."""
    root = trap("kustomize_images", tmp_path)
    found = found_in(root)

    assert names(found) == [
        ("images[0]", "nginx:1.25"),
        ("images[1]", "registry.example.com/shop/app:1.4.2"),
        ("images[2]", "redis:7.2"),
        ("images[3]", "registry.example.com/whole:2"),
        ("images[4]", "? its tag is set in the resources, where it can be pinned"),
        ("images[5]", "? YAML reads 1.20 as a number, which may be written differently: put it in quotes"),
        ("images[6]", "postgres:16"),
        ("helmCharts[0].valuesInline.image", "alpine:3.20"),
    ]
    assert shown(pinned(root)) == {
        "kustomization.yaml": [
            'newTag: "1.25@DIGEST"',
            "newTag: 1.4.2@DIGEST",
            'digest: "DIGEST"',
            "newName: registry.example.com/whole:2@DIGEST",
            '- {name: postgres, newTag: "16@DIGEST"}',
            'image: {repository: alpine, tag: "3.20", digest: "DIGEST"}',
        ]
    }


def test_helm_values_are_pinned_in_an_existing_digest_key(tmp_path: Path) -> None:
    """Helm values are pinned in an existing `digest` key only; an empty tag is the chart's version."""
    root = trap("helm_values", tmp_path)
    found = found_in(root)
    edited = pinned(root)

    assert names(found) == [
        ("image", "registry.example.com/shop/app:1.4.2"),
        ("sidecar.image", "nginx:1.25.3"),
        ("plain.image", "redis:7.2"),
        ("joined.repository", "memcached:1.6"),
        ("number.image", "? YAML reads 1.20 as a number, which may be written differently: put it in quotes"),
        ("count.image", "postgres:16"),
        ("undigested.image", "busybox:1.36"),
        ("tilde.image", "alpine:3.20"),
    ]
    assert shown(edited) == {
        "values.yaml": [
            "digest: DIGEST   # filled in by the build",
            'digest: "DIGEST"',
            "image: redis:7.2@DIGEST",
            "repository: memcached:1.6@DIGEST",
            "image: {repository: postgres, tag: 16, digest: DIGEST }",
        ]
    }
    assert [refusal.image_ref.where for refusal in edited.refusals] == ["undigested.image", "tilde.image"]


def test_an_equal_tag_elsewhere_in_the_values_is_not_touched(tmp_path: Path) -> None:
    """An equal tag of another image in the values is not changed."""
    root = trap("helm_values", tmp_path)
    put(root, pinned(root))

    assert "same_tag:\n  version: 1.25.3\n" in (root / "values.yaml").read_text()


def test_unpinning_restores_an_empty_digest(tmp_path: Path) -> None:
    """Unpinning restores an empty `digest`, bare, quoted, in braces or before a comment."""
    root = trap("helm_values", tmp_path)
    before = (root / "values.yaml").read_bytes()
    put(root, pinned(root))
    put(root, unpinned(root))

    assert (root / "values.yaml").read_bytes() == before


BASE_VALUES = (
    "image: {repository: shop/app, tag: 1.4.2, digest: ''}\nother: {repository: shop/db, tag: '16', digest: ''}\n"
)


def test_overriding_values_are_image_references_too(tmp_path: Path) -> None:
    """References in values-*.yaml take the repository and missing keys from values.yaml."""
    files = {"Chart.yaml": "", "values.yaml": BASE_VALUES, "values-prod.yaml": "image:\n  tag: 1.5.0\n  digest: ''\n"}
    root = written(tmp_path, files)

    assert names(found_in(root)) == [
        ("image", "shop/app:1.5.0"),
        ("image", "shop/app:1.4.2"),
        ("other", "shop/db:16"),
    ]
    assert shown(pinned(root)) == {
        "values-prod.yaml": ["digest: 'DIGEST'"],
        "values.yaml": [
            "image: {repository: shop/app, tag: 1.4.2, digest: 'DIGEST'}",
            "other: {repository: shop/db, tag: '16', digest: 'DIGEST'}",
        ],
    }


@pytest.mark.parametrize("over", ["image: {tag: 1.5.0}\n", "image: {repository: shop/new, tag: 1.5.0}\n"])
def test_no_digest_is_combined_with_the_tag_of_other_values(tmp_path: Path, over: str) -> None:
    """A digest in values.yaml is not combined with the tag of `values-prod.yaml`."""
    root = written(tmp_path, {"Chart.yaml": "", "values.yaml": BASE_VALUES, "values-prod.yaml": over})
    edited = pinned(root)

    assert shown(edited) == {
        "values.yaml": ["other: {repository: shop/db, tag: '16', digest: 'DIGEST'}"],
    }
    assert {refusal.reason for refusal in edited.refusals} == {OWN_DIGEST, OVERRIDDEN}


def test_a_digest_combined_with_the_tag_of_other_values_is_resolved(tmp_path: Path) -> None:
    """A digest combined with the tag of other values is resolved by the digest, which is deployed."""
    base = BASE_VALUES.replace("''", f"'{DIGEST}'")
    root = written(tmp_path, {"Chart.yaml": "", "values.yaml": base, "values-prod.yaml": "image: {tag: 1.5.0}\n"})

    assert names(found_in(root))[0] == ("image", f"shop/app:1.5.0@{DIGEST}")


def test_values_without_a_chart_are_read(tmp_path: Path) -> None:
    """Values files without a chart are read, and what only the chart knows is noted."""
    text = "image: {repository: shop/app, tag: 1.4.2}\nother: {repository: shop/db, tag: ''}\n"
    found = found_in(written(tmp_path, {"prod/values.yaml": text}))

    assert names(found) == [("image", "shop/app:1.4.2")]
    assert [str(note) for note in found.notes] == [
        'prod/values.yaml:2: "shop/db" gets its tag from a chart that is not here'
    ]
    assert found.problems == ()


def test_a_resource_in_a_file_called_values_is_read(tmp_path: Path) -> None:
    """A resource in a file called values.yaml is read by its content, not by its name."""
    text = "apiVersion: v1\nkind: Pod\nspec: {containers: [{name: a, image: nginx:1.25}]}\n"

    assert names(found_in(written(tmp_path, {"values.yaml": text}))) == [("Pod spec.containers[a].image", "nginx:1.25")]


PATCHES = """resources: [d.yaml]
patches:
- path: ops.yaml
- path: resource.yaml
- target: {kind: Deployment}
  patch: |-
    - op: replace
      path: /spec/template/spec/containers/0/image
      value: nginx:1.25
    - op: remove
      path: /spec/template/spec/containers/1/image
    - {op: add, path: /spec/template/spec/containers/-, value: {name: x, image: redis:7}}
- patch: |-
    apiVersion: apps/v1
    kind: Deployment
    metadata: {name: web}
    spec: {template: {spec: {containers: [{name: web, image: alpine:3.20}]}}}
patchesJson6902:
- {path: none.yaml}
"""
OPS = "- op: replace\n  path: /spec/containers/0/image\n  value: postgres:16 # ours\n- {op: test, path: /image, value: x:1}\n"


def test_patches_of_a_kustomization_name_images(tmp_path: Path) -> None:
    """Patches of a kustomization are read in files and inline; inline ones are not edited."""
    resource = "apiVersion: apps/v1\nkind: Deployment\nspec: {containers: [{name: a, image: 'busybox:1.36'}]}\n"
    root = written(tmp_path, {"kustomization.yaml": PATCHES, "ops.yaml": OPS, "resource.yaml": resource})
    found, edited = found_in(root), pinned(root)

    assert names(found) == [
        ("patches[2] [0] /spec/template/spec/containers/0/image", "nginx:1.25"),
        ("patches[2] [2] /spec/template/spec/containers/-", "redis:7"),
        ("patches[3] Deployment web spec.template.spec.containers[web].image", "alpine:3.20"),
        ("[0] /spec/containers/0/image", "postgres:16"),
        ("Deployment spec.containers[a].image", "busybox:1.36"),
    ]
    assert [image_ref.line for image_ref in found.image_refs[:3]] == [9, 12, 17]
    assert shown(edited) == {
        "ops.yaml": ["value: postgres:16@DIGEST # ours"],
        "resource.yaml": ["spec: {containers: [{name: a, image: 'busybox:1.36@DIGEST'}]}"],
    }
    assert {refusal.reason for refusal in edited.refusals} == {INLINE_PATCH}


def test_an_unreadable_patch_is_a_problem_with_its_line(tmp_path: Path) -> None:
    """An unreadable patch is a problem with its line; one outside of the project is not read."""
    text = "patches:\n- patch: |-\n    - op: ]\n    x\n- path: ../out.yaml\n"
    found = found_in(written(tmp_path / "project", {"kustomization.yaml": text}))

    assert [(problem.path, problem.line) for problem in found.problems] == [
        ("kustomization.yaml", 3),
        ("kustomization.yaml", 5),
    ]


def test_a_patch_may_be_a_single_line(tmp_path: Path) -> None:
    """A patch of a single line of inline JSON is not taken for a file name."""
    text = """patches: [{patch: '[{"op": "add", "path": "/spec/image", "value": "nginx:1.25"}]'}]\n"""

    assert names(found_in(written(tmp_path, {"kustomization.yaml": text}))) == [
        ("patches[0] [0] /spec/image", "nginx:1.25")
    ]


@pytest.mark.parametrize(
    ("tag", "same"),
    [
        *((tag, True) for tag in ("5.7", "0.5", "16", "0", "999999", "100000.25", "12.0000001", "0.0001")),
        *((tag, False) for tag in ("3.0", "1.10", "1000000", "20230101", "0.00001", "1e3", "1_0", "08", "5.")),
    ],
)
def test_a_bare_number_is_a_tag_if_helm_prints_the_same_text(tmp_path: Path, tag: str, same: bool) -> None:
    """Helm prints a bare number as Go prints a floating-point number, so only some are the tag that is written."""
    found = found_in(written(tmp_path, {"values.yaml": f"image: {{repository: shop/app, tag: {tag}}}\n"}))
    (name,) = (name for _, name in names(found))

    assert name == f"shop/app:{tag}" if same else name.startswith("? YAML reads")


@pytest.mark.parametrize("empty", ['""', "", "''"])
def test_a_charts_sha_gets_the_digits_of_the_digest(tmp_path: Path, empty: str) -> None:
    """A `sha` beside the tag gets the digest without `sha256:`, as charts expect it, and is read as a digest."""
    values = f"image:\n  repository: grafana/grafana\n  tag: 11.2.0\n  sha: {empty}\n"
    root = written(tmp_path, {"values.yaml": values})
    edited = pinned(root)
    put(root, edited)
    (image_ref,) = found_in(root).image_refs
    digest = digest_of(image_ref)

    assert yaml.safe_load((root / "values.yaml").read_text())["image"]["sha"] == digest.hex
    assert (image_ref.pinned, str(image_ref.unpinned)) == (digest, "docker.io/grafana/grafana:11.2.0")
    put(root, unpinned(root))
    assert (root / "values.yaml").read_text() == values


def test_a_sha_that_is_no_digest_is_not_one(tmp_path: Path) -> None:
    """A `sha` of another kind, such as a commit, is neither a digest nor a place for one."""
    (image_ref,) = found_in(
        written(tmp_path, {"values.yaml": "image: {repository: shop/app, tag: v1, sha: 0a1b2c3}\n"})
    ).image_refs

    assert (image_ref.written, image_ref.edit_range) == ("shop/app:v1", None)
