"""The users of a server from database and users' file: current in every process, without a query for each request."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from boltseal.errors import Full, Unavailable
from boltseal.policy.token_scope import DEFAULT_TERMS, parse_scope
from boltseal.server.auth.actor import ANONYMOUS
from boltseal.server.auth.api_token_fields import OwnerKind
from boltseal.server.auth.api_tokens import TokenRequest, add_token, revoke_tokens
from boltseal.server.auth.user_directory import AccountRows, UserDirectory
from boltseal.server.storage.metadata import account_table
from boltseal.server.storage.metadata.migrate import DATABASE_NAME, GENERATION_NAME, prepare_data
from boltseal.server.storage.metadata.protocol import ApiTokenRow, Metadata, UnitOfWork
from boltseal.server.storage.metadata.sqlite import open_database
from boltseal.server.storage.user_key import UserKey, UserKeyUnreadable
from boltseal.server.storage.users import UserFile, UsersInvalid
from tests.fakes.statements import NoStatements

HASH = b"$2b$04$" + b"a" * 53
OTHER = b"$2b$04$" + b"b" * 53


@pytest.fixture
def file(tmp_path: Path) -> UserFile:
    """A users' file that does not exist."""
    return UserFile(tmp_path / "htpasswd")


@pytest.fixture
def key(tmp_path: Path) -> UserKey:
    return UserKey(tmp_path / "data.keys")


@pytest.fixture
def open_metadata(tmp_path: Path) -> Iterator[Callable[[], Metadata]]:
    """Open the database of this test; a second object acts as another process."""
    data = tmp_path / "data"
    prepare_data(data)
    opened: list[Metadata] = []

    def open_() -> Metadata:
        opened.append(open_database(data / DATABASE_NAME, data / GENERATION_NAME, lambda: 1))
        return opened[-1]

    yield open_
    for metadata in opened:
        metadata.close()


async def hashes(users: UserDirectory) -> dict[str, bytes]:
    await users.refresh()
    return dict(users.current().hashes)


async def test_a_change_is_seen_at_the_next_refresh_of_every_process(
    open_metadata: Callable[[], Metadata], file: UserFile, key: UserKey
) -> None:
    """A user added, changed or removed by another process, also within one microsecond, is seen at the next refresh."""
    admin = open_metadata()
    users = UserDirectory(file, AccountRows(open_metadata(), key))
    empty = await hashes(users)
    known = [await admin.write(lambda tx: account_table.put(tx, "ci", key.encrypt("ci", HASH)))]
    added = users.stale, await hashes(users)
    known.append(await admin.write(lambda tx: account_table.put(tx, "ci", key.encrypt("ci", OTHER))))
    changed = users.stale, await hashes(users)
    removed = [await admin.write(partial(account_table.remove, name="ci")) for _ in range(2)]
    gone = users.stale, await hashes(users)

    assert empty == {}
    assert added == (True, {"ci": HASH})
    assert changed == (True, {"ci": OTHER})
    assert gone == (True, {})
    assert (known, removed) == ([False, True], [True, False])


async def test_a_user_who_is_removed_before_another_is_added_stays_removed(
    open_metadata: Callable[[], Metadata], file: UserFile, key: UserKey
) -> None:
    """A removed user stays removed, even if a clock that was set back gives the next row the same time."""
    admin = open_metadata()
    users = UserDirectory(file, AccountRows(open_metadata(), key))
    for name in ("ci", "left"):
        await admin.write(partial(account_table.put, name=name, encrypted_hash=key.encrypt(name, HASH)))
    before = await hashes(users)
    await admin.write(partial(account_table.remove, name="left"))
    await admin.write(partial(account_table.put, name="new", encrypted_hash=key.encrypt("new", OTHER)))
    after = await hashes(users)

    assert set(before) == {"ci", "left"}
    assert set(after) == {"ci", "new"}


async def test_a_token_that_is_revoked_before_another_is_created_stays_revoked(
    open_metadata: Callable[[], Metadata], file: UserFile, key: UserKey
) -> None:
    """A revoked token is gone, even if a clock that was set back gives the next token the same time."""
    admin = open_metadata()
    users = UserDirectory(file, AccountRows(open_metadata(), key))
    asked = TokenRequest("robot", parse_scope(["shop/**"], ["pull"]))

    def create(tx: UnitOfWork) -> ApiTokenRow:
        return add_token(tx, key, asked, OwnerKind.SERVICE, DEFAULT_TERMS, ANONYMOUS).row

    kept, revoked = [await admin.write(create) for _ in range(2)]
    await users.refresh()
    before = set(users.current().tokens)
    await admin.write(lambda tx: revoke_tokens(tx, [revoked], ANONYMOUS))
    new = await admin.write(create)
    await users.refresh()

    assert before == {kept.id, revoked.id}
    assert set(users.current().tokens) == {kept.id, new.id}


class Counted:
    """Counts a test database's look-ups of users, and how often the users were read."""

    def __init__(self, metadata: Metadata) -> None:
        self._lookups = (metadata.lookups.logins, metadata.lookups.tokens)
        self.asked: list[str] = []

    def __getattr__(self, name: str) -> Any:
        self.asked.append(name)
        return next(getattr(each, name) for each in self._lookups if hasattr(each, name))


async def test_no_request_queries_the_database_while_nothing_changes(
    open_metadata: Callable[[], Metadata], file: UserFile, key: UserKey
) -> None:
    """While nothing changes, no request queries the database, and a removal of other content reads no users."""
    metadata = open_metadata()
    await metadata.write(lambda tx: account_table.put(tx, "ci", key.encrypt("ci", HASH)))
    counted = Counted(metadata)
    metadata.lookups = replace(metadata.lookups, logins=counted, tokens=counted)
    users = UserDirectory(file, AccountRows(metadata, key))
    await users.refresh()
    first, at_first = users.current(), list(counted.asked)
    for _ in range(3):
        await users.refresh()
    same, unchanged = users.current(), list(counted.asked)

    def remove_something_else(tx: Any) -> None:
        tx.invalidates_caches = True

    await metadata.write(remove_something_else)
    await users.refresh()

    rows = ["accounts", "service_accounts", "api_tokens", "people"]
    assert at_first == unchanged == ["account_version", "token_version", *rows, "users_existed"]
    assert counted.asked == [*unchanged, "account_version", "token_version"]
    assert first is same is users.current()
    assert not users.stale


async def test_during_a_commit_no_cached_user_is_used(
    open_metadata: Callable[[], Metadata], file: UserFile, key: UserKey
) -> None:
    """While the generation is odd, a commit may be removing a user, so that users are read again."""
    metadata = open_metadata()
    users = UserDirectory(file, AccountRows(metadata, key))
    await users.refresh()
    metadata.generation.begin(NoStatements())
    await users.refresh()
    during = users.stale
    metadata.generation.end()
    await users.refresh()

    assert during
    assert not users.stale


async def test_users_of_the_file_may_log_in(
    open_metadata: Callable[[], Metadata], file: UserFile, key: UserKey
) -> None:
    """A user in both places has the file's password, whose changes take effect without a refresh."""
    metadata = open_metadata()
    for name in ("both", "row"):
        await metadata.write(partial(account_table.put, name=name, encrypted_hash=key.encrypt(name, HASH)))
    file.put("both", OTHER)
    file.put("line", OTHER)
    users = UserDirectory(file, AccountRows(metadata, key))
    merged = await hashes(users)
    file.remove("both")

    assert merged == {"both": OTHER, "line": OTHER, "row": HASH}
    assert users.current().hashes == {"both": HASH, "line": OTHER, "row": HASH}


@pytest.mark.parametrize(("name", "hashed"), [("ci", b"secret"), ("a:b", HASH), ("anonymous", HASH)])
async def test_an_invalid_user_row_refuses_every_login(
    open_metadata: Callable[[], Metadata], file: UserFile, key: UserKey, name: str, hashed: bytes
) -> None:
    """An invalid user row refuses every login, and the invalid hash is not shown."""
    metadata = open_metadata()
    await metadata.write(lambda tx: account_table.put(tx, name, key.encrypt(name, hashed)))
    with pytest.raises(UsersInvalid, match="the users of the database") as refused:
        await UserDirectory(file, AccountRows(metadata, key)).refresh()

    assert "secret" not in refused.value.message


async def test_users_that_were_not_read_yet_do_not_open_the_registry(
    open_metadata: Callable[[], Metadata], file: UserFile, key: UserKey
) -> None:
    """Before the users were read, the registry is not treated as one without users, which would be open."""
    with pytest.raises(Unavailable, match="not read yet"):
        UserDirectory(file, AccountRows(open_metadata(), key)).current()


async def test_rows_without_their_key_refuse_every_login(
    open_metadata: Callable[[], Metadata], file: UserFile, key: UserKey, tmp_path: Path
) -> None:
    """User rows without their key, as after a restore without the key folder, refuse every login."""
    metadata = open_metadata()
    await metadata.write(lambda tx: account_table.put(tx, "ci", key.encrypt("ci", HASH)))
    missing, other = UserKey(tmp_path / "none"), UserKey(tmp_path / "other")
    other.encrypt("ci", HASH)
    for wrong, message in ((missing, "users.key is missing"), (other, "not encrypted with other/users.key")):
        users = UserDirectory(file, AccountRows(metadata, wrong))
        with pytest.raises(UserKeyUnreadable, match=message):
            await users.refresh()
        with pytest.raises(Unavailable):
            users.current()


async def test_a_row_under_another_name_is_refused_and_shows_no_hash(
    open_metadata: Callable[[], Metadata], file: UserFile, key: UserKey
) -> None:
    """A copied user row is refused under another name, so that writing rows does not give another user's login."""
    metadata = open_metadata()
    encrypted = key.encrypt("ci", HASH)
    await metadata.write(lambda tx: account_table.put(tx, "boss", encrypted))
    with pytest.raises(UserKeyUnreadable, match='password of user "boss"'):
        await UserDirectory(file, AccountRows(metadata, key)).refresh()

    assert HASH.decode() not in encrypted
    assert key.encrypt("ci", HASH) != encrypted
    assert key.path.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("raw", [b"", b"AAAA", b"\xff", b"not base64"])
def test_a_key_that_can_not_be_read_is_not_replaced(key: UserKey, raw: bytes) -> None:
    """An unreadable key is not replaced, because the users in the database would be lost."""
    key.path.parent.mkdir()
    key.path.write_bytes(raw)
    with pytest.raises(UserKeyUnreadable):
        key.encrypt("ci", HASH)

    assert key.path.read_bytes() == raw


async def test_a_process_that_answered_no_request_knows_that_there_was_a_user(
    open_metadata: Callable[[], Metadata], file: UserFile, key: UserKey
) -> None:
    """The row of the first user stays when the last one is removed, for processes that were asked nothing meanwhile."""
    one, other = open_metadata(), open_metadata()
    before = UserDirectory(file, AccountRows(other, key))
    await before.refresh()
    never = before.existed
    await one.write(lambda tx: account_table.put(tx, "ci", key.encrypt("ci", HASH)))
    await one.write(lambda tx: account_table.remove(tx, "ci"))
    await before.refresh()
    later = UserDirectory(file, AccountRows(one, key))
    await later.refresh()

    assert not never
    assert (dict(before.current().hashes), before.existed) == ({}, True)
    assert (dict(later.current().hashes), later.existed) == ({}, True)


async def test_a_user_of_the_file_that_one_process_saw_counts_in_all(
    open_metadata: Callable[[], Metadata], file: UserFile, key: UserKey
) -> None:
    """A process whose users' file is gone when it is asked first knows by the row that there was one."""
    one, other = open_metadata(), open_metadata()
    first = UserDirectory(file, AccountRows(one, key))
    await first.refresh()
    file.path.write_text(f"ci:{HASH.decode()}\n")
    first.current()
    seen = first.stale
    await first.refresh()
    noted = first.stale
    file.path.unlink()
    second = UserDirectory(file, AccountRows(other, key))
    await second.refresh()

    assert (seen, noted) == (True, False)
    assert second.existed


async def test_a_process_that_cannot_note_a_user_remembers_it_itself(
    open_metadata: Callable[[], Metadata], file: UserFile, key: UserKey
) -> None:
    """If the row can't be written, the process that saw the user requires a login, and tries again."""
    metadata = open_metadata()
    file.path.write_text(f"ci:{HASH.decode()}\n")
    write, refused = metadata.write, list[str]()

    async def refusing(*_: Any, **__: Any) -> Any:
        refused.append("write")
        raise Full("no space")

    metadata.write = refusing  # type: ignore[method-assign]  # a disk that is full for a while
    users = UserDirectory(file, AccountRows(metadata, key))
    await users.refresh()
    without_row = (users.existed, users.stale)
    metadata.write = write  # type: ignore[method-assign]
    await users.refresh()

    assert without_row == (True, True)
    assert refused == ["write"]
    assert not users.stale
