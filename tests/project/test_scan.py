"""What a scan reads and skips, and how it reports what it can't read."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from boltseal.project.scan import scan
from boltseal.project.source_files import MAX_FILE_BYTES
from tests.programs import without_privileges
from tests.project.projects import DATA, found_in, names, written

COMPOSE = "services:\n  web:\n    image: nginx:1.25\n"


def test_one_broken_file_does_not_stop_the_rest(tmp_path: Path) -> None:
    """Broken YAML, NUL bytes, other encodings and control characters are four problems, and the valid file is read."""
    root = written(
        tmp_path,
        {
            "a/compose.yml": "services:\n  web: {image: nginx\n  x\n",
            "b/compose.yml": b"services:\n\0\n",
            "c/compose.yml": b"services:\n  # caf\xe9\n",
            "d/compose.yml": COMPOSE,
            "e/compose.yml": "a: b\n# \u00e9\n# \x1b[31m\n",
        },
    )
    found = scan(root)

    assert names(found) == [("services.web.image", "nginx:1.25")]
    assert [(problem.path, problem.line) for problem in found.problems] == [
        ("a/compose.yml", 4),
        ("b/compose.yml", 2),
        ("c/compose.yml", 2),
        ("e/compose.yml", 3),
    ]


def test_a_file_that_is_too_large_is_not_read(tmp_path: Path) -> None:
    """A file over the size limit is a problem, and is not read."""
    root = written(tmp_path, {"compose.yml": COMPOSE})
    os.truncate(root / "compose.yml", 50 * 1024 * 1024)
    found = scan(root)

    assert found.image_refs == ()
    assert found.problems[0].message == "has 52428800 bytes; a file with references has at most 16 MiB: not read"
    assert MAX_FILE_BYTES == 16 * 1024 * 1024


def test_endless_nesting_is_a_problem(tmp_path: Path) -> None:
    """A hundred thousand nested brackets are a problem; nine hundred are read without recursion."""
    deep = "apiVersion: v1\nkind: Pod\nx: " + "{a: [" * 450 + "{containers: [{image: nginx:1.25}]}" + "]}" * 450 + "\n"
    found = scan(written(tmp_path, {"a/compose.yml": "[" * 100_000, "b/pod.yml": deep}))

    assert [problem.path for problem in found.problems] == ["a/compose.yml"]
    assert "nest" in found.problems[0].message
    assert [image_ref.written for image_ref in found.image_refs] == ["nginx:1.25"]


def test_an_endless_chain_of_merges_is_a_problem(tmp_path: Path) -> None:
    """Three hundred mappings that each merge the one before are refused with the line."""
    lines = ["x0: &x0 {image: nginx:1.25}", *(f"x{n}: &x{n} {{<<: *x{n - 1}}}" for n in range(1, 300))]
    found = scan(written(tmp_path, {"compose.yml": "\n".join([*lines, "services: {web: *x299}"]) + "\n"}))

    assert [(problem.line, problem.message) for problem in found.problems] == [
        (201, "merges more than 200 mappings into one")
    ]


def test_a_service_that_extends_itself_ends(tmp_path: Path) -> None:
    """A service that extends itself, also through another, ends the reading."""
    text = "services:\n  a: {image: nginx:1.25, extends: b}\n  b: {extends: {service: a}}\n  c: {image: redis:7.2, extends: c}\n"
    found = scan(written(tmp_path, {"compose.yml": text}))

    assert [(image_ref.where, image_ref.written) for image_ref in found.image_refs] == [
        ("services.a.image", "nginx:1.25"),
        ("services.b.image", "nginx:1.25"),
        ("services.c.image", "redis:7.2"),
    ]


def test_a_link_out_of_the_project_is_not_followed(tmp_path: Path) -> None:
    """A link out of the project, to a file or a folder, found or named, is not followed."""
    outside = written(tmp_path / "outside", {"compose.yml": COMPOSE, "folder/compose.yml": COMPOSE})
    root = written(tmp_path / "project", {"README.md": "x"})
    (root / "compose.yml").symlink_to(outside / "compose.yml")
    (root / "folder").symlink_to(outside / "folder")
    found, named = scan(root), found_in(root, "folder", "../outside/compose.yml")

    assert (found.image_refs, named.image_refs) == ((), ())
    assert [problem.path for problem in found.problems] == ["compose.yml"]
    assert [problem.path for problem in named.problems] == ["../outside/compose.yml", "folder"]


def test_a_dotenv_link_out_of_the_project_is_not_read(tmp_path: Path) -> None:
    """A .env that links out of the project is not read, since its values could show secrets of the machine."""
    outside = written(tmp_path / "outside", {".env": "SECRET=s3cret\n"})
    root = written(tmp_path / "project", {"compose.yml": "services: {web: {image: 'a:${SECRET}'}}\n"})
    (root / ".env").symlink_to(outside / ".env")
    found = scan(root)

    assert "s3cret" not in repr(found)
    assert [problem.path for problem in found.problems] == [".env"]


def test_a_link_within_the_project_is_one_file(tmp_path: Path) -> None:
    """Two names of one file have one set of references, under the real name."""
    root = written(tmp_path, {"deploy/compose.yml": COMPOSE})
    (root / "compose.yml").symlink_to("deploy/compose.yml")

    assert [image_ref.path for image_ref in scan(root).image_refs] == ["deploy/compose.yml"]


def test_a_file_named_twice_is_read_once(tmp_path: Path) -> None:
    """A file that is named, and is in a named folder, is read once."""
    root = written(tmp_path, {"deploy/compose.yml": COMPOSE})

    assert len(found_in(root, "deploy", "deploy/compose.yml", ".").image_refs) == 1


def test_a_named_file_that_is_not_there_or_unknown_is_a_problem(tmp_path: Path) -> None:
    """A named file that is missing or of an unknown format is a problem."""
    root = written(tmp_path, {"notes.yml": "a: b\n", "stack.yml": COMPOSE})
    found = found_in(root, "gone.yml", "notes.yml", "stack.yml")

    assert names(found) == [("services.web.image", "nginx:1.25")]
    assert [str(problem) for problem in found.problems] == [
        "gone.yml: is not there",
        "notes.yml: is in none of the known formats",
    ]


SCAN = """
import sys
from pathlib import Path
from boltseal.project.scan import scan
for problem in scan(Path(sys.argv[1]), [Path(each) for each in sys.argv[2:]]).problems:
    print(problem)
"""


@pytest.mark.parametrize(
    ("closed", "mode", "asked", "expected"),
    [
        (".", 0o311, [], [".: can't be read: Permission denied; its content is unknown"]),
        ("deploy", 0o000, [], ["deploy: can't be read: Permission denied; its content is unknown"]),
        ("deploy", 0o000, ["deploy"], ["deploy: can't be read: Permission denied; its content is unknown"]),
        ("deploy", 0o000, ["deploy/compose.yml"], ["deploy/compose.yml: can't be read: Permission denied"]),
        ("deploy", 0o444, [], ["deploy/compose.yml: can't be read: Permission denied"]),
        ("deploy/compose.yml", 0o000, [], ["deploy/compose.yml: can't be read: Permission denied"]),
        (
            "ci/more",
            0o000,
            [".gitlab-ci.yml"],
            ["ci/more: can't be read: Permission denied; its content is unknown"],
        ),
        ("deploy", 0o000, ["ci/more/a.yml"], ["ci/more/a.yml: is in none of the known formats"]),
    ],
)
def test_an_unreadable_folder_is_a_problem(
    tmp_path: Path, closed: str, mode: int, asked: list[str], expected: list[str]
) -> None:
    """An unreadable folder is a problem, so that finding nothing does not look like success."""
    include = "include: {local: 'ci/**.yml'}\n"
    root = written(tmp_path, {"deploy/compose.yml": COMPOSE, "ci/more/a.yml": "a: b\n", ".gitlab-ci.yml": include})
    (root / closed).chmod(mode)
    try:
        argv = [*without_privileges(), sys.executable, "-c", SCAN, str(root), *asked]
        done = subprocess.run(argv, check=True, stdout=subprocess.PIPE, text=True)
    finally:
        (root / closed).chmod(0o755)

    assert done.stdout.splitlines() == expected


def test_a_folder_is_searched_by_file_names_and_content(tmp_path: Path) -> None:
    """Folders are searched by file names and content; data, dependencies and nested repositories are skipped."""
    root = written(
        tmp_path,
        {
            "notes.yml": COMPOSE,
            "data.json": "{" * 10,
            "node_modules/x/compose.yml": COMPOSE,
            ".git/compose.yml": COMPOSE,
            "page.html": "{{ image }}",
            "pod.yml": "apiVersion: v1\nkind: Pod\nspec: {containers: [{image: redis:7.2}]}\n",
        },
    )
    found = scan(root)

    assert names(found) == [("services.web.image", "nginx:1.25"), ("Pod spec.containers[0].image", "redis:7.2")]
    assert (found.problems, found.unknown) == ((), ())


def test_a_dockerfile_that_is_included_as_something_else_is_a_problem(tmp_path: Path) -> None:
    """A Dockerfile that is also included as another format is read by both formats' rules."""
    root = written(tmp_path, {"Dockerfile": "FROM nginx:1.25\n\t- x: {\n", "compose.yml": "include: [Dockerfile]\n"})
    found = scan(root)

    assert [image_ref.where for image_ref in found.image_refs] == ["FROM, stage 0"]
    assert [problem.path for problem in found.problems] == ["Dockerfile"]


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    """A named pipe with a matching name is a problem and does not block."""
    os.mkfifo(tmp_path / "compose.yml")

    assert scan(tmp_path).problems[0].message == "is not a regular file"


def test_the_same_project_gives_the_same_answer(tmp_path: Path) -> None:
    """A repeated scan gives the same result, sorted by path and position."""
    first, second = scan(DATA), scan(DATA, sorted(DATA.iterdir(), reverse=True))

    assert len(first.image_refs) > 100
    assert first.image_refs == second.image_refs
    assert list(first.image_refs) == sorted(
        first.image_refs, key=lambda image_ref: (image_ref.path, image_ref.span, image_ref.where)
    )


def test_a_program_about_dockerfiles_is_not_a_dockerfile(tmp_path: Path) -> None:
    """A Python file named after Dockerfiles is not read as one; `Dockerfile.prod` and `web.Dockerfile` are."""
    program = "from typing import Final\n"
    about = [f"Dockerfile.{end}" for end in ("md", "txt", "dockerignore", "rst", "orig")]
    files = dict.fromkeys(["dockerfile.py", "src/dockerfile.go", "Dockerfile.TS", *about], program)
    root = written(tmp_path, {**files, "Dockerfile.prod": "FROM a:1\n", "web.Dockerfile": "FROM b:1\n"})

    assert [image_ref.written for image_ref in scan(root).image_refs] == ["a:1", "b:1"]


def test_no_file_name_hides_a_file(tmp_path: Path) -> None:
    """Files with a line break, invalid UTF-8 or the maximum length in their names are read."""
    pod = "apiVersion: v1\nkind: Pod\nspec: {containers: [{image: redis:7.2}]}\n"
    names = ["a\nb.yaml", os.fsdecode(b"\xff.yaml"), "n" * 250 + ".yaml"]
    root = written(tmp_path, {**dict.fromkeys(names, pod), "a\nDockerfile/Dockerfile.a\nb": "FROM x:1\n"})
    written(root, {"a\nb/.github/workflows/c\nd.yml": "jobs: {t: {container: y:1}}\n", "p\n.compose.yml": COMPOSE})

    assert sorted(image_ref.written for image_ref in scan(root).image_refs) == [
        *["nginx:1.25"],
        *["redis:7.2"] * 3,
        "x:1",
        "y:1",
    ]
