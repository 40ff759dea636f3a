"""The `[[client.registry]]` tables: their meaning, and the error for each mistake."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from boltseal.client.config_files import FileUnusable, PasswordInvalid, read_file, read_password
from boltseal.client.credentials import Credentials, CredentialStore
from boltseal.client.registry_settings import RegistrySettings
from boltseal.errors import ExitCode, exit_code
from boltseal.project.settings import ProjectInvalid, allowed_registries, client_settings


def reached(folder: Path, text: str) -> tuple[RegistrySettings, ...]:
    path = folder / "boltseal.toml"
    path.write_text(text)
    return client_settings(path).reached


def test_a_table_says_how_one_registry_is_reached(tmp_path: Path) -> None:
    """In a table, relative paths start at the file, hosts are in lower case, and Docker Hub's names are docker.io."""
    found = reached(
        tmp_path,
        '[client]\nregistries = ["*"]\n'
        '[[client.registry]]\nhost = "Registry.example.com:5000"\nca_file = "ca.pem"\nusername = "ci"\npassword_file = "/p"\n'
        '[[client.registry]]\nhost = "[::1]:5000"\nplain_http = true\n'
        '[[client.registry]]\nhost = "index.docker.io"\n',
    )

    assert found == (
        RegistrySettings(
            host="registry.example.com:5000", ca_file=tmp_path / "ca.pem", username="ci", password_file=Path("/p")
        ),
        RegistrySettings(host="[::1]:5000", plain_http=True),
        RegistrySettings(host="docker.io"),
    )


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ('host = "a.test"\nca_fil = "x"', 'client.registry 1: unknown key "ca_fil"; the nearest known one is ca_file'),
        ('hots = "a.test"', 'client.registry 1: unknown key "hots"; the nearest known one is host'),
        ("plain_http = true", "client.registry 1: host is missing; expected a registry"),
        ('host = "https://a.test"', 'client.registry 1: host is "https://a.test"; expected a host'),
        ('host = "a.test/shop"', 'client.registry 1: host is "a.test/shop"; expected a host'),
        ('host = "*.test"', 'client.registry 1: host is "*.test"; expected a host'),
        ('host = "../x"', 'client.registry 1: host is "../x"; expected a host'),
        ("host = 5", 'client.registry 1: host is "5"; expected a text in quotes'),
        ('host = "a.test"\nplain_http = "yes"', 'client.registry 1: plain_http is "yes"; expected true or false'),
        ('host = "a.test"\nca_file = ["x"]', "client.registry 1: ca_file is \"['x']\"; expected a text in quotes"),
        ('host = "a.test"\nca_file = "~/ca.pem"', 'client.registry 1: ca_file is "~/ca.pem"; expected a path from /'),
        ('host = "a.test"\nca_file = "a\\u001b[31m"', "client.registry 1: ca_file is"),
        (
            'host = "a.test"\nusername = "ci"',
            "client.registry 1: a login is a username and a password_file; one of them",
        ),
        (
            'host = "a.test"\npassword_file = "p"',
            "client.registry 1: a login is a username and a password_file; one of",
        ),
        (
            'host = "a.test"\nusername = "a:b"\npassword_file = "p"',
            'username is "a:b"; expected a name without a colon',
        ),
        ('host = "a.test"\nplain_http = true\nca_file = "c"', "plain_http = true and ca_file exclude each other"),
        ('host = "a.test"\n[[client.registry]]\nhost = "A.test"', "client.registry 2: a.test appears twice"),
    ],
)
def test_a_mistake_is_named_with_what_was_expected(tmp_path: Path, table: str, message: str) -> None:
    """A mistake is one printable line with file and expected value, and the exit code of a usage error."""
    with pytest.raises(ProjectInvalid) as refused:
        reached(tmp_path, f"[[client.registry]]\n{table}\n")

    assert refused.value.message.startswith(f"{tmp_path}/boltseal.toml: ")
    assert message in refused.value.message
    assert refused.value.message.isprintable()
    assert exit_code(refused.value) is ExitCode.USAGE


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[client.registry]\nhost = "a.test"\n', "registry is an array of tables; write [[client.registry]]"),
        ('[client]\nregistry = "a.test"\n', "registry is an array of tables; write [[client.registry]]"),
        ('[client]\nregistrys = ["a.test"]\n', 'unknown key "registrys" in [client]; the nearest known one is regist'),
        ('[[clients.registry]]\nhost = "a.test"\n', 'unknown table "clients"; the nearest known one is client'),
        ("[[client.registry]]\n" * 501, "501 [[client.registry]]; at most 500"),
    ],
)
def test_a_misspelt_table_is_not_ignored(tmp_path: Path, text: str, message: str) -> None:
    """A misspelt table is an error, because its registry would be left without settings."""
    with pytest.raises(ProjectInvalid) as refused:
        reached(tmp_path, text)

    assert message in refused.value.message


def test_a_registry_with_settings_may_be_named_by_a_project(tmp_path: Path) -> None:
    """A project may name a registry that has settings, unless the user's list of registries excludes it."""
    file = tmp_path / "boltseal.toml"
    file.write_text('[[client.registry]]\nhost = "intranet.test:5000"\n')
    allowed = allowed_registries(client_settings(file), [], [])
    file.write_text('[client]\nregistries = ["ghcr.io"]\n[[client.registry]]\nhost = "intranet.test:5000"\n')
    listed = allowed_registries(client_settings(file), [], [])

    assert allowed("intranet.test:5000")
    assert not allowed("intranet.test")
    assert not listed("intranet.test:5000")


async def test_the_login_of_the_settings_comes_before_that_of_other_tools(tmp_path: Path) -> None:
    """A login in the settings takes precedence over other tools' logins, for its own registry only."""
    (tmp_path / "password").write_text("secret\n")
    (tmp_path / "password").chmod(0o600)
    (tmp_path / "auth.json").write_text('{"auths": {"a.test/shop": {"username": "x"}, "b.test": {"username": "y"}}}')
    mine = RegistrySettings(host="a.test", username="ci", password_file=tmp_path / "password")
    store = CredentialStore([tmp_path / "auth.json"], [mine])

    assert await store.find("a.test", "shop/app") == Credentials("ci", "secret")
    assert await store.find("A.test") == Credentials("ci", "secret")
    assert await store.find("b.test") == Credentials("y", "")
    assert await store.find("a.test:443") is None


def test_a_password_file_that_other_users_may_read_is_refused(tmp_path: Path) -> None:
    """A password file readable by all users is refused; one readable by its group, as mounted for services, is not."""
    file = tmp_path / "password"
    file.write_text("secret")
    for mode in (0o600, 0o400, 0o640):
        file.chmod(mode)

        assert read_password(file) == "secret"
    for mode in (0o604, 0o602, 0o666):
        file.chmod(mode)
        with pytest.raises(PasswordInvalid) as refused:
            read_password(file)

        assert (
            f"is open to other users (mode {mode:04o}); a password file must not be: chmod 600" in refused.value.message
        )
        assert "secret" not in refused.value.message


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "has no password; expected exactly one line of text"),
        (b"\n", "has no password; expected exactly one line of text"),
        (b"one\ntwo\n", "has no password; expected exactly one line of text"),
        (b"one\x00", "has no password; expected exactly one line of text"),
        (b"\xff\xfe", "the password is not UTF-8 text"),
    ],
)
def test_a_password_that_is_not_one_line_of_text_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    """For a password that is not one line of text, the error names the file and shows no content."""
    file = tmp_path / "password"
    file.write_bytes(content)
    file.chmod(0o600)
    with pytest.raises(PasswordInvalid) as refused:
        read_password(file)

    assert refused.value.message == f"{file}: {message}" or refused.value.message == f"{file} {message}"


def test_a_password_file_that_is_missing_is_named(tmp_path: Path) -> None:
    """A missing password file is an error, because an anonymous request could find less."""
    with pytest.raises(PasswordInvalid, match="no such file"):
        read_password(tmp_path / "none")


@pytest.mark.parametrize("kind", ["folder", "pipe", "huge", "loop"])
def test_a_file_that_can_not_be_read_is_named_and_not_waited_for(tmp_path: Path, kind: str) -> None:
    """An unreadable settings file, such as a pipe, is exit code 3 without waiting."""
    file = tmp_path / "auth.json"
    match kind:
        case "folder":
            file.mkdir()
        case "pipe":
            os.mkfifo(file)
        case "huge":
            with file.open("wb") as sparse:
                sparse.truncate(1 << 40)
        case _:
            file.symlink_to(file)
    with pytest.raises(FileUnusable) as refused:
        read_file(file)

    assert refused.value.message.startswith(f"{file} can't be read: ")
    assert exit_code(refused.value) is ExitCode.UNKNOWN


def test_a_link_is_followed(tmp_path: Path) -> None:
    """A settings file may be a link, as in Kubernetes and NixOS; a dangling link is a missing file."""
    (tmp_path / "target").write_bytes(b"{}")
    (tmp_path / "link").symlink_to(tmp_path / "target")
    (tmp_path / "dangling").symlink_to(tmp_path / "none")

    assert read_file(tmp_path / "link") == b"{}"
    assert read_file(tmp_path / "dangling") is None
