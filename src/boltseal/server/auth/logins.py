"""Verifies user names and passwords, and bounds what that costs the registry.

- bcrypt is slow by design. At most one runs at a time in a process, in a thread. A verified login is remembered for five
  minutes under a keyed hash; the password is not kept.
- An unknown user costs the same bcrypt as a wrong password, and gets the same message.
- After failed logins an address has to wait, longer each time (`failed_logins`). Remembered logins do not wait. Logins that
  arrive together are checked one after the other, and each sees the failures of those before it.
- A removed user, or an old password, is refused at the next request.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Final

import bcrypt

from boltseal.errors import TooMany, Unauthenticated
from boltseal.server.auth.api_token_text import looks_like_token
from boltseal.server.auth.failed_logins import FailedLogins
from boltseal.server.auth.user_directory import UserDirectory
from boltseal.server.storage.metadata.protocol import FailedLoginRow
from boltseal.server.storage.worker_threads import finish_in_thread

PASSWORD_CHECKS: Final = "password_checks"  # noqa: S105 - a name, no secret
"""The name of the counter of bcrypt runs."""

COST: Final = 12
REMEMBERED_S: Final = 300.0
MAX_REMEMBERED: Final = 10_000
MAX_WAITING: Final = 64
MAX_PASSWORD_BYTES: Final = 72
"""bcrypt reads no more bytes. A longer password is refused rather than truncated, here and when it is set."""


_UNKNOWN_USER: Final = b"$2b$12$GLeUIRv/93MsV7cD/UevQuICqlINx5xljyKKbrJ3AP9.NipMSTi.i"
"""The hash of a discarded random password. The password of an unknown user is compared with it, at the same cost."""


class LoginWrong(Unauthenticated):
    """No such user, or another password. The message does not say which."""


class LoginsTooMany(TooMany):
    """The address failed too often recently, or too many logins are waiting."""


def hash_password(password: str) -> bytes:
    """Return the bcrypt hash of a new password.

    Raises:
        ValueError: the password is empty or too long.
    """
    raw = password.encode()
    if not raw or len(raw) > MAX_PASSWORD_BYTES:
        raise ValueError(f"a password has 1 to {MAX_PASSWORD_BYTES} bytes")
    if looks_like_token(password):
        raise ValueError("a password may not look like an API token, which is checked in another way")
    return bcrypt.hashpw(raw, bcrypt.gensalt(COST))


class Logins:
    """Verifies the logins of one process. `clock`: monotonic seconds. `count`: counts an event by name.

    `failed`: the failed logins of the store; None: those of this process alone.
    """

    def __init__(
        self,
        users: UserDirectory,
        failed: FailedLogins | None = None,
        clock: Callable[[], float] = time.monotonic,
        count: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.directory = users
        self._clock = clock
        self._secret = os.urandom(32)
        self._known: OrderedDict[bytes, float] = OrderedDict()
        self._failed = failed or FailedLogins(None)
        self._bcrypt_slot = asyncio.Semaphore(1)
        self._waiting = 0
        self._count = count

    async def verify(self, user: str, password: str, address: str) -> bytes:
        """Check a password, and return the hash that it was compared with: the user may have another one by now.

        Raises:
            LoginWrong: no such user, or another password.
            LoginsTooMany: the address has to wait, or too many logins are waiting.
            UsersInvalid: the users' file cannot be parsed.
        """
        held = self.directory.current().hashes.get(user, b"")
        mark = self._mark(user, password, held)
        if self._remembers(mark):
            return held
        await self._failures(address)  # an address that has to wait does not queue first
        async with self._one_at_a_time():
            if self._remembers(mark):  # verified while this one waited
                return held
            failures = await self._failures(address)  # again: logins that came before this one may have failed
            raw = password.encode()
            right = await self._bcrypt(raw[:MAX_PASSWORD_BYTES], held or _UNKNOWN_USER)
            if not held or not right or len(raw) > MAX_PASSWORD_BYTES:
                await self._failed.note(address)
                raise LoginWrong("wrong user or password")
            if failures is not None:
                await self._failed.forget(address)
        self._known[mark] = self._clock() + REMEMBERED_S
        while len(self._known) > MAX_REMEMBERED:
            self._known.popitem(last=False)
        return held

    async def check_address(self, address: str) -> None:
        """Check that an address need not wait. Raises: LoginsTooMany, Unavailable."""
        await self._failures(address)

    async def note_failed(self, address: str) -> None:
        """Count a login that failed without a password."""
        await self._failed.note(address)

    async def hash_password(self, password: str) -> bytes:
        """Return the hash of a new password, in a thread, in turn with logins. Raises: as `hash_password`; LoginsTooMany."""
        async with self._one_at_a_time():
            return await finish_in_thread(hash_password, password)

    def _mark(self, user: str, password: str, held: bytes) -> bytes:
        # It includes the hash from the file, so a changed password or a removed user invalidates it.
        hasher = hashlib.blake2b(key=self._secret, digest_size=32)
        for part in (user.encode(), password.encode(), held):
            hasher.update(len(part).to_bytes(4, "big"))
            hasher.update(part)
        return hasher.digest()

    def _remembers(self, mark: bytes) -> bool:
        return self._known.get(mark, 0.0) > self._clock()

    async def _failures(self, address: str) -> FailedLoginRow | None:
        """Return the failures of an address that still count, None if it has none. LoginsTooMany: it has to wait."""
        failures = await self._failed.of(address)
        if failures is not None and self._failed.is_waiting(failures):
            wait_s = self._failed.wait_us(failures) // 1_000_000
            raise LoginsTooMany(f"too many failed logins from your address; try again in {wait_s} s")
        return failures

    @asynccontextmanager
    async def _one_at_a_time(self) -> AsyncIterator[None]:
        """Let one login of this process try its password and count its failure. LoginsTooMany: too many wait for that."""
        if self._waiting >= MAX_WAITING:
            raise LoginsTooMany("too many concurrent logins; try again in a moment")
        self._waiting += 1
        try:
            async with self._bcrypt_slot:
                yield
        finally:
            self._waiting -= 1

    async def _bcrypt(self, password: bytes, held: bytes) -> bool:
        self._count(PASSWORD_CHECKS)
        return await finish_in_thread(_matches, password, held)


def _matches(password: bytes, held: bytes) -> bool:
    try:
        return bcrypt.checkpw(password, held)
    except ValueError:  # some bcrypt releases raise this for a password with NUL
        return False
