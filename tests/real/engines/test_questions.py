"""docs/guides/questions.md: its commands run in their order and print what the page shows.

With `BOLTSEAL_WRITE_PAGES=1` the present output is written into the page, for review as a diff.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from tests.docs.pages import typed_lines
from tests.real.engines.stage import Stage, staged

pytestmark = pytest.mark.real

PAGE: Final = Path(__file__).parents[3] / "docs/guides/questions.md"
WRITES: Final = os.environ.get("BOLTSEAL_WRITE_PAGES") == "1"
_PART = re.compile(r"^<!-- run: (?P<run>[^\n]+) -->$|^```console\n(?P<console>.*?)^```$", re.MULTILINE | re.DOTALL)


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    """Everything that the page uses: images, a git repository, a project."""
    with staged(tmp_path) as stage:
        yield stage


def test_every_answer_of_the_page_is_what_is_printed(stage: Stage) -> None:
    """Each command of the page prints the page's output; digests are compared by equality, times and sizes not at all."""
    page = PAGE.read_text()
    played = _PART.sub(lambda found: _played(stage, found), page)
    if WRITES:
        PAGE.write_text(played)
        return

    assert "\n".join(_plain(played)) == "\n".join(_plain(page))


def test_the_first_steps_work(stage: Stage) -> None:
    """Each command of the first steps works in order; the second deploy, between the rollbacks, is a newer version."""
    prepared = "docker tag made:1 shop-app && docker rmi localhost:5000/shop/app:1.4.2"
    newer = (
        "docker tag made:2 localhost:5000/shop/app:1.5.1 && docker push -q localhost:5000/shop/app:1.5.1 && "
        "sed -i 's/1\\.4\\.2/1.5.1/' compose.yaml && boltseal deploy --update --anyway"
    )
    scrub = "--root /var/lib/docker --no-lock "
    ended = {}
    for line in (prepared, *typed_lines((PAGE.parents[1] / "getting-started/first-steps.md").read_text())):
        if line == "boltseal release ls":
            code, result = stage.run(newer)
            assert code == 0, result
        ended[line], result = stage.run(line.replace("boltseal scrub ", f"boltseal scrub {scrub}"))
        assert ended[line] == 0, f"{line}: {result}"

    assert [line.split()[1] for line in ended if line.startswith("boltseal")] == [
        *("check", "digest", "lock", "verify", "deploy", "ps", "release", "rollback", "scrub")
    ]


def _played(stage: Stage, found: re.Match[str]) -> str:
    """Return a part of the page with the present output."""
    if found["run"]:
        code, result = stage.run(found["run"])
        assert code == 0, f"{found['run']}: {result}"
        return found[0]
    lines = []
    for line in found["console"].splitlines():
        if line.startswith("$ "):
            _, result = stage.run(line[2:])
            assert "Traceback" not in result
            lines += [line, *(each.rstrip() for each in result.splitlines())]
    return "\n".join(["```console", *lines, "```"])


def _plain(text: str) -> list[str]:
    """Return a page's text without what differs at each run."""
    text = re.sub(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d(:\d\d(\.\d+)?)?Z?", "TIME", text)
    text = re.sub(r"\d{4}-\d\d-\d\d", "DAY", text)
    text = re.sub(r"\b\d+(\.\d+)? ?(ms|s|seconds?|minutes?|min|KiB|MiB|B)(/s)?\b", "AMOUNT", text)
    text = re.sub(
        r"^  (Container|waiting for|archived the) .*\n", "", text, flags=re.MULTILINE
    )  # depends on the machine
    return [word for block in text.split("```console") for word in _with_numbers(block).split()]


def _with_numbers(block: str) -> str:
    """Replace each digest of a block by a number, equal for equal digests. Docker may recompress an image between
    blocks."""
    digests: dict[str, str] = {}

    def numbered(found: re.Match[str]) -> str:
        return digests.setdefault(found[0][:12], f"DIGEST{len(digests) + 1}")

    return re.sub(r"\b(?:[0-9a-f]{12,64}|(?=[a-f]*[0-9])(?=[0-9]*[a-f])[0-9a-f]{8})\b", numbered, block)
