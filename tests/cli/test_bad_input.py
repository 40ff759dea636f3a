"""Unreadable files of a project: each is reported with its line, the others are processed, and nothing is written."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from boltseal.lockfile.document import LOCK_NAME, LockedImage, sorted_lock
from boltseal.lockfile.format import format_lock
from boltseal.oci.digest import Digest
from boltseal.oci.reference import Reference
from tests.cli import program
from tests.project.projects import written

NGINX = Digest.of(b"nginx")
COMPOSE = "services:\n  web: {image: nginx:1.25}\n"
MERGES = "\n".join(["x0: &x0 {a: b}", *(f"x{n}: &x{n} {{<<: *x{n - 1}}}" for n in range(1, 300))])
BAD: dict[str, tuple[str, str | bytes, str]] = {
    "broken YAML": (
        "deploy/compose.yml",
        "services:\n  web: {image: nginx\n  x\n",
        "deploy/compose.yml:4: is not YAML",
    ),
    "an alias of nothing": ("deploy/compose.yml", "services:\n  web: *gone\n", "deploy/compose.yml:2: is not YAML"),
    "a bomb of merges": ("deploy/compose.yml", MERGES, "deploy/compose.yml:201: merges more than 200 mappings"),
    "depth": ("deploy/compose.yml", "\n" + "[" * 100_000, "deploy/compose.yml:2: is not YAML"),
    "a template": ("k8s/pod.yaml.j2", "spec:\n  image: {{ image }}\n", 'k8s/pod.yaml.j2:2: "{{ image }}" is in a'),
    "braces in a manifest": (
        "k8s/pod.yaml",
        "{{ if on }}\napiVersion: v1\nkind: Pod\nspec: {containers: [{image: {{ image }}}]}\n",
        "k8s/pod.yaml:1: is a template",
    ),
    "another encoding": ("deploy/compose.yml", b"services:\n  # caf\xe9\n", "deploy/compose.yml:2: is not UTF-8"),
    "a program": ("deploy/compose.yml", b"\x7fELF\n\0\0", "deploy/compose.yml:2: contains a NUL byte"),
    "millions of values": (
        "deploy/compose.yml",
        "a: [" + "a," * 2_000_000 + "]",
        "deploy/compose.yml: has up to 2000000",
    ),
    "50 MiB": ("deploy/compose.yml", b"", "deploy/compose.yml: has 52428800 bytes"),
    "a broken Dockerfile": ("Dockerfile", "FROM a\nRUN <<EOF\nx\n", "Dockerfile:2: "),
    "a 2 MiB Dockerfile": ("Dockerfile", "FROM a\n" + "#" * 2_097_152, "Dockerfile: is not read as a Dockerfile"),
}


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A Compose file, and a lock of its images."""
    image = LockedImage(Reference.parse("nginx:1.25"), NGINX, 1_764_000_000_000_000)
    return written(tmp_path, {"compose.yml": COMPOSE, LOCK_NAME: format_lock(sorted_lock([image], {}))})


@pytest.mark.parametrize("what", BAD)
def test_an_unreadable_file_is_named_and_the_rest_continues(project: Path, what: str) -> None:
    """pin, verify and `lock --emit` name an unreadable file and continue with the others."""
    name, content, message = BAD[what]
    written(project, {name: content})
    if what == "50 MiB":
        os.truncate(project / name, 50 * 1024 * 1024)
    before = {path: path.read_bytes() for path in (project / "compose.yml", project / LOCK_NAME)}
    pinned = program.call("pin", "--write", "--project", project)
    verified = program.call("verify", "--offline", "--project", project)
    results = program.call("verify", "--offline", "--json", "--project", project).json["results"]
    emitted = program.call("lock", "--emit", "compose-override", "--project", project)

    assert (pinned.code, verified.code, emitted.code, emitted.out) == (3, 3, 3, "")
    assert message in pinned.err
    assert message in verified.out
    assert "nothing is written: a file could not be read" in pinned.err
    assert [one["status"] for one in results if one["file"] != name] == ["not-pinned"]
    assert all(path.read_bytes() == content for path, content in before.items())


def test_exponential_aliases_are_an_error_and_nothing_is_written(project: Path) -> None:
    """Exponential YAML aliases, for which Compose uses all memory, are an error, and nothing is written."""
    lines = ["a0: &a0 {image: redis:7.2}", *(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 10))]
    bomb = "\n".join(lines) + f"\n{COMPOSE}"
    written(project, {"compose.yml": bomb})
    result = program.call("pin", "--write", "--project", project)

    assert result.code == 3
    assert "compose.yml:7: its aliases expand to more than 1000000 values: not read" in result.err
    assert (project / "compose.yml").read_text() == bomb
