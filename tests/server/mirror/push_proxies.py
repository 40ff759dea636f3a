"""The state that tests of the push proxy check: ledger, reservations, and upstream."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from boltseal.ledger.entry import parse
from tests.fakes.upstream import FakeUpstream
from tests.images import digest_of
from tests.server.mirror.mirrors import NAME
from tests.server.mirror.observed import rows

APP = f"{NAME}/team/app"
PUT = "PUT /v2/team/app/manifests/1.4.2"
HEAD = "HEAD /v2/team/app/manifests/1.4.2"


def entries(data: Path) -> list[tuple[str, str, str, str]]:
    """Return the ledger's entries about tags: kind, tag, digest, actor."""
    lines = [parse(row[0]) for row in rows(data, "SELECT line FROM entry WHERE tag != '' ORDER BY idx")]
    return [(str(one.kind), one.tag, one.digest, one.actor) for one in lines]


def reserved(data: Path) -> list[tuple[Any, ...]]:
    return rows(data, "SELECT repository, tag, digest FROM reservation")


def tags_upstream(upstream: FakeUpstream, repository: str = "team/app") -> dict[str, str]:
    held = upstream.manifests.get(repository, {})
    return {tag: digest_of(raw) for tag, (_, raw) in held.items() if ":" not in tag}
