"""`boltseal rebase` at a registry without a ledger and without conditional requests: CNCF distribution."""

from __future__ import annotations

from pathlib import Path

import httpx2
import pytest

from tests import servers
from tests.cli import program
from tests.tar_images import app_on, base_of, push_document

pytestmark = [pytest.mark.real, pytest.mark.slow]

NAME, DIGEST = "org.opencontainers.image.base.name", "org.opencontainers.image.base.digest"
OLD, NEW = (base_of({"usr/lib/tls.so": f"tls {number}"}) for number in (1, 2))


def test_an_image_of_another_registry_is_rebased_and_current_by_its_annotation(tmp_path: Path) -> None:
    """At a registry without a ledger annotations name the bases; the result is current by them, and no tag is moved."""
    with (
        servers.docker_registry(tmp_path / "registry") as registry,
        httpx2.Client(base_url=registry.url, trust_env=False) as client,
    ):
        base, image = f"{registry.address}/base/os:latest", f"{registry.address}/shop/app:1.4.2"
        push_document(client, "base/os", "latest", OLD)
        app = app_on(OLD, {"app/main": "main"}, annotations={NAME: base, DIGEST: OLD.digest})
        push_document(client, "shop/app", "1.4.2", app)
        push_document(client, "base/os", "latest", NEW)
        made, again = (program.call("rebase", image, "--onto", base, "--scheme", "revision") for _ in range(2))
        moved = program.call("rebase", image, "--onto", base, "--tag", "1.4.2")
        [result] = program.call("outdated", f"{image}.1", "--window", "0s", "--json").json["results"]
        tags = client.get("/v2/shop/app/tags/list").json()["tags"]

    assert (made.code, again.code, moved.code) == (0, 0, 1), made.err + again.err + moved.err
    assert "keeps no ledger" in made.err
    assert again.out.startswith("unchanged")
    assert (result["status"], result["by"]) == ("current", "an annotation of the manifest")
    assert sorted(tags) == ["1.4.2", "1.4.2.1"]
