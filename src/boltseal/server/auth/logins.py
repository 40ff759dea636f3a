"""Proves who somebody is by user and password, without letting that cost the registry its breath.

- bcrypt is slow on purpose, so at most one runs at a time in a process, in a thread, and a login that was verified is
  remembered for some minutes (under a keyed hash; the password is never kept).
- A user who does not exist costs the same bcrypt as a wrong password, and the answer is the same sentence.
- Failed logins of one address make it wait, longer each time, before it is looked at again. Right ones that are
  remembered do not wait.
- A user who was removed, or has another password now, is unknown at the next request.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

import bcrypt

from boltseal.errors import TooMany, Unauthenticated

if TYPE_CHECKING:
    from boltseal.server.storage.users import UserFile, Users

PASSWORD_CHECKS: Final = "password_checks"  # noqa: S105 - a name, no secret
"""Under which name bcrypts are counted."""

COST: Final = 12
REMEMBERED_S: Final = 300.0
REMEMBERED_MOST: Final = 10_000
ADDRESSES_MOST: Final = 10_000
FREE_FAILURES: Final = 5
WAIT_FIRST_S: Final = 1.0
WAIT_MOST_S: Final = 60.0
FORGIVEN_AFTER_S: Final = 900.0
QUEUE_MOST: Final = 64
MAX_PASSWORD_BYTES: Final = 72
"""bcrypt reads no further; a longer password is refused rather than cut, here and when it is set."""


_NOBODY: Final = b"$2b$12$GLeUIRv/93MsV7cD/UevQuICqlINx5xljyKKbrJ3AP9.NipMSTi.i"
"""Of a password that was thrown away. What a user who does not exist is compared with, at the same cost."""


class LoginWrong(Unauthenticated):
    """No such user, or another password; which of the two is not said."""


class LoginsTooMany(TooMany):
    """This address failed too often lately, or too many logins wait."""


def hash_password(password: str) -> bytes:
    """The bcrypt hash of a new password. ValueError when it is too long."""
    raw = password.encode()
    if not raw or len(raw) > MAX_PASSWORD_BYTES:
        raise ValueError(f"a password has 1 to {MAX_PASSWORD_BYTES} bytes")
    return bcrypt.hashpw(raw, bcrypt.gensalt(COST))


class Logins:
    """The logins of one process. `clock` gives monotonic seconds; `count` is told of what is worth counting."""

    def __init__(
        self,
        users: UserFile,
        clock: Callable[[], float] = time.monotonic,
        count: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._users = users
        self._clock = clock
        self._secret = os.urandom(32)
        self._known: OrderedDict[bytes, float] = OrderedDict()
        self._failed: OrderedDict[str, tuple[int, float]] = OrderedDict()
        self._one = asyncio.Semaphore(1)
        self._waiting = 0
        self._count = count

    def users(self) -> Users:
        """The users now; the same object while the file is the same. UsersInvalid."""
        return self._users.current()

    async def verify(self, user: str, password: str, address: str) -> None:
        """Return if this is the user's password. LoginWrong, LoginsTooMany, UsersInvalid."""
        held = self._users.current().hashes.get(user)
        mark = self._mark(user, password, held)
        now = self._clock()
        until = self._known.get(mark)
        if until is not None and until > now:
            return
        self._refuse_if_slowed(address, now)
        raw = password.encode()
        right = await self._bcrypt(raw[:MAX_PASSWORD_BYTES], held or _NOBODY)
        if held is None or not right or len(raw) > MAX_PASSWORD_BYTES:
            self._note_failure(address)
            raise LoginWrong("wrong user or password")
        self._failed.pop(address, None)
        self._known[mark] = self._clock() + REMEMBERED_S
        while len(self._known) > REMEMBERED_MOST:
            self._known.popitem(last=False)

    def _mark(self, user: str, password: str, held: bytes | None) -> bytes:
        # The hash from the file is part of it: another password, or a removed user, is another mark.
        hasher = hashlib.blake2b(key=self._secret, digest_size=32)
        for part in (user.encode(), password.encode(), held or b""):
            hasher.update(len(part).to_bytes(4, "big"))
            hasher.update(part)
        return hasher.digest()

    async def _bcrypt(self, password: bytes, held: bytes) -> bool:
        if self._waiting >= QUEUE_MOST:
            raise LoginsTooMany("too many logins at once; try again in a moment")
        self._waiting += 1
        try:
            async with self._one:
                self._count(PASSWORD_CHECKS)
                return await asyncio.to_thread(_matches, password, held)
        finally:
            self._waiting -= 1

    def _refuse_if_slowed(self, address: str, now: float) -> None:
        failures, last = self._failed.get(address, (0, 0.0))
        if failures < FREE_FAILURES or now - last > FORGIVEN_AFTER_S:
            return
        wait_s = min(WAIT_MOST_S, WAIT_FIRST_S * 2.0 ** (failures - FREE_FAILURES))
        if now - last < wait_s:
            raise LoginsTooMany(f"too many failed logins from your address; try again in {wait_s:.0f} s")

    def _note_failure(self, address: str) -> None:
        now = self._clock()
        failures, last = self._failed.pop(address, (0, 0.0))
        self._failed[address] = (1 if now - last > FORGIVEN_AFTER_S else min(failures + 1, 30), now)
        while len(self._failed) > ADDRESSES_MOST:
            self._failed.popitem(last=False)


def _matches(password: bytes, held: bytes) -> bool:
    try:
        return bcrypt.checkpw(password, held)
    except ValueError:  # a NUL in the password, which no password that was set has
        return False
