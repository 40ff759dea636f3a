"""Which test files `make check` runs after a change, and that nothing is left out of continuous integration."""

from __future__ import annotations

import re

import pytest

from tests.change_impact import AffectedFile, affected_files, within_budget
from tests.selection import ROOT

NEAR = AffectedFile("tests/near.py", 1, 10.0)
QUICK = AffectedFile("tests/quick.py", 1, 2.0)
FAR = AffectedFile("tests/far.py", 3, 1.0)
OWN = AffectedFile("tests/own.py", 0, 50.0)


@pytest.mark.parametrize(
    ("budget_s", "expected"),
    [
        (100.0, ["tests/own.py", "tests/quick.py", "tests/near.py", "tests/far.py"]),
        (62.5, ["tests/own.py", "tests/quick.py", "tests/near.py"]),
        (53.5, ["tests/own.py", "tests/quick.py", "tests/far.py"]),
        (10.0, ["tests/own.py"]),
    ],
)
def test_a_budget_is_spent_on_the_nearest_tests(budget_s: float, expected: list[str]) -> None:
    """The tests of what changed run in any case, then the nearest and of these the quickest ones that fit."""
    assert within_budget([FAR, NEAR, OWN, QUICK], budget_s) == expected


def test_tests_of_the_changed_package_are_nearest() -> None:
    """A change has distance 0 from its package's tests and a greater one from tests of importers; others are left out."""
    found = {each.name: each.distance for each in affected_files(frozenset({"src/boltseal/lockfile/merge.py"}))}

    assert found["tests/lockfile/test_merge.py"] == 0
    assert found["tests/cli/test_start.py"] > 0
    assert "tests/oci/test_digest.py" not in found


def test_a_changed_helper_selects_the_tests_that_use_it() -> None:
    """A changed helper selects the tests that import it, or take a fixture whose file imports it."""
    found = {each.name for each in affected_files(frozenset({"tests/bare_registry.py"}))}

    assert "tests/server/storage/test_garbage_collection.py" in found  # by the fixture `shop`
    assert "tests/lockfile/test_merge.py" not in found


@pytest.mark.parametrize("changed", [frozenset[str](), frozenset({"pyproject.toml"})])
def test_a_change_that_no_graph_connects_selects_every_file(changed: frozenset[str]) -> None:
    """No change, and a change of what every test depends on, select each test file that has quick tests."""
    found = {each.name for each in affected_files(changed)}

    assert {"tests/oci/test_digest.py", "tests/cli/test_start.py", "tests/server/spec/test_manifests.py"} <= found


def test_continuous_integration_leaves_nothing_out() -> None:
    """Continuous integration runs `make check` without a selection, and the Makefile selects for `make check` only."""
    calls = re.findall(
        r"^.*\bstage .* check\b(?!-style).*", (ROOT / ".ci/run").read_text(encoding="utf-8"), re.MULTILINE
    )
    selecting = [
        line
        for line in (ROOT / "Makefile").read_text(encoding="utf-8").splitlines()
        if re.search("--budget-s|--changed", line)
    ]

    assert calls
    assert all(" check HURRY=;" in call for call in calls)
    assert [line.partition(" ")[0] for line in selecting] == ["QUICK"]
    assert "$(if $(HURRY),--one-row" in selecting[0]
