"""`lock --explain`, `compare --packages` and `inspect --packages` at a listening registry, with hostile labels too."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import httpx2
import pytest

from boltseal.commands.explained_changes import cause_of
from boltseal.oci.digest import Digest
from boltseal.transfer.inspect import Inspected, inspect
from tests.cli.program import Run, call
from tests.images import Document, push
from tests.packaged_images import DPKG, dpkg, image_of, layer_of, sbom_of, spdx
from tests.polling import until_signed
from tests.servers import Server
from tests.transfer.memory_source import MemorySource

PREFIX = "org.opencontainers.image."
OLD_COMMIT, NEW_COMMIT = "a" * 40, "b" * 40


def labels(commit: str, base: str, **more: str) -> dict[str, str]:
    """Return the labels of an image of a commit, on a base of a digest."""
    return {
        f"{PREFIX}source": "https://github.com/acme/app.git",
        f"{PREFIX}revision": commit,
        f"{PREFIX}base.name": "docker.io/library/debian:12",
        f"{PREFIX}base.digest": f"sha256:{base * 64}",
        **more,
    }


OLD = image_of(
    layer_of({DPKG: dpkg(bash="5.1", openssl="3.0.1", old="1"), "etc/a": b"a"}), labels=labels(OLD_COMMIT, "1")
)
NEW = image_of(
    layer_of({DPKG: dpkg(bash="5.1", openssl="3.0.2", new="1"), "etc/a": b"b", "etc/c": b"c"}),
    labels=labels(NEW_COMMIT, "2"),
)


def push_all(server: Server, *images: tuple[str, Document]) -> None:
    """Push images to shop/app, under tags or digests, and wait until the ledger has signed them."""

    async def run() -> None:
        async with httpx2.AsyncClient(base_url=server.url, trust_env=False) as client:
            for reference, document in images:
                assert (await push(client, "shop/app", reference, document)).status_code == 201
            await until_signed(client, len(images) + 1)

    asyncio.run(run())


@pytest.fixture
def project(tmp_path: Path, server: Server) -> Path:
    """A locked project whose image has another tag in the Compose file since."""
    push_all(server, ("1.4.2", OLD), ("1.4.2.1", NEW))
    folder = tmp_path / "project"
    folder.mkdir()
    write(folder, server, "1.4.2")
    assert call("lock", "--project", folder).code == 0
    write(folder, server, "1.4.2.1")
    return folder


def write(folder: Path, server: Server, tag: str) -> None:
    (folder / "compose.yaml").write_text(f"services:\n  web:\n    image: {server.address}/shop/app:{tag}\n")


def explained(folder: Path, form: str) -> Run:
    return call("lock", "--update", "--explain", form, "--project", folder)


def test_an_explanation_as_json_has_all_parts(project: Path, server: Server) -> None:
    """As JSON a change has tags, digests, pusher, cause, link, packages, files, size, platforms, signatures, age and hosts."""
    result = explained(project, "json")
    [found] = [row["explanation"] for row in result.json["results"] if "explanation" in row]

    assert result.code == 0, result.err
    assert (found["old"]["ref"], found["old"]["digest"]) == (f"{server.address}/shop/app:1.4.2", OLD.digest)
    assert (found["new"]["ref"], found["new"]["digest"]) == (f"{server.address}/shop/app:1.4.2.1", NEW.digest)
    assert (found["pushed"]["proven"], found["pushed"]["reason"]) == (True, None)
    assert found["known_since"] == found["pushed"]["at"]
    assert found["cause"] == "base and own"
    assert found["base"] == {
        "name": "docker.io/library/debian:12",
        "was": f"sha256:{'1' * 64}",
        "now": f"sha256:{'2' * 64}",
    }
    assert found["source"]["compare"] == f"https://github.com/acme/app/compare/{OLD_COMMIT}...{NEW_COMMIT}"
    assert found["packages"] == {
        "added": [{"kind": "deb", "name": "new", "was": "", "now": "1"}],
        "removed": [{"kind": "deb", "name": "old", "was": "1", "now": ""}],
        "changed": [{"kind": "deb", "name": "openssl", "was": "3.0.1", "now": "3.0.2"}],
    }
    assert found["files"] == {"added": ["etc/c"], "removed": [], "changed": ["etc/a", DPKG]}
    assert found["platforms"]["changed"] == ["linux/amd64"]
    assert found["signatures"] == {"old": [], "new": []}
    assert found["size"]["old"] > 0
    assert found["runs"] == []


def test_an_explanation_as_text_fits_a_terminal(project: Path) -> None:
    """As text each fact has a line, and no line but one with a digest or link is longer than 80 columns."""
    result = explained(project, "text")
    lines = result.out.splitlines()

    assert result.code == 0
    assert all(len(line) <= 80 or "sha256:" in line or "https:" in line for line in lines)
    assert "  packages    1 changed, 1 added, 1 removed (package databases in the layers)" in lines
    assert "              openssl 3.0.1 -> 3.0.2 (deb)" in lines
    assert "  tag         1.4.2 -> 1.4.2.1" in lines


def test_markdown_is_all_of_stdout(project: Path) -> None:
    """As Markdown stdout has the explanation only, so that it can be the text of a pull request."""
    result = explained(project, "md")

    assert result.out.startswith("### `compose.yaml`: ")
    assert "| tag | `1.4.2 -> 1.4.2.1` |" in result.out
    assert f"<https://github.com/acme/app/compare/{OLD_COMMIT}...{NEW_COMMIT}>" in result.out
    assert "| `openssl` | `3.0.1` | `3.0.2` |" in result.out
    assert "<details><summary>3 files</summary>" in result.out


def test_without_a_change_the_markdown_is_one_sentence(project: Path) -> None:
    """Without a change the Markdown states that, and the exit code is 0."""
    explained(project, "md")
    again = explained(project, "md")

    assert (again.code, again.out) == (0, "No image changes.\n")


@pytest.mark.parametrize(
    ("base", "own", "words"),
    [
        (True, True, "base and own"),
        (True, False, "base"),
        (False, True, "own"),
        (False, False, "none by the labels"),
        (True, None, "base; own not stated"),
        (None, False, "none by the labels; base not stated"),
        (None, None, "unknown: the labels state neither base nor revision"),
    ],
)
def test_the_cause_says_what_the_labels_do_not_state(base: bool | None, own: bool | None, words: str) -> None:
    """The cause is the base, the own sources or both by the labels, and names what they do not state."""
    old, new = (
        image_of(
            layer_of({"x": which.encode()}),
            labels={
                **(
                    {}
                    if base is None
                    else {f"{PREFIX}base.name": "os:1", f"{PREFIX}base.digest": which if base else "x"}
                ),
                **({} if own is None else {f"{PREFIX}revision": which if own else "x"}),
            },
        )
        for which in ("old", "new")
    )

    async def inspected(document: Document) -> Inspected:
        return await inspect(MemorySource(document), Digest.parse(document.digest), None)

    assert cause_of(asyncio.run(inspected(old)), asyncio.run(inspected(new))).what == words


HOSTILE = "`](https://evil.example) <img src=x> @admin #1 | x \\| y\n\x1b[31mred **bold**"


def test_hostile_texts_of_an_image_stay_text(tmp_path: Path, server: Server) -> None:
    """Labels, packages and paths with Markdown, HTML and control characters stay text in the Markdown and in the terminal."""
    hostile = image_of(
        layer_of({DPKG: dpkg(**{"a|b`c": "1 <b>"}), "etc/`|<img>": b"x"}),
        labels={
            f"{PREFIX}source": HOSTILE,
            f"{PREFIX}revision": HOSTILE,
            f"{PREFIX}base.name": HOSTILE,
            f"{PREFIX}base.digest": "x",
        },
        created=HOSTILE,
    )
    push_all(server, ("edge", image_of(layer_of({DPKG: dpkg(bash="1")}), labels=labels(OLD_COMMIT, "1"))))
    folder = tmp_path / "project"
    folder.mkdir()
    write(folder, server, "edge")
    assert call("lock", "--project", folder).code == 0
    push_all(server, ("edge", hostile))
    result = explained(folder, "md")
    text = call(
        "compare", f"{server.address}/shop/app@{hostile.digest}", f"{server.address}/shop/app:edge", "--packages"
    )

    assert result.code == 0
    assert "\x1b" not in result.out + text.out
    for line in result.out.splitlines():
        outside = line.split("`")[::2]  # what is not in a code span
        assert line.count("`") % 2 == 0
        assert not any(word in part for part in outside for word in ("evil", "<img", "@admin", "**", "#1"))
        assert not line.startswith("|") or line.count("|") in (3, 4)


def test_what_could_not_be_compared_is_a_result(tmp_path: Path, server: Server) -> None:
    """Without a package database, and without an earlier image, the explanation says so, and the exit code is 0."""
    push_all(server, ("edge", image_of(layer_of({"x": b"1"}))))
    folder = tmp_path / "project"
    folder.mkdir()
    write(folder, server, "edge")
    first = explained(folder, "text")
    push_all(server, ("edge", image_of(layer_of({"x": b"2"}))))
    second = explained(folder, "text")

    assert (first.code, second.code) == (0, 0)
    assert "there is no earlier image to compare with" in first.out
    assert "could not check: the old image: it has no package database" in " ".join(second.out.split())
    assert "cause       unknown" in second.out


def test_compare_shows_packages_and_files(server: Server) -> None:
    """`compare --packages` shows the packages and files that differ, whole, and as JSON."""
    push_all(server, ("1", OLD), ("2", NEW))
    pair = (f"{server.address}/shop/app:1", f"{server.address}/shop/app:2")
    result, as_json = call("compare", *pair, "--packages"), call("compare", *pair, "--packages", "--json")
    [row] = as_json.json["results"]

    assert result.code == 1
    assert "openssl 3.0.1 -> 3.0.2 (deb)" in result.out
    assert "+ /etc/c" in result.out
    assert row["contents"]["packages_from"] == "package databases in the layers"
    assert "contents" not in call("compare", *pair, "--json").json["results"][0]


def test_inspect_lists_packages_by_the_sbom(server: Server) -> None:
    """`inspect --packages` lists the packages of an attached SBOM, and says where they are from."""
    sbom = sbom_of(OLD, spdx(left="1.3.0"))
    push_all(server, ("1", OLD))
    before = call("inspect", f"{server.address}/shop/app:1", "--packages")

    async def attach() -> None:
        async with httpx2.AsyncClient(base_url=server.url, trust_env=False) as client:
            assert (await push(client, "shop/app", sbom.digest, sbom)).status_code == 201

    asyncio.run(attach())
    result = call("inspect", f"{server.address}/shop/app:1", "--packages", "--json")
    row: dict[str, Any] = result.json["results"][0]

    assert "packages    3, by package databases in the layers" in before.out
    assert "package     openssl 3.0.1  (deb)" in before.out
    assert row["packages"] == [{"kind": "npm", "name": "left", "version": "1.3.0"}]
    assert row["packages_from"] == "an SBOM attached to the image"
    assert row["files"] == 2


def test_an_image_without_packages_is_unknown(server: Server) -> None:
    """`inspect --packages` of an image without SBOM and database is exit code 3, and not an empty list."""
    push_all(server, ("1", image_of(layer_of({"x": b"1"}))))
    result = call("inspect", f"{server.address}/shop/app:1", "--packages")

    assert result.code == 3
    assert "could not check: it has no package database" in result.out
    assert json.loads(call("inspect", f"{server.address}/shop/app:1", "--json").out)["outcome"] == "holds"
