"""Settings of a project, and which registries it may make boltseal contact."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from boltseal.client.credentials import CredentialStore
from boltseal.project.settings import (
    ClientSettings,
    ProjectInvalid,
    ProjectSettings,
    allowed_registries,
    check_registry,
    client_settings,
    project_settings,
)


def project(root: Path, text: str) -> ProjectSettings:
    (root / ".boltseal.toml").write_text(text)
    return project_settings(root)


def test_a_project_without_a_file_has_defaults(tmp_path: Path) -> None:
    """A project without a settings file has the defaults."""
    assert project_settings(tmp_path) == ProjectSettings()


def test_project_settings_are_read(tmp_path: Path) -> None:
    """A project's settings may exclude files and make verification strict."""
    settings = project(
        tmp_path,
        '[lock]\nexclude = ["docs/", "*.example.yaml"]\n[verify]\nstrict = true\nplatforms = ["linux/arm64"]\n[pin.crds]\nShop = ["spec.image"]\n[deploy]\n',
    )

    assert settings.strict
    assert settings.platforms == ("linux/arm64",)
    assert settings.crds == {"Shop": ("spec.image",)}
    assert [settings.excludes(path) for path in ("docs", "docs/a/compose.yaml", "x/a.example.yaml")] == [True] * 3
    assert [settings.excludes(path) for path in ("compose.yaml", "docs2/a", "x/docs")] == [False] * 3


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[lok]", 'unknown table "lok"; the nearest known one is lock'),
        ("[client]\nregistries = ['*']", 'unknown table "client"; the nearest known one is '),
        ("[[notify]]\nurl = 'https://x'", 'unknown table "notify"; the nearest known one is verify'),
        ("lock = 3", "lock is not a table; expected [lock]"),
        ("[lock]\nexclud = []", 'unknown key "exclud" in [lock]; the nearest known one is exclude'),
        ("[deploy]\ncommand = 'sh'", 'unknown key "command" in [deploy]; the nearest known one is keep'),
        ("[lock]\nexclude = 'docs'", '[lock] exclude is "docs"; expected a list of texts'),
        ("[lock]\nexclude = [3]", '[lock] exclude is "[3]"; expected a list of texts'),
        (
            "[pin]\ncrds = { Shop = 'spec' }",
            "[pin] crds is \"{'Shop': 'spec'}\"; expected a list of paths for each kind",
        ),
        ("[pin]\ncrds = []", '[pin] crds is "[]"; expected a list of paths for each kind'),
        ("[verify]\nstrict = 1", '[verify] strict is "1"; expected true or false'),
        ("[verify", "not TOML: "),
        ("a = " + "[" * 100_000, "not TOML: "),
        ("#" * 1_048_577, "it has more than 1048576 bytes"),
    ],
)
def test_an_unknown_setting_is_refused(tmp_path: Path, text: str, message: str) -> None:
    """A project's settings have no key for a command, an address or a credential."""
    with pytest.raises(ProjectInvalid) as refused:
        project(tmp_path, text)

    assert refused.value.message.startswith(".boltseal.toml: ")
    assert message in refused.value.message


def test_an_unreadable_file_is_an_error(tmp_path: Path) -> None:
    """An unreadable project file is an error, because it might make verification strict."""
    (tmp_path / ".boltseal.toml").mkdir()
    with pytest.raises(ProjectInvalid, match="can't be read: Is a directory"):
        project_settings(tmp_path)


def user(tmp_path: Path, text: str) -> ClientSettings:
    path = tmp_path / "boltseal.toml"
    path.write_text(text)
    return client_settings(path)


def test_user_settings_are_read(tmp_path: Path) -> None:
    """A user's settings list the registries that a project may name."""
    assert client_settings(tmp_path / "none") == ClientSettings(None)
    assert user(tmp_path, "[client]\n") == ClientSettings(None)
    assert user(tmp_path, '[client]\nregistries = ["*.example.com", "[::1]:5000", "*"]') == ClientSettings(
        ("*.example.com", "[::1]:5000", "*")
    )


@pytest.mark.parametrize("name", ["https://ghcr.io", "ghcr.io/team", "a*.com", "", "*.*"])
def test_an_invalid_registry_is_refused(tmp_path: Path, name: str) -> None:
    """A pattern that can match no registry is refused, because it would exclude everything silently."""
    with pytest.raises(ProjectInvalid, match="is not a registry"):
        user(tmp_path, f'[client]\nregistries = ["{name}"]')
    with pytest.raises(ProjectInvalid, match="--allow"):
        check_registry(name, "--allow")


def test_without_user_settings_only_known_registries_are_allowed() -> None:
    """Without a user's list, public registries, this machine, and those with a login are allowed."""
    allowed = allowed_registries(ClientSettings(), ["registry.example.com"], [])
    asked = ["docker.io", "ghcr.io", "localhost:5000", "127.0.0.1:5000", "registry.example.com"]
    refused = ["169.254.169.254", "10.0.0.1:5000", "intranet:80", "evil.example.com", "registry.example.com:5000"]

    assert [name for name in [*asked, *refused] if allowed(name)] == asked


def test_the_users_list_replaces_the_defaults() -> None:
    """The user's list of registries replaces the defaults."""
    allowed = allowed_registries(ClientSettings(("*.example.com", "localhost:5000")), ["ghcr.io"], [])
    names = [
        "a.example.com",
        "A.EXAMPLE.COM",
        "example.com",
        "evilexample.com",
        "localhost:5000",
        "localhost:5001",
        "ghcr.io",
    ]

    assert [name for name in names if allowed(name)] == ["a.example.com", "A.EXAMPLE.COM", "localhost:5000"]


def test_registries_on_the_command_line_are_allowed_too() -> None:
    """A registry named on the command line is allowed too."""
    allowed = allowed_registries(ClientSettings(()), [], ["10.0.0.1:5000"])

    assert allowed("10.0.0.1:5000")
    assert not allowed("docker.io")


def test_registries_with_a_login_are_allowed(tmp_path: Path) -> None:
    """A registry with a login, in every spelling of docker and podman, is allowed."""
    path = tmp_path / "config.json"
    path.write_text(
        '{"auths": {"https://index.docker.io/v1/": {}, "ghcr.io": {}, "localhost:5000/shop": {}, "https://a.test/v2/": {}},'
        ' "credHelpers": {"b.test": "x"}}'
    )

    assert CredentialStore([tmp_path / "none", path]).named() == {
        *("docker.io", "ghcr.io", "localhost:5000", "a.test", "b.test")
    }


@pytest.mark.parametrize("what", ["link", "pipe"])
def test_a_link_or_pipe_is_not_read_as_settings(tmp_path: Path, what: str) -> None:
    """A symbolic link or pipe is not read as settings, since it could lead to a secret or block."""
    path = tmp_path / ".boltseal.toml"
    if what == "link":
        (tmp_path / "elsewhere").write_text("[verify]\nstrict = true\n")
        path.symlink_to(tmp_path / "elsewhere")
    else:
        os.mkfifo(path)
    with pytest.raises(
        ProjectInvalid, match=r"\.boltseal\.toml can't be read: (it is a symbolic link|not a regular file)"
    ):
        project_settings(tmp_path)


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("[lock]\nexclude = [{}]\n", "[lock] exclude"),
        ("[verify]\nplatforms = [{}]\n", "[verify] platforms"),
        ("[pin.crds]\nShop = [{}]\n", '[pin.crds] "Shop"'),
    ],
)
def test_an_endless_list_is_refused(tmp_path: Path, text: str, key: str) -> None:
    """A list of a hundred thousand entries is refused, because each would be compared with every file."""
    (tmp_path / ".boltseal.toml").write_text(text.format(", ".join(['"a*"'] * 501)))

    with pytest.raises(ProjectInvalid, match="has 501 entries; expected at most 500") as refused:
        project_settings(tmp_path)
    assert key in refused.value.message
