"""`/v2/_catalog`, which clients use although the spec lacks it, lists repositories in pages."""

from __future__ import annotations

import httpx2
import pytest

from tests.images import image, push

CATALOG = "/v2/_catalog"
REPOSITORIES = ["a", "b/c", "b/d", "shop/app", "z"]


async def publish(client: httpx2.AsyncClient) -> None:
    for repository in reversed(REPOSITORIES):
        await push(client, repository, "1.0.0", image("listed"))


async def test_an_empty_registry_has_an_empty_list(client: httpx2.AsyncClient) -> None:
    """An empty registry lists `[]`."""
    answer = await client.get(CATALOG)

    assert answer.status_code == 200
    assert answer.json() == {"repositories": []}


async def test_the_repositories_are_listed_in_order(client: httpx2.AsyncClient) -> None:
    """Every repository that was pushed to is listed, sorted."""
    await publish(client)

    answer = await client.get(CATALOG)

    assert answer.json() == {"repositories": REPOSITORIES}
    assert "Link" not in answer.headers


@pytest.mark.parametrize("n", [1, 2, 4])
async def test_pages_of_n_have_every_repository_once(client: httpx2.AsyncClient, n: int) -> None:
    """Following Link returns every repository once; a slash in the last name is escaped."""
    await publish(client)
    url, found = f"{CATALOG}?n={n}", []
    while url:
        answer = await client.get(url)
        found += answer.json()["repositories"]
        url = answer.links["next"]["url"] if "next" in answer.links else ""

    assert found == REPOSITORIES


async def test_n_of_zero_is_an_empty_page(client: httpx2.AsyncClient) -> None:
    """`n=0` is an empty list without a Link."""
    await publish(client)

    answer = await client.get(CATALOG, params={"n": 0})

    assert answer.json() == {"repositories": []}
    assert "Link" not in answer.headers


async def test_last_works_with_a_name_that_does_not_exist(client: httpx2.AsyncClient) -> None:
    """The list continues after `last`, whether that repository exists or not."""
    await publish(client)

    answer = await client.get(CATALOG, params={"last": "b/cc"})

    assert answer.json()["repositories"] == ["b/d", "shop/app", "z"]


@pytest.mark.parametrize("n", ["-1", "x", ""])
async def test_an_n_that_is_no_number_is_400(client: httpx2.AsyncClient, n: str) -> None:
    """An `n` that is no whole number is 400."""
    answer = await client.get(CATALOG, params={"n": n})

    assert answer.status_code == 400
