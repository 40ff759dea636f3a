"""Templates are not rendered, and no image in one is overlooked."""

from __future__ import annotations

from pathlib import Path

import pytest

from boltseal.project.references.helm import NO_DIGEST
from tests.project.projects import found_in, names, pinned, put, trap, written


def test_each_image_of_a_charts_template_is_reported_with_its_line(tmp_path: Path) -> None:
    """Each image from the values in a chart's template is a note with its line; comments are skipped."""
    found = found_in(trap("helm_chart", tmp_path))

    assert found.problems == ()
    assert [(note.path, note.line) for note in found.notes] == [
        ("templates/deployment.yaml", 12),
        ("templates/deployment.yaml", 13),
    ]
    assert "is rendered by the chart: only its values are read" in found.notes[0].message
    assert '"{{ include' in found.notes[1].message.replace("\\", "")


def test_a_literal_image_in_a_chart_template_is_locked_and_not_edited(tmp_path: Path) -> None:
    """A literal image in a chart's template, such as for tests, is locked but not edited."""
    root = trap("helm_chart", tmp_path)
    before = {path: path.read_bytes() for path in root.rglob("*.yaml")}
    found = found_in(root)
    edited = pinned(root)
    put(root, edited)

    assert names(found) == [
        ("image[0]", "redis:7.2"),
        ("image[0]", "fluent/fluent-bit:3.1"),
        ("image[0]", "busybox"),
        ("image", "registry.example.com/shop/app:1.4.2"),
    ]
    assert [(image_ref.path, image_ref.line) for image_ref in found.image_refs[:3]] == [
        ("charts/cache/templates/pod.yaml", 3),
        ("templates/deployment.yaml", 15),
        ("templates/tests/test-connection.yaml", 8),
    ]
    assert {refusal.reason for refusal in edited.refusals} == {
        "it is in a chart's template, which is not edited: move the image into the values"
    }
    assert [change.path for change in edited.changes] == ["values.yaml"]
    assert all(path.read_bytes() == text for path, text in before.items() if path.name != "values.yaml")
    assert NO_DIGEST not in {refusal.reason for refusal in edited.refusals}


def test_the_position_of_an_image_in_a_template_is_exact(tmp_path: Path) -> None:
    """The position of an image in a template is exact with any line ends."""
    root = trap("helm_chart", tmp_path)

    for image_ref in found_in(root).image_refs[:3]:
        text = (root / image_ref.path).read_bytes().decode()
        assert text[slice(*image_ref.span)] == image_ref.written


def test_a_template_that_is_named_is_read_as_one(tmp_path: Path) -> None:
    """A template that is named gives the same result as in a scan of the project."""
    root = trap("helm_chart", tmp_path)

    assert [note.line for note in found_in(root, "templates/deployment.yaml").notes] == [12, 13]


def test_a_template_outside_of_a_chart_is_a_problem_for_each_image(tmp_path: Path) -> None:
    """Each image in a Jinja, Go or ERB template outside of a chart is a problem; templates without images are ignored."""
    found = found_in(trap("templated_names", tmp_path))

    assert [(problem.path, problem.line) for problem in found.problems] == [
        ("Dockerfile.erb", 2),
        ("Dockerfile.erb", 4),
        ("compose.yml.j2", 4),
        ("compose.yml.j2", 7),
        ("pod.yaml.tmpl", 5),
    ]
    assert all("is in a template, which is not rendered" in problem.message for problem in found.problems)
    assert '"redis:7.2"' in found.problems[3].message


def test_a_dockerfile_template_without_expressions_in_from_is_read(tmp_path: Path) -> None:
    """A Dockerfile template with expressions only outside of FROM is read."""
    found = found_in(trap("templated_names", tmp_path))

    assert [(image_ref.path, image_ref.written) for image_ref in found.image_refs] == [
        ("web.Dockerfile.j2", "node:16.13")
    ]


def test_a_literal_image_in_a_templated_manifest_is_reported(tmp_path: Path) -> None:
    """A literal image in a templated manifest is reported, since it is deployed by its tag."""
    text = "{{- if on }}\napiVersion: v1\nkind: Pod\nspec: {containers: [{name: a, image: nginx:1.25}]}\n{{- end }}\n"
    found = found_in(written(tmp_path, {"pod.yaml": text, "other.yaml": "apiVersion: {{ x }}: y\n"}))

    assert [(problem.path, problem.line) for problem in found.problems] == [("pod.yaml", 1)]


@pytest.mark.parametrize(
    "line",
    ["image: ${IMAGE}", "image: ''", "image: {repository: x}", "my_image: x:1", "image:x:1", "$.image: x:1"],
)
def test_an_ambiguous_line_of_a_template_is_not_a_reference(tmp_path: Path, line: str) -> None:
    """An ambiguous line of a template is not a reference, since a guess would be locked."""
    root = written(tmp_path, {"Chart.yaml": "apiVersion: v2\n", "templates/a.yaml": f"{line}\n"})

    assert found_in(root).image_refs == ()


def test_a_template_that_can_not_be_read_is_a_problem(tmp_path: Path) -> None:
    """An unreadable template is a problem, as any other file."""
    root = written(tmp_path, {"Chart.yaml": "apiVersion: v2\n", "templates/a.yaml": b"image: x:1\n\0"})

    assert [problem.line for problem in found_in(root).problems] == [2]


@pytest.mark.slow
def test_unclosed_comments_take_linear_time(tmp_path: Path) -> None:
    """Millions of unclosed comment starts are read in linear time."""
    text = (
        "{#" * 2_000_000
        + "{{/*" * 1_000_000
        + "\nimage: nginx:1.25\n{# image: a:1\nimage: b:1 #}\n{# {{/*\nimage: c:1\n"
    )
    root = written(tmp_path, {"Chart.yaml": "apiVersion: v2\n", "templates/a.yaml": text})

    assert [image_ref.written for image_ref in found_in(root).image_refs] == ["c:1"]
