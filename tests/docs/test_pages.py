"""Check the pages against the repository: links, file names, code names, make targets and decision records exist."""

from __future__ import annotations

import ast
import re
import subprocess
import tomllib
from pathlib import Path

import pytest

import boltseal
from tests.docs.pages import PAGES, ROOT, anchors, code, section, table, text

SOURCE = ROOT / "src/boltseal"
ARCHITECTURE = text("ARCHITECTURE.md")
DECISIONS = sorted(ROOT.glob("docs/adr/[0-9]*.md"))


def make_targets() -> set[str]:
    return set(re.findall(r"^([a-z]+):.*##", text("Makefile"), re.MULTILINE))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_link_has_an_existing_file_and_heading(page: Path) -> None:
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
    """Each `make TARGET` in a page is a target of the Makefile."""
    named = set(re.findall(r"(?:^|`|; )make ([a-z]+)", page.read_text(encoding="utf-8"), re.MULTILINE))

    assert named <= make_targets()


def test_every_make_target_is_documented() -> None:
    """Every target of the Makefile is described in the README or in CONTRIBUTING."""
    named = set(re.findall(r"make ([a-z]+)", text("README.md") + text("CONTRIBUTING.md")))

    assert make_targets() - {"help"} <= named


def exists(name: str) -> bool:
    return (SOURCE / name).exists() or (ROOT / name).exists()


def defined_names(name: str) -> set[str]:
    """Return every class, function, method and module-level variable that a module of the package defines."""
    tree = ast.parse((SOURCE / name).read_text(encoding="utf-8"))
    assigned = {
        target.id
        for node in tree.body
        if isinstance(node, ast.Assign | ast.AnnAssign)
        for target in (node.targets if isinstance(node, ast.Assign) else [node.target])
        if isinstance(target, ast.Name)
    }
    definitions = (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    return assigned | {node.name for node in ast.walk(tree) if isinstance(node, definitions)}


def drawn_layers() -> dict[str, list[str]]:
    """Return the layers in ARCHITECTURE.md's drawing, from top to bottom: of the package, and of its server."""
    top, server = section(ARCHITECTURE, "Layers").split("```")[1].split("server:\n")
    return {
        container: [re.split(r"\s{2,}", line)[0] for line in part.strip().splitlines()]
        for container, part in (("boltseal", top), ("boltseal.server", server))
    }


def test_every_file_and_folder_that_the_architecture_names_exists() -> None:
    """Each `package/module.py` and `package/` in ARCHITECTURE.md exists in the package or in the repository."""
    named = {name for name in code(ARCHITECTURE) if re.fullmatch(r"([\w-]+/)+|([\w-]+/)*\w+\.(py|md|toml)", name)}
    under_tests = {"spec/", "attacks/", "contracts/", "scale/", "real/"}

    assert len(named) > 30
    assert {name for name in named - under_tests if not exists(name)} == set()
    assert all((ROOT / "tests/server" / name).exists() or (ROOT / "tests" / name).exists() for name in under_tests)


def test_every_test_that_a_decision_names_exists() -> None:
    """Each test module that a decision record names exists."""
    records = sorted((ROOT / "docs/adr").glob("0*.md"))
    named = {(record.name, path) for record in records for path in re.findall(r"tests/[\w/]+\.py", record.read_text())}

    assert len(named) > 20
    assert {each for each in named if not (ROOT / each[1]).exists()} == set()


def test_every_name_of_where_to_change_what_is_defined_in_the_file_beside_it() -> None:
    """In "Where to change what", each `Name in file` is a name that the file defines."""
    rows = table(section(ARCHITECTURE, "Where to change what"))
    wrong = []
    for what, where in rows:
        for clause in where.split(";"):
            spans = re.findall(r"`([^`]+)`", clause)
            files = [span for span in spans if re.search(r"/$|\.(py|md)$", span)]
            names = set(spans) - set(files)
            defined = set().union(*(defined_names(file) for file in files if file.endswith(".py") and names))
            if not all(exists(file) for file in files) or (names and not files) or not names <= defined:
                wrong.append((what, clause))

    assert len(rows) == 21
    assert all("`" in where for _, where in rows)
    assert wrong == []


@pytest.mark.parametrize("container", ["boltseal", "boltseal.server"])
def test_the_drawing_has_the_layers_that_import_linter_enforces(container: str) -> None:
    """The drawing and the import-linter contract have the same layers in the same order."""
    contracts = tomllib.loads(text("pyproject.toml"))["tool"]["importlinter"]["contracts"]
    (layers,) = [each["layers"] for each in contracts if each.get("containers") == [container]]

    assert drawn_layers()[container] == layers


@pytest.mark.parametrize("container", ["boltseal", "boltseal.server"])
def test_every_package_is_drawn(container: str) -> None:
    """Each package and module of the drawing's two levels is drawn."""
    folder = SOURCE / "/".join(container.split(".")[1:])
    packages = {path.stem for path in folder.iterdir() if (path / "__init__.py").exists() or path.suffix == ".py"}
    drawn = {name.strip(" ()") for layer in drawn_layers()[container] for name in layer.split("|")}

    assert packages - {"__init__"} - drawn == set()


def test_the_architecture_fits_into_150_lines() -> None:
    """ARCHITECTURE.md has at most 150 lines, so that a newcomer reads it at once."""
    assert len(ARCHITECTURE.splitlines()) <= 150


def test_the_list_of_decisions_is_complete() -> None:
    """The list of decisions has every record with its number and status."""
    listed = {(number, status) for number, _, status in table(text("docs/adr/README.md"))}
    records = set()
    for path in DECISIONS:
        status = re.search(r"^Status: (.+?) · date: \d{4}-\d\d-\d\d$", path.read_text(encoding="utf-8"), re.MULTILINE)
        records.add((f"[{path.name[:4]}]({path.name})", status[1] if status else None))

    assert listed == records


@pytest.mark.parametrize("path", DECISIONS, ids=lambda path: path.name[:4])
def test_a_decision_names_its_cost_and_the_check_that_keeps_it(path: Path) -> None:
    """Each decision record lists good and bad consequences, a check, and rejected options."""
    follows = section(path.read_text(encoding="utf-8"), "What follows")

    assert "\n- good: " in follows
    assert "\n- bad: " in follows
    assert "\n- how it is kept: " in follows
    assert table(section(path.read_text(encoding="utf-8"), "What else was weighed"))


def test_the_numbers_of_decisions_are_unique() -> None:
    """No two decision records have one number, as two branches may add."""
    numbers = [path.name[:4] for path in DECISIONS]

    assert len(numbers) == len(set(numbers))


def test_the_changelog_begins_with_unreleased_changes() -> None:
    """The changelog begins with unreleased changes."""
    first = re.search(r"^## (.+)$", text("CHANGELOG.md"), re.MULTILINE)

    assert first is not None
    assert first[1] == "[Unreleased]"


def test_the_changelog_has_the_form_of_keep_a_changelog() -> None:
    """The newest release in the changelog is this version; each has a date and only known kinds of changes."""
    changelog = text("CHANGELOG.md")
    releases = re.findall(r"^## (?!\[Unreleased\]$)(.+)$", changelog, re.MULTILINE)
    kinds = set(re.findall(r"^### (.+)$", changelog, re.MULTILINE))

    assert all(re.fullmatch(r"\[\d+\.\d+\.\d+\] - \d{4}-\d\d-\d\d", release) for release in releases)
    assert releases[0].startswith(f"[{boltseal.__version__}] - ")
    assert kinds <= {"Added", "Changed", "Deprecated", "Fixed", "Removed", "Security"}


def test_make_help_lists_every_target() -> None:
    """`make` without a target lists every target."""
    printed = subprocess.run(["make", "-C", ROOT, "--no-print-directory"], capture_output=True, text=True, check=True)

    assert set(re.findall(r"^  make ([a-z]+) ", printed.stdout, re.MULTILINE)) == make_targets()


def test_every_guarantee_and_record_that_the_code_names_exists() -> None:
    """Each guarantee number and decision record named in the code exists."""
    guarantees = re.findall(r"^(\d+)\. \*\*", section(ARCHITECTURE, "Guarantees"), re.MULTILINE)
    wrong = []
    for path in (*SOURCE.rglob("*.py"), *(ROOT / "tests").rglob("*.py")):
        content = path.read_text(encoding="utf-8")
        numbers = set(re.findall(r"\b(?:promise|guarantee) (\d+)", content)) - set(guarantees)
        records = {name for name in re.findall(r"docs/adr/[\w-]+\.md", content) if not (ROOT / name).exists()}
        wrong += [(path.relative_to(ROOT).as_posix(), each) for each in sorted(numbers | records)]

    assert guarantees == [str(number) for number in range(1, 15)]
    assert wrong == []
