"""The build number and time that a pipeline's environment gives."""

from __future__ import annotations

import pytest

from boltseal.config import BUILD_NUMBERS, ConfigInvalid, build_environment

WORKFLOWS = (
    ("GITHUB_RUN_NUMBER", "GITHUB_WORKFLOW_REF", "shop/app/.github/workflows/ci.yml@refs/heads/main", "ci"),
    ("GITHUB_RUN_NUMBER", "GITHUB_WORKFLOW_REF", "shop/app/.github/workflows/ci.yaml@refs/tags/v1", "ci.yaml"),
    ("GITHUB_RUN_NUMBER", "GITHUB_WORKFLOW", "Build and test", "Build and test"),
    ("BUILDKITE_BUILD_NUMBER", "BUILDKITE_PIPELINE_SLUG", "app-release", "app-release"),
    ("BUILD_NUMBER", "JOB_NAME", "shop/app", "shop/app"),
    ("BUILD_NUMBER", "TEAMCITY_BUILDCONF_NAME", "Nightly", "Nightly"),
)
NAMES = (
    *("GITHUB_RUN_NUMBER", "GITHUB_RUN_ATTEMPT", "SOURCE_DATE_EPOCH", *BUILD_NUMBERS),
    *(variable for _, variable, _, _ in WORKFLOWS),
)


@pytest.fixture(autouse=True)
def _no_pipeline(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)


def test_outside_of_a_pipeline_there_is_no_build_number() -> None:
    """Outside of a pipeline there is no build number, and none is invented."""
    assert build_environment() == ("", None)


@pytest.mark.parametrize("name", ["GITHUB_RUN_NUMBER", *BUILD_NUMBERS])
def test_each_pipeline_has_a_number(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Each known pipeline has a variable for its build number."""
    monkeypatch.setenv(name, "123")

    assert build_environment().number == "123"


@pytest.mark.parametrize(("counter", "variable", "value", "name"), WORKFLOWS)
def test_the_numbers_of_two_workflows_never_collide(
    monkeypatch: pytest.MonkeyPatch, counter: str, variable: str, value: str, name: str
) -> None:
    """Where each workflow of a repository is counted by itself, the number has the workflow's name."""
    monkeypatch.setenv(counter, "7")
    monkeypatch.setenv(variable, value)

    assert build_environment().number == f"{name}-7"


def test_a_repeated_run_on_github_has_another_number(monkeypatch: pytest.MonkeyPatch) -> None:
    """A repeated run on GitHub has the same number, so that the attempt is added."""
    monkeypatch.setenv("GITHUB_RUN_NUMBER", "123")
    monkeypatch.setenv("GITHUB_RUN_ATTEMPT", "1")
    first = build_environment().number
    monkeypatch.setenv("GITHUB_RUN_ATTEMPT", "2")

    assert (first, build_environment().number) == ("123", "123-2")


def test_the_time_of_a_reproducible_build_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """SOURCE_DATE_EPOCH, as reproducible builds set it, is the build time; an invalid value is none."""
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1795543200")
    assert build_environment().epoch_s == 1_795_543_200
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "yesterday")
    with pytest.raises(ConfigInvalid, match='SOURCE_DATE_EPOCH is "yesterday"; expected seconds since 1970'):
        build_environment()
