"""Listing tags: end-8a and end-8b."""

from __future__ import annotations

import httpx2
import pytest

from tests.images import error_of, image, push, push_parts, put

LIST = "/v2/shop/app/tags/list"
TAGS = ["1.0.0", "1.10.0", "1.2.0", "2.0.0", "A", "_x", "a", "b"]


async def publish(client: httpx2.AsyncClient) -> None:
    """Push one image under all TAGS, in another order than theirs."""
    document = image("listed")
    await push_parts(client, "shop/app", document)
    for tag in reversed(TAGS):
        answer = await put(client, "shop/app", tag, document)
        if answer.status_code != 201:
            raise AssertionError(answer.text)


async def pages(client: httpx2.AsyncClient, url: str) -> list[list[str]]:
    """Return all pages from this one on, by following Link."""
    found = []
    while url:
        answer = await client.get(url)
        found.append(answer.json()["tags"])
        url = answer.links["next"]["url"] if "next" in answer.links else ""
    return found


async def test_the_list_has_the_name_and_the_tags_in_order(client: httpx2.AsyncClient) -> None:
    """The list has the repository's name and its sorted tags."""
    await publish(client)

    answer = await client.get(LIST)

    assert answer.status_code == 200
    assert answer.headers["Content-Type"].startswith("application/json")
    assert answer.json() == {"name": "shop/app", "tags": TAGS}
    assert "Link" not in answer.headers


async def test_a_repository_without_tags_has_an_empty_list(client: httpx2.AsyncClient) -> None:
    """A known repository without tags is listed as `[]`, neither null nor 404."""
    document = image("untagged")
    await push(client, "shop/app", document.digest, document)

    answer = await client.get(LIST)

    assert answer.status_code == 200
    assert answer.json() == {"name": "shop/app", "tags": []}


async def test_an_unknown_repository_is_404(client: httpx2.AsyncClient) -> None:
    """An unknown repository is 404 NAME_UNKNOWN."""
    answer = await client.get(LIST)

    assert answer.status_code == 404
    assert error_of(answer)[0] == "NAME_UNKNOWN"


@pytest.mark.parametrize("n", [1, 3, 7])
async def test_pages_of_n_have_every_tag_once(client: httpx2.AsyncClient, n: int) -> None:
    """With `n` a page has at most n tags, and Link (`rel="next"`) is followed through all."""
    await publish(client)

    found = await pages(client, f"{LIST}?n={n}")

    assert [tag for page in found for tag in page] == TAGS
    assert all(len(page) == n for page in found[:-1])


@pytest.mark.parametrize("n", [8, 9, 1000])
async def test_a_page_that_reaches_the_end_has_no_link(client: httpx2.AsyncClient, n: int) -> None:
    """The last page has no Link."""
    await publish(client)

    answer = await client.get(LIST, params={"n": n})

    assert answer.json()["tags"] == TAGS
    assert "Link" not in answer.headers


async def test_the_link_is_relative_and_keeps_n(client: httpx2.AsyncClient) -> None:
    """The Link of a page is relative, after RFC 5988, with the same n and the last tag of this page."""
    await publish(client)

    answer = await client.get(LIST, params={"n": 3})

    assert answer.headers["Link"] == f'<{LIST}?n=3&last=1.2.0>; rel="next"'


async def test_n_of_zero_is_an_empty_page(client: httpx2.AsyncClient) -> None:
    """`n=0` is an empty list without a Link."""
    await publish(client)

    answer = await client.get(LIST, params={"n": 0})

    assert answer.status_code == 200
    assert answer.json()["tags"] == []
    assert "Link" not in answer.headers


@pytest.mark.parametrize(
    ("last", "rest"),
    [
        ("1.2.0", TAGS[3:]),
        ("1.3.0", TAGS[3:]),
        ("0", TAGS),
        ("b", []),
        ("zzz", []),
        ("", TAGS),
        ("not a tag !", TAGS),
    ],
)
async def test_last_works_without_n_and_with_missing_tags(
    client: httpx2.AsyncClient, last: str, rest: list[str]
) -> None:
    """The list continues after `last` in order, whether that tag exists or not, and without `n` to the end."""
    await publish(client)

    answer = await client.get(LIST, params={"last": last})

    if last == "not a tag !":
        assert answer.status_code in {200, 400}
        return
    assert answer.json()["tags"] == rest


async def test_last_and_n_can_be_combined(client: httpx2.AsyncClient) -> None:
    """With `last` and `n` the page has n tags after `last`."""
    await publish(client)

    answer = await client.get(LIST, params={"n": 2, "last": "1.10.0"})

    assert answer.json()["tags"] == ["1.2.0", "2.0.0"]


@pytest.mark.parametrize("n", ["-1", "x", "", "1.5", "1e3", "\u0663"])
async def test_an_n_that_is_no_number_is_400(client: httpx2.AsyncClient, n: str) -> None:
    """An `n` that is no whole number is 400."""
    await publish(client)

    answer = await client.get(LIST, params={"n": n})

    assert answer.status_code == 400
    assert error_of(answer)[1]


async def test_an_enormous_n_gets_all_tags(client: httpx2.AsyncClient) -> None:
    """An `n` larger than any list or machine word gets all tags."""
    await publish(client)

    answer = await client.get(LIST, params={"n": str(10**40)})

    assert answer.status_code == 200
    assert answer.json()["tags"] == TAGS


async def test_a_deleted_tag_is_not_listed(floating_client: httpx2.AsyncClient) -> None:
    """A deleted tag is no longer listed."""
    await publish(floating_client)
    await floating_client.delete("/v2/shop/app/manifests/1.10.0")

    answer = await floating_client.get(LIST)

    assert answer.json()["tags"] == [tag for tag in TAGS if tag != "1.10.0"]


async def test_other_repositories_tags_are_not_listed(client: httpx2.AsyncClient) -> None:
    """The list has the tags of one repository only."""
    await push(client, "shop/app", "1.0.0", image("one"))
    await push(client, "shop/app2", "2.0.0", image("two"))

    answer = await client.get(LIST)

    assert answer.json()["tags"] == ["1.0.0"]
