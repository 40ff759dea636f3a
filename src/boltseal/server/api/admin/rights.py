"""The rights to call routes: by the users, tokens and grants of /v2, checked in one place before anything is looked up.

A caller without the right to pull from a repository gets the same refusal whether or not the repository exists. Messages and
details of refusals have nothing of a repository that the caller may not pull (`AdminApi._may_pull`).
"""

from __future__ import annotations

from typing import Any

from boltseal.oci.reference import Repository
from boltseal.policy.grants import Action
from boltseal.server.api.admin.routes import Right
from boltseal.server.api.request import Request
from boltseal.server.auth.access import Access
from boltseal.server.auth.api_tokens import TokenNotAllowed


def check_right(access: Access, request: Request, right: Right, asked: Any) -> None:
    """Set the actor of a request whose caller is authenticated and has the right. `asked`: what the route takes.

    Raises: LoginNeeded, Denied, TokenNotAllowed; NameInvalid: the request names no valid repository.
    """
    match right:
        case Right.LOGIN:
            request.actor = access.check_any(request.caller)
        case Right.USER:
            request.actor = access.check_user(request.caller)
        case Right.CATALOG:
            request.actor = access.check_catalog(request.caller)
        case Right.HOSTS:
            request.actor = access.check_known_lister(request.caller)
        case Right.PULL:
            request.repository = Repository(asked.repository)
            request.actor = access.check(request.caller, request.repository, Action.PULL)
        case Right.ADMIN:
            request.repository = Repository(asked.repository)
            request.actor = access.check(request.caller, request.repository, Action.ADMIN)
            access.check(request.caller, request.repository, Action.PULL)  # the answer shows what the repository has
        case Right.OPERATOR:
            request.actor = access.check_operator(request.caller)
        case Right.PASSWORD:
            request.actor = access.check_operator(request.caller)
            _refuse_api_token(request)
        case Right.REPORT:
            request.actor = access.check_report(request.caller)


def _refuse_api_token(request: Request) -> None:
    """Raise TokenNotAllowed if the caller uses an API token: with a new password it would have more rights than the token."""
    held = request.caller.api_token
    if held is not None:
        raise TokenNotAllowed(f"the API token {held.id} changes no users; log in with user and password")
