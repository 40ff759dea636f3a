"""registries.conf: which files are read, and which registries may be without TLS."""

from __future__ import annotations

from pathlib import Path

import pytest

from boltseal.client.config_files import FileUnusable
from boltseal.client.registries_conf import RegistriesConf, RegistriesConfInvalid
from boltseal.config import RegistriesConfPaths


@pytest.fixture
def paths(tmp_path: Path) -> RegistriesConfPaths:
    """The paths of a user's and a system's file, which do not exist yet, with folders for drop-in files."""
    for name in ("user", "system"):
        (tmp_path / name / "registries.conf.d").mkdir(parents=True)
    return RegistriesConfPaths(None, tmp_path / "user/registries.conf", tmp_path / "system/registries.conf")


def entry(location: str, insecure: str = "true") -> str:
    return f'[[registry]]\nlocation = "{location}"\ninsecure = {insecure}\n'


def allowed(paths: RegistriesConfPaths, *registries: str) -> list[str]:
    conf = RegistriesConf(paths)
    return [name for name in registries if conf.insecure(name) is not None]


def test_without_files_nothing_is_allowed(paths: RegistriesConfPaths) -> None:
    """Without files, or without paths as for the server, plain HTTP is not allowed."""
    assert allowed(paths, "a.test") == []
    assert RegistriesConf(None).insecure("a.test") is None
    assert RegistriesConf(paths).helpers() == ("containers-auth.json",)


def test_a_host_is_matched_whole(paths: RegistriesConfPaths) -> None:
    """A host is matched with its port; `*.` matches every sub-domain with any port."""
    paths.system.write_text(
        entry("a.test")
        + entry("b.test:5000")
        + '[[registry]]\nprefix = "*.c.test"\ninsecure = true\n'
        + entry("[::1]:5")
    )

    assert allowed(paths, "a.test", "b.test:5000", "x.c.test", "x.y.c.test:5000", "[::1]:5") == [
        *("a.test", "b.test:5000", "x.c.test", "x.y.c.test:5000", "[::1]:5")
    ]
    assert allowed(paths, "a.test:5000", "x.a.test", "b.test", "b.test:50000", "c.test", "xc.test", "[::1]") == []


def test_the_closest_match_decides(paths: RegistriesConfPaths) -> None:
    """The most specific entry decides, so that one registry of an insecure domain may need TLS."""
    paths.system.write_text('[[registry]]\nprefix = "*.test"\ninsecure = true\n' + entry("a.test", "false"))

    assert allowed(paths, "a.test", "b.test") == ["b.test"]


def test_an_entry_for_a_path_or_with_another_location_allows_nothing(paths: RegistriesConfPaths) -> None:
    """An entry for a path, or with another location, does not allow plain HTTP for the host itself."""
    paths.system.write_text(
        entry("a.test/shop") + '[[registry]]\nprefix = "b.test"\nlocation = "mirror.test"\ninsecure = true\n'
        '[[registry]]\nlocation = "c.test"\n[[registry.mirror]]\nlocation = "c.test"\ninsecure = true\n'
    )

    assert allowed(paths, "a.test", "b.test", "mirror.test", "c.test") == []


def test_a_wildcard_does_not_apply_to_a_host_with_another_location(paths: RegistriesConfPaths) -> None:
    """A wildcard does not allow plain HTTP for a host with another location, to which podman sends TLS requests."""
    paths.system.write_text(
        '[[registry]]\nprefix = "*.test"\ninsecure = true\n[[registry]]\nprefix = "a.test"\nlocation = "mirror.example/a"\n'
    )

    assert allowed(paths, "a.test", "b.test") == ["b.test"]


def test_the_first_format_of_the_file_is_read_too(paths: RegistriesConfPaths) -> None:
    """The first format of registries.conf, found on old machines, is read too."""
    paths.system.write_text(
        "[registries.search]\nregistries = []\n[registries.insecure]\nregistries = ['a.test:5000']\n"
    )

    assert allowed(paths, "a.test:5000", "a.test") == ["a.test:5000"]


def test_the_users_file_replaces_the_systems(paths: RegistriesConfPaths) -> None:
    """The user's file and drop-in folder replace the system's."""
    paths.system.write_text(entry("system.test"))
    (paths.system.parent / "registries.conf.d/a.conf").write_text(entry("system-drop-in.test"))
    (paths.user.parent / "registries.conf.d/a.conf").write_text(entry("user-drop-in.test"))
    names = ("system.test", "system-drop-in.test", "user.test", "user-drop-in.test")
    before = allowed(paths, *names)
    paths.user.write_text(entry("user.test"))

    assert before == ["system.test", "system-drop-in.test", "user-drop-in.test"]
    assert allowed(paths, *names) == ["user.test", "user-drop-in.test"]


def test_the_named_file_replaces_both(paths: RegistriesConfPaths, tmp_path: Path) -> None:
    """A file named by the environment replaces both, but drop-in files are read, as podman does."""
    paths.system.write_text(entry("system.test"))
    paths.user.write_text(entry("user.test"))
    (paths.system.parent / "registries.conf.d/a.conf").write_text(entry("drop-in.test"))
    (tmp_path / "named").write_text(entry("named.test"))
    named = paths._replace(named=tmp_path / "named")

    assert allowed(named, "system.test", "user.test", "drop-in.test", "named.test") == ["drop-in.test", "named.test"]


def test_a_later_drop_in_file_overrides(paths: RegistriesConfPaths) -> None:
    """Drop-in files are read by name, later ones override, and other names than `*.conf` are skipped."""
    folder = paths.system.parent / "registries.conf.d"
    paths.system.write_text(entry("a.test") + entry("b.test"))
    (folder / "1.conf").write_text(entry("a.test", "false") + entry("c.test", "false"))
    (folder / "2.conf").write_text(entry("c.test"))
    (folder / "3.conf.bak").write_text(entry("d.test"))
    (folder / "sub.conf").mkdir()
    conf = RegistriesConf(paths)

    assert allowed(paths, "a.test", "b.test", "c.test", "d.test") == ["b.test", "c.test"]
    assert conf.insecure("c.test") == folder / "2.conf"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"[[registry", "not TOML: "),
        (b"a = '\xff'", "not TOML: "),
        (b"a = " + b"[" * 100_000, "not TOML: "),
        (b"registry = 'a.test'", 'registry is "a.test"; expected a list'),
        (b"registry = ['a.test']", "expected tables, written as [[registry]]"),
        (b"[[registry]]\nlocation = 5", 'location is "5"; expected a text'),
        (b"[[registry]]\nlocation = 'a.test'\ninsecure = 'no'", 'insecure is "no"; expected true or false'),
        (b"[registries]\ninsecure = true", 'insecure is "True"; expected a table'),
        (b"credential-helpers = 'pass'", 'credential-helpers is "pass"; expected a list'),
        (b"credential-helpers = [5]", 'credential-helpers is "[5]"; expected a list of texts'),
    ],
)
def test_a_file_with_mistakes_is_named(paths: RegistriesConfPaths, content: bytes, message: str) -> None:
    """A value of a wrong type is an error that names the file: the text "no" is not taken for false."""
    paths.system.write_bytes(content)
    with pytest.raises(RegistriesConfInvalid) as refused:
        RegistriesConf(paths).insecure("a.test")

    assert refused.value.message.startswith(f"{paths.system}: ")
    assert message in refused.value.message
    assert refused.value.message.isprintable()


def test_a_file_or_folder_that_can_not_be_read_is_named(paths: RegistriesConfPaths) -> None:
    """An unreadable file or folder is an error, because it might require TLS."""
    paths.system.mkdir()
    with pytest.raises(FileUnusable, match=r"registries\.conf can't be read: it is not a regular file"):
        RegistriesConf(paths).insecure("a.test")
    paths.system.rmdir()
    folder = paths.system.parent / "registries.conf.d"
    folder.rmdir()
    folder.write_text("")
    with pytest.raises(FileUnusable, match=r"registries\.conf\.d can't be read: Not a directory"):
        RegistriesConf(paths).insecure("a.test")
