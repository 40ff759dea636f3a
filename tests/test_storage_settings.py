"""The settings of `[storage]`: which addresses of databases are accepted, and that no password is shown."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from boltseal.config import ConfigInvalid
from boltseal.server.configuration import load, load_with_sources
from boltseal.server.storage_settings import DatabaseUrl

if TYPE_CHECKING:
    from pathlib import Path

HIDDEN = "very-secret"


@pytest.mark.parametrize(
    "text",
    [
        "postgresql://boltseal@db.example.com/boltseal",
        "postgres://db:6432/boltseal?application_name=one",
        "postgresql://one:5432,two:5432/boltseal?target_session_attrs=read-write",
        "postgresql:///boltseal?host=/run/postgresql",
    ],
)
def test_addresses_of_libpq_are_accepted(text: str) -> None:
    """Addresses with a port, several hosts or a socket are accepted and kept as they are."""
    url = DatabaseUrl.parse(text)

    assert url.with_password == str(url) == text


@pytest.mark.parametrize(
    "text",
    [
        "mysql://boltseal@db/boltseal",
        f"postgresql://ann:{HIDDEN}@db/",
        f"ann:{HIDDEN}@db/boltseal",
        f"postgresql://ann:{HIDDEN}@db:99999/boltseal",
        f"postgresql://ann@db/boltseal?password={HIDDEN}",
        f"postgresql://ann:{HIDDEN}@db/bolt seal",
        f"postgresql://ann@db/boltseal?sslpassword={HIDDEN}",
        f"postgresql://ann@db/boltseal?oauth_client_secret={HIDDEN}",
        f"postgresql://ann:1/{HIDDEN}@db/boltseal",
        f"postgresql://ann:a@{HIDDEN}@db/boltseal",
        f"postgresql://ann:%zz{HIDDEN}@db/boltseal",
        f"postgresql://ann:%00{HIDDEN}@db/boltseal",
    ],
)
def test_other_addresses_are_refused_without_showing_a_password(tmp_path: Path, text: str) -> None:
    """An address that is not one of a PostgreSQL database is an error, which does not contain the password."""
    (tmp_path / "boltseal.toml").write_text(f'[storage]\ndatabase = "{text}"\n')
    with pytest.raises(ConfigInvalid, match=r"\[storage\] database is not valid") as refused:
        load(tmp_path / "boltseal.toml")

    assert HIDDEN not in refused.value.message


def test_the_password_of_the_database_is_not_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The address from a variable keeps its password for the driver, and shows it neither as text nor as a setting."""
    text = f"postgresql://ann:{HIDDEN}@db/boltseal"
    monkeypatch.setenv("BOLTSEAL_STORAGE__DATABASE", text)
    loaded = load_with_sources(default_file=tmp_path / "none.toml")

    assert loaded.settings.storage.database == DatabaseUrl(text)
    assert loaded.settings.storage.database.with_password == text
    assert HIDDEN not in f"{loaded!r} {loaded.settings.storage.database} {loaded.settings.model_dump()}"
    assert "ann:***@db" in repr(loaded.values)


def test_a_table_that_was_given_as_an_address_is_not_shown(tmp_path: Path) -> None:
    """An address in place of the table `[storage]` is an error, which does not contain the password."""
    (tmp_path / "boltseal.toml").write_text(f'storage = "postgresql://db/boltseal?sslpassword={HIDDEN}"\n')

    with pytest.raises(ConfigInvalid) as refused:
        load(tmp_path / "boltseal.toml")

    assert "[storage]" in refused.value.message
    assert HIDDEN not in refused.value.message


def test_an_unknown_setting_of_a_table_names_the_nearest_known_one(tmp_path: Path) -> None:
    """A misspelt setting of `[storage]` is an error that names the right one."""
    (tmp_path / "boltseal.toml").write_text('[storage]\ndatabse = "postgresql://db/boltseal"\n')
    with pytest.raises(ConfigInvalid, match=r'"databse" in \[storage\]; the nearest known one is database'):
        load(tmp_path / "boltseal.toml")
