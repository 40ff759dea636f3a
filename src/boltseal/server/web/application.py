"""The pages below `/ui/`: login, account, logout. A table of routes; each page is a function of the request.

    GET  /ui/ and others        what the registry has (`server.web.pages`)
    POST /ui/seal and others    changes of tags and API tokens (`server.web.pages.actions`)
    GET  /ui/login              the form, and a link to the identity provider if there is one
    POST /ui/login              a login with the password
    GET  /ui/login/provider     begins a login at the identity provider (`server.auth.person_logins`)
    GET  /ui/login/callback     where the provider sends the browser back
    GET  /ui/account            who is logged in, groups, sessions
    POST /ui/logout             ends this session
    POST /ui/logout-everywhere  ends all sessions of this user, at every server
    GET  /ui/static/...         scripts and styles; /ui/verify.html: a page to save on disk (`server.web.static_files`)
    GET  /ui/ledger/...         the ledger, for the scripts (`server.web.page_ledger`)

A session is a login for pages alone: `/v2/` and `/api/v1/` ignore cookies, which browsers send with requests that pages of
other servers make. Their clients send an Authorization header, which no such page can. The rules of logins are in `server.auth`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Final

from boltseal.errors import BoltsealError, Denied, TooMany, Unauthenticated
from boltseal.ledger.entry import format_time
from boltseal.server.api.access_log import RequestLog
from boltseal.server.api.auth import RequestAuth
from boltseal.server.api.errors import MethodNotAllowed, RouteUnknown, error_headers
from boltseal.server.api.http_application import READS, HttpApplication
from boltseal.server.api.request import Request
from boltseal.server.api.responses import Headers, Response
from boltseal.server.auth.api_token_text import looks_like_token
from boltseal.server.auth.caller import LoginNeeded
from boltseal.server.auth.page_sessions import (
    COOKIE_CHARACTERS,
    NewSession,
    PageSession,
    PageSessions,
    form_token,
    random_cookie,
)
from boltseal.server.auth.person_logins import PersonLogins, ProviderAnswer, StateInvalid
from boltseal.server.web import formats
from boltseal.server.web.cookies import LOGIN, SESSION, Cookies
from boltseal.server.web.form_requests import ACCOUNT, read_form, return_address
from boltseal.server.web.page_ledger import LEDGER_PREFIX, PageLedger
from boltseal.server.web.pages import FORMS, NAVIGATION, PAGES
from boltseal.server.web.pages.context import FormPage, NotDone, PageContext, RegistryPage, Viewer
from boltseal.server.web.rendering import redirect, stylesheet
from boltseal.server.web.static_files import STATIC_PREFIX, VERIFY_PATH, StaticFiles

PREFIX: Final = "/ui/"
LOGIN_PATH: Final = "/ui/login"
PROVIDER_PATH: Final = "/ui/login/provider"
CALLBACK_PATH: Final = "/ui/login/callback"
AGAIN: Final = "again"
"""A parameter of the form: a person who is logged in wants to log in once more, for what needs a recent login."""


@dataclass(frozen=True, slots=True)
class PageAddress:
    """How browsers reach the pages. `base_url`: scheme and host, None if unknown. `encrypted`: by TLS.

    `enabled`: None: while callers must log in.
    """

    base_url: str | None
    encrypted: bool
    enabled: bool | None


Page = Callable[[Request], Awaitable[Response]]


class Pages(HttpApplication):
    """Serves the pages of one registry."""

    def __init__(
        self,
        observer: RequestLog,
        auth: RequestAuth,
        sessions: PageSessions,
        address: PageAddress,
        contents: PageContext,
        ledger: PageLedger,
        person_logins: PersonLogins | None = None,
    ) -> None:
        super().__init__(observer)
        self._contents = contents
        self._ledger = ledger
        self._static = StaticFiles()
        self._auth = auth
        self._access = auth.access
        self._sessions = sessions
        self._address = address
        self._person_logins = person_logins
        self._cookies = Cookies(address.encrypted)
        self._templates = contents.templates
        self._templates.share(navigation=NAVIGATION, static=self._static.address)
        self._routes: Mapping[str, Mapping[str, Page]] = {
            LOGIN_PATH: {"GET": self._login_form, "POST": self._login},
            PROVIDER_PATH: {"GET": self._begin_at_provider},
            CALLBACK_PATH: {"GET": self._back_from_provider},
            ACCOUNT: {"GET": self._account},
            "/ui/logout": {"POST": self._logout},
            "/ui/logout-everywhere": {"POST": self._logout_everywhere},
            "/ui/static/pages.css": {"GET": self._stylesheet},
            VERIFY_PATH: {"GET": self._verify_page},
        }
        self._folders: Mapping[str, Page] = {LEDGER_PREFIX: self._ledger_part, STATIC_PREFIX: self._static_file}

    async def _respond(self, request: Request) -> Response:
        if self._access.stale:
            await self._access.refresh()
        required = self._access.required()
        if not (required if self._address.enabled is None else self._address.enabled):
            raise RouteUnknown("this server has no pages; `enabled` in [ui] switches them on")
        if not required:
            self._auth.refuse_other_hosts(request)
        path: str = request.scope["path"]
        content = PAGES.get(path)
        if content is not None:
            request.route = path
            form = FORMS.get(path)
            if request.method == "POST" and form is not None:
                return await self._change(request, form)
            if request.method not in READS:
                allowed = "GET, HEAD" if form is None else "GET, HEAD, POST"
                raise MethodNotAllowed(f"method not allowed; use {allowed}", allowed)
            return await self._content(request, content)
        methods = self._routes.get(path)
        if methods is None:
            folder = next((prefix for prefix in self._folders if path.startswith(prefix)), None)
            if folder is None:
                raise RouteUnknown("there is no such page")
            methods, path = {"GET": self._folders[folder]}, folder
        request.route = path
        page = methods.get("GET" if request.method == "HEAD" else request.method)
        if page is None:
            allowed = ", ".join(methods)
            raise MethodNotAllowed(f"method not allowed; use {allowed}", allowed)
        return await page(request)

    def _error_headers(self, request: Request, error: BoltsealError) -> Headers:
        return ()

    def _refusal(self, request: Request, error: BoltsealError) -> Response:
        """Return the page of an error; for lack of a login the way to the form."""
        response = super()._refusal(request, error)
        if isinstance(error, LoginNeeded) and request.method in ("GET", "HEAD"):
            return redirect(formats.address(LOGIN_PATH, return_to=self._page_to_return_to(request)))
        heading = HTTPStatus(response.status).phrase
        link = LOGIN_PATH if response.status == 401 else ""
        extra = error_headers(error)
        return self._templates.page(
            "message",
            status=response.status,
            extra=extra,
            heading=heading,
            message=error.message,
            link=link or PREFIX,
            link_text="Log in" if link else "Overview",
        )

    def _page_to_return_to(self, request: Request) -> str:
        """Return the address of the requested page, to which the browser returns after a login; the login checks it."""
        path: str = request.scope["path"]
        query = request.scope["query_string"].decode("latin-1")
        if path not in PAGES:
            return ""
        return f"{path}?{query}" if query else path

    async def _content(self, request: Request, page: RegistryPage) -> Response:
        """Return a page of the registry for the person of the session, or for an anonymous caller."""
        session = await self._session(request)
        try:
            return await page(self._contents, request, self._viewer(request, session))
        except LoginNeeded as error:
            if session is None and self._access.required():
                raise
            raise Denied(error.message) from error  # the caller has logged in already, or the registry has no logins

    async def _change(self, request: Request, page: FormPage) -> Response:
        """Return the page that follows a form of the registry; the form again with the reason if it was refused."""
        session = await self._required_session(request)
        form = await read_form(request, self._address.base_url, session.cookie)
        session = await self._required_session(request)  # again: the body may have taken minutes, in which it was ended
        viewer = self._viewer(request, session)
        try:
            return await page.submit(self._contents, request, viewer, form)
        except LoginNeeded as error:
            raise Denied(error.message) from error  # a login would not help
        except Denied:
            raise
        except BoltsealError as error:
            not_done = NotDone(super()._refusal(request, error).status, error.message, error_headers(error))
            return await page.form(self._contents, request, viewer, form, not_done)

    def _viewer(self, request: Request, session: PageSession | None) -> Viewer:
        user = "" if session is None else session.owner
        token = "" if session is None else session.form_token
        login_us = 0 if session is None else session.began_us
        return Viewer(user, self._access.is_operator(request.caller), self._access.required(), token, login_us)

    async def _stylesheet(self, _: Request) -> Response:
        return stylesheet()

    async def _static_file(self, request: Request) -> Response:
        return self._static.file(request.scope["path"])

    async def _verify_page(self, _: Request) -> Response:
        return await asyncio.to_thread(self._static.verify_page)

    async def _ledger_part(self, request: Request) -> Response:
        await self._session(request)
        return await self._ledger.respond(request)

    async def _session(self, request: Request) -> PageSession | None:
        """Return the session of a request, and set its caller; None without a valid one. Raises: Unavailable, UsersInvalid."""
        cookie = self._cookies.read(request.scope, SESSION)
        session = await self._sessions.find(cookie) if cookie else None
        caller = None if session is None else self._access.callers.by_session(session)
        if session is None or caller is None:
            return None
        request.caller, request.actor = caller, caller.actor
        return session

    async def _required_session(self, request: Request) -> PageSession:
        """Return the session of a request. Raises: LoginNeeded: there is none."""
        session = await self._session(request)
        if session is None:
            raise LoginNeeded("this page needs a login")
        return session

    async def _login_form(self, request: Request) -> Response:
        if await self._session(request) is not None and not request.query.value(AGAIN):
            return redirect(return_address(request.query.value("return_to")))
        return self._form_page(request, return_address(request.query.value("return_to")))

    def _form_page(self, request: Request, return_to: str, error: BoltsealError | None = None) -> Response:
        """Return the login form, with a cookie for its token if the browser has none."""
        cookie, extra = self._login_cookie(request)
        status, message = 200, ""
        if error is not None:
            status, message = super()._refusal(request, error).status, error.message
            extra += error_headers(error)
        elif not self._access.required():
            message = "This registry has no users, so a login is not needed and not possible."
        return self._templates.page(
            "login",
            status=status,
            extra=extra,
            form_token=form_token(cookie),
            return_to=return_to,
            message=message,
            provider="" if self._person_logins is None else self._person_logins.name,
        )

    def _login_cookie(self, request: Request) -> tuple[str, Headers]:
        """Return the secret of this browser before a login, and the header that gives it one if it has none of ours."""
        cookie = self._cookies.read(request.scope, LOGIN)
        if len(cookie) == COOKIE_CHARACTERS:
            return cookie, ()
        cookie = random_cookie()
        return cookie, self._cookies.put(LOGIN, cookie)

    async def _login(self, request: Request) -> Response:
        form = await read_form(request, self._address.base_url, self._cookies.read(request.scope, LOGIN))
        user, password = form.get("user", ""), form.get("password", "")
        return_to = return_address(form.get("return_to"))
        try:
            if looks_like_token(password):  # counted, or each request would add a record that nothing limits
                await self._access.callers.check_address(request.network)
                await self._access.callers.note_failed_login(request.network)
                raise Unauthenticated("pages need the password; API tokens are for programs")
            await self._access.callers.by_password(user, password, request.network)
        except (Unauthenticated, TooMany) as error:
            if isinstance(error, Unauthenticated):
                known = user if user in self._access.users().hashes else ""
                await self._sessions.note_failure(known, request.address, "wrong user or password")
            return self._form_page(request, return_to, error)
        new = NewSession(user, self._access.callers.login_of(user), request.address, "password")
        cookie = await self._sessions.begin(new)
        return await self._logged_in(request, cookie, return_to)

    async def _begin_at_provider(self, request: Request) -> Response:
        logins = self._provider_logins()
        return_to = return_address(request.query.value("return_to"))
        cookie, extra = self._login_cookie(request)
        return redirect(await logins.begin(cookie, return_to), extra)

    async def _back_from_provider(self, request: Request) -> Response:
        logins, query = self._provider_logins(), request.query
        await self._access.callers.check_address(request.network)
        answer = ProviderAnswer(
            query.value("state") or "", query.value("code") or "", query.value("iss"), query.value("error") or ""
        )
        try:
            finished = await logins.finish(self._cookies.read(request.scope, LOGIN), answer, request.address)
        except StateInvalid:
            raise
        except Unauthenticated:
            await self._access.callers.note_failed_login(request.network)
            await self._sessions.note_failure("", request.address, f"by {logins.name}: not valid")
            raise
        return await self._logged_in(request, finished.cookie, return_address(finished.return_to))

    def _provider_logins(self) -> PersonLogins:
        if self._person_logins is None:
            raise RouteUnknown("this registry has no identity provider; [auth.oidc] configures one")
        return self._person_logins

    async def _logged_in(self, request: Request, cookie: str, return_to: str) -> Response:
        """Return the way to a page, with the cookie of the new session; the session that the browser had before ends."""
        former = await self._session(request)
        if former is not None:
            await self._sessions.end(former)
        return redirect(return_to, (*self._cookies.put(SESSION, cookie), *self._cookies.remove(LOGIN)))

    async def _account(self, request: Request) -> Response:
        session = await self._session(request)
        if session is None and not self._access.required():
            message = "This registry has no users: every client may pull and push, and no user is logged in."
            return self._templates.page(
                "message", heading="Account", message=message, link=PREFIX, link_text="Overview"
            )
        if session is None:
            raise LoginNeeded("this page needs a login")
        rows = await self._sessions.of_owner(session.owner)
        shown = [
            {
                "began": format_time(row.began_us),
                "seen": format_time(row.seen_us),
                "ends": format_time(row.ends_us),
                "address": row.address,
                "current": row.cookie_sha256 == session.cookie_sha256,
            }
            for row in rows
        ]
        return self._templates.page(
            "account",
            viewer=self._viewer(request, session),
            now_us=self._contents.registry.tag_states.now_us,
            user=session.owner,
            person=self._access.users().people.get(session.owner),
            sessions=shown,
            form_token=session.form_token,
            message="",
        )

    async def _logout(self, request: Request) -> Response:
        session = await self._required_session(request)
        await read_form(request, self._address.base_url, session.cookie)
        await self._sessions.end(session)
        return redirect(LOGIN_PATH, self._cookies.remove(SESSION))

    async def _logout_everywhere(self, request: Request) -> Response:
        session = await self._required_session(request)
        await read_form(request, self._address.base_url, session.cookie)
        await self._sessions.end_all(session.owner, request.address)
        return redirect(LOGIN_PATH, self._cookies.remove(SESSION))
