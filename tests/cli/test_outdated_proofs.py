"""`boltseal outdated` and the records of builds: only entries that the signed ledger has say what an image was built on."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import httpx2
import pytest

from tests.cli.program import Run, call
from tests.images import Document
from tests.polling import is_signed, wait_until
from tests.project.bases.layered import layered
from tests.servers import Server
from tests.thread_server import boltseal_in_thread

WAS, NOW = layered("ab"), layered("acd")


class BuiltImages:
    """A registry whose base image moved, and images on the former base that are recorded as built."""

    def __init__(self, server: Server, client: httpx2.Client) -> None:
        self.server = server
        self.client = client

    def push(self, repository: str, tag: str, document: Document) -> None:
        for blob in document.blobs:
            params = {"digest": blob.digest}
            assert (
                self.client.post(f"/v2/{repository}/blobs/uploads/", params=params, content=blob.data).status_code
                == 201
            )
        kind = {"content-type": document.media_type}
        pushed = self.client.put(f"/v2/{repository}/manifests/{tag}", content=document.raw, headers=kind)
        assert pushed.status_code == 201

    def build(self, tag: str, layers: str) -> int:
        """Push an image on the former base, record it, and return the index of its entry when that is signed."""
        app = layered(layers)
        self.push("shop/app", tag, app)
        extra = {"base.name": f"{self.server.address}/base/node:latest", "base.digest": WAS.digest}
        body = {"kind": "built", "digest": app.digest, "tag": tag, "extra": extra}
        index: int = self.client.post("/v2/shop/app/_boltseal/records", json=body).json()["index"]
        wait_until(lambda: is_signed(self.client.get("/ledger/checkpoint"), index + 1), "the record is signed")
        return index

    def forge(self, index: int) -> None:
        """Let the database say that an image was built on the present base."""
        with closing(sqlite3.connect(self.server.folder / "boltseal.db")) as database, database:
            [line] = database.execute("SELECT line FROM entry WHERE idx = ?", (index,)).fetchone()
            forged = line.replace(WAS.digest.encode(), NOW.digest.encode())
            database.execute("UPDATE entry SET line = ? WHERE idx = ?", (forged, index))

    def outdated(self, *tags: str) -> Run:
        names = [f"{self.server.address}/shop/app:{tag}" for tag in tags]
        return call("outdated", "-v", "--json", "--window", "0s", *names)


@pytest.fixture
def built(tmp_path: Path) -> Iterator[BuiltImages]:
    with boltseal_in_thread(tmp_path / "data") as server, httpx2.Client(base_url=server.url, trust_env=False) as client:
        yield BuiltImages(server, client)


def test_a_changed_record_does_not_make_an_outdated_image_current(built: BuiltImages) -> None:
    """A record that an attacker changed in the registry's database is refused, and the other images are judged."""
    built.push("base/node", "latest", WAS)
    forged = built.build("1.0.0", "abX")
    built.build("1.0.1", "abY")
    built.push("base/node", "latest", NOW)
    true = built.outdated("1.0.0", "1.0.1")
    built.forge(forged)
    changed = built.outdated("1.0.0", "1.0.1")
    alone = built.outdated("1.0.0")

    assert [one["status"] for one in true.json["results"]] == ["outdated", "outdated"]
    assert [one["status"] for one in changed.json["results"]] == ["cannot tell", "outdated"]
    assert f"lists an entry {forged} that its ledger does not prove" in json.dumps(changed.json)
    assert (true.code, changed.code, alone.code) == (1, 1, 3)


def test_the_proofs_of_several_records_are_read_together(built: BuiltImages) -> None:
    """One tile of hashes proves the records of one image, and of three images in the same 256 entries."""
    built.push("base/node", "latest", WAS)
    for number, layers in enumerate(("abX", "abY", "abZ")):
        built.build(f"1.0.{number}", layers)
    one, three = built.outdated("1.0.0"), built.outdated("1.0.0", "1.0.1", "1.0.2")

    assert [answer.err.count("/ledger/tile/") for answer in (one, three)] == [1, 1]
    assert {each["by"] for each in three.json["results"]} == {"a built entry of the ledger"}


def test_a_changed_record_is_not_what_a_revision_was_rebuilt_for(built: BuiltImages, tmp_path: Path) -> None:
    """`boltseal build` of a revision names the base that the former image was built on only by a proven record."""
    built.push("base/node", "latest", WAS)
    forged = built.build("1.4.2", "abX")
    built.push("base/node", "latest", NOW)
    built.forge(forged)
    context = tmp_path / "context"
    context.mkdir()
    (context / "Dockerfile").write_text(f"FROM {built.server.address}/base/node:latest\n")
    result = call("build", context, "--repository", f"{built.server.address}/shop/app", "--tag", "1.4.2.1")

    assert result.code == 1
    assert f"lists an entry {forged} that its ledger does not prove" in result.err
