"""Two builds that choose the same free revision, at a registry that seals nothing and so refuses no second push.

The builder is a stand-in on PATH, during whose build another client pushes the revision.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from tests.cli.program import Run, run
from tests.images import Document, image
from tests.servers import Server
from tests.thread_server import boltseal_in_thread

MUTABLE = '[[rule]]\nrepository = "**"\ntag = "**"\nmode = "floating"\n'
DOCKER = """#!/bin/sh
# build: another client pushes the tag meanwhile; an image for several platforms becomes an OCI layout
set -e
echo "$1" >> CALLS
[ "$1" != push ] || exit 0
curl -sf -X PUT -H "content-type: TYPE" --data-binary @MANIFEST URL/v2/shop/app/manifests/1.4.2.1 > /dev/null
for word in "$@"; do
  case "$word" in *dest=*) PYTHON -m boltseal copy ADDRESS/shop/app:1.4.2 "oci:${word#*dest=}" > /dev/null;; esac
done
"""


def push(server: Server, tag: str, document: Document) -> None:
    with httpx2.Client(base_url=server.url, trust_env=False) as client:
        for blob in document.blobs:
            made = client.post("/v2/shop/app/blobs/uploads/", params={"digest": blob.digest}, content=blob.data)
            assert made.status_code == 201
        kind = {"content-type": document.media_type}
        assert client.put(f"/v2/shop/app/manifests/{tag}", content=document.raw, headers=kind).status_code == 201


@pytest.fixture
def unsealed(tmp_path: Path) -> Iterator[Server]:
    """A registry whose tags are all mutable, with the tag 1.4.2."""
    with boltseal_in_thread(tmp_path / "data", MUTABLE) as server:
        push(server, "1.4.2", image("first"))
        yield server


def build(server: Server, folder: Path, *arguments: str) -> Run:
    """Build the next revision of 1.4.2 while another client pushes it."""
    other = image("of another build")
    push(server, "other", other)
    manifest, programs = folder / "manifest", folder / "bin"
    manifest.write_bytes(other.raw)
    programs.mkdir()
    text = {
        "CALLS": str(folder / "calls"),
        "TYPE": other.media_type,
        "MANIFEST": str(manifest),
        "URL": server.url,
        "PYTHON": sys.executable,
        "ADDRESS": server.address,
    }
    script = DOCKER
    for name, value in text.items():
        script = script.replace(name, value)
    (programs / "docker").write_text(script)
    (programs / "docker").chmod(0o755)
    context = folder / "context"
    context.mkdir()
    (context / "Dockerfile").write_text("FROM scratch\nLABEL a=b\n")
    to = ("--repository", f"{server.address}/shop/app", "--scheme", "revision", "--of", "1.4.2")
    environment = {"PATH": f"{programs}{os.pathsep}{os.environ['PATH']}"}
    return run("build", context, *to, *arguments, environment=environment)


@pytest.mark.parametrize(
    "arguments",
    [("--builder", "docker"), ("--builder", "buildx", "--platform", "linux/amd64,linux/arm64")],
    ids=["pushed by the builder", "pushed by boltseal"],
)
def test_a_revision_that_another_build_took_meanwhile_is_not_overwritten(
    unsealed: Server, tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    """A build whose revision another push took during the build leaves the revision as it is, and the error names it."""
    done = build(unsealed, tmp_path, *arguments)
    with httpx2.Client(base_url=unsealed.url, trust_env=False) as client:
        now = client.head("/v2/shop/app/manifests/1.4.2.1").headers["docker-content-digest"]

    assert done.code == 3
    assert f"another push took {unsealed.address}/shop/app:1.4.2.1 during the build" in done.err
    assert now == image("of another build").digest
    assert "push" not in (tmp_path / "calls").read_text().split()
