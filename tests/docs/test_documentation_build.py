"""The pages build as a site, and every page of docs/ is in its navigation."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.docs.pages import ROOT, text


def named(value: object) -> Iterator[str]:
    """Yield the pages in a part of the navigation."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for inner in value.values():
            yield from named(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from named(inner)


def test_every_page_is_in_the_navigation() -> None:
    """Each page is in the navigation, except decision records, which have their own list."""
    listed = set(named(tomllib.loads(text("zensical.toml"))["project"]["nav"]))
    pages = {path.relative_to(ROOT).as_posix() for path in ROOT.glob("docs/**/*.md") if path.parent.name != "adr"}

    assert pages <= listed
    assert {page for page in listed if not (ROOT / page).exists()} == set()


@pytest.mark.slow
def test_the_documentation_builds_without_a_broken_link() -> None:
    """zensical's strict mode, which fails for a missing page or heading, builds the documentation."""
    script: list[str | Path] = [sys.executable, ROOT / "scripts/build_pages.py"]
    done = subprocess.run(script, capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stdout + done.stderr
    assert (ROOT / "build/site/docs/reference/commands.html").exists()
