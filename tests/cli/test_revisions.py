"""Rebuilds of sealed tags: the next revision at a listening registry, by `tag new` and by `outdated --rebuild`."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx2
import pytest

from boltseal.commands.build_revisions import Rebuilt
from boltseal.oci.reference import Tag
from tests.cli.program import call
from tests.images import Document
from tests.project.bases.layered import layered
from tests.servers import Server

NAME, DIGEST = "org.opencontainers.image.base.name", "org.opencontainers.image.base.digest"
WAS, NOW = layered("ab"), layered("acd")


class Shop:
    """A registry with sealed and mutable tags."""

    def __init__(self, server: Server) -> None:
        self.address = server.address
        self.client = httpx2.Client(base_url=server.url, trust_env=False)

    def push(self, repository: str, tag: str, document: Document) -> None:
        for blob in document.blobs:
            started = self.client.post(f"/v2/{repository}/blobs/uploads/")
            joint = "&" if "?" in started.headers["location"] else "?"
            self.client.put(f"{started.headers['location']}{joint}digest={blob.digest}", content=blob.data)
        headers = {"content-type": document.media_type}
        answer = self.client.put(f"/v2/{repository}/manifests/{tag}", content=document.raw, headers=headers)
        assert answer.status_code == 201

    def app(self, tag: str) -> None:
        labels = {NAME: f"{self.address}/base/node:latest", DIGEST: WAS.digest}
        self.push("shop/app", tag, layered(f"ab{tag}", annotations=labels))

    @property
    def repository(self) -> str:
        return f"{self.address}/shop/app"


@pytest.fixture
def shop(server: Server) -> Iterator[Shop]:
    made = Shop(server)
    yield made
    made.client.close()


def test_the_next_revision_is_free_at_the_registry(shop: Shop, server: Server, tmp_path: Path) -> None:
    """`tag new --scheme revision` skips revisions that exist, and those that were deleted and can't come back."""
    for tag in ("1.4.2", "1.4.2.1", "1.4.2.2"):
        shop.app(tag)
    arguments = ("tag", "new", "--scheme", "revision", "--of", "1.4.2", "--check", shop.repository)
    first = call(*arguments)
    assert call("tag", "unseal", f"{shop.repository}:1.4.2.2", "--data", server.folder, "--reason", "x").code == 0
    assert shop.client.delete("/v2/shop/app/manifests/1.4.2.2").status_code == 202
    after_delete = call(*arguments)

    assert (first.code, first.out) == (0, "1.4.2.3\n")
    assert (after_delete.code, after_delete.out) == (0, "1.4.2.3\n")


def test_of_two_rebuilds_with_the_same_revision_one_is_refused(shop: Shop, server: Server) -> None:
    """Two rebuilds that chose the same revision push at once: one gets it, the other is refused, and the next one is free."""
    arguments = ("tag", "new", "--scheme", "revision", "--of", "1.4.2", "--check", shop.repository)
    shop.app("1.4.2")
    chosen = {call(*arguments).out.strip() for _ in range(2)}
    [revision] = chosen
    images = [layered("abx"), layered("aby")]
    for image in images:
        shop.push("shop/app", image.digest, image)

    def put(image: Document) -> int:
        with httpx2.Client(base_url=server.url, trust_env=False) as client:
            headers = {"content-type": image.media_type}
            return client.put(f"/v2/shop/app/manifests/{revision}", content=image.raw, headers=headers).status_code

    with ThreadPoolExecutor(2) as threads:
        answers = [*threads.map(put, images)]
    now = shop.client.head(f"/v2/shop/app/manifests/{revision}").headers["docker-content-digest"]

    assert sorted(answers) == [201, 409]
    assert now == images[answers.index(201)].digest
    assert call(*arguments).out == "1.4.2.2\n"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--of", "1.4.2"), "needs the repository"),
        (("--check", "127.0.0.1:1/shop/app"), "--of 1.4.2"),
        (("--of", "1.4.2", "--check", "127.0.0.1:1/shop/app", "--separator", "+"), "expected one of"),
    ],
)
def test_a_revision_needs_a_tag_and_a_repository(arguments: tuple[str, ...], words: str) -> None:
    """Without the tag, the repository, or a known separator, `tag new --scheme revision` is a usage error."""
    result = call("tag", "new", "--scheme", "revision", *arguments)

    assert (result.code, words in result.err) == (2, True)


def test_a_tag_that_was_never_there_has_no_revision(shop: Shop) -> None:
    """A revision of a mistyped tag is a usage error that names the tag: it would be sealed for ever."""
    shop.app("1.4.2")
    mistyped = call("tag", "new", "--scheme", "revision", "--of", "1.4.3", "--check", shop.repository)

    assert (mistyped.code, mistyped.out) == (2, "")
    assert f"{shop.repository} has no tag 1.4.3 to build again" in mistyped.err


def test_what_a_build_records_of_its_revision_is_text() -> None:
    """Labels and keys of the ledger's entry are plain text, which the record's JSON needs."""
    rebuilt = Rebuilt(Tag("1.4.2"))

    assert {type(value) for value in (*rebuilt.labels.values(), *rebuilt.extra.values())} == {str}


def test_a_rebuild_of_a_sealed_tag_is_a_revision_and_of_a_mutable_one_is_not(
    shop: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A rebuild of a sealed tag learns its next revision as the tag to push, and one of a mutable tag the tag itself."""
    recorded = tmp_path / "recorded"
    settings = tmp_path / "config" / "boltseal" / "boltseal.toml"
    settings.parent.mkdir(parents=True)
    program = tmp_path / "rebuild"
    program.write_text(f'#!/bin/sh\necho "$1 -> $BOLTSEAL_REBUILD_NEW_TAG" >> {recorded}\n')
    program.chmod(0o755)
    settings.write_text(f'[[on_outdated]]\ncommand = ["{program}", "{{image}}"]\n')
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    shop.push("base/node", "latest", WAS)
    for tag in ("1.4.2", "1.4.2.1", "1.5.0-alpine", "latest"):
        shop.app(tag)
    shop.push("base/node", "latest", NOW)
    result = call("outdated", "--registry", shop.address, "--rebuild", "--window", "0s")

    assert result.code == 1, result.err
    assert sorted(recorded.read_text().splitlines()) == [
        f"{shop.repository}:1.4.2.1 -> 1.4.2.2",
        f"{shop.repository}:1.5.0-alpine -> 1.5.0.1-alpine",
        f"{shop.repository}:latest -> latest",
    ]
