"""The routes of the admin API as values: what each takes and returns, who may call it, and the function that serves it.

From this table the application serves requests, and `openapi` describes them. Every path is one word or two, without names in
it: repositories have slashes, so they are query parameters of reads and fields of changes. A read takes its query, a change
takes a JSON body; both are parsed once, into the type that the route names. An unknown parameter or field is refused.
"""

from __future__ import annotations

import difflib
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

import msgspec

from boltseal.errors import Invalid, quote
from boltseal.oci.jsontext import decode
from boltseal.server.api.records import json_body
from boltseal.server.api.request import Request
from boltseal.server.auth.api_token_text import looks_like_token

PREFIX: Final = "/api/v1/"
MAX_BODY_BYTES: Final = 256 * 1024
SECRET_PARAMETERS: Final = frozenset(
    {"access_token", "api_key", "auth", "authorization", "password", "secret", "token"}
)
"""Names of parameters by which clients send a secret. URLs are kept in logs and histories, so no secret is taken from one."""


class RequestInvalid(Invalid):
    """The query or the body is not what the route takes."""


class SecretInUrl(Invalid):
    """The query has a login. The logs of proxies have it, so it is refused whether or not it is valid."""


class Right(StrEnum):
    """The right that a route needs."""

    LOGIN = "login"
    USER = "user"
    CATALOG = "catalog"
    HOSTS = "hosts"
    PULL = "pull"
    ADMIN = "admin"
    OPERATOR = "operator"
    PASSWORD = "password"  # noqa: S105 - the word for a right
    REPORT = "report"


RIGHTS: Final = {
    Right.LOGIN: "every user; without `anonymous_pull` no anonymous client",
    Right.USER: "every user with a login, by password or API token; for the tokens of others as for operators",
    Right.CATALOG: "a caller that may list `/v2/_catalog`; only repositories that the caller may pull are listed",
    Right.HOSTS: "as `catalog`, and no anonymous client; only what runs of repositories that the caller may pull is shown",
    Right.PULL: "a caller that may pull from the repository",
    Right.ADMIN: "a login with `admin` and `pull` in the repository",
    Right.OPERATOR: 'a login with `admin` in every repository (a grant with `repository = "**"`)',
    Right.PASSWORD: "as `operator`, and logged in with user and password, not with an API token",
    Right.REPORT: "a login with `report`; without users every caller",
}
"""What each right means, for the docs."""


class NoParameters(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a route takes that has no parameters."""


Handler = Callable[[Request, Any], Awaitable[msgspec.Struct]]


@dataclass(frozen=True, slots=True)
class Route:
    """One method of one path.

    Attributes:
        name: the path without `PREFIX`.
        summary: one sentence for the docs.
        takes: the type of the query (GET, DELETE) or body (POST).
        returns: the type of the answer.
        changes: whether it is refused while nothing may be written.
        max_body_bytes: the size of the largest body.
        of_one: whether it is about one named thing, so that it answers 404 if there is none. Routes whose right needs a
            repository answer so as well.
    """

    method: str
    name: str
    summary: str
    right: Right
    takes: type[msgspec.Struct]
    returns: type[msgspec.Struct]
    handler: Handler
    changes: bool = False
    max_body_bytes: int = MAX_BODY_BYTES
    of_one: bool = False

    @property
    def path(self) -> str:
        """The path of the URL."""
        return f"{PREFIX}{self.name}"

    @property
    def takes_query(self) -> bool:
        """Whether it takes a query. Proxies may drop the body of a DELETE."""
        return self.method in ("GET", "DELETE")

    async def parse(self, request: Request) -> Any:
        """Return the query or the body of a request as `takes`.

        Raises: RequestInvalid, SecretInUrl, NotJson; DocumentTooLarge: more than `max_body_bytes`; QueryInvalid.
        """
        given = {name: request.query.value(name) for name in request.query.names()}
        _refuse_secrets(given)
        if self.takes_query:
            return self.convert(given)
        if given:
            raise RequestInvalid(f"{self.path} takes no query, got {quote(next(iter(given)))}; send the fields as JSON")
        body = await json_body(request, self.max_body_bytes)
        try:
            return decode(body, self.takes)
        except ValueError as error:
            raise RequestInvalid(f"cannot read the request: {error}") from error

    def convert(self, given: Mapping[str, object]) -> Any:
        """Return these values of a query as `takes`. Raises: RequestInvalid."""
        known = [field.encode_name for field in msgspec.structs.fields(self.takes)]
        for name in given:
            if name not in known:
                near = difflib.get_close_matches(name, known, n=1)
                expected = f"did you mean {near[0]}?" if near else f"expected {', '.join(known) or 'none'}"
                raise RequestInvalid(f"unknown parameter {quote(name)} of {self.path}; {expected}")
        try:
            return msgspec.convert(given, self.takes, strict=False)
        except ValueError as error:
            raise RequestInvalid(f"cannot read the query of {self.path}: {error}") from error


def _refuse_secrets(given: dict[str, str | None]) -> None:
    if any(looks_like_token(value or "") for value in given.values()):
        raise SecretInUrl("the URL has an API token; revoke it, because URLs are kept in logs")
    found = next((name for name in given if name.lower() in SECRET_PARAMETERS), None)
    if found is not None:
        raise SecretInUrl(
            f"the URL has {quote(found)}; logins are only taken from the Authorization header. Change the secret, because "
            "URLs are kept in logs"
        )
