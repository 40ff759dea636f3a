"""The tag-history extension of distribution-spec PR #606 (experimental), each sentence as a docstring; and discovery."""

from __future__ import annotations

from typing import Any

import httpx2
import pytest

from boltseal.server.api.history import EVENT, TIMESTAMP
from tests.images import Document, image, push
from tests.polling import until_signed
from tests.serving import Serving

HISTORY = "/v2/shop/app/_oci/tag-history/latest"


@pytest.fixture
async def history(client: httpx2.AsyncClient) -> list[Document]:
    """A tag `latest` with one image, then another, a deletion, and a third image."""
    first, second, third = image("first"), image("second"), image("third")
    await push(client, "shop/app", "latest", first)
    await push(client, "shop/app", "latest", second)
    await client.delete("/v2/shop/app/manifests/latest")
    await push(client, "shop/app", "latest", third)
    await until_signed(client, 5)
    return [first, second, third]


async def events(client: httpx2.AsyncClient, **parameters: Any) -> list[tuple[str, str]]:
    answer = await client.get(HISTORY, params=parameters)

    assert answer.status_code == 200
    return [(one["annotations"][EVENT], one["digest"]) for one in answer.json()["manifests"]]


async def test_events_are_listed_newest_first(client: httpx2.AsyncClient, history: list[Document]) -> None:
    """Results MUST be sorted in descending order by the history entries; each MUST be a create or delete entry.

    A descriptor for a tag deletion event MUST describe the manifest the tag pointed to immediately before deletion.
    """
    first, second, third = history

    assert await events(client) == [
        ("created", third.digest),
        ("deleted", second.digest),
        ("created", second.digest),
        ("created", first.digest),
    ]


async def test_the_response_is_an_index_of_descriptors(client: httpx2.AsyncClient, history: list[Document]) -> None:
    """Upon success, the response body MUST be an OCI Index; descriptors MUST include mediaType, size, digest, annotations."""
    answer = await client.get(HISTORY)
    newest = answer.json()["manifests"][0]

    assert answer.headers["content-type"] == "application/vnd.oci.image.index.v1+json"
    assert answer.headers["content-length"] == str(len(answer.content))
    assert answer.json()["schemaVersion"] == 2
    assert answer.json()["mediaType"] == "application/vnd.oci.image.index.v1+json"
    assert newest["mediaType"] == history[2].media_type
    assert newest["size"] == len(history[2].raw)
    assert set(newest["annotations"]) == {TIMESTAMP, EVENT}


@pytest.mark.parametrize("path", ["/v2/no/such/_oci/tag-history/latest", "/v2/shop/app/_oci/tag-history/never"])
async def test_an_unknown_tag_has_an_empty_history(
    client: httpx2.AsyncClient, history: list[Document], path: str
) -> None:
    """If the repository does not exist or the tag has no history, the registry MUST return 200 with an empty list."""
    answer = await client.get(path)

    assert answer.status_code == 200
    assert answer.json()["manifests"] == []


@pytest.mark.parametrize("path", ["/v2/shop/app/_oci/tag-history/-no-tag", "/v2/SHOP/_oci/tag-history/latest"])
async def test_nothing_else_is_a_404(client: httpx2.AsyncClient, path: str) -> None:
    """The registry MUST NOT return a 404 Not Found response code for any other condition."""
    answer = await client.get(path)

    assert answer.status_code == 400


async def test_the_history_outlives_the_tag(client: httpx2.AsyncClient, history: list[Document]) -> None:
    """Tag history SHOULD remain queryable after the tag is deleted; deleted manifests SHOULD NOT be removed from it."""
    await client.delete(f"/v2/shop/app/manifests/{history[2].digest}")
    await until_signed(client, 6)

    assert (await events(client))[:2] == [("deleted", history[2].digest), ("created", history[2].digest)]


async def test_n_of_zero_is_an_empty_page(client: httpx2.AsyncClient, history: list[Document]) -> None:
    """When `n` is zero, this endpoint MUST return an OCI Index with an empty list and MUST NOT include a Link header."""
    answer = await client.get(HISTORY, params={"n": 0})

    assert answer.json()["manifests"] == []
    assert "link" not in answer.headers


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5])
async def test_links_lead_through_all_pages(client: httpx2.AsyncClient, history: list[Document], n: int) -> None:
    """A Link header MUST be included when additional entries are available; without one the client has reached the end."""
    url, pages = f"{HISTORY}?n={n}", []
    while url:
        answer = await client.get(url)
        pages.append(len(answer.json()["manifests"]))
        url = answer.links["next"]["url"] if "next" in answer.links else ""

    assert sum(pages) == 4
    assert all(size == n for size in pages[:-1])
    assert pages[-1] > 0


async def test_before_and_since_are_strict(client: httpx2.AsyncClient, history: list[Document]) -> None:
    """Only entries strictly older than `before`, strictly newer than `since`; the two MAY be combined."""
    whole = (await client.get(HISTORY)).json()["manifests"]
    times = [one["annotations"][TIMESTAMP] for one in whole]
    of_all = await events(client)

    assert await events(client, before=times[1]) == of_all[2:]
    assert await events(client, since=times[2]) == of_all[:2]
    assert await events(client, since=times[3], before=times[0]) == of_all[1:3]
    assert len(set(times)) == 4


async def test_times_finer_than_a_microsecond_stay_strict(client: httpx2.AsyncClient, history: list[Document]) -> None:
    """An event is older than a `before` one nanosecond later, and not newer than such a `since`."""
    newest = (await client.get(HISTORY)).json()["manifests"][0]["annotations"][TIMESTAMP]
    after = newest.replace("Z", "001Z")

    assert len(await events(client, before=after)) == 4
    assert await events(client, since=after) == []
    assert len(await events(client, before=after.replace("Z", "+00:00"))) == 4


async def test_a_digest_filters(client: httpx2.AsyncClient, history: list[Document]) -> None:
    """Only entries for the given digest; for one that was not part of the history 200 with an empty list."""
    assert await events(client, digest=history[0].digest) == [("created", history[0].digest)]
    assert await events(client, digest=image("never").digest) == []


@pytest.mark.parametrize(
    "wrong", [{"before": "yesterday"}, {"since": "2026-13-01T00:00:00Z"}, {"digest": "sha256:short"}, {"n": "-1"}]
)
async def test_malformed_parameters_are_400(client: httpx2.AsyncClient, wrong: dict[str, str]) -> None:
    """Malformed input is 400 with one clear line, and never 404."""
    answer = await client.get(HISTORY, params=wrong)

    assert answer.status_code == 400
    assert next(iter(wrong)) in answer.json()["errors"][0]["message"]


@pytest.mark.parametrize("path", ["/v2/_oci/ext/discover", "/v2/shop/app/_oci/ext/discover"])
async def test_extensions_are_discovered(client: httpx2.AsyncClient, path: str) -> None:
    """The base extension returns an array of supported extensions with details of the endpoints."""
    answer = await client.get(path)
    extensions = {one["name"]: one for one in answer.json()["extensions"]}

    assert answer.headers["content-type"] == "application/json"
    assert any("tag-history" in endpoint for endpoint in extensions["_oci"]["endpoints"])
    assert all({"name", "url", "endpoints"} <= set(one) for one in extensions.values())


async def test_sealing_is_no_event(registry: Serving) -> None:
    """Entries about a tag's protection only are no events of its history."""
    one = image("sealed")
    await push(registry.client, "shop/app", "1.0.0", one)
    await until_signed(registry.client, 2)
    answer = await registry.client.get("/v2/shop/app/_oci/tag-history/1.0.0")

    assert [entry["annotations"][EVENT] for entry in answer.json()["manifests"]] == ["created"]
