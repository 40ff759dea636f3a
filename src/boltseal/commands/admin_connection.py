"""A registry's admin API for commands: one call on a connection of its own."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

from boltseal.client.admin_client import CHANGE_S, AdminClient
from boltseal.client.transport import Transport
from boltseal.commands.registry_access import RegistryOptions, ask, ask_followed

T = TypeVar("T")


class AdminConnection:
    """Calls the admin API of one registry. `answer_s`: how long an answer may take without a byte, in seconds.

    The registry's ledger is followed only with `--strict`: no answer of the admin API is proven by it.
    """

    def __init__(self, options: RegistryOptions, registry: str, *, answer_s: float = CHANGE_S) -> None:
        self._options = options
        self._registry = registry
        self._answer_s = answer_s

    def ask(self, call: Callable[[AdminClient], Awaitable[T]]) -> T:
        """Return the result of a call. Starts an event loop. Raises: as `AdminClient` does; NotTrusted with `--strict`."""

        async def run(transport: Transport) -> T:
            return await call(AdminClient(transport, self._registry, answer_s=self._answer_s))

        connect = ask_followed if self._options.strict else ask
        return connect(self._options, [self._registry], run)
