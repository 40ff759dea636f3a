"""Logins of pipelines with the ID token of their CI: `docker login -u oidc --password-stdin`.

    Basic oidc:<ID token>      the first use of a token's `jti` opens a session, which is a row, so that all servers agree;
                               later uses before `exp` get the same one. A `jti` with other claims is refused
    refresh token              for clients that ask for one (docker): ours, random, stored as its hash, and valid for
                               `offline_for` of the issuer, so that a long push outlives the ID token
    bearer token               names the session (`server.auth.tokens`), and never outlives the login it was issued for

A token that no rule matches opens no session: an attacker can get a valid token of an issuer that serves many organisations. The
rights of a session are those that the rules give its claims now, so a changed configuration takes effect at once; where no rule
matches any more, the session is no login. A revocation changes the generation, and then each server verifies again what it remembers.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Final

import msgspec

from boltseal.errors import Unauthenticated, quote
from boltseal.oci.jsontext import decode
from boltseal.policy.globs import Glob
from boltseal.policy.pipeline_claims import CLOCK_SKEW_S, PULL_REQUEST_TARGET, PipelineClaims
from boltseal.policy.pipeline_rules import IssuerTerms, PipelineRights
from boltseal.server.auth.id_tokens import IdTokenInvalid, parse_unverified, verify
from boltseal.server.auth.issuer_keys import IssuerKeys
from boltseal.server.storage.metadata import pipeline_table
from boltseal.server.storage.metadata.pipeline_table import PipelineRefreshRow, PipelineSessionRow
from boltseal.server.storage.metadata.protocol import Metadata, UnitOfWork

PIPELINE_USER: Final = "oidc"
"""The user name of a login whose password is an ID token."""
MAX_REFRESH_TOKENS: Final = 20
"""Refresh tokens of one session: each `docker login` with the same ID token gets one."""
REFRESH_PREFIX: Final = "bsr_"
_SHOWN_CLAIMS: Final = ("sub", "repository_id", "project_id", "ref", "environment", "event_name")
"""Claims that most rules name, in a message to the pipeline that has them."""
_FORGET_US: Final = 3_600_000_000
_ENDED: Final = "the login of this pipeline has ended or was revoked; log in again with a new ID token"


class _StoredClaims(msgspec.Struct):
    subject: str
    id: str
    ends_s: int
    texts: dict[str, str]


@dataclass(frozen=True, slots=True)
class PipelineSession:
    """A pipeline that is logged in. `ends_s`: when the credential that it used ends, seconds since the epoch.

    `generation`: of the database before the session was read (`coordination.generation`).
    """

    id: str
    terms: IssuerTerms
    claims: PipelineClaims
    ends_s: float
    generation: int

    @property
    def name(self) -> str:
        """The pipeline as ledger and log name it. No user has such a name, since it has a colon."""
        return f"{PIPELINE_USER}:{self.terms.name}:{self.claims.subject}"

    @property
    def ledger_extra(self) -> Mapping[str, str]:
        """What a ledger entry says about the pipeline."""
        return self.claims.ledger_extra

    def rights(self, repository: str) -> PipelineRights:
        """Return what the rules give the pipeline in a repository now."""
        return self.terms.rights(self.claims, repository)

    def pulled(self) -> tuple[Glob, ...]:
        """Return the globs of the repositories that the pipeline may pull."""
        return self.terms.pulled(self.claims)


class PipelineLogins:
    """The logins of pipelines at one server. `database` None: there are none. `now_us`: microseconds since the epoch."""

    def __init__(
        self,
        issuers: Iterable[IssuerKeys] = (),
        database: Metadata | None = None,
        now_us: Callable[[], int] = lambda: 0,
    ) -> None:
        self._keys = {keys.terms.url: keys for keys in issuers}
        self.database = database
        self.now_us = now_us

    @property
    def accepted(self) -> bool:
        """Whether the configuration has an issuer. Then the user name `oidc` is that of pipelines."""
        return bool(self._keys) and self.database is not None

    @property
    def terms(self) -> tuple[IssuerTerms, ...]:
        """The configured issuers."""
        return tuple(keys.terms for keys in self._keys.values())

    def may_remember(self, session: PipelineSession) -> bool:
        """Return whether a session that was read before is certainly not revoked since: no cache has become invalid."""
        now = self._generation()
        return now == session.generation and not now & 1  # odd: a change is being committed

    def _generation(self) -> int:
        return 0 if self.database is None else self.database.generation.read()

    async def by_id_token(self, text: str) -> PipelineSession:
        """Return the session of an ID token, opened if it is its first use.

        Raises:
            IdTokenInvalid, ClaimsRefused: the token is not valid here and now.
            IssuerUnavailable: the issuer's keys cannot be fetched.
            Unauthenticated: no rule matches its claims; its identifier was used with other claims; it was revoked.
        """
        token = parse_unverified(text)
        issuer = self._keys.get(token.issuer_unverified)
        if issuer is None:
            raise IdTokenInvalid("the ID token is of an issuer that this registry does not accept")
        terms = issuer.terms
        claims = verify(
            token,
            await issuer.with_key(token.key_id),
            issuer=terms.url,
            audience=terms.audience,
            now_s=self.now_us() // 1_000_000,
        )
        _check_matched(terms, claims)
        payload_sha256 = hashlib.sha256(token.payload).hexdigest()
        generation = self._generation()
        row = await self._opened(_row(claims, payload_sha256, self.now_us()))
        if row.payload_sha256 != payload_sha256:
            raise Unauthenticated("an ID token with this identifier (jti) and other claims was used before")
        return self._session(row, claims.ends_s + CLOCK_SKEW_S, generation)

    async def by_session(self, id_: str, ends_s: float) -> PipelineSession:
        """Return the session that a bearer token names. Raises: Unauthenticated, Unavailable."""
        generation = self._generation()
        row = None if self.database is None else await self.database.read(lambda tx: pipeline_table.find(tx, id_))
        if row is None:
            raise Unauthenticated(_ENDED)
        return self._session(row, ends_s, generation)

    async def by_refresh_token(self, text: str) -> PipelineSession:
        """Return the session of a refresh token. Raises: Unauthenticated, Unavailable."""
        hashed = _hash(text)
        database = self.database
        held = None if database is None else await database.read(lambda tx: pipeline_table.find_refresh(tx, hashed))
        if held is None or held.ends_us <= self.now_us():
            raise Unauthenticated(_ENDED)
        return await self.by_session(held.session, held.ends_us / 1_000_000)

    async def issue_refresh_token(self, session: PipelineSession) -> str | None:
        """Return a new refresh token of a session; None if it has many already, or was revoked. Raises: Unavailable, Full."""
        text = REFRESH_PREFIX + secrets.token_urlsafe(32)
        row = PipelineRefreshRow(_hash(text), session.id, self.now_us() + session.terms.offline_us)
        if self.database is None:
            return None
        issued = await self.database.write(lambda tx: pipeline_table.add_refresh(tx, row, most=MAX_REFRESH_TOKENS))
        return text if issued else None

    async def _opened(self, row: PipelineSessionRow) -> PipelineSessionRow:
        """Return the stored session of this identifier, written if there is none."""
        if self.database is None:
            raise Unauthenticated(_ENDED)
        held = await self.database.read(lambda tx: pipeline_table.find(tx, row.id))
        if held is not None:
            return held

        def job(tx: UnitOfWork) -> PipelineSessionRow:
            return pipeline_table.open_session(tx, row, forget_before_us=row.opened_us - _FORGET_US)

        return await self.database.write(job)

    def _session(self, row: PipelineSessionRow, ends_s: float, generation: int) -> PipelineSession:
        """Return a stored session. Raises: Unauthenticated: it was revoked, or its issuer or its claims are not accepted any more."""
        issuer = self._keys.get(row.issuer)
        if row.revoked_us is not None or issuer is None:
            raise Unauthenticated(_ENDED)
        claims = claims_of(row)
        _check_matched(issuer.terms, claims)
        return PipelineSession(row.id, issuer.terms, claims, ends_s, generation)


def claims_of(row: PipelineSessionRow) -> PipelineClaims:
    """Return the verified claims of a stored session."""
    stored = decode(row.claims.encode(), _StoredClaims)
    return PipelineClaims(row.issuer, stored.subject, stored.id, stored.ends_s, stored.texts)


def _check_matched(terms: IssuerTerms, claims: PipelineClaims) -> None:
    """Raise Unauthenticated if no rule applies to a pipeline: then it is no user of this registry at all."""
    if not terms.matches(claims):
        raise Unauthenticated(_no_rule(terms.name, claims))


def _no_rule(issuer: str, claims: PipelineClaims) -> str:
    """Describe why a token opens no session, by claims that it has; the rules are the operator's and are not shown."""
    texts = {"sub": claims.subject, **claims.texts}
    shown = ", ".join(f"{name} {quote(texts[name])}" for name in _SHOWN_CLAIMS if name in texts)
    forks = texts.get("event_name") == PULL_REQUEST_TARGET
    more = ", which only a rule with `allow_pull_request_target` accepts" if forks else ""
    return (
        f"no rule of issuer {issuer} matches this pipeline: {shown}{more}; compare its claims with [[auth.issuer.rule]]"
    )


def _row(claims: PipelineClaims, payload_sha256: str, now_us: int) -> PipelineSessionRow:
    stored = _StoredClaims(claims.subject, claims.id, claims.ends_s, dict(claims.texts))
    id_ = hashlib.sha256(f"{claims.issuer}\n{claims.id}".encode()).hexdigest()
    ends_us = (claims.ends_s + CLOCK_SKEW_S) * 1_000_000
    return PipelineSessionRow(id_, claims.issuer, msgspec.json.encode(stored).decode(), payload_sha256, now_us, ends_us)


def _hash(refresh_token: str) -> str:
    return hashlib.sha256(refresh_token.encode("utf-8", "surrogatepass")).hexdigest()
