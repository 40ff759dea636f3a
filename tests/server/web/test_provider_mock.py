"""Logins at a provider that others wrote: oidc-provider-mock (PyPI), which boltseal's own provider of the tests is compared with."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import httpx2
import oidc_provider_mock
import pytest

from tests.logins import with_users
from tests.page_logins import GROUP_GRANTS, Browser
from tests.serving import serving_as

PERSON = {"preferred_username": "carol", "name": "Carol Example", "groups": ["dev"]}


@pytest.fixture
def mock() -> Iterator[str]:
    """The address of a running provider."""
    with oidc_provider_mock.run_server_in_thread() as server:
        yield f"http://localhost:{server.server_port}"


@pytest.mark.skipif(
    sys.version_info < (3, 12),
    reason="oidc-provider-mock for Python 3.11 is an older release, which answers 500 with the current authlib",
)
async def test_a_person_logs_in_at_another_providers_code(data: Path, mock: str, tmp_path: Path) -> None:
    """Discovery, login, exchange of the code and ID token of an independent implementation are understood."""
    httpx2.put(f"{mock}/users/carol-1", json=PERSON).raise_for_status()
    secret = tmp_path / "secret"
    secret.write_text("of any text, since the provider knows no clients\n")
    secret.chmod(0o600)
    oidc = {"url": mock, "client_id": "boltseal", "name": "mock", "client_secret_file": str(secret)}
    async with serving_as(with_users(data, grant=GROUP_GRANTS, oidc=oidc)) as shop:
        browser = Browser(shop)
        address = await browser.begin()
        back = httpx2.post(address, data={"sub": "carol-1"}, follow_redirects=False)
        answer = await browser.back(back.headers["location"])
        page = await browser.get("/ui/account")

    assert parse_qs(urlsplit(address).query)["code_challenge_method"] == ["S256"]
    assert answer.status_code == 303, answer.text
    assert re.search(r"<bdi>carol@mock</bdi>", page.text)
    assert "<bdi>dev</bdi>" in page.text
