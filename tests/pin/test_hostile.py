"""Whatever a checked-out project holds, a scan answers: sites and problems, never an exception, and the same twice."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.pin.projects import found_in, pinned, put, unpinned, written

NAMES = (
    *("compose.yml", ".env", "Dockerfile", "kustomization.yaml", "values.yaml", "Chart.yaml", ".gitlab-ci.yml"),
    *(".github/workflows/ci.yml", "action.yml", "pod.yaml", "pod.json"),
)
TOKENS = (
    *(
        "services:",
        "image:",
        " image: a:1",
        "build:",
        "extends:",
        "include:",
        "- local: x",
        "jobs:",
        "container:",
        "images:",
    ),
    *(
        "name: a",
        "newTag: 1",
        "digest:",
        "repository: a",
        "tag: 1.0",
        "kind: Pod",
        "apiVersion: v1",
        "kind: List",
        "items:",
    ),
    *(
        "spec:",
        "containers:",
        "volumes:",
        "variables:",
        "uses: docker://a",
        "<<: *a",
        "&a",
        "*a",
        "!reset",
        "appVersion: 1",
    ),
    *(
        "FROM a",
        "FROM a AS b",
        "ARG V=1",
        "${V}",
        "${V:-",
        "$",
        "$$",
        "}",
        "RUN <<E",
        "E",
        "COPY --from=a",
        "--mount=from=a,",
    ),
    *(
        "# syntax=a",
        "# escape=`",
        "\\",
        "`",
        "{",
        "}",
        "[",
        "]",
        ",",
        '"',
        "'",
        "|",
        ">-",
        "#",
        ":",
        "- ",
        "@sha256:" + "0" * 64,
    ),
    *(
        "A=1",
        "export A='x'",
        'B="${A}"',
        "{{",
        "}}",
        "\\ud83d",
        "\u2028",
        "\ufeff",
        "🚀",
        "\0",
        "\t",
        "\r\n",
        "\n",
        "\n  ",
        "\n    ",
    ),
)
texts = st.lists(st.sampled_from(TOKENS), max_size=25).map("".join)
contents = st.one_of(texts.map(str.encode), st.binary(max_size=40))


@pytest.mark.slow
@given(files=st.dictionaries(st.sampled_from(NAMES), contents, min_size=1, max_size=4))
@example(files={"compose.yml": b"services: {a: &a {image: x, extends: {file: compose.yml, service: a}}, b: *a}"})
@example(files={"compose.yml": b"services: [image]\nservices: {a: [x]}\n"})
@example(files={"pod.yaml": b"apiVersion: v1\nkind: [Pod]\nspec: &s {containers: [*s]}\n"})
@example(files={"kustomization.yaml": b"images: [{name: [a], newTag: {b: c}, digest: [d]}]\n"})
@example(
    files={"values.yaml": b"a: {repository: {b: c}, tag: [d]}\n? [x]\n: {repository: a, tag: b}\n", "Chart.yaml": b"[]"}
)
@example(files={".gitlab-ci.yml": b"include: [{local: [a]}, ../x, '/**/**']\nimage: {name: [a]}\nservices: {a: b}\n"})
def test_no_file_breaks_a_scan_or_an_edit(files: dict[str, bytes]) -> None:
    """And what is edited comes back to the byte, if nothing was pinned before."""
    with tempfile.TemporaryDirectory() as folder:
        root = written(Path(folder), files)
        found = found_in(root)
        again = found_in(root)
        put(root, pinned(root))
        put(root, unpinned(root))
        after = {name: (root / name).read_bytes() for name in files}

    assert found == again
    assert after == files or any(b"sha256:" in content for content in files.values())
