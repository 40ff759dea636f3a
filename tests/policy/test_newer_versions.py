"""Which tags are newer versions of another."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from boltseal.oci.reference import Tag
from boltseal.policy.version_order import VersionStep, newest_within, step_between, version_of


def tags(text: str) -> list[Tag]:
    """Return tags by their names."""
    return [Tag(each) for each in text.split()]


@pytest.mark.parametrize(
    ("tag", "there", "same", "any_"),
    [
        ("1.4.2", "1.4.1 1.4.2 1.4.10 1.5.0 2.0.0 latest", "1.5.0", "2.0.0"),
        ("1.4.2", "1.4.1 1.4.2", None, None),
        ("1.4.2", "2.0.0", None, "2.0.0"),
        (
            "1.25.3-alpine",
            "1.26.0 1.26.0-alpine 1.27.0-rc1 1.27-alpine 1.25.4-alpine3.18",
            "1.26.0-alpine",
            "1.26.0-alpine",
        ),
        ("v1.2", "1.3 v1.3 V1.4", "v1.3", "v1.3"),
        ("3.12", "3.9 3.13 3.13.1 3", "3.13", "3.13"),
        ("16", "17 16.1", None, "17"),
        ("1.2.3", "1.2.4-rc1 1.2.4_build", None, None),
        ("latest", "1.0.0 2.0.0", None, None),
        ("20240102", "20250102 3", None, None),
    ],
)
def test_the_newer_version_has_the_same_form(tag: str, there: str, same: str | None, any_: str | None) -> None:
    """A newer version has the same suffix and precision, and higher numbers."""
    found = [newest_within(Tag(tag), tags(there), step) for step in (VersionStep.MINOR, VersionStep.MAJOR)]

    assert found == [same, any_]


@pytest.mark.parametrize("tag", ["latest", "16bullseye", "1.2.3.4.5.6", "sha-0123abc", "20240102", "v", "-1"])
def test_a_tag_without_a_version_has_no_newer_one(tag: str) -> None:
    """A tag that does not begin with a version has no newer one."""
    assert version_of(Tag(tag) if tag != "-1" else Tag("x-1")) is None


@given(st.lists(st.from_regex(r"v?[0-9]{1,3}(\.[0-9]{1,3}){0,3}(-alpine)?", fullmatch=True), min_size=2, max_size=8))
def test_the_newest_version_has_no_newer_one(names: list[str]) -> None:
    """The newest version has no newer one, and is found from every older one."""
    there = [Tag(name) for name in names]
    found = newest_within(there[0], there, VersionStep.MAJOR)

    assert found is None or newest_within(found, there, VersionStep.MAJOR) is None


@pytest.mark.parametrize(
    ("old", "new", "step"),
    [
        ("1.4.2", "1.4.2.1", VersionStep.REVISION),
        ("1.4.2.1", "1.4.3", VersionStep.PATCH),
        ("1.4.2.9", "1.5.0", VersionStep.MINOR),
        ("1.4.2", "2.0.0.1", VersionStep.MAJOR),
        ("3.12", "3.13", VersionStep.MINOR),
        ("16", "17", VersionStep.MAJOR),
    ],
)
def test_a_step_is_named_by_the_first_number_that_differs(old: str, new: str, step: VersionStep) -> None:
    """The first number that differs names the step; a revision differs in none of the version's own."""
    versions = [version_of(Tag(each)) for each in (old, new)]

    assert versions[0] is not None
    assert versions[1] is not None
    assert step_between(versions[0], versions[1]) is step
