"""The users' file and the token keys on disk: doubt refuses, changes take effect at once, only the owner may read them."""

from __future__ import annotations

import stat
from typing import TYPE_CHECKING

import pytest

from boltseal.server.storage.key_file import KEPT, KeyFile, KeysUnreadable
from boltseal.server.storage.users import UserFile, UserNameInvalid, UsersInvalid, UserUnknown

if TYPE_CHECKING:
    from pathlib import Path

HASH = b"$2b$04$" + b"a" * 53
OTHER = b"$2b$04$" + b"b" * 53


@pytest.fixture
def users(tmp_path: Path) -> UserFile:
    """A file that does not exist, in a folder that does not exist."""
    return UserFile(tmp_path / "data.keys" / "htpasswd")


@pytest.fixture
def keys(tmp_path: Path) -> KeyFile:
    """A file of token keys that does not exist, in a folder that does not exist."""
    return KeyFile(tmp_path / "data.keys" / "token.json")


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_missing_file_has_no_users(users: UserFile) -> None:
    """Without a users' file there are no users, which is no error."""

    assert users.current().hashes == {}


def test_a_change_by_one_process_is_seen_by_another(users: UserFile) -> None:
    """A change of the users' file by one process is seen at once by another."""
    server = UserFile(users.path)
    users.put("ci", HASH)
    users.put("ana", OTHER)
    added = dict(server.current().hashes)
    users.put("ci", OTHER)
    changed = dict(server.current().hashes)
    users.remove("ana")

    assert added == {"ana": OTHER, "ci": HASH}
    assert changed["ci"] == OTHER
    assert server.current().hashes == {"ci": OTHER}


def test_an_unknown_user_is_not_removed(users: UserFile) -> None:
    """Removing an unknown user is an error."""
    users.put("ci", HASH)

    with pytest.raises(UserUnknown, match='no user "cl"'):
        users.remove("cl")
    assert set(users.current().hashes) == {"ci"}


@pytest.mark.parametrize("name", ["", "a:b", "*", "-ci", "ci.", "a b", "a\n", "a" * 65])
def test_a_name_that_the_file_would_parse_differently_is_refused(users: UserFile, name: str) -> None:
    """A user name with a colon or a line end, or the `*` of grants, is refused."""
    with pytest.raises(UserNameInvalid):
        users.put(name, HASH)

    assert not users.path.exists()


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"ana:secret", "line 2: expected"),
        (b"ana:$apr1$abcdefgh$abcdefghijklmnopqrstuv", "line 2: expected"),
        (b"ci:" + OTHER, "appears twice"),
        (b"\xff:" + OTHER, "line 2: expected"),
    ],
)
def test_one_unreadable_line_refuses_every_login(users: UserFile, line: bytes, message: str) -> None:
    """An unreadable line of the users' file refuses every login, and is not shown because it may have a password."""
    users.put("ci", HASH)
    users.path.write_bytes(users.path.read_bytes() + line + b"\n")

    with pytest.raises(UsersInvalid, match=message) as refused:
        users.current()
    assert "secret" not in refused.value.message


@pytest.mark.parametrize("name", ["anonymous", "Anonymous", "boltseal"])
def test_reserved_names_are_refused(users: UserFile, name: str) -> None:
    """Reserved user names are refused, because an actor in the ledger would be ambiguous."""
    with pytest.raises(UserNameInvalid, match="choose another"):
        users.put(name, HASH)
    users.path.parent.mkdir(exist_ok=True)
    users.path.write_bytes(name.encode() + b":" + HASH + b"\n")
    with pytest.raises(UsersInvalid, match="is reserved"):
        users.current()


def test_comments_and_empty_lines_are_skipped(users: UserFile) -> None:
    """Comments and empty lines of the users' file are skipped, as in Apache's htpasswd."""
    users.put("ci", HASH)
    users.path.write_bytes(b"# people\n\n" + users.path.read_bytes())

    assert set(users.current().hashes) == {"ci"}


def test_a_folder_in_place_of_the_file_refuses_every_login(users: UserFile) -> None:
    """A folder in place of the users' file refuses every login."""
    users.path.mkdir(parents=True)

    with pytest.raises(UsersInvalid, match="can't be read"):
        users.current()
    with pytest.raises(UsersInvalid):
        users.put("ci", HASH)


def test_a_folder_that_cannot_be_created_is_an_error(users: UserFile) -> None:
    """A folder for the users' file that can't be created is an error with the file's name."""
    users.path.parent.write_bytes(b"in the way")

    with pytest.raises(UsersInvalid, match=r"htpasswd can't be (written|read)"):
        users.put("ci", HASH)


def test_only_its_owner_reads_the_key_folder(users: UserFile, keys: KeyFile) -> None:
    """The key folder is readable by its owner only."""
    users.put("ci", HASH)
    keys.current(1)

    assert mode(users.path.parent) == 0o700
    assert (mode(users.path), mode(keys.path)) == (0o600, 0o600)


def test_the_first_key_is_created_once(keys: KeyFile) -> None:
    """Two workers that start together create one token key."""
    first = keys.current(1)

    assert KeyFile(keys.path).current(2) == first
    assert len(first) == 1


def test_a_rotation_reaches_another_worker_and_keeps_few_keys(keys: KeyFile) -> None:
    """After a rotation another worker signs with the newest key, and a few former ones still verify."""
    worker = KeyFile(keys.path)
    first = worker.current(1)[0]
    rotated = keys.rotate(2)
    seen = worker.current(3)
    for now_us in range(3, 3 + KEPT):
        keys.rotate(now_us)

    assert seen == rotated
    assert seen[1] == first
    assert len(worker.current(9)) == KEPT
    assert first not in worker.current(9)


@pytest.mark.parametrize(
    "raw", [b"", b"[]", b"{}", b'[{"id":"a","seed":"AAAA","since_us":1}]', b'[{"id":"a"}]', b"\xff"]
)
def test_unreadable_keys_sign_nothing(keys: KeyFile, raw: bytes) -> None:
    """A damaged key file is not replaced, and no token is signed."""
    keys.current(1)
    keys.path.write_bytes(raw)

    with pytest.raises(KeysUnreadable, match="can't be read"):
        KeyFile(keys.path).current(2)
    assert keys.path.read_bytes() == raw


def test_a_key_does_not_show_its_seed(keys: KeyFile) -> None:
    """The repr of a key shows no seed, neither in a log nor in a traceback."""
    key = keys.current(1)[0]

    assert repr(key) == f"SigningKey({key.id})"
