"""The identity on whose behalf the registry acts."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Actor:
    """The identity behind a request. The ledger and refusals show `name`. An admin may lift the protection of a seal."""

    name: str = "anonymous"
    admin: bool = False


ANONYMOUS = Actor()
