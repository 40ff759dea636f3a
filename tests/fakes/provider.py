"""An identity provider for people on a real socket: an issuer with a login, which checks PKCE and codes, and lies where a test wants."""

from __future__ import annotations

import base64
import hashlib
import json
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from urllib.parse import parse_qsl, unquote, urlencode, urlsplit

from tests.fakes.issuer import Answer, Issuer, b64, encoded, running

CLIENT = "boltseal"
SECRET = "s3cret of the client/+"  # noqa: S105 - of a test
ALICE: Mapping[str, Any] = {
    "sub": "person-1",
    "preferred_username": "alice",
    "name": "Alice Example",
    "groups": ["dev", "all"],
}


class Provider(Issuer):
    """One provider. `lies`: claims of ID tokens that differ from the truth, None removes one. `header`: the same of headers.

    `reuse_codes`: a code may be used again. `requests`: the forms sent to the token endpoint, with their headers.
    """

    def __init__(self, url: str) -> None:
        self.lies: dict[str, object] = {}
        self.header: dict[str, object] = {}
        self.reuse_codes = False
        self.requests: list[tuple[Mapping[str, str], Mapping[str, str]]] = []
        self.answer: Answer | None = None
        self.token_text: str | None = None
        self._codes: dict[str, tuple[dict[str, str], Mapping[str, Any]]] = {}
        super().__init__(url)

    def publish(self, **discovery: object) -> None:
        """Show the present key, and where people log in."""
        own = {"authorization_endpoint": f"{self.url}/authorize", "token_endpoint": f"{self.url}/token"}
        super().publish(**{**own, **discovery})

    def authorize(self, address: str, person: Mapping[str, Any] = ALICE, **answer: str | None) -> str:
        """Log a person in at the address that the registry sent a browser to. Return the address that it is sent back to.

        `answer`: parameters that differ from the truth; None leaves one out.
        """
        assert address.startswith(f"{self.url}/authorize?"), address
        asked = dict(parse_qsl(urlsplit(address).query))
        assert asked["response_type"] == "code", asked
        assert asked["code_challenge_method"] == "S256", asked
        assert len(asked["code_challenge"]) == 43, asked
        assert len(asked["nonce"]) == len(b64(bytes(32))), asked
        assert "openid" in asked["scope"].split(), asked
        assert asked["client_id"] == CLIENT, asked
        code = secrets.token_urlsafe(16)
        self._codes[code] = (asked, person)
        parameters = {"code": code, "state": asked["state"], "iss": self.url, **answer}
        return f"{asked['redirect_uri']}?{urlencode({k: v for k, v in parameters.items() if v is not None})}"

    def post(self, path: str, form: Mapping[str, str], headers: Mapping[str, str]) -> Answer:
        """Exchange a code for an ID token, as the specifications demand."""
        self.requests.append((form, headers))
        if self.answer is not None:
            return self.answer
        asked, person = self._codes.get(form.get("code", ""), ({}, {}))
        if not self.reuse_codes:
            self._codes.pop(form.get("code", ""), None)
        challenge = b64(hashlib.sha256(form.get("code_verifier", "").encode()).digest())
        if (asked.get("code_challenge"), asked.get("redirect_uri")) != (challenge, form.get("redirect_uri")):
            return Answer(b'{"error": "invalid_grant"}', 400)
        if _secret(form, headers) != SECRET:
            return Answer(b'{"error": "invalid_client"}', 401)
        return Answer(json.dumps({"token_type": "Bearer", "id_token": self.id_token(asked["nonce"], person)}).encode())

    def id_token(self, nonce: str, person: Mapping[str, Any]) -> str:
        """Return the ID token of a person."""
        if self.token_text is not None:
            return self.token_text
        ci = dict.fromkeys(
            ("repository", "repository_id", "repository_owner_id", "event_name", "ref", "ref_type", "sha", "run_id")
        )
        claims = self.claims(**{**ci, "jti": None, "aud": CLIENT, "nonce": nonce, **person, **self.lies})
        header = {"alg": "RS256", "typ": "JWT", "kid": self.key_id, **self.header}
        return encoded(self.key, {k: v for k, v in header.items() if v is not None}, claims)

    def settings(self, secret_file: str | None, **more: object) -> dict[str, object]:
        """Return the `[auth.oidc]` table of a registry."""
        return {"url": self.url, "client_id": CLIENT, "client_secret_file": secret_file, "name": "acme", **more}


def _secret(form: Mapping[str, str], headers: Mapping[str, str]) -> str:
    basic = headers.get("authorization", "").removeprefix("Basic ")
    return unquote(base64.b64decode(basic).decode().partition(":")[2]) if basic else form.get("client_secret", "")


@contextmanager
def running_provider() -> Iterator[Provider]:
    """Run a provider on a free port of this machine."""
    with running(Provider) as provider:
        yield provider
