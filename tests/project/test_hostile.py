"""A scan of any content returns references and problems, never an exception, and the same result twice."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from boltseal.project.source_files import SourceFile
from tests.project.projects import found_in, names, pinned, put, unpinned, written

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
    """No generated file breaks a scan or an edit, and unpinning restores the bytes if nothing was pinned."""
    with tempfile.TemporaryDirectory() as folder:
        root = written(Path(folder), files)
        found = found_in(root)
        again = found_in(root)
        put(root, pinned(root))
        put(root, unpinned(root))
        after = {name: (root / name).read_bytes() for name in files}

    assert found == again
    assert after == files or any(b"sha256:" in content for content in files.values())


MANY = 2000  # two documents that refer to each other would expand to four million nodes
IN_POD = "apiVersion: v1\nkind: Pod\n"


@pytest.mark.parametrize(
    ("name", "content"),
    [
        (
            "compose.yml",
            "x: &v [" + "{type: image, source: 'a:1'}," * MANY + "]\nservices:\n" + "  s%d: {volumes: *v}\n",
        ),
        ("compose.yml", "x: &v {" + ",".join(f"k{n}: 1" for n in range(MANY)) + "}\nservices:\n" + "  s%d: *v\n"),
        (
            "compose.yml",
            "x: &v\n  dockerfile_inline: |\n" + "    FROM a:1\n" * MANY + "services:\n" + "  s%d: {build: *v}\n",
        ),
        (".gitlab-ci.yml", ".x: &v [" + "'a:1'," * MANY + "]\n" + "s%d: {services: *v}\n"),
        (
            ".github/workflows/a.yml",
            "x: &v [" + "{uses: 'docker://a:1'}," * MANY + "]\njobs:\n" + "  s%d: {steps: *v}\n",
        ),
        ("pod.yaml", IN_POD + "x: &v [" + "{image: 'a:1'}," * MANY + "]\ny:\n" + "- {n: %d, containers: *v}\n"),
        (
            "kustomization.yaml",
            "x: &v [" + "{repository: a, tag: b}," * MANY + "]\nhelmCharts:\n" + "- {n: %d, valuesInline: *v}\n",
        ),
    ],
    ids=["volumes", "services", "inline", "gitlab", "actions", "containers", "charts"],
)
def test_the_size_of_aliases_is_counted_before_they_are_followed(tmp_path: Path, name: str, content: str) -> None:
    """Nested aliases would otherwise be read exponentially often."""
    *head, each = content.splitlines(keepends=True)
    text = "".join([*head, *(each % number for number in range(MANY))])
    found = found_in(written(tmp_path, {name: text}))

    assert found.image_refs == ()
    assert [problem.message for problem in found.problems] == [
        "its aliases expand to more than 1000000 values: not read"
    ]


@pytest.mark.parametrize("name", ["a", "A9", "0", "_", "-", "a-b_c", "-a-"])
@pytest.mark.parametrize(
    "text", ["&{0} [*{0}]", "x: &{0} {{k: *{0} }}", "- &{0}\n  - *{0}\n", "[1,&{0} {{? *{0} : 1}}]"]
)
def test_every_spelling_of_an_alias_is_looked_for(tmp_path: Path, name: str, text: str) -> None:
    """A document that contains itself is refused, however its anchor is spelt and wherever anchor and alias are."""
    found = found_in(written(tmp_path, {"compose.yml": text.format(name)}))

    assert [problem.message for problem in found.problems] == ["an anchor contains an alias of itself: not read"]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("pod.yaml", "&a\napiVersion: v1\nkind: List\nitems: [*a, *a]\n"),
        ("values.yaml", "&a\nimage: {repository: x, tag: *a}\n"),
    ],
)
def test_a_document_that_contains_itself_is_a_problem(tmp_path: Path, name: str, content: str) -> None:
    """A YAML document that contains itself is a problem, and is not followed in circles."""
    found = found_in(written(tmp_path, {name: content, "Chart.yaml": ""}))

    assert [problem.message for problem in found.problems] == ["an anchor contains an alias of itself: not read"]


@pytest.mark.parametrize(
    ("name", "content", "where"),
    [
        ("compose.yml", 'services: {a: {image: "a:1", extends: {file: "x\\0y", service: b}}}\n', "services.a.image"),
        ("compose.yml", 'include: ["x\\0y"]\nservices: {a: {image: "a:1"}}\n', "services.a.image"),
        ("compose.yml", 'include: [{path: "x\\0y"}]\nservices: {a: {image: "a:1"}}\n', "services.a.image"),
        (".gitlab-ci.yml", 'include: [{local: "/x\\0y"}]\nimage: a:1\n', "image"),
    ],
)
def test_a_path_with_a_nul_is_a_problem(tmp_path: Path, name: str, content: str, where: str) -> None:
    """A path with NUL in a YAML file, which no file can have, is a problem."""
    found = found_in(written(tmp_path, {name: content}))

    assert [problem.message for problem in found.problems] in (
        ['"x\\x00y" is not a valid path: it contains a NUL byte'],
        ['"x\\x00y" is not a valid path: it contains a NUL byte'] * 2,
    )
    assert names(found) == [(where, "a:1")]


@pytest.mark.parametrize(
    ("files", "why"),
    [
        (
            {
                "Dockerfile": "ARG A0=1234567890\n"
                + "".join(f"ARG A{n}=${{A{n - 1}}}${{A{n - 1}}}\n" for n in range(1, 40))
                + "FROM ${A39}\n"
            },
            "the value of A39 is not evaluated: it has quotes or escapes inside, or too many variables",
        ),
        (
            {
                ".env": "A0=1234567890\n" + "".join(f"A{n}=${{A{n - 1}}}${{A{n - 1}}}\n" for n in range(1, 40)),
                "compose.yml": "services: {a: {image: $A39}}\n",
            },
            "the value of A39 in .env is not evaluated",
        ),
    ],
    ids=["args", "env"],
)
def test_variables_that_double_each_other_are_refused(tmp_path: Path, files: dict[str, str], why: str) -> None:
    """Variables that double each other, up to terabytes, are refused."""
    assert [found for _, found in names(found_in(written(tmp_path, files)))] == [f"? {why}"]


def test_the_lines_of_a_text_are_indexed_once() -> None:
    """Line positions of a text are computed once, also for a single long line of JSON: a later other text changes none."""
    source = SourceFile("pod.json", "{}", b"{}")
    first = [source.line(0), source.line(1), source.line(2)]
    object.__setattr__(source, "text", "\n\n")

    assert first == [1, 1, 1]
    assert [source.line(0), source.line(1), source.line(2)] == first


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.yml", "image: a/b:1" + " " * 300_000 + "x\n{"),
        ("b.yml", "x: '" + "image" * 60_000 + " =x'\n"),
        ("c.yml", "x: {'" + "_IMAGE" * 50_000 + "x': a/b:1}\n"),
        ("d.yml", "image: '" + "{{ " * 100_000 + "'\n"),
        ("e.json", '{"image": "a/b:1"} ' + "/*" * 150_000),
        ("f.json", '// image\n"' + '\\"' * 150_000),
        ("g.hcl", 'job "x" {\n image = "' + "[[ " * 100_000 + '"\n' + "/*" * 100_000),
        ("h.nomad", 'job "x" {\n' + "[[ " * 100_000),
        ("i.toml", "image = " + "[ " * 150_000),
        ("j.container", "[Container]\nImage=" + "\\\n" * 100_000),
    ],
)
def test_the_account_of_a_hostile_text_takes_linear_time(tmp_path: Path, name: str, text: str) -> None:
    """Texts that would make a pattern try all pairs of positions, for hours, are read in a moment."""
    began = time.process_time()
    found_in(written(tmp_path, {name: text}))

    assert time.process_time() - began < 10
