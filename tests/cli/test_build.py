"""`boltseal build` up to the call of a builder: invalid arguments, and images of the same inputs."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import httpx2
import pytest

from boltseal.commands.build_inputs import BuildInputs, hash_inputs, read_dockerfile
from tests.cli.program import call
from tests.images import image
from tests.polling import is_signed, wait_until
from tests.thread_server import boltseal_in_thread

TO = ("--repository", "localhost:5000/shop/app")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "no repository to push to"),
        (("--repository", "localhost:5000/shop/app:1.0.0"), "expected a repository"),
        ((*TO, "--dockerfile", "none"), "no such file or folder; check the path"),
        ((*TO, "--build-arg", "X"), "expected NAME=VALUE"),
        ((*TO, "--target", "nothing"), "has no stage"),
    ],
)
def test_each_usage_error_is_one_line(tmp_path: Path, arguments: tuple[str, ...], words: str) -> None:
    """Each usage error is one line with exit code 2."""
    (tmp_path / "Dockerfile").write_text("FROM scratch\n")
    result = call("build", tmp_path, *arguments)

    assert result.code == 2
    assert words in result.err


@pytest.mark.parametrize("recorded", [True, False], ids=["recorded", "written into the database"])
def test_only_a_record_in_the_ledger_replaces_a_build(tmp_path: Path, recorded: bool) -> None:
    """A record of the same inputs replaces a build; a record that an attacker wrote into the registry's database is refused."""
    context, data = tmp_path / "context", tmp_path / "data"
    context.mkdir()
    (context / "Dockerfile").write_text("FROM scratch\n")
    inputs = BuildInputs(context)
    hash_ = hash_inputs(inputs, read_dockerfile(inputs), {})
    made = image("one")
    with boltseal_in_thread(data) as server, httpx2.Client(base_url=server.url, trust_env=False) as client:
        for blob in made.blobs:
            started = client.post("/v2/shop/app/blobs/uploads/", params={"digest": blob.digest}, content=blob.data)
            assert started.status_code == 201
        kind = {"content-type": made.media_type}
        pushed = client.put("/v2/shop/app/manifests/1.0.0", content=made.raw, headers=kind)
        extra = {"inputs": hash_ if recorded else "0" * len(hash_)}
        body = {"kind": "built", "digest": made.digest, "tag": "1.0.0", "extra": extra}
        index = client.post("/v2/shop/app/_boltseal/records", json=body).json()["index"]
        wait_until(lambda: is_signed(client.get("/ledger/checkpoint"), index + 1), "the record is signed")
        if not recorded:
            with closing(sqlite3.connect(data / "boltseal.db")) as database, database:
                [line] = database.execute("SELECT line FROM entry WHERE idx = ?", (index,)).fetchone()
                forged = line.replace(extra["inputs"].encode(), hash_.encode())
                database.execute("UPDATE entry SET line = ? WHERE idx = ?", (forged, index))
        result = call("build", context, "--repository", f"{server.address}/shop/app")
        silent = call("build", context, "--repository", f"{server.address}/shop/app", "-q")

    assert pushed.status_code == 201
    if recorded:
        assert result.code == 0
        assert "nothing to do: built of the same inputs" in result.err
        assert "nothing to do" not in silent.err
    else:
        assert result.code == 1
        assert f"lists an entry {index} that its ledger does not prove" in result.err
