"""The claims of a pipeline's ID token (OpenID Connect), checked and parsed once into a frozen type. Pure.

`check_claims` takes the payload of a token whose signature was verified (`server.auth.id_tokens`), in this order:

1. the payload is a JSON object of at most `MAX_CLAIMS` claims
2. `iss` is exactly the configured issuer, and `aud` exactly the configured audience: a token that is also for others is
   refused, since these could use it here
3. `exp`, `nbf` and `iat` are whole seconds; clocks may differ by `CLOCK_SKEW_S`; a token is valid for at most a day
4. `sub` and `jti` are short printable texts

All other claims are texts by name: strings, whole numbers and booleans. Lists, objects, and texts that are too long or
cannot be printed are left out, so no rule matches them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from boltseal.errors import Unauthenticated, quote
from boltseal.oci.jsontext import decode

CLOCK_SKEW_S: Final = 30
"""How far the clocks of issuer and registry may differ."""
MAX_LIFE_S: Final = 86_400
MAX_CLAIMS: Final = 200
MAX_TEXT: Final = 512
"""Characters of a claim."""
MAX_SHOWN: Final = 255
"""Characters of a claim that the ledger shows."""
LEDGER_PREFIX: Final = "ci."
"""Keys of a ledger entry's extra that begin with this are written by the registry alone, from verified claims."""
PULL_REQUEST_TARGET: Final = "pull_request_target"

_REF_TAG: Final = "refs/tags/"
_is_commit = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}").fullmatch
_MINOR: Final = re.compile(r"((?:0|[1-9][0-9]*)\.(?:0|[1-9][0-9]*))\.(?:0|[1-9][0-9]*)", re.ASCII)
_OF_THE_TOKEN: Final = frozenset({"iss", "aud", "exp", "nbf", "iat", "jti"})
_KEYS: Final = {
    "issuer": ("iss",),
    "subject": ("sub",),
    "repository": ("repository", "project_path"),
    "commit": ("sha",),
    "run": ("run_id", "pipeline_id"),
}
"""What the ledger shows, and the claims that have it: the first that the token has (GitHub, GitLab)."""


class ClaimsRefused(Unauthenticated):
    """The claims of an ID token are not valid here and now."""


@dataclass(frozen=True, slots=True)
class PipelineClaims:
    """The verified claims of one ID token. `id`: its `jti`. `ends_s`: its `exp`, seconds since the epoch.

    `texts`: all other claims by name.
    """

    issuer: str
    subject: str
    id: str
    ends_s: int
    texts: Mapping[str, str]

    @property
    def git_tag(self) -> str | None:
        """The name of the git tag that the pipeline runs for, None for a branch or a pull request.

        Both claims must say so: `ref_type`, and the full ref (`ref` of GitHub, `ref_path` of GitLab).
        """
        ref = self.texts.get("ref_path") or self.texts.get("ref", "")
        if self.texts.get("ref_type") != "tag" or not ref.startswith(_REF_TAG):
            return None
        return ref.removeprefix(_REF_TAG) or None

    @property
    def ledger_extra(self) -> Mapping[str, str]:
        """What a ledger entry says about the pipeline: at most issuer, subject, repository, commit and run."""
        known = {**self.texts, "iss": self.issuer, "sub": self.subject}
        shown: dict[str, str] = {}
        for key, names in _KEYS.items():
            text = next((known[name] for name in names if name in known), "")
            if text and len(text) <= MAX_SHOWN and (key != "commit" or _is_commit(text)):
                shown[f"{LEDGER_PREFIX}{key}"] = text
        return shown


def check_claims(payload: bytes, *, issuer: str, audience: str, now_s: int) -> PipelineClaims:
    """Return the claims of a verified payload. Raises: ClaimsRefused."""
    # 1
    claims = claims_object(payload)
    # 2
    if claims.get("iss") != issuer:
        raise ClaimsRefused(f"the iss of the ID token is {_shown(claims.get('iss'))}; expected {quote(issuer)}")
    if claims.get("aud") not in (audience, [audience]):
        raise ClaimsRefused(
            f"the aud of the ID token is {_shown(claims.get('aud'))}; expected {quote(audience)} alone: request a token with "
            "that audience"
        )
    # 3
    ends_s = check_times(claims, now_s)
    # 4
    for name in ("sub", "jti"):
        text = claims.get(name)
        if not isinstance(text, str) or not text.isprintable() or not 0 < len(text) <= MAX_SHOWN:
            raise ClaimsRefused(f"the ID token has no valid {name}; expected 1 to {MAX_SHOWN} printable characters")
    texts = {name: text for name, value in claims.items() if (text := _text(name, value)) is not None}
    return PipelineClaims(issuer, str(claims["sub"]), str(claims["jti"]), ends_s, texts)


def minor_of(version: str) -> str | None:
    """Return `1.4` for the version `1.4.2`; None for every other text, also for a pre-release."""
    match = _MINOR.fullmatch(version)
    return match[1] if match else None


def shown_pipeline(extra: Mapping[str, str]) -> dict[str, str]:
    """Return what an entry says about the pipeline that wrote it, by its keys without the prefix; empty for no pipeline."""
    return {key: extra[f"{LEDGER_PREFIX}{key}"] for key in _KEYS if f"{LEDGER_PREFIX}{key}" in extra}


def pipeline_text(extra: Mapping[str, str]) -> str:
    """Return which pipeline wrote an entry, such as `run 8213 of acme/shop at commit 3f2a...`; "" for no pipeline."""
    shown = shown_pipeline(extra)
    if not shown:
        return ""
    run = f"run {shown['run']}" if "run" in shown else "a pipeline"
    of = f" of {shown.get('repository') or shown.get('subject') or shown.get('issuer', '')}"
    return run + of + (f" at commit {shown['commit']}" if "commit" in shown else "")


def claims_object(payload: bytes) -> dict[str, object]:
    try:
        claims = decode(payload, dict[str, object])
    except ValueError as error:
        raise ClaimsRefused("the ID token's claims are not a JSON object") from error
    if len(claims) > MAX_CLAIMS:
        raise ClaimsRefused(f"the ID token has {len(claims)} claims; at most {MAX_CLAIMS} are allowed")
    return claims


def check_times(claims: Mapping[str, object], now_s: int) -> int:
    """Return when the token ends. Raises: ClaimsRefused."""
    begins_s = claims.get("nbf", claims.get("iat"))
    issued_s, ends_s = claims.get("iat"), claims.get("exp")
    if type(issued_s) is not int or type(ends_s) is not int or type(begins_s) is not int:
        raise ClaimsRefused("the ID token has no valid times; expected iat and exp in whole seconds")
    if now_s >= ends_s + CLOCK_SKEW_S:
        raise ClaimsRefused("the ID token has expired; request another just before the login")
    if now_s < max(issued_s, begins_s) - CLOCK_SKEW_S:
        raise ClaimsRefused("the ID token is not valid yet; compare the clocks of issuer and registry")
    if not 0 < ends_s - issued_s <= MAX_LIFE_S:
        raise ClaimsRefused(f"the ID token is valid for {ends_s - issued_s} s; expected at most {MAX_LIFE_S}")
    return ends_s


def _text(name: str, value: object) -> str | None:
    """Return a claim as a text that rules compare; None for claims of the token itself, and what no rule may match."""
    if name in _OF_THE_TOKEN or not isinstance(value, str | int):
        return None
    text = str(value).lower() if isinstance(value, bool) else str(value)
    return text if text.isprintable() and 0 < len(text) <= MAX_TEXT else None


def _shown(value: object) -> str:
    return quote(str(value), 80) if value is not None else "missing"
