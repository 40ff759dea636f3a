"""`boltseal copy` on the command line."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import httpx2
import pytest

from boltseal.oci.digest import Digest
from tests.cli import program
from tests.images import image, push, signature, signature_tag
from tests.servers import Server

DIGEST = f"sha256:{'0' * 64}"


@pytest.mark.parametrize(
    "arguments",
    [
        ("r.test/a:1", f"s.test/b@{DIGEST}"),
        ("--all-tags", "r.test/a:1", "s.test/b"),
        ("--all-tags", "r.test/a", "docker-archive:x.tar"),
        ("oci:", "s.test/b"),
    ],
)
def test_a_contradictory_copy_is_a_usage_error(arguments: tuple[str, ...]) -> None:
    """Contradicting options of `copy` are refused before any registry is contacted."""
    assert program.call("copy", *arguments).code == 2


def test_a_layout_that_is_not_there_does_not_hold(tmp_path: Path) -> None:
    """A missing layout is exit code 1 with a reason, in JSON too."""
    result = program.call("copy", f"oci:{tmp_path}:1", f"oci:{tmp_path}/to:1", "--json")

    assert result.code == 1
    assert result.json["outcome"] == "differs"
    assert "no OCI image layout" in result.json["errors"][0]["message"]


def test_the_counts_of_a_copy_are_words(tmp_path: Path) -> None:
    """`copy` counts sent, mounted and existing blobs and manifests, in singular and plural."""
    source = tmp_path / "source"
    (source / "blobs/sha256").mkdir(parents=True)
    blobs = {Digest.of(raw): raw for raw in (b"{}", b"layer")}
    parts = [
        {"mediaType": "application/octet-stream", "digest": str(of), "size": len(raw)} for of, raw in blobs.items()
    ]
    kind = "application/vnd.oci.image.manifest.v1+json"
    manifest = json.dumps({"schemaVersion": 2, "mediaType": kind, "config": parts[0], "layers": parts[1:]}).encode()
    entry = {"mediaType": kind, "digest": str(Digest.of(manifest)), "size": len(manifest)}
    entry["annotations"] = {"org.opencontainers.image.ref.name": "1"}
    for of, raw in (blobs | {Digest.of(manifest): manifest}).items():
        (source / "blobs/sha256" / of.hex).write_bytes(raw)
    (source / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    (source / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [entry]}))
    result = [program.call("copy", f"oci:{source}:1", f"oci:{tmp_path}/to:{tag}") for tag in ("1", "2")]

    assert [each.code for each in result] == [0, 0], result[0].err
    assert result[0].err == "sent 2 blobs (7 B) and 1 manifest; 0 blobs mounted, 0 already there\n"
    assert result[1].err.endswith("0 blobs mounted, 2 already there\n")


async def test_signatures_go_along_between_registries_unless_they_are_left_out(server: Server) -> None:
    """`--json` lists what went along; --no-referrers leaves it out."""
    app = image("signed")
    ref = f"{server.address}/shop/app"
    async with httpx2.AsyncClient(base_url=server.url, trust_env=False, timeout=60) as client:
        await push(client, "shop/app", "1.4.2", app)
        await push(client, "shop/app", signature_tag(app), signature(app, "shop/app"))
    without = await asyncio.to_thread(program.call, "copy", "--no-referrers", f"{ref}:1.4.2", f"{ref}-b:1", "--json")
    left_out = await asyncio.to_thread(program.call, "tags", f"{ref}-b")
    done = await asyncio.to_thread(program.call, "copy", f"{ref}:1.4.2", f"{ref}-b:1", "--json")
    shown = await asyncio.to_thread(program.call, "copy", f"{ref}:1.4.2", f"{ref}-c:1")

    assert (without.code, without.json["results"][0]["attached"]) == (0, [])
    assert left_out.out.split() == ["1"]
    assert (done.code, done.json["results"][0]["status"]) == (0, "unchanged")
    assert [each["tag"] for each in done.json["results"][0]["attached"]] == [signature_tag(app)]
    assert done.json["results"][0]["not_carried"] == []
    assert shown.err.endswith("\n1 signature or other referrer went along\n")


async def test_what_does_not_go_along_is_printed_with_the_reason(server: Server) -> None:
    """A signature tag of the target that has other signatures stays, the exit code is 1, and the image is copied."""
    app = image("signed twice")
    ref = f"{server.address}/shop/app"
    async with httpx2.AsyncClient(base_url=server.url, trust_env=False, timeout=60) as client:
        await push(client, "shop/app", "1.4.2", app)
        for repository in ("shop/app", "shop/app-b"):
            await push(client, repository, signature_tag(app), signature(app, repository))
    done = await asyncio.to_thread(program.call, "copy", f"{ref}:1.4.2", f"{ref}-b:1")
    again = await asyncio.to_thread(program.call, "copy", f"{ref}:1.4.2", f"{ref}-b:1", "--json")
    (result,) = again.json["results"]

    assert done.code == again.code == 1
    assert f"{ref}-b:1@{app.digest}\n" in done.out
    assert f"not carried along: {signature_tag(app)}: " in done.out
    assert (result["status"], result["referrers"]) == ("unchanged", 0)
    assert [each["tag"] for each in result["not_carried"]] == [signature_tag(app)]


def test_a_docker_archive_has_no_place_for_signatures(tmp_path: Path) -> None:
    """--referrers with an archive is a usage error; by default nothing goes along there."""
    refused = program.call("copy", "--referrers", "r.test/a:1", f"docker-archive:{tmp_path}/a.tar")

    assert refused.code == 2
    assert "has no place for signatures" in refused.err


def test_the_shell_completes_commands() -> None:
    """bash completes the names of commands."""
    asked = {"_BOLTSEAL_COMPLETE": "complete_bash", "COMP_WORDS": "boltseal comp", "COMP_CWORD": "1"}

    assert program.run(environment=asked).out.split() == ["compare", "completion"]


async def test_a_refusal_of_the_registry_is_shown_whole(server: Server) -> None:
    """The message ends with the rule that would make the tag mutable, and the hint says that --force does not move a sealed tag."""
    name, repository = "staging", f"shop/app-{'x' * 120}"
    async with httpx2.AsyncClient(base_url=server.url, trust_env=False) as client:
        for tag, document in ((name, image("old")), ("1.4.2", image("new"))):
            assert (await push(client, repository, tag, document)).status_code == 201
    ref = f"{server.address}/{repository}"
    hinted = await asyncio.to_thread(program.run, "copy", f"{ref}:1.4.2", f"{ref}:{name}")
    refused = await asyncio.to_thread(program.run, "copy", "--force", f"{ref}:1.4.2", f"{ref}:{name}")

    assert (hinted.code, refused.code) == (1, 1)
    assert "pass --force to move it; a registry refuses that for a sealed tag" in hinted.err
    assert "stays sealed; this rule makes tags like it, not yet published, mutable" in refused.err
    assert refused.err.rstrip().endswith('mode = "floating""')
    assert "--force" not in refused.err
