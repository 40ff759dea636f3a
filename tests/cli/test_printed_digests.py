"""Digests that commands print, given back to commands that take digests."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from tests.cli import program
from tests.docs.pages import ROOT
from tests.images import Document, image, push
from tests.servers import Server

SHOP = "shop/app"


@pytest.fixture(autouse=True)
def _no_logins(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Neither a login nor a setting of this machine's user is used."""
    for variable in ("HOME", "XDG_CONFIG_HOME", "XDG_RUNTIME_DIR"):
        monkeypatch.setenv(variable, str(tmp_path / "nobody"))
    for variable in ("DOCKER_CONFIG", "REGISTRY_AUTH_FILE"):
        monkeypatch.delenv(variable, raising=False)


def publish(server: Server, *pushes: tuple[str, Document]) -> None:
    async def run() -> None:
        async with httpx2.AsyncClient(base_url=server.url, trust_env=False) as client:
            for tag, document in pushes:
                assert (await push(client, SHOP, tag, document)).status_code == 201

    asyncio.run(run())


def printed_by_commands(server: Server, project: Path) -> Iterator[tuple[str, str]]:
    """Yield each command that prints digests of images, and its text on stdout and stderr."""
    app, data = f"{server.address}/{SHOP}", server.folder
    project.mkdir()
    (project / "compose.yaml").write_text(
        f"services:\n  web:\n    image: {app}:latest\n  old:\n    image: {app}:1.4.2\n"
    )
    layout = f"oci:{project}/layout:1.4.2"
    for arguments in (
        ["digest", f"{app}:1.4.2"],
        ["tags", app, "--at", "2100-01-01"],
        ["inspect", f"{app}:1.4.2"],
        ["history", f"{app}:latest"],
        ["check", f"{app}:1.4.2"],
        ["compare", f"{app}:1.4.2", f"{app}:latest"],
        ["copy", f"{app}:1.4.2", layout],
        ["lock", "--project", project],
        ["pin", "--project", project],
        ["tag", "restore", f"{app}:latest", "--to", image("old").digest, "--reason", "it crashes", "--data", data],
        ["verify", "--project", project],
        ["lock", "--update", "--project", project],
        ["explain", f"{app}@sha256:{'a' * 64}"],
        ["tag", "seal", f"{app}:edge", "--reason", "shown", "--data", data],
        ["tag", "unseal", f"{app}:edge", "--reason", "shown", "--data", data],
        ["ledger", "receipt", f"{app}:1.4.2", "--output", project / "receipt"],
        ["scrub", "--root", project / "layout", "--no-lock"],
        ["tag", "purge", f"{app}:edge", "--reason", "leaked", "--dry-run", "--data", data],
    ):
        ran = program.call(*arguments)
        assert ran.code in (0, 1), ran.err
        yield " ".join(map(str, arguments)), ran.out + ran.err


def test_every_printed_digest_of_an_image_is_taken_by_the_commands_that_take_one(
    server: Server, tmp_path: Path
) -> None:
    """At 80 columns no digest is shortened or broken, and each one is accepted in a reference."""
    old, new = image("old"), image("new")
    publish(server, ("latest", old), ("1.4.2", old), ("edge", new), ("latest", new))
    app = f"{server.address}/{SHOP}"
    found: dict[str, str] = {}
    for command, text in printed_by_commands(server, tmp_path / "project"):
        for digest in re.findall(r"sha256:([0-9a-f]+)", text):
            assert len(digest) == 64, f"{command}: {text}"
            found.setdefault(digest, command)
    manifests = {document.digest.removeprefix("sha256:") for document in (old, new)}

    assert manifests <= set(found)
    for digest in manifests:
        ref = f"{app}@sha256:{digest}"
        taken = [["digest", ref], ["inspect", ref], ["compare", ref, ref], ["copy", ref, f"oci:{tmp_path}/{digest}:1"]]
        taken += [["check", f"{app}:1.4.2", "--digest", f"sha256:{digest}"]]
        assert [program.call(*command).code for command in taken if command[0] != "check"] == [0] * 4
        assert program.call(*taken[-1]).code in (0, 1)


def test_the_beginning_of_a_digest_in_a_reference_is_refused_with_where_to_find_all_of_it(
    server: Server,
) -> None:
    """The error of a reference with a shortened digest names the commands that print the whole digest."""
    publish(server, ("1.4.2", image("old")))
    app = f"{server.address}/{SHOP}"
    short = image("old").digest[:19]
    runs = [program.call(command, f"{app}@{short}") for command in ("digest", "inspect", "history", "explain", "pull")]

    for ran in runs:
        assert ran.code == 2
        assert f'"{short}" is the beginning of a digest' in ran.err
        assert f"`boltseal history {app}`" in ran.err


def test_no_command_shortens_a_digest() -> None:
    """The modules that print results neither call `short` nor cut a digest themselves."""
    cut = re.compile(r"\.short\b|\.hex\[|(?:digest|image|id)\w*\)?\[:1[0-9]\]")
    found = [
        f"{file.name}: {line.strip()}"
        for file in sorted((ROOT / "src/boltseal/cli").glob("*.py"))
        for line in file.read_text().splitlines()
        if cut.search(line)
    ]

    assert found == []
