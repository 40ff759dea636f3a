"""The pages say nothing that is not so: links lead somewhere, files and names exist, decisions are whole."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from tests.docs.pages import PAGES, ROOT, anchors, code, section, table, text

SOURCE = ROOT / "src/boltseal"
DECISIONS = sorted(ROOT.glob("docs/adr/[0-9]*.md"))


def make_targets() -> set[str]:
    return set(re.findall(r"^([a-z]+):.*##", text("Makefile"), re.MULTILINE))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_link_leads_to_a_file_and_a_heading_that_are_there(page: Path) -> None:
    """A relative link names a file of this repository, and an anchor one of its headings."""
    links = re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8"))
    broken = []
    for link in links:
        if "://" in link or link.startswith("NNNN"):
            continue
        name, _, anchor = link.partition("#")
        target = (page.parent / name) if name else page
        if not target.exists() or (anchor and anchor not in anchors(target.read_text(encoding="utf-8"))):
            broken.append(link)

    assert broken == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_make_target_that_is_named_exists(page: Path) -> None:
    """`make something` in a page is a target of the Makefile."""
    named = set(re.findall(r"(?:^|`|; )make ([a-z]+)", page.read_text(encoding="utf-8"), re.MULTILINE))

    assert named <= make_targets()


def test_every_make_target_is_named_in_the_readme_or_in_contributing() -> None:
    """A target that nobody can find is not there."""
    named = set(re.findall(r"make ([a-z]+)", text("README.md") + text("CONTRIBUTING.md")))

    assert make_targets() - {"help"} <= named


def test_every_module_that_the_architecture_names_exists() -> None:
    """`room/module.py` is a file of the package."""
    named = {name for name in code(text("ARCHITECTURE.md")) if re.fullmatch(r"(\w+/)*\w+\.py", name)}
    missing = {name for name in named if not (SOURCE / name).exists() and not (ROOT / name).exists()}

    assert named
    assert missing == set()


def test_every_name_of_where_to_look_stands_in_the_file_it_is_said_to_stand_in() -> None:
    """The table that a newcomer follows first leads nowhere else."""
    wrong = []
    for what, where in table(section(text("ARCHITECTURE.md"), "Where is ...")):
        for clause in where.split(";"):
            names = re.findall(r"`([^`]+)`", clause)
            files = [name for name in names if name.endswith(".py")]
            for name in set(names) - set(files):
                *_, last = name.split(".")
                if files and not any(last in (SOURCE / file).read_text(encoding="utf-8") for file in files):
                    wrong.append((what, name, files))

    assert wrong == []


def test_every_room_of_the_package_is_drawn() -> None:
    """A new room is drawn in the page that draws the house."""
    rooms = {path.name for path in SOURCE.iterdir() if (path / "__init__.py").exists()}
    drawn = section(text("ARCHITECTURE.md"), "Floors and rooms")

    assert {room for room in rooms if f"{room}/" not in drawn} == set()


def test_the_list_of_decisions_is_complete() -> None:
    """Every record stands in the list, with its own title's number and its status."""
    listed = {(number, status) for number, _, status in table(text("docs/adr/README.md"))}
    there = set()
    for path in DECISIONS:
        status = re.search(r"^Status: (.+?) · date: \d{4}-\d\d-\d\d$", path.read_text(encoding="utf-8"), re.MULTILINE)
        there.add((f"[{path.name[:4]}]({path.name})", status[1] if status else None))

    assert listed == there


@pytest.mark.parametrize("path", DECISIONS, ids=lambda path: path.name[:4])
def test_a_decision_says_what_it_costs_and_what_keeps_it(path: Path) -> None:
    """A record without a price was not weighed; one that nothing keeps will be undone by accident."""
    follows = section(path.read_text(encoding="utf-8"), "What follows")

    assert "\n- good: " in follows
    assert "\n- bad: " in follows
    assert "\n- how it is kept: " in follows
    assert table(section(path.read_text(encoding="utf-8"), "What else was weighed"))


def test_the_numbers_of_decisions_are_unique() -> None:
    """Two branches may have taken the same number."""
    numbers = [path.name[:4] for path in DECISIONS]

    assert len(numbers) == len(set(numbers))


def test_the_changelog_has_a_place_for_what_is_not_released() -> None:
    """Whoever changes something finds where to say so."""
    first = re.search(r"^## (.+)$", text("CHANGELOG.md"), re.MULTILINE)

    assert first is not None
    assert first[1] == "[Unreleased]"


def test_make_help_lists_every_target() -> None:
    """`make` alone tells what there is."""
    told = subprocess.run(["make", "-C", ROOT, "--no-print-directory"], capture_output=True, text=True, check=True)

    assert set(re.findall(r"^  make ([a-z]+) ", told.stdout, re.MULTILINE)) == make_targets()


@pytest.mark.lengthy
def test_every_promise_and_record_that_the_code_names_is_there() -> None:
    """A number or a file in a docstring leads a newcomer to a sentence of this repository."""
    promises = set(re.findall(r"^(\d+)\. \*\*", section(text("ARCHITECTURE.md"), "What it promises"), re.MULTILINE))
    wrong = []
    for path in (*SOURCE.rglob("*.py"), *(ROOT / "tests").rglob("*.py")):
        said = path.read_text(encoding="utf-8")
        named = set(re.findall(r"\bpromise (\d+)", said)) - promises
        records = {name for name in re.findall(r"docs/adr/[\w-]+\.md", said) if not (ROOT / name).exists()}
        wrong += [(path.relative_to(ROOT).as_posix(), each) for each in sorted(named | records)]

    assert len(promises) == 13
    assert wrong == []
