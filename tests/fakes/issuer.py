"""An OpenID Connect issuer on a real socket, which signs with real keys, and lies where a test wants it to."""

from __future__ import annotations

import base64
import json
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple, TypeVar
from urllib.parse import parse_qsl

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

DISCOVERY = "/.well-known/openid-configuration"
AUDIENCE = "https://registry.example.com"
RELEASE: Mapping[str, Any] = {
    "sub": "repo:acme/shop:ref:refs/tags/v1.4.2",
    "repository": "acme/shop",
    "repository_id": "123",
    "repository_owner_id": "9",
    "event_name": "push",
    "ref": "refs/tags/v1.4.2",
    "ref_type": "tag",
    "sha": "3f2a" * 10,
    "run_id": "8213",
}
"""The claims of a pipeline that GitHub runs for the git tag v1.4.2."""
RULE: Mapping[str, Any] = {
    "claims": {"repository_id": "123", "repository_owner_id": "9"},
    "repository": "acme/**",
    "actions": ["pull", "push"],
    "tag": "{git_tag}",
    "strip_prefix": "v",
    "also": ["{git_tag_minor}", "latest"],
}
PrivateKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | Ed25519PrivateKey


class Answer(NamedTuple):
    """What the issuer answers at a path."""

    body: bytes
    status: int = 200
    headers: Mapping[str, str] = {}


def b64(raw: bytes) -> str:
    """Return base64url without padding."""
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def number(value: int, size: int = 0) -> str:
    """Return a whole number as JSON Web Keys have it."""
    return b64(value.to_bytes(size or (value.bit_length() + 7) // 8, "big"))


def public_jwk(key: PrivateKey, **more: str) -> dict[str, str]:
    """Return the public part of a key as an issuer lists it."""
    public = key.public_key()
    match public:
        case rsa.RSAPublicKey():
            numbers = public.public_numbers()
            return {"kty": "RSA", "n": number(numbers.n), "e": number(numbers.e), **more}
        case ec.EllipticCurvePublicKey():
            point = public.public_numbers()
            return {"kty": "EC", "crv": "P-256", "x": number(point.x, 32), "y": number(point.y, 32), **more}
        case _:
            return {"kty": "OKP", "crv": "Ed25519", "x": b64(public.public_bytes_raw()), **more}


def sign(key: PrivateKey, algorithm: str, message: bytes) -> bytes:
    """Return the signature of a JSON Web Token."""
    match key:
        case rsa.RSAPrivateKey() if algorithm == "PS256":
            pss = padding.PSS(mgf=padding.MGF1(hashes.SHA256()), salt_length=32)
            return key.sign(message, pss, hashes.SHA256())
        case rsa.RSAPrivateKey():
            return key.sign(message, padding.PKCS1v15(), hashes.SHA256())
        case ec.EllipticCurvePrivateKey():
            r, s = decode_dss_signature(key.sign(message, ec.ECDSA(hashes.SHA256())))
            return r.to_bytes(32, "big") + s.to_bytes(32, "big")
        case _:
            return key.sign(message)


def encoded(key: PrivateKey, header: Mapping[str, Any], claims: Mapping[str, Any]) -> str:
    """Return a signed token with exactly this header and these claims."""
    signed = f"{b64(json.dumps(header).encode())}.{b64(json.dumps(claims).encode())}"
    return f"{signed}.{b64(sign(key, str(header.get('alg')), signed.encode()))}"


class Issuer:
    """One issuer. `answers`: by path, to be changed by a test. `asked`: the paths of its requests so far."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.answers: dict[str, Answer] = {}
        self.asked: list[str] = []
        self.key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        self.key_id = "key-1"
        self._number = 0
        self.publish()

    def publish(self, **discovery: object) -> None:
        """Show the present key. `discovery`: members of the discovery document that differ from the truth."""
        document = {"issuer": self.url, "jwks_uri": f"{self.url}/keys", **discovery}
        self.answers[DISCOVERY] = Answer(json.dumps(document).encode())
        keys = [public_jwk(self.key, kid=self.key_id, use="sig", alg="RS256")]
        self.answers["/keys"] = Answer(json.dumps({"keys": keys}).encode())

    def post(self, path: str, form: Mapping[str, str], headers: Mapping[str, str]) -> Answer:
        """Answer a form. An issuer of pipelines takes none; see `tests.fakes.provider`."""
        return Answer(b"", 404)

    def rotate(self, key_id: str) -> None:
        """Replace the key by another one."""
        self.key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        self.key_id = key_id
        self.publish()

    def claims(self, **changes: object) -> dict[str, Any]:
        """Return the claims of a new token of a release, with some changed; None removes one."""
        now_s = int(time.time())
        self._number += 1
        times = {"iat": now_s, "nbf": now_s, "exp": now_s + 300}
        all_of = {"iss": self.url, "aud": AUDIENCE, "jti": f"token-{self._number}", **times, **RELEASE, **changes}
        return {name: value for name, value in all_of.items() if value is not None}

    def token(self, **changes: object) -> str:
        """Return a new token with these claims changed."""
        return encoded(self.key, {"alg": "RS256", "typ": "JWT", "kid": self.key_id}, self.claims(**changes))

    def table(self, *rules: Mapping[str, Any], **more: object) -> dict[str, Any]:
        """Return its table of the configuration."""
        return {"name": "ci", "url": self.url, "audience": AUDIENCE, "rule": list(rules or (RULE,)), **more}

    def toml(self, **more: object) -> str:
        """Return its table as text of a settings file, in which TOML and JSON agree but for the sign of equality."""
        lines = ["[[auth.issuer]]"]
        for name, value in self.table(**more).items():
            if name != "rule":
                lines.append(f"{name} = {json.dumps(value)}")
        lines.append("[[auth.issuer.rule]]")
        for name, value in RULE.items():
            if name != "claims":
                lines.append(f"{name} = {json.dumps(value)}")
        lines += ["[auth.issuer.rule.claims]", *(f"{key} = {json.dumps(text)}" for key, text in RULE["claims"].items())]
        return "\n".join(lines) + "\n"


AnyIssuer = TypeVar("AnyIssuer", bound=Issuer)


@contextmanager
def running_issuer() -> Iterator[Issuer]:
    """Run an issuer on a free port of this machine."""
    with running(Issuer) as issuer:
        yield issuer


@contextmanager
def running(kind: type[AnyIssuer]) -> Iterator[AnyIssuer]:
    """Run an issuer of this class on a free port of this machine."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            issuer.asked.append(self.path)
            self.answer(issuer.answers.get(self.path, Answer(b"", 404)))

        def do_POST(self) -> None:
            issuer.asked.append(self.path)
            text = self.rfile.read(int(self.headers.get("content-length", "0"))).decode()
            self.answer(issuer.post(self.path, dict(parse_qsl(text)), {k.lower(): v for k, v in self.headers.items()}))

        def answer(self, answer: Answer) -> None:
            self.send_response(answer.status)
            for name, value in answer.headers.items():
                self.send_header(name, value)
            self.send_header("content-length", str(len(answer.body)))
            self.end_headers()
            self.wfile.write(answer.body)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    issuer = kind(f"http://127.0.0.1:{server.server_address[1]}")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield issuer
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
