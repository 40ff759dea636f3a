"""The identity on whose behalf the registry acts. Pure."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Actor:
    """Who asks. The name is what the ledger and a refusal show; an admin may lift what protects a seal."""

    name: str = "anonymous"
    admin: bool = False


ANONYMOUS = Actor()
