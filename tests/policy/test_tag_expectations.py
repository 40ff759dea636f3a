"""Which tags move by their publisher's custom, by `[[tags]]` tables and by the form of the tag."""

from __future__ import annotations

import pytest

from boltseal.oci.reference import Reference
from boltseal.policy.tag_expectations import OFFICIAL_IMAGES, Expect, TagExpectations, TagsInvalid, parse_tags


def expected(name: str, *tables: dict[str, str]) -> str:
    return TagExpectations((*parse_tags(tables), *OFFICIAL_IMAGES)).of(Reference.parse(name))


@pytest.mark.parametrize(
    ("name", "expect"),
    [
        ("python:3.12.4-slim", "rebuilt"),
        ("public.ecr.aws/docker/library/python:3.12.4", "rebuilt"),
        ("mirror.gcr.io/library/python:3.12.4", "rebuilt"),
        ("python:3.12", "moving"),
        ("python", "moving"),
        ("debian:bookworm-20240513", "immutable"),
        ("bitnami/redis:7.2.4", "immutable"),
        ("ghcr.io/library/app:1.4.2", "immutable"),
        ("ghcr.io/team/app:1.4", "moving"),
    ],
)
def test_only_dockers_official_images_are_rebuilt_by_default(name: str, expect: str) -> None:
    """A release of Docker's official images is rebuilt by custom; any other is immutable, and what is no release moves."""
    assert expected(name) == expect


def test_the_first_table_that_matches_decides() -> None:
    """A user's table comes before the built-in ones, and the first one that matches decides, for every form of tag."""
    tables = (
        {"repository": "docker.io/library/python", "expect": "immutable"},
        {"repository": "docker.io/library/*", "expect": "moving"},
        {"repository": "*.example.com:5000/team/**", "expect": "rebuilt"},
    )

    assert expected("python:3.12", *tables) == "immutable"
    assert expected("debian:bookworm-20240513", *tables) == "moving"
    assert expected("eu.example.com:5000/team/a/b:1.4.2", *tables) == "rebuilt"
    assert expected("eu.example.com:5000/team/a/b:1.4.2-20240513", *tables) == "rebuilt"
    assert expected("eu.example.com:5000/team/a/b:main", *tables) == "moving"
    assert expected("example.com:5000/team/a:1.4.2", *tables) == "immutable"
    assert expected("ghcr.io/a/b:1.4.2", {"repository": "**", "expect": "moving"}) == "moving"


@pytest.mark.parametrize(
    ("expect", "moved", "gone"), [("immutable", True, True), ("rebuilt", False, True), ("moving", False, False)]
)
def test_a_deletion_is_not_explained_by_a_rebuild(expect: str, moved: bool, gone: bool) -> None:
    """A tag that is rebuilt by custom may move without an alarm, but not be deleted."""
    found = TagExpectations(parse_tags([{"repository": "ghcr.io/a/b", "expect": expect}]))
    image = Reference.parse("ghcr.io/a/b:1.4.2")
    assert image.tag is not None

    assert found.alarm(image.registry, image.repository, image.tag, gone=False) == moved
    assert found.alarm(image.registry, image.repository, image.tag, gone=True) == gone
    assert found.of(image) is Expect(expect)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (3, '[[tags]] 1 is "3"; expected a table'),
        ({"repository": "a/b", "expect": "moving", "tag": "1"}, 'unknown key "tag"; known keys: repository, expect'),
        ({"repository": "a/b"}, 'expect is "None"; expected one of: immutable, rebuilt, moving'),
        ({"repository": "a/b", "expect": ["moving"]}, "expected one of: immutable, rebuilt, moving"),
        ({"expect": "moving"}, 'repository is "None"; expected a glob of complete names'),
        ({"repository": "python", "expect": "moving"}, '"python" is not a complete name; expected a registry and'),
        ({"repository": "a b/c", "expect": "moving"}, "is not a complete name"),
        ({"repository": "docker.io/A", "expect": "moving"}, "can't be in a repository name: they are lower-case"),
        ({"repository": "docker.io/", "expect": "moving"}, "an empty glob"),
    ],
)
def test_an_invalid_table_is_refused(table: object, message: str) -> None:
    """An invalid `[[tags]]` table is an error with its number and what is expected."""
    with pytest.raises(TagsInvalid) as refused:
        parse_tags([table])

    assert message in refused.value.message


def test_the_number_of_tables_is_limited() -> None:
    """More than 500 tables are refused: each is compared with every tag that moved."""
    with pytest.raises(TagsInvalid, match="501 tables"):
        parse_tags([{}] * 501)
