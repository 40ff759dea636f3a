"""The table of formats: what a name and what the content says about a file, and what a new format needs."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from boltseal.project.image_references import Format
from boltseal.project.references import formats
from boltseal.project.references.formats import BY_NAME, READERS
from tests.project.projects import found_in, names, written

SOURCES = Path(formats.__file__).parent.parent.parent
OWN_NAMES = sorted(set(BY_NAME) - set(Format))


def test_every_format_has_a_reader_of_its_own() -> None:
    """Names of readers are unique, and every format that other modules name has a reader."""
    assert len(BY_NAME) == len(READERS)
    assert set(Format) <= set(BY_NAME)


def test_a_new_format_touches_its_module_and_the_table() -> None:
    """A format that no other module treats specially is named in its own module, and its module only in the table."""
    modules = {reader.read.__module__.rpartition(".")[2] for reader in READERS if reader.name not in set(Format)}
    for module in modules - {"kustomize"}:
        users = [
            path.relative_to(SOURCES).as_posix()
            for path in sorted(SOURCES.rglob("*.py"))
            if re.search(rf"references\.{module}\b|^    {module},$", path.read_text(), re.MULTILINE)
        ]

        assert users == ["project/references/formats.py"], module


@pytest.mark.parametrize("name", ["plex.yml", "production.yaml", "docker-compose2.yml", "compose_prod.yml", "a.json"])
def test_a_compose_file_of_any_name_is_read(tmp_path: Path, name: str) -> None:
    """A file of any name with services that have images or builds is a Compose file."""
    text = '{"services": {"web": {"image": "nginx:1.25"}, "app": {"build": "."}}}\n'

    assert names(found_in(written(tmp_path, {name: text}))) == [("services.web.image", "nginx:1.25")]


def test_services_without_images_are_no_compose_file(tmp_path: Path) -> None:
    """`services` of other programs, such as Symfony's, are not read as Compose."""
    text = "services: {_defaults: {autowire: true}, App\\Shop: {class: App\\Shop}}\n"

    assert found_in(written(tmp_path, {"services.yaml": text})).image_refs == ()


def test_a_part_of_a_compose_project_is_read_with_its_variables(tmp_path: Path) -> None:
    """A file of any name that another one extends or includes belongs to that project, whichever is read first."""
    files = {
        "b/prod.yml": "include: [../a/part.yml]\nservices: {web: {image: 'nginx:$V'}}\n",
        "b/.env": "V=1\n",
        "a/part.yml": "services: {db: {image: 'postgres:$V'}}\n",
        "a/.env": "V=2\n",
    }

    assert [name for _, name in names(found_in(written(tmp_path, files)))] == ["postgres:1", "nginx:1"]


def test_any_object_with_containers_is_read(tmp_path: Path) -> None:
    """Objects with `containers` are read in every resource, and in files without `apiVersion`, such as patches."""
    files = {
        "patch.yaml": "spec: {template: {spec: {containers: [{name: web, image: 'nginx:1'}]}}}\n",
        "custom.yaml": "apiVersion: x/v1\nkind: Shop\nspec: {deep: [{initContainers: [{image: 'redis:7'}]}]}\n",
        "op.yaml": "apiVersion: x/v1\nkind: Shop\nspec: {image: quay.io/shop/op:1, icon: {image: logo.png}}\n",
    }

    assert [name for _, name in names(found_in(written(tmp_path, files)))] == [
        "redis:7",
        "quay.io/shop/op:1",
        "nginx:1",
    ]


@pytest.mark.parametrize(
    ("kind", "spec"),
    [
        ("CronWorkflow", "{workflowSpec: {templates: [{container: {image: 'a:1'}}, {script: {image: 'b:1'}}]}}"),
        ("ClusterWorkflowTemplate", "{templates: [{sidecars: [{image: 'a:1'}], initContainers: [{image: 'b:1'}]}]}"),
        ("Task", "{stepTemplate: {image: a}, steps: [{name: x, image: 'b:1'}]}"),
        ("Pipeline", "{tasks: [{taskSpec: {steps: [{image: 'a:1'}], sidecars: [{image: 'b:1'}]}}]}"),
        ("Rollout", "{template: {spec: {containers: [{image: 'a:1'}], initContainers: [{image: 'b:1'}]}}}"),
    ],
)
def test_kinds_that_embed_containers_are_read(tmp_path: Path, kind: str, spec: str) -> None:
    """Workflows of Argo, tasks of Tekton and rollouts have their images in containers, scripts and steps."""
    found = found_in(written(tmp_path, {"a.yaml": f"apiVersion: x/v1\nkind: {kind}\nspec: {spec}\n"}))

    assert len(found.image_refs) == 2
    assert found.unknown == ()


def test_values_inside_a_resource_are_helm_values(tmp_path: Path) -> None:
    """The values of a HelmRelease, and those that are a text of a HelmChartConfig, are read as Helm values."""
    files = {
        "a.yaml": "apiVersion: x/v1\nkind: HelmRelease\nspec:\n  values:\n    web: {image: {repository: a/b, tag: '1'}}\n",
        "b.yaml": "apiVersion: x/v1\nkind: HelmChartConfig\nspec:\n  valuesContent: |-\n    image: c/d:2\n    x: 1\n",
    }
    found = found_in(written(tmp_path, files))

    assert names(found) == [
        ("HelmRelease spec.values.web.image", "a/b:1"),
        ("HelmChartConfig spec.valuesContent image", "c/d:2"),
    ]
    assert [image_ref.line for image_ref in found.image_refs] == [5, 5]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("web: {image: a/b, tag: '1'}", "a/b:1"),
        ("web: {image: a/b, imageTag: '1'}", "a/b:1"),
        ("sidecarImage: a/b\nsidecarTag: '1'", "a/b:1"),
        ("sidecarImage: a/b\nsidecarImageTag: '1'", "a/b:1"),
        ("sidecar_image: a/b\nsidecar_image_tag: '1'", "a/b:1"),
        ("webImage: {name: a/b, tag: '1'}", "a/b:1"),
        ("image: {repo: a/b, tag: '1', registry: r.io}", "r.io/a/b:1"),
        ("image: {registry: r.io, image: a/b, tag: '1'}", "r.io/a/b:1"),
        ("defaultImage: a/b:1", "a/b:1"),
        ("images: {web: a/b:1}", "a/b:1"),
        ("images: {tags: {web: a/b:1}}", "a/b:1"),
        ("images: [a/b:1]", "a/b:1"),
    ],
)
def test_the_conventions_of_charts_are_read(tmp_path: Path, text: str, expected: str) -> None:
    """Charts write an image as one text, as a name with a tag beside it, or as a mapping with parts."""
    found = found_in(written(tmp_path, {"values.yaml": text}))

    assert [name for _, name in names(found)] == [expected]
    assert found.unknown == ()
