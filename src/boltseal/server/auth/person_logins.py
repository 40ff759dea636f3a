"""Logins of people at an identity provider: OpenID Connect, authorization code with PKCE (S256).

    begin    the browser gets a cookie with a random secret, and is sent to the provider with a state, a nonce and the challenge
    finish   the provider sends it back with a code and the state; this server exchanges the code for an ID token

State, nonce and verifier are made from the cookie's secret, so they belong to this browser, and nothing is stored until a login
succeeds: a client that only begins logins fills no table. The checks of what comes back, in this order:

1. the state was made from this browser's cookie, less than `LOGIN_S` ago
2. `iss`, if it is there, or the provider always adds it (RFC 9207), is the configured provider
3. there is a code, not an error; the provider gives an ID token for code and verifier
4. signature (`id_tokens`) and claims (`policy.person_claims`) of the token, with the nonce of this login
5. in one transaction: the state was not used before; no other user has the name; a grant applies

With 5 the groups of the person are replaced, also where no grant applies any more: API tokens lose then what the groups gave. The
provider's tokens are not kept. Nothing is asked of the provider later: it may be down while sessions and API tokens work.

Trusted: the provider. If it is compromised, the attacker can log in as any of its people.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, NamedTuple
from urllib.parse import quote as percent_encode
from urllib.parse import urlencode

import msgspec
import structlog

from boltseal.errors import BoltsealError, Denied, Unauthenticated, quote
from boltseal.oci.jsontext import decode
from boltseal.policy.grants import Grants
from boltseal.policy.person_claims import PersonClaims, PersonTerms, check_person
from boltseal.server.auth.id_tokens import check_signature, parse_unverified
from boltseal.server.auth.issuer_client import IssuerUnavailable
from boltseal.server.auth.issuer_keys import IssuerKeys
from boltseal.server.auth.page_sessions import NewSession, PageSessions, may_create_key, random_cookie
from boltseal.server.auth.people import MAX_PEOPLE, login_of_person, parse_people, person_row
from boltseal.server.auth.user_directory import AccountRows
from boltseal.server.storage.metadata import account_table, api_token_table, audit_table, person_table, session_table
from boltseal.server.storage.metadata.protocol import PersonRow, UnitOfWork

LOGIN_S: Final = 600
"""How long a person may take at the provider."""
MAX_CODE: Final = 4096
_STATE: Final = re.compile(r"[A-Za-z0-9_-]{1,64}\.(?P<ends>[0-9]{1,12})\.(?P<page>[A-Za-z0-9_-]{0,1000})", re.ASCII)
"""A state without the code at its end."""

_log = structlog.get_logger(__name__)


class LoginRefused(Unauthenticated):
    """What came back from the provider is no login that this browser began, or not valid."""


class StateInvalid(LoginRefused):
    """The answer is not for a login of this browser. It says nothing about who sent it, so it is no failed login of the address."""


class PersonDenied(Denied):
    """The provider says who it is, but this registry gives that person nothing, or the name is another user's."""


@dataclass(frozen=True, slots=True)
class ProviderSettings:
    """How this registry is known to the provider. `secret`: reads the client's secret, "" for a public client."""

    terms: PersonTerms
    redirect: str
    scopes: tuple[str, ...]
    secret: Callable[[], str]


class ProviderAnswer(NamedTuple):
    """What the provider sent the browser back with; "" where a parameter is missing. `iss` None: missing."""

    state: str
    code: str
    iss: str | None
    error: str


class FinishedLogin(NamedTuple):
    """A login that succeeded: the cookie of the new session, and the page to go to."""

    cookie: str
    return_to: str


class _NewLogin(NamedTuple):
    """A login to write. `cookie`: of the session. `ends_s`: when the state ends. `is_local`: the users' file has such a name."""

    claims: PersonClaims
    cookie: str
    state: str
    ends_s: int
    address: str
    is_local: bool


class _TokenAnswer(msgspec.Struct):
    id_token: str


class _ErrorAnswer(msgspec.Struct):
    error: str


class PersonLogins:
    """The logins at one identity provider. `is_local`: whether the users' file has a user of a name."""

    def __init__(
        self,
        settings: ProviderSettings,
        provider: IssuerKeys,
        accounts: AccountRows,
        sessions: PageSessions,
        grants: Grants,
        is_local: Callable[[str], bool],
    ) -> None:
        self._settings = settings
        self._terms = settings.terms
        self._provider = provider
        self._database = accounts.database
        self._key = accounts.key
        self._sessions = sessions
        self._grants = grants
        self._is_local = is_local

    @property
    def name(self) -> str:
        """The name of the provider, for people."""
        return self._terms.name

    async def begin(self, cookie: str, return_to: str) -> str:
        """Return the address of the provider to which the browser with this cookie is sent. Raises: IssuerUnavailable."""
        endpoint = (await self._provider.endpoints()).authorization
        if endpoint is None:
            raise IssuerUnavailable(
                f"{self.name} has no login for people: its discovery document has no authorization_endpoint"
            )
        self._provider.client.check_address(endpoint, "people log in")
        if "#" in endpoint:
            raise IssuerUnavailable(
                f"it says that people log in at {quote(endpoint)}; expected an address without a fragment"
            )
        state = self._new_state(cookie, return_to)
        challenge = _base64(hashlib.sha256(_derived(cookie, "verifier", state).encode()).digest())
        query = {
            "response_type": "code",
            "client_id": self._terms.client_id,
            "redirect_uri": self._settings.redirect,
            "scope": " ".join(self._settings.scopes),
            "state": state,
            "nonce": _derived(cookie, "nonce", state),
            "code_challenge": challenge,
            "code_challenge_method": "S256",
        }
        return f"{endpoint}{'&' if '?' in endpoint else '?'}{urlencode(query, quote_via=percent_encode)}"

    async def finish(self, cookie: str, answer: ProviderAnswer, address: str) -> FinishedLogin:
        """Begin the session of the person that the provider names.

        Raises:
            LoginRefused, IdTokenInvalid, ClaimsRefused: the answer is not valid for this browser.
            PersonDenied: no grant applies, or the name is another user's.
            IssuerUnavailable: the provider cannot be asked. Unavailable, Full, UserKeyUnreadable: the login cannot be written.
        """
        # 1
        return_to, ends_s = self._read_state(cookie, answer.state)
        # 2
        endpoints = await self._provider.endpoints()
        if (answer.iss is None and endpoints.names_itself) or answer.iss not in (None, self._terms.issuer):
            raise LoginRefused(f"the answer is of another provider than {self.name}; begin the login again")
        # 3
        if answer.error or not answer.code:
            reason = f"says {quote(answer.error, 60)}" if answer.error else "sent no code"
            raise LoginRefused(f"{self.name} did not log you in: it {reason}; begin the login again")
        token = parse_unverified(await self._exchange(endpoints.token, answer, cookie, endpoints.secret_in_header))
        # 4
        check_signature(token, await self._provider.with_key(token.key_id))
        nonce = _derived(cookie, "nonce", answer.state)
        claims = check_person(token.payload, self._terms, nonce=nonce, now_s=self._sessions.now_us // 1_000_000)
        # 5
        session_cookie = random_cookie()
        new = _NewLogin(claims, session_cookie, answer.state, ends_s, address, self._is_local(claims.user_name))
        refusal = await self._database.write(lambda tx: self._logged_in(tx, new))
        if refusal is not None:
            raise refusal
        return FinishedLogin(session_cookie, return_to)

    def _logged_in(self, tx: UnitOfWork, new: _NewLogin) -> BoltsealError | None:
        """Write a login. Return why it gives no session; then what was learned of the groups is written all the same."""
        claims, address = new.claims, new.address
        if not session_table.use_state(tx, hashlib.sha256(new.state.encode()).hexdigest(), new.ends_s * 1_000_000):
            return LoginRefused("this login was used before; begin the login again")
        held = person_table.find(tx, claims.issuer, claims.subject)
        name = claims.user_name if held is None else held.name
        admitted = self._grants.admits(name, claims.groups)
        if held is None and admitted and (new.is_local or api_token_table.has_owner(tx, name)):
            return self._refused(tx, name, address, f"the user name {name} is that of another user of this registry")
        if held is not None or admitted:
            self._note_person(tx, name, claims, held)
        if not admitted:
            groups = ", ".join(quote(group, 40) for group in sorted(claims.groups)[:10]) or "none"
            return self._refused(tx, name, address, f"no grant of this registry is for {name} or its groups ({groups})")
        login = login_of_person(claims.issuer, claims.subject)
        self._sessions.add(tx, new.cookie, NewSession(name, login, address, f"by {self.name}"))
        return None

    def _refused(self, tx: UnitOfWork, name: str, address: str, reason: str) -> PersonDenied:
        audit_table.record(tx, "anonymous", "login.failed", name, f"by {self.name}: {reason}; from {address}")
        return PersonDenied(f"{self.name} knows you, but {reason}; ask the operator of this registry")

    def _note_person(self, tx: UnitOfWork, name: str, claims: PersonClaims, held: PersonRow | None) -> None:
        """Write a person whose groups or name for display differ from what is known. Raises: UserKeyUnreadable."""
        changed_us, number = person_table.next_time_us(tx)
        if held is None and number >= MAX_PEOPLE:
            raise PersonDenied(f"there are {number} people already; ask the operator of this registry to remove some")
        row = person_row(self._key, name, claims, changed_us, may_create=may_create_key(tx))
        known = None if held is None else parse_people([held], self._key).get(name)
        if known is None or (known.groups, known.display_name) != (claims.groups, claims.display_name):
            person_table.put(tx, row)
            account_table.note_existed(tx)
            audit_table.record(tx, name, "person.added" if held is None else "person.changed", name)

    async def _exchange(self, endpoint: str | None, answer: ProviderAnswer, cookie: str, in_header: bool) -> str:
        """Return the ID token for a code. Raises: LoginRefused: the provider refuses it. IssuerUnavailable."""
        if endpoint is None:
            raise IssuerUnavailable(
                f"{self.name} has no login for people: its discovery document has no token_endpoint"
            )
        self._provider.client.check_address(endpoint, "its tokens are")
        if len(answer.code) > MAX_CODE or not answer.code.isascii():
            raise LoginRefused("the code in the answer is not valid; begin the login again")
        form = {
            "grant_type": "authorization_code",
            "code": answer.code,
            "redirect_uri": self._settings.redirect,
            "code_verifier": _derived(cookie, "verifier", answer.state),
        }
        headers, secret = {"accept": "application/json"}, self._settings.secret()
        if secret and in_header:
            headers["authorization"] = _basic(self._terms.client_id, secret)
        else:
            form |= {"client_id": self._terms.client_id} | ({"client_secret": secret} if secret else {})
        status, body = await self._provider.client.post(endpoint, form, headers)
        if status == 200:
            try:
                return decode(body, _TokenAnswer).id_token
            except ValueError as error:
                raise IssuerUnavailable(
                    f"the answer of {self.name} has no ID token; the scope `openid` may be missing"
                ) from error
        if status in (400, 401):
            word = _error_word(body)
            if word in ("invalid_client", "unauthorized_client"):
                _log.error(
                    "the identity provider refuses this registry: compare client_id and secret",
                    provider=self.name,
                    error=word,
                )
                raise IssuerUnavailable(
                    f"{self.name} refuses this registry; ask its operator to compare the client's ID and secret"
                )
            raise LoginRefused(f"{self.name} refused the login ({quote(word, 40)}); begin it again")
        raise IssuerUnavailable(f"{self.name} answered HTTP {status}; try the login again in a minute")

    def _new_state(self, cookie: str, return_to: str) -> str:
        ends_s = self._sessions.now_us // 1_000_000 + LOGIN_S
        text = f"{secrets.token_urlsafe(16)}.{ends_s}.{_base64(return_to.encode())}"
        return f"{text}.{_derived(cookie, 'state', text)}"

    def _read_state(self, cookie: str, state: str) -> tuple[str, int]:
        """Return the page to go to, and when the state ends, seconds since the epoch. Raises: StateInvalid.

        Who has the browser knows its cookie, so the parts may be of the sender's choice: the page must be checked where it is used.
        """
        text, _, code = state.rpartition(".")
        right = bool(cookie) and hmac.compare_digest(
            _derived(cookie, "state", text).encode(), code.encode("utf-8", "replace")
        )
        parts = _STATE.fullmatch(text)
        if not right or parts is None:
            raise StateInvalid("the login was not begun in this browser, or cookies are blocked; begin it again")
        ends_s, encoded, now_s = int(parts["ends"]), parts["page"], self._sessions.now_us // 1_000_000
        if not now_s < ends_s <= now_s + LOGIN_S:
            raise StateInvalid("the login took too long; begin it again")
        try:
            return base64.urlsafe_b64decode(encoded + "=" * (-len(encoded) % 4)).decode(), ends_s
        except ValueError as error:
            raise StateInvalid("the state of the login is not valid; begin it again") from error


def _derived(cookie: str, purpose: str, text: str) -> str:
    """Return a secret of this browser for one purpose of one login: 43 characters, as PKCE needs."""
    return _base64(
        hmac.digest(cookie.encode(), f"boltseal {purpose} {text}".encode("utf-8", "replace"), hashlib.sha256)
    )


def _base64(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode("ascii")


def _basic(client_id: str, secret: str) -> str:
    """Return a client's login (RFC 6749, section 2.3.1): both parts are encoded as in a form before they are joined."""
    parts = f"{percent_encode(client_id, safe='')}:{percent_encode(secret, safe='')}"
    return "Basic " + base64.b64encode(parts.encode()).decode("ascii")


def _error_word(body: bytes) -> str:
    try:
        return decode(body, _ErrorAnswer).error
    except ValueError:
        return "no reason given"
