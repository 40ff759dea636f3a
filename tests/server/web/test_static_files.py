"""Scripts of pages, and the page that checks proofs from a person's disk."""

from __future__ import annotations

import json
import re
from base64 import b64encode
from collections.abc import AsyncIterator
from hashlib import sha256
from pathlib import Path

import pytest

from boltseal.ledger.entry import CHANGES, EntryKind
from boltseal.server.web.pages.tags import RESOLVING
from boltseal.server.web.static_files import FOLDER, StaticFiles
from scripts.verify_page import PAGE, build
from tests.logins import with_users
from tests.serving import Serving, serving_as


@pytest.fixture
async def shop(data: Path) -> AsyncIterator[Serving]:
    async with serving_as(with_users(data)) as running:
        yield running


def test_the_page_for_the_disk_is_made_of_the_module() -> None:
    """verify.html in the package is what scripts/verify_page.py writes."""
    assert PAGE.read_text(encoding="utf-8") == build()


def test_the_page_for_the_disk_needs_nothing_else() -> None:
    """verify.html has no address of a script, style or image, no import, and a policy that allows its own script alone."""
    page = build()
    script = re.search(r'<script type="module">(.*)</script>', page, re.DOTALL)
    assert script is not None
    source = b64encode(sha256(script[1].encode()).digest()).decode()

    assert f"script-src 'sha256-{source}'" in page
    assert "default-src 'none'" in page
    assert not re.search(r"\b(src|href)=|@import|url\(|^\s*(import|export)\b", page, re.MULTILINE)
    assert page.count("<script") == page.count("<style>") == 1


def test_the_script_knows_every_kind_of_entry() -> None:
    """`proof.js` and the pages agree on the kinds that give a tag a digest, and `proof.js` refuses no kind that exists."""
    module = (FOLDER / "proof.js").read_text(encoding="utf-8")
    kinds = {
        name: json.loads(re.sub(r",\s*\]", "]", listed))
        for name, listed in re.findall(r"^const ([A-Z]+) = (\[.*?\]);$", module, re.MULTILINE | re.DOTALL)
    }

    assert {*kinds["RESOLVING"]} == RESOLVING
    assert {*kinds["REMOVING"]} == CHANGES - RESOLVING
    assert sorted(kinds["RESOLVING"] + kinds["REMOVING"] + kinds["OTHERS"]) == sorted(EntryKind)


@pytest.mark.parametrize("name", ["proof.js", "verify.js"])
async def test_a_script_is_served_under_its_version(shop: Serving, name: str) -> None:
    """The address that pages use has the hash of the scripts, so caches may keep it for ever."""
    answer = await shop.client.get(StaticFiles().address(name))

    assert (answer.status_code, answer.headers["cache-control"]) == (200, "public, max-age=31536000, immutable")
    assert answer.headers["content-type"] == "text/javascript; charset=utf-8"
    assert answer.headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize(
    "path", ["0123456789abcdef/proof.js", "missing.js", "verify.html", "..%2fpages.css", "", "/proof.js"]
)
async def test_other_files_are_not_served(shop: Serving, path: str) -> None:
    """An old version, an unknown name, and paths out of the folder are 404."""
    answer = await shop.client.get(f"/ui/static/{path}")

    assert answer.status_code == 404


async def test_the_page_for_the_disk_is_a_download(shop: Serving) -> None:
    """The server offers verify.html for the disk, and does not open it as a page of its own."""
    answer = await shop.client.get("/ui/verify.html")

    assert answer.text == build()
    assert answer.headers["content-disposition"] == 'attachment; filename="boltseal-verify.html"'
    assert answer.headers["content-type"] == "text/html; charset=utf-8"


@pytest.mark.parametrize("path", ["/ui/static/proof.js", "/ui/verify.html", "/ui/ledger/checkpoint"])
async def test_only_reads_are_allowed(shop: Serving, path: str) -> None:
    """A POST gets 405 with the methods that are allowed."""
    answer = await shop.client.post(path)

    assert (answer.status_code, answer.headers["allow"]) == (405, "GET")
