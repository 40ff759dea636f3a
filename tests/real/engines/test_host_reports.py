"""`deploy --report` and `ps --report` with a real engine: what the registry then shows of the host."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.real.compose_project import ENDS, HEALTHY, ComposeProject
from tests.real.registry import Registry
from tests.real.sleeper import SLEEP
from tests.real.tools import Docker

pytestmark = pytest.mark.real


def test_a_host_reports_its_releases_and_containers(
    docker: Docker, registry: Registry, repository: str, tmp_path: Path
) -> None:
    """A release that runs and one that failed, with their images by digest, and the container that runs after both."""
    shop = ComposeProject(tmp_path / "project", docker, registry.server, tmp_path / "state", repository)
    to = ("--report", registry.host, "--report-as", repository.replace("/", "-"))
    secret = {"environment": {"PASSWORD": "never-sent"}, "healthcheck": HEALTHY}
    digests = []
    try:
        for tag, command in (("1", SLEEP), ("2", ENDS)):
            digests.append(shop.publish(tag, command=command))
            shop.write({"web": {"image": shop.image(tag), **secret}})
            shop.locked()
            done = shop.run("deploy", "--json", *to)
            assert json.loads(done.out)["report"]["error"] is None, done
        listed = shop.run("ps", "--json", *to)
    finally:
        shop.down()

    def read(name: str, **query: str) -> tuple[list[dict[str, Any]], str]:
        answer = httpx2.get(f"{registry.server.url}/api/v1/{name}", params={"host": to[-1], **query}, trust_env=False)
        items: list[dict[str, Any]] = answer.json()["items"]
        return items, answer.text

    releases, first = read("releases")
    images, second = read("hosts/images")
    assert json.loads(listed.out)["report"]["error"] is None
    assert [(each["release"]["number"], each["release"]["end"]) for each in releases] == [
        (2, "put-back"),
        (1, "healthy"),
    ]
    assert [digests[1] in str(releases[0]["images"]), digests[0] in str(releases[1]["images"])] == [True, True]
    runs = [each["image"] for each in images if each["kind"] == "ps" and each["repository"] == repository]
    assert [(each["service"], digests[0] in each["digests"]) for each in runs] == [("web", True)]
    assert "never-sent" not in first + second
