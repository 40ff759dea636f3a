"""A request to a registry and its answer, as values."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field

Body = bytes | Callable[[], AsyncIterator[bytes]]


@dataclass(frozen=True, slots=True)
class RegistryRequest:
    """One request. `path` begins with `/v2/`; `what` names the object in errors; `ok`: the statuses that are no error.

    `answer_s`: longest time without a byte of the answer; None: that of the transport.
    """

    registry: str
    method: str
    path: str
    what: str
    scopes: frozenset[str] = frozenset()
    headers: Mapping[str, str] = field(default_factory=dict)
    body: Body | None = None
    ok: frozenset[int] = frozenset({200})
    idempotent: bool = True
    answer_s: float | None = None


@dataclass(frozen=True, slots=True)
class RegistryResponse:
    """An answer with its whole body. Header names are in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes
