"""Every value that looks like an image is a reference, is no image by rule, or is reported with its line."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from boltseal.project.image_references import ScanResult
from boltseal.project.references.image_shape import PLACEHOLDERS, names_image
from tests.project.projects import found_in, names, written

DOCS = Path(__file__).parent.parent.parent / "docs/reference/image-keys.md"


def unknown(found: ScanResult) -> list[tuple[str, int]]:
    return [(each.path, each.line) for each in found.unknown]


def test_a_value_in_an_unknown_place_is_reported_with_its_line(tmp_path: Path) -> None:
    """Images under image-like keys of YAML, JSON and TOML files in no known format are reported with file and line."""
    root = written(
        tmp_path,
        {
            "a.yml": "tools:\n  - runner_image: ghcr.io/shop/tool:1\n",
            "b.json": '{\n"task": {"baseImage":\n"node:22"}}',
            "c.toml": "[build]\nname = 'x'\nimage = 'golang:1.23' # as in CI\n",
            "d.yml": "env:\n  - {name: SIDECAR_IMAGE, value: 'redis:7'}\nargs:\n  - --worker-image=shop/worker:2\n",
            "e.yml": "x:\n  image: nginx\n  ports: [80]\n",
        },
    )
    found = found_in(root)

    assert found.image_refs == ()
    assert unknown(found) == [("a.yml", 2), ("b.json", 3), ("c.toml", 3), ("d.yml", 2), ("d.yml", 4), ("e.yml", 2)]
    assert found.unknown[0].message.startswith('"ghcr.io/shop/tool:1" looks like an image')


@pytest.mark.parametrize(
    "line",
    [
        "image: logo.png",
        "image: img/hero.webp",
        "image: docs/pictures",
        "image: https://example.com/a:1",
        "image: A picture of a cat",
        "imagePullPolicy: always/x:1",
        "imageTag: a/b:1",
        "image: {{ x }}",
        "image: '{{ image }}'",
        "image: ${IMAGE}",
        "image: 1280:720",
        "image: ubuntu-22.04",
        "image: projects/debian-cloud/global/images/family/debian-12",
        "text: ghcr.io/shop/tool:1",
        "# image: ghcr.io/shop/tool:1",
        "image: sha256:4f83530449c67c1ed8fca72583c5b92fdf446010990028c362a381e55dd84afd",
    ],
)
def test_a_value_that_is_no_image_is_not_reported(tmp_path: Path, line: str) -> None:
    """A file name, an existing file, a URL, a sentence, a bare variable, a size, and a text elsewhere are no images."""
    root = written(tmp_path, {"a.yml": f"top:\n  {line}\n", "docs/pictures/x": ""})

    assert unknown(found_in(root)) == []


@pytest.mark.parametrize(
    "line",
    [
        "image: registry.example.com/app:${TAG}",
        "image: 'shop/app:{{ version }}'",
        "images: [a/b:1]",
        "images: {web: a/b:1}",
        "image: {name: a/b:1}",
        "image: {repository: nginx, tag: '1'}",
        "defaultImage: a/b",
        "APP_IMAGE: a/b:1",
        "image_name: a/b:1",
        "image: >-\n    a/b:1",
        "x.image: a/b:1",
        "driver-opts: image=a/b:1",
        "text: |\n    kind: Pod\n    image: ghcr.io/shop/tool:1",
    ],
)
def test_every_form_of_an_image_is_reported(tmp_path: Path, line: str) -> None:
    """A text, a list, a mapping with parts, and a text with variables in it are reported under image-like keys."""
    root = written(tmp_path, {"a.yml": f"x:\n  {line}\n", "b.md": ""})
    found = found_in(root)

    assert len(found.unknown) + len(found.image_refs) == 1


def test_a_file_that_can_not_be_parsed_is_read_by_lines(tmp_path: Path) -> None:
    """In a file that is not YAML, each line with an image is reported."""
    text = "- {{ each }}: [\nx: {image: }\nimage: ghcr.io/shop/tool:1\nsidecar_image: 'redis:{{ v }}'\n"

    assert unknown(found_in(written(tmp_path, {"a.yml": text}))) == [("a.yml", 3), ("a.yml", 4)]


def test_the_lines_of_a_text_are_reported_one_by_one(tmp_path: Path) -> None:
    """An image that occurs twice in a manifest inside a text, or in a heredoc of HCL, is reported with each line."""
    text = "a:\n- image: a/b:1\nb:\n- image: a/b:1\n"
    files = {
        "a.yml": "x: |\n" + "".join(f"  {line}\n" for line in text.splitlines()),
        "b.hcl": f"x = <<EOF\n{text}EOF\n",
    }

    assert unknown(found_in(written(tmp_path, files))) == [("a.yml", 3), ("a.yml", 5), ("b.hcl", 3), ("b.hcl", 5)]


def test_what_a_reader_has_read_is_not_reported_again(tmp_path: Path) -> None:
    """References, parts of references, schemas and selectors are accounted for."""
    root = written(
        tmp_path,
        {
            "compose.yml": "services: {web: {image: nginx:1.25, environment: {SIDECAR_IMAGE: a/b:1}}}\n",
            "values.yaml": "image: {registry: ghcr.io, repository: shop/app, tag: '1'}\n",
            "kustomization.yaml": "images: [{name: shop/app, newName: shop/other, newTag: '1'}]\n",
            "crd.yaml": "apiVersion: v1\nkind: CustomResourceDefinition\nspec: {image: a/b:1}\n",
        },
    )
    found = found_in(root)

    assert [name for _, name in names(found)] == ["nginx:1.25", "shop/other:1", "ghcr.io/shop/app:1"]
    assert unknown(found) == [("compose.yml", 1)]


def test_the_documented_keys_are_those_of_the_account() -> None:
    """The table of keys in the documentation has keys that count, and the line below it has some that don't."""
    text = DOCS.read_text().partition("## Keys")[2].partition("## Values")[0]
    table = [key for line in text.splitlines() if line.startswith("| ") for key in re.findall(r"`([^`]+)`", line)]
    others = re.findall(r"`([^`]+)`", text.rpartition("No image keys")[2])

    assert [key for key in table if not names_image(key) and key != "_IMG"] == []
    assert [key for key in others if names_image(key)] == []
    assert len(table) > 15


def test_locks_of_package_managers_and_the_own_lock_are_left_out(tmp_path: Path) -> None:
    """The lock itself, and the locks of package managers, hold no references of the project."""
    files = dict.fromkeys(["boltseal.lock", "package-lock.json"], '{"image": "a/b:1"}')

    assert unknown(found_in(written(tmp_path, files))) == []


def test_a_platform_is_no_image(tmp_path: Path) -> None:
    """A platform under the key of an image is not reported, and an image of the same form is."""
    text = "image: linux/amd64\nbase_image: linux/arm/v7\nrunner_image: linux/tool\n"
    found = found_in(written(tmp_path, {"a.yml": text}))

    assert [each.value for each in found.unknown] == ["linux/tool"]


@pytest.mark.parametrize("key", ["containers", "extraContainers", "initContainer", "sidecars"])
def test_a_single_word_in_a_list_of_containers_is_reported(key: str, tmp_path: Path) -> None:
    """A single word is an image if it is in a list of containers, also without other keys of a container beside it."""
    text = f"set:\n  {key}:\n    - name: sidecar\n      image: busybox\nteam:\n  - name: one\n    image: portrait\n"
    found = found_in(written(tmp_path, {"chart_test.yaml": text.replace("containers:", "podContainers:")}))

    assert unknown(found) == [("chart_test.yaml", 4)]


@pytest.mark.parametrize("word", sorted(PLACEHOLDERS))
def test_a_placeholder_in_test_data_is_no_image(word: str, tmp_path: Path) -> None:
    """A placeholder as the image of a step in no known format is not reported, and the image beside it is."""
    steps = (
        f"steps:\n  one:\n    image: {word}\n    commands: [make]\n  two:\n    image: alpine\n    commands: [make]\n"
    )
    found = found_in(written(tmp_path, {"testdata/steps.yml": steps}))

    assert unknown(found) == [("testdata/steps.yml", 6)]


@pytest.mark.parametrize("image", ["dummy:1", "team/dummy", "dummy@sha256:" + 64 * "a"])
def test_a_placeholder_with_a_tag_a_path_or_a_digest_is_an_image(image: str, tmp_path: Path) -> None:
    """A reference is reported whatever its name is if it has a tag, a path or a digest."""
    found = found_in(written(tmp_path, {"a.yml": f"x:\n  image: {image}\n  commands: [make]\n"}))

    assert unknown(found) == [("a.yml", 2)]


def test_a_placeholder_in_a_known_format_is_a_reference(tmp_path: Path) -> None:
    """A Compose service with a placeholder as its image has an image reference."""
    found = found_in(written(tmp_path, {"compose.yaml": "services:\n  web:\n    image: dummy\n"}))

    assert [each.written for each in found.image_refs] == ["dummy"]


def test_the_page_lists_the_placeholders() -> None:
    """The page of image keys names each placeholder."""
    page = DOCS.read_text(encoding="utf-8")

    assert [word for word in sorted(PLACEHOLDERS) if f"`{word}`" not in page] == []
