"""Builds docs/ as a site into build/site: `python scripts/build_pages.py` (`make docs` runs it).

Copies every page of the repository, and every file that a page links to, into build/pages with the same relative paths,
and runs zensical in strict mode: a link to a page or heading that does not exist ends with 1.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parent.parent
PAGES: Final = ROOT / "build" / "pages"
PATTERNS: Final = ("*.md", "docs/**/*.md", "bench/*.md")


def main() -> int:
    """Copy the pages and build the site. Return the exit code of zensical."""
    shutil.rmtree(PAGES, ignore_errors=True)
    pages = {page for pattern in PATTERNS for page in ROOT.glob(pattern)}
    for file in pages | {linked for page in pages for linked in linked_files(page)}:
        target = PAGES / file.relative_to(ROOT)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, target)
    zensical = Path(sys.executable).with_name("zensical")
    return subprocess.run([zensical, "build", "--clean", "--strict"], cwd=ROOT, check=False).returncode


def linked_files(page: Path) -> Iterator[Path]:
    """Yield the files of this repository that a page links to."""
    for link in re.findall(r"\]\(([^)\s#]+)", page.read_text(encoding="utf-8")):
        file = (page.parent / link).resolve()
        if "://" not in link and file.is_file() and file.is_relative_to(ROOT):
            yield file


if __name__ == "__main__":
    sys.exit(main())
