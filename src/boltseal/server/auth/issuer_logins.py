"""Builds the logins with ID tokens from the settings: of pipelines (`[[auth.issuer]]`) and of people (`[auth.oidc]`).

A reload builds them again. The keys of an issuer that the reload does not change are kept, so that it need not be asked again.
"""

from __future__ import annotations

from collections.abc import Callable

from boltseal.policy.pipeline_rules import IssuerTerms
from boltseal.server.auth.client_secret import client_secret
from boltseal.server.auth.issuer_keys import IssuerKeys
from boltseal.server.auth.page_sessions import PageSessions
from boltseal.server.auth.person_logins import PersonLogins, ProviderSettings
from boltseal.server.auth.pipeline_logins import PipelineLogins
from boltseal.server.auth.user_directory import AccountRows
from boltseal.server.settings import Settings


class IssuerLogins:
    """The issuers of one process. `now_us`: microseconds since the epoch."""

    def __init__(self, accounts: AccountRows, now_us: Callable[[], int]) -> None:
        self._accounts = accounts
        self._now_us = now_us
        self._issuers: list[IssuerKeys] = []
        self._provider: IssuerKeys | None = None

    def pipelines(self, settings: Settings) -> PipelineLogins:
        """Return the logins of pipelines."""
        known = {keys.terms.url: keys for keys in self._issuers}
        self._issuers = [
            keys if (keys := known.get(terms.url)) is not None and keys.terms == terms else IssuerKeys(terms)
            for terms in settings.issuers
        ]
        return PipelineLogins(self._issuers, self._accounts.database, self._now_us)

    def people(
        self, settings: Settings, redirect: str, sessions: PageSessions, in_file: Callable[[str], bool]
    ) -> PersonLogins | None:
        """Return the logins of people at the identity provider, None if there is no provider.

        `redirect`: the address to which the provider sends browsers back. `in_file`: whether a user is one of the users' file.
        """
        oidc, person_terms = settings.auth.oidc, settings.person_terms
        if person_terms is None:
            return None
        terms = IssuerTerms(
            name=oidc.name,
            url=person_terms.issuer,
            audience=person_terms.client_id,
            ca_file=None if oidc.ca_file is None else str(oidc.ca_file),
            allow_keys_from=frozenset(oidc.allow_hosts),
        )
        if self._provider is None or self._provider.terms != terms:
            self._provider = IssuerKeys(terms)
        provider_settings = ProviderSettings(
            person_terms,
            redirect,
            oidc.scopes,
            lambda: client_secret(oidc.client_secret_file, oidc.client_secret_env),
        )
        return PersonLogins(provider_settings, self._provider, self._accounts, sessions, settings.grants, in_file)
