"""The `detail` of a refusal for a tag that is held back."""

from __future__ import annotations

from pathlib import Path

from tests.fakes.upstream import FakeUpstream
from tests.images import image
from tests.server.mirror.mirrors import mirror_settings, table_of
from tests.serving import serving_as


async def test_a_tag_that_is_held_back_says_so(data: Path, upstream: FakeUpstream) -> None:
    """The detail of a held tag has the digest that an operator can accept."""
    shown = upstream.publish("team/app", "1.4.2", image("one"))
    table = table_of(upstream) | {"rule": [{"tag": "*", "first_seen": "hold"}]}
    async with serving_as(mirror_settings(data, table)) as mirror:
        answer = await mirror.client.get("/v2/up.example/team/app/manifests/1.4.2")

    assert answer.status_code == 403
    assert answer.json()["errors"][0]["detail"] == {"reason": "held", "tag": "1.4.2", "digest": shown.digest}
