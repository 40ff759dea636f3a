"""The identity on whose behalf the registry acts."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

_RECORDED: Final = re.compile(r"(?P<name>[^ :]+) \(token (?P<token>[a-z2-7]+)\)")


@dataclass(frozen=True, slots=True)
class Actor:
    """The identity behind a request. `name`: of the user, whose limits apply. `token`: the ID of its API token; "": another login.

    An admin may lift the protection of a seal. `ledger_extra`: what entries say about it besides, of verified claims alone: nothing
    for users.
    """

    name: str = "anonymous"
    admin: bool = False
    token: str = ""
    ledger_extra: Mapping[str, str] = field(default_factory=dict)

    @property
    def recorded(self) -> str:
        """The text by which ledger, logs and refusals name the actor. No user name has a space."""
        return f"{self.name} (token {self.token})" if self.token else self.name

    @classmethod
    def of_record(cls, text: str) -> Actor:
        """Return the actor that `recorded` names, without rights. A pipeline, whose name has a colon, may be called like a token."""
        match = _RECORDED.fullmatch(text)
        return cls(text) if match is None else cls(match["name"], token=match["token"])


ANONYMOUS = Actor()
