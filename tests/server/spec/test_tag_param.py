"""`?tag=` on a manifest push by digest: end-7b. All the tags are set or none."""

from __future__ import annotations

import httpx2
import pytest

from tests.images import error_of, image, index, meaning, push, push_parts, put


def accepted(answer: httpx2.Response) -> list[str]:
    """Return the tags of all OCI-Tag headers, whether repeated or a list."""
    return [tag.strip() for value in answer.headers.get_list("OCI-Tag") for tag in value.split(",")]


@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
async def test_each_tag_is_set_and_named_in_the_answer(client: httpx2.AsyncClient, algorithm: str) -> None:
    """A push by digest with `?tag=` sets each tag and answers with OCI-Tag for each."""
    document = image("tagged", algorithm=algorithm)

    answer = await push(client, "shop/app", document.digest, document, tags=["1.0.0", "1.0.1"])

    assert answer.status_code == 201
    assert sorted(accepted(answer)) == ["1.0.0", "1.0.1"]
    assert await meaning(client, "shop/app", "1.0.0") == document.digest
    assert await meaning(client, "shop/app", "1.0.1") == document.digest


async def test_ten_tags_are_accepted(client: httpx2.AsyncClient) -> None:
    """Ten tags in one push are accepted."""
    document = image("tagged")
    tags = [f"1.0.{number}" for number in range(10)]

    answer = await push(client, "shop/app", document.digest, document, tags=tags)

    assert answer.status_code == 201
    assert sorted(accepted(answer)) == sorted(tags)


async def test_far_too_many_tags_are_refused(client: httpx2.AsyncClient) -> None:
    """A thousand tags are refused with 4xx, and none is set."""
    document = image("tagged")

    answer = await push(client, "shop/app", document.digest, document, tags=[f"1.0.{number}" for number in range(1000)])

    assert answer.status_code in {400, 413, 414, 431}
    assert await meaning(client, "shop/app", "1.0.0") is None
    assert await meaning(client, "shop/app", document.digest) is None


async def test_an_index_is_pushed_with_tags(client: httpx2.AsyncClient) -> None:
    """An index may be pushed with tags."""
    document = index(image("one"), image("two"))

    answer = await push(client, "shop/app", document.digest, document, tags=["2.0.0"])

    assert accepted(answer) == ["2.0.0"]


async def test_a_tag_named_twice_is_set_once(client: httpx2.AsyncClient) -> None:
    """A tag that is named twice is set once."""
    document = image("tagged")

    answer = await push(client, "shop/app", document.digest, document, tags=["1.0.0", "1.0.0"])

    assert answer.status_code == 201
    assert accepted(answer) == ["1.0.0"]


@pytest.mark.parametrize("bad", ["", "-1", ".1", "a b", "a/b", "x" * 129, "\u00fc", "1.0.0,1.0.1"])
async def test_a_malformed_tag_refuses_them_all(client: httpx2.AsyncClient, bad: str) -> None:
    """One malformed tag refuses the push: 400, and no tag is set."""
    document = image("tagged")

    answer = await push(client, "shop/app", document.digest, document, tags=["1.0.0", bad])

    assert answer.status_code == 400
    assert error_of(answer)[0] == "MANIFEST_INVALID"
    assert await meaning(client, "shop/app", "1.0.0") is None
    assert await meaning(client, "shop/app", document.digest) is None


async def test_a_push_by_digest_without_tags_has_no_oci_tag(client: httpx2.AsyncClient) -> None:
    """A push without `?tag=` gets no OCI-Tag."""
    document = image("untagged")

    answer = await push(client, "shop/app", document.digest, document)

    assert "OCI-Tag" not in answer.headers


async def test_a_tag_parameter_on_a_push_by_tag_is_not_ignored(client: httpx2.AsyncClient) -> None:
    """`?tag=` beside a tag in the path is refused or set, and never ignored."""
    document = image("tagged")
    await push_parts(client, "shop/app", document)

    answer = await put(client, "shop/app", "1.0.0", document, tags=["1.0.1"])

    if answer.status_code == 201:
        assert sorted(accepted(answer)) in (["1.0.0", "1.0.1"], ["1.0.1"])
        assert await meaning(client, "shop/app", "1.0.1") == document.digest
    else:
        assert answer.status_code == 400
        assert await meaning(client, "shop/app", "1.0.0") is None
