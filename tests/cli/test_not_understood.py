"""A value that looks like an image in an unknown place is reported by each command, and fails `verify --strict`."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli import program
from tests.project.projects import written

REMEDY = "[[lock.ignore]] in .boltseal.toml leaves it out"
LINE = f'ci/tools.yml:2: "ghcr.io/shop/tool:1" looks like an image, but its place is not understood: it is not locked; {REMEDY}'


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project with a pinned image, and an image in a place that no reader knows."""
    files = {
        "compose.yaml": f"services:\n  web:\n    image: nginx:1.25@sha256:{'a' * 64}\n",
        "ci/tools.yml": "tools:\n  runner_image: ghcr.io/shop/tool:1\n",
    }
    return written(tmp_path, files)


@pytest.mark.parametrize(("strict", "code"), [((), 0), (("--strict",), 1)])
def test_verify_reports_it_and_fails_if_strict(project: Path, strict: tuple[str, ...], code: int) -> None:
    """verify notes the value with its file and line; with --strict it is a difference."""
    result = program.call("verify", "--offline", "--project", project, *strict)

    assert result.code == code
    assert LINE in result.out.splitlines()
    assert "1 not understood" in result.err


def test_json_and_annotations_have_it(project: Path) -> None:
    """--json has a row with the status `not-understood`, and --github an annotation."""
    row = program.call("verify", "--offline", "--project", project, "--json").json["results"][-1]
    annotated = program.call("verify", "--offline", "--project", project, "--github").out

    assert (row["status"], row["weight"], row["file"], row["line"]) == ("not-understood", "note", "ci/tools.yml", 2)
    assert "::warning file=ci/tools.yml,line=2::" in annotated


def test_a_file_that_is_excluded_is_accounted_for(project: Path) -> None:
    """`[lock] exclude` accounts for a file, so that --strict holds."""
    written(project, {".boltseal.toml": '[lock]\nexclude = ["ci/*"]\n'})
    result = program.call("verify", "--offline", "--strict", "--project", project)

    assert (result.code, result.out) == (0, "")


def test_pin_reports_it(project: Path) -> None:
    """pin names the value, since nothing pins it."""
    assert f"boltseal: {LINE}" in program.call("pin", "--unpin", "--project", project).err.splitlines()
