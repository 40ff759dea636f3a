"""Tags for rebuilds of sealed tags, and how they are ordered."""

from __future__ import annotations

import subprocess
from functools import cmp_to_key

import pytest
from hypothesis import given
from hypothesis import strategies as st

from boltseal.oci.reference import MAX_TAG_BYTES, Tag
from boltseal.policy.tag_revisions import (
    SEPARATORS,
    RevisionInvalid,
    may_be_revision,
    newer_revisions,
    newest_revision,
    next_revision,
    parse_separator,
    revised,
)
from boltseal.policy.version_order import VersionStep, newest_within, version_of
from tests.programs import program


def tags(text: str) -> list[Tag]:
    """Return tags by their names."""
    return [Tag(each) for each in text.split()]


@pytest.mark.parametrize(
    ("tag", "there", "expected"),
    [
        ("1.4.2", "", "1.4.2.1"),
        ("1.4.2", "1.4.2.1 1.4.2.2 1.4.3 1.4.3.7 1.4.2.9-alpine", "1.4.2.3"),
        ("1.4.2.1", "1.4.2 1.4.2.4", "1.4.2.5"),
        ("1.4.2.1", "1.4.1", "1.4.2.1.1"),
        ("1.4.2.0", "1.4.1.0", "1.4.2.1"),
        ("1.4.2.1", "1.4.2.0", "1.4.2.2"),
        ("16.13", "16.13.0.1", "16.13.0.2"),
        ("16", "16.0.0.9", "16.0.0.10"),
        ("v1.4.2-alpine", "v1.4.2.1-alpine v1.4.2.5", "v1.4.2.2-alpine"),
        ("build-7", "build-7.1 build-8.4", "build-7.2"),
        ("20261124-180000", "", "20261124-180000.1"),
        ("release", "release.3", "release.4"),
    ],
)
def test_a_rebuild_gets_the_next_number_of_its_version(tag: str, there: str, expected: str) -> None:
    """A rebuild gets the next number of the version that its tag is a revision of, before the suffix."""
    assert next_revision(Tag(tag), tags(there)) == expected


@pytest.mark.parametrize(
    ("separator", "first", "tenth"),
    [(".", "1.4.2.1-alpine", "1.4.2.10-alpine"), ("-r", "1.4.2-r1-alpine", "1.4.2-r10-alpine"),
     ("-", "1.4.2-1-alpine", "1.4.2-10-alpine"), ("_", "1.4.2_1-alpine", "1.4.2_10-alpine")],
)  # fmt: skip
def test_the_separator_can_be_chosen(separator: str, first: str, tenth: str) -> None:
    """With each separator the first revision follows the tag, and the tenth is newer than the second."""
    root, there = Tag("1.4.2-alpine"), [Tag(tenth), Tag(first.replace("1-alpine", "2-alpine"))]

    assert next_revision(root, [], separator) == first
    assert newest_revision(root, there, separator) == tenth
    assert newest_revision(Tag(tenth), [root, *there], separator) == tenth
    assert newest_within(root, there, VersionStep.REVISION, separator) == tenth
    assert revised(Tag(first), frozenset((root,)), separator) == (root, 1)
    assert may_be_revision(Tag(first), separator)
    assert not may_be_revision(root, separator)


def test_a_separator_that_is_not_offered_is_refused() -> None:
    """A separator that would not be ordered, such as `+`, is refused with those that are."""
    assert [parse_separator(each) for each in SEPARATORS] == list(SEPARATORS)
    with pytest.raises(RevisionInvalid, match="expected one of"):
        parse_separator("+")


def test_a_tag_that_would_be_too_long_has_no_revision() -> None:
    """A tag of the maximum length has no revision, instead of one that is cut."""
    with pytest.raises(RevisionInvalid, match="no further revision"):
        next_revision(Tag("a" * MAX_TAG_BYTES), [])


def test_a_number_beyond_the_limit_has_no_next_one() -> None:
    """After the largest number of a revision there is no further one, and the error has the limit."""
    with pytest.raises(RevisionInvalid, match=r'"1\.4\.2\.1000000"; expected .* the number 999999'):
        next_revision(Tag("1.4.2"), [Tag("1.4.2.999999")])


@pytest.mark.parametrize("tag", ["16", "16.13"])
def test_a_revision_of_a_short_version_is_of_another_line(tag: str) -> None:
    """A revision of a version with one or two numbers is no update of it: from there the next short version is not found."""
    revision = next_revision(Tag(tag), [])

    assert newest_within(Tag(tag), [revision], VersionStep.MAJOR) is None
    assert newest_within(revision, [Tag("17"), Tag("16.14")], VersionStep.MAJOR) is None


numbers = st.integers(0, 300)
versions = st.tuples(numbers, numbers, numbers, st.sampled_from(["", "-alpine", "-slim-bookworm"]))


@given(versions, st.integers(1, 20), st.booleans())
def test_a_revision_is_after_its_version_and_before_the_next(
    version: tuple[int, int, int, str], number: int, lead: bool
) -> None:
    """By our own order each revision comes after its version and the revision before, and before the next patch."""
    major, minor, patch, suffix = version
    written = f"{'v' * lead}{major}.{minor}"
    root, following = Tag(f"{written}.{patch}{suffix}"), Tag(f"{written}.{patch + 1}{suffix}")
    made = [root]
    for _ in range(number):
        made.append(next_revision(made[-1], made))
    ordered = [version_of(each) for each in (*made, following)]

    assert len(set(made)) == number + 1
    assert sorted(each.numbers for each in ordered if each) == [each.numbers for each in ordered if each]
    assert len({each.line for each in ordered if each}) == 1
    assert newest_within(root, [*made, following], VersionStep.REVISION) == made[-1]
    assert newest_within(made[-1], [*made, following], VersionStep.PATCH) == following


@pytest.mark.parametrize("separator", SEPARATORS)
@pytest.mark.parametrize("suffix", ["", "-alpine"])
def test_debian_orders_revisions_as_we_do(separator: str, suffix: str) -> None:
    """Debian's own comparison has each revision after its version and before the next one."""
    made = [Tag(f"1.4.2{suffix}")]
    for _ in range(10):
        made.append(next_revision(made[-1], made, separator))
    made.append(Tag(f"1.4.3{suffix}"))

    def compare(first: str, second: str) -> int:
        relation = [str(program("dpkg")), "--compare-versions", first, "lt", second]
        return -1 if subprocess.run(relation, check=False).returncode == 0 else 1

    backwards = made[::-1]

    assert sorted(backwards, key=cmp_to_key(compare)) == made


@given(
    st.sets(st.from_regex(r"v?[12](?:\.[0-2]){0,4}(?:-(?:alpine|r[12]))?", fullmatch=True), max_size=12),
    st.sampled_from(SEPARATORS),
)
def test_the_newer_revisions_of_a_repository_are_those_of_its_tags(texts: set[str], separator: str) -> None:
    """For each tag with a newer revision that one is its newest, and all other tags are the newest of their version."""
    tags = frozenset(map(Tag, texts))
    newer = newer_revisions(tags, separator)

    assert {tag: newer.get(tag, tag) for tag in tags} == {tag: newest_revision(tag, tags, separator) for tag in tags}
