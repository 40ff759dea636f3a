"""Pages of referrers together list each referrer once, whatever their limits are."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from boltseal.oci.digest import Digest
from boltseal.oci.reference import Repository
from boltseal.server.registry.pulls import Pulls
from boltseal.server.store_factory import open_store
from tests.images import (
    OCI_INDEX,
    OCI_MANIFEST,
    SBOM_TYPE,
    Document,
    artifact,
    image,
    index,
    push,
    put,
    signature_tag,
    to_json,
)
from tests.page_views import counted
from tests.serving import FLOATING, serving, settings_of

REPOSITORY = Repository("shop/app")
SUBJECT = image("subject")
DIRECT = [
    artifact(f"direct {number}", subject=SUBJECT, annotations={"words": "x" * (number * 211 % 900)})
    for number in range(8)
]
LISTED = [artifact(f"listed {number}", annotations={"words": "x" * (number * 307 % 900)}) for number in range(6)]
OTHER = [artifact("other type", artifact_type="application/other"), *LISTED[4:]]


async def all_pages(pulls: Pulls, artifact_type: str | None, n: int | None, max_bytes: int) -> list[str]:
    """Return the digests of the referrers on all pages, in the order of the pages."""
    found: list[str] = []
    more, after = True, ""
    while more:
        page = await pulls.referrers(
            REPOSITORY, Digest.parse(SUBJECT.digest), artifact_type, after=after, n=n, max_bytes=max_bytes
        )
        assert page.rows
        assert n is None or len(page.rows) <= n
        found += [str(row.digest) for row in page.rows]
        more, after = page.more, found[-1]
    return found


@pytest.mark.parametrize("artifact_type", [None, SBOM_TYPE])
@pytest.mark.parametrize("listed", [(), (*LISTED, *OTHER, *DIRECT[::2])], ids=["subjects", "with-fallback-tag"])
async def test_pages_list_each_referrer_once(data: Path, artifact_type: str | None, listed: Sequence[Document]) -> None:
    """For any number and bytes of a page, referrers with a subject and those of a fallback tag are on one page each."""
    expected = {each.digest for each in (*DIRECT, *listed) if artifact_type is None or each is not OTHER[0]}
    async with serving(data, FLOATING) as registry:
        await push(registry.client, "shop/app", "1.0.0", SUBJECT)
        for document in {*DIRECT, *listed}:
            await push(registry.client, "shop/app", document.digest, document)
        if listed:
            await push(registry.client, "shop/app", signature_tag(SUBJECT, ""), index(*listed))
    limits = (1, len(DIRECT[1].raw), len(LISTED[1].raw) + 1, 2000, 3000, 10**6)
    with open_store(settings_of(data, FLOATING)) as store:
        for n in (None, 1, 2, 3, 5, len(expected) - 1, len(expected)):
            for max_bytes in limits:
                found = await all_pages(store.registry.pulls, artifact_type, n, max_bytes)
                assert found == sorted(expected), (n, max_bytes)


async def test_a_fallback_tag_that_lists_thousands_costs_a_few_statements(data: Path) -> None:
    """Any client that may push can list ten thousand digests that nothing has; they are looked up together."""
    missing = [
        {"mediaType": OCI_MANIFEST, "digest": str(Digest.of(str(number).encode())), "size": 1} for number in range(3000)
    ]
    raw = to_json({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [LISTED[0].descriptor(), *missing]})
    async with serving(data, FLOATING) as registry:
        await push(registry.client, "shop/app", "1.0.0", SUBJECT)
        await push(registry.client, "shop/app", LISTED[0].digest, LISTED[0])
        answer = await put(registry.client, "shop/app", signature_tag(SUBJECT, ""), Document(raw, OCI_INDEX))
    with open_store(settings_of(data, FLOATING)) as store, counted() as statements:
        found = await all_pages(store.registry.pulls, None, 10, 10**6)

    assert answer.status_code == 201
    assert found == [LISTED[0].digest]
    assert len(statements) < 15
