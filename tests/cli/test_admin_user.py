"""`boltseal admin user` and `boltseal admin token`: user accounts, and the key that signs tokens."""

from __future__ import annotations

from base64 import b64encode
from typing import TYPE_CHECKING

import bcrypt
import pytest

from boltseal.server.storage.metadata.migrate import prepare_data
from boltseal.server.storage.users import UserFile
from tests.cli import program

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A data folder that need not exist."""
    return tmp_path / "data"


def add(data: Path, name: str, typed: str) -> program.Run:
    """Run `admin user add` with this on standard input."""
    return program.call("admin", "user", "add", name, "--data", data, "--json", typed=typed)


def test_a_user_who_was_added_has_the_password_that_was_typed(data: Path) -> None:
    """The first line of standard input, without its end, becomes the password; the file stores its bcrypt hash."""
    run = add(data, "ci", "correct horse\nignored\n")
    held = UserFile(data.with_name("data.keys") / "htpasswd").current().hashes["ci"]

    assert run.code == 0
    assert run.json["schema"] == "boltseal.admin-user-add/1"
    assert run.json["results"] == [{"ref": "ci", "status": "added"}]
    assert bcrypt.checkpw(b"correct horse", held)


@pytest.mark.parametrize("typed", ["", "\n", "x" * 73])
def test_an_empty_or_too_long_password_is_refused(data: Path, typed: str) -> None:
    """A password that is empty or that bcrypt would truncate is refused, and no part of it is in the message."""
    run = add(data, "ci", typed)

    assert run.code == 2
    assert "1 to 72 bytes; type it, or write it to standard input" in run.json["errors"][0]["message"]
    assert not data.with_name("data.keys").exists()


def test_a_list_without_users_says_where_it_looked(data: Path) -> None:
    """`user ls` without users names the searched folder, so that a mistyped --data is noticed."""
    run = program.call("admin", "user", "ls", "--data", data)

    assert (run.code, run.out) == (0, "")
    assert run.err == f"no users in {data}.keys/htpasswd or the database of {data}\n"


@pytest.mark.parametrize("name", ["deploy", "ci"], ids=["another user", "a user with a password"])
def test_a_user_is_not_added_beside_users_of_another_key(data: Path, name: str) -> None:
    """Beside users of the database, `user add` with another users.key is refused, because no user could log in any more."""
    prepare_data(data)
    key = data.with_name("data.keys") / "users.key"
    first = [add(data, each, "correct horse\n").code for each in ("ci", "dev")]
    right = key.read_bytes()
    key.write_bytes(b64encode(b"k" * 32) + b"\n")
    refused = add(data, name, "correct horse\n")
    key.write_bytes(right)
    added = add(data, name, "correct horse\n")

    assert first == [0, 0]
    assert refused.code == 3
    assert "was not encrypted with data.keys/users.key: copy the folder of keys" in refused.json["errors"][0]["message"]
    assert added.code == 0


@pytest.mark.slow
def test_users_are_listed_and_removed(data: Path) -> None:
    """Users are listed and removed by name; removing a missing one is exit code 1."""
    add(data, "zoe", "pw")
    add(data, "ana", "pw")
    listed = program.call("admin", "user", "ls", "--data", data)
    removed = program.call("admin", "user", "remove", "zoe", "--data", data)
    again = program.call("admin", "user", "remove", "zoe", "--data", data)

    assert listed.out == "ana\nzoe\n"
    assert (removed.code, again.code) == (0, 1)
    assert program.call("admin", "user", "ls", "--data", data).out == "ana\n"


@pytest.mark.slow
def test_users_are_rows_once_there_is_a_data_folder(data: Path) -> None:
    """With a data folder new users are database rows; a user of the file is changed and removed there."""
    add(data, "early", "pw")
    file = data.with_name("data.keys") / "htpasswd"
    prepare_data(data)
    added, again, changed = add(data, "late", "pw"), add(data, "late", "pw2"), add(data, "early", "pw2")
    listed = program.call("admin", "user", "ls", "--data", data).out
    in_file = set(UserFile(file).current().hashes)
    removed = [program.call("admin", "user", "remove", name, "--data", data).code for name in ("late", "late", "early")]

    assert [run.json["results"][0]["status"] for run in (added, again, changed)] == ["added", "changed", "changed"]
    assert listed == "early\nlate\n"
    assert in_file == {"early"}
    assert removed == [0, 1, 0]
    assert program.call("admin", "user", "ls", "--data", data).out == ""


@pytest.mark.slow
@pytest.mark.parametrize("name", ["early", "late"])
def test_no_user_is_added_without_the_key_of_the_others(data: Path, name: str) -> None:
    """If users.key is missing, a new one would lock out all users of the database: the command refuses and says what to do."""
    prepare_data(data)
    add(data, "early", "pw")
    key = data.with_name("data.keys") / "users.key"
    saved = key.read_bytes()
    key.unlink()
    refused = add(data, name, "pw2")
    created = key.exists()
    key.write_bytes(saved)
    again = add(data, name, "pw2")

    assert refused.code == 3
    assert "data.keys/users.key is missing" in refused.json["errors"][0]["message"]
    assert "admin user remove" in refused.json["errors"][0]["message"]
    assert not created
    assert again.code == 0


@pytest.mark.slow
def test_users_are_added_again_after_those_of_a_lost_key_were_removed(data: Path) -> None:
    """After the users whose key is lost are removed, the next user has a new key."""
    prepare_data(data)
    add(data, "early", "pw")
    (data.with_name("data.keys") / "users.key").unlink()
    removed = program.call("admin", "user", "remove", "early", "--data", data)
    added = add(data, "late", "pw")

    assert (removed.code, added.code) == (0, 0)


def test_a_rotation_prints_the_new_signing_key(data: Path) -> None:
    """Each rotation prints the ID of a new signing key."""
    first, second = (program.call("admin", "token", "rotate", "--data", data, "--json").json for _ in range(2))

    assert first["schema"] == "boltseal.admin-token-rotate/1"
    assert first["results"][0]["ref"] != second["results"][0]["ref"]
