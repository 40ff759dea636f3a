"""The data folder: created once, recognised, and refused when it belongs to another program or a newer version."""

from __future__ import annotations

import sqlite3
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest
from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import create_engine

from boltseal.server.storage.metadata.migrate import (
    DATABASE_NAME,
    FORMAT,
    GENERATION_NAME,
    HEAD_REVISION,
    FormatInvalid,
    check_data,
    prepare_data,
    refuse_foreign_folder,
)
from boltseal.server.storage.metadata.schema import METADATA
from boltseal.server.storage.metadata.schema_support import OLDEST_SERVER, Change

if TYPE_CHECKING:
    from pathlib import Path


def schema_of(database: Path) -> dict[str, str]:
    with sqlite3.connect(database) as connection:
        rows = connection.execute("SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL").fetchall()
    connection.close()
    return {name: " ".join(sql.split()) for name, sql in rows if name != "alembic_version"}


@pytest.mark.slow
def test_a_new_database_equals_one_that_went_through_every_migration(tmp_path: Path) -> None:
    """`create_all` and the chain of migrations give the same schema."""
    made, migrated = create_engine(f"sqlite:///{tmp_path}/made.db"), create_engine(f"sqlite:///{tmp_path}/migrated.db")
    METADATA.create_all(made)
    with migrated.connect() as connection:
        config = Config()
        config.set_main_option("script_location", "boltseal.server.storage.metadata:migrations")
        config.attributes["connection"] = connection
        command.upgrade(config, "head")
        connection.commit()
    made.dispose()
    migrated.dispose()

    assert schema_of(tmp_path / "made.db") == schema_of(tmp_path / "migrated.db")
    assert schema_of(tmp_path / "made.db")


def test_each_migration_says_whether_older_servers_survive_it() -> None:
    """Every revision expands or contracts, and `OLDEST_SERVER` is the last one that contracts."""
    config = Config()
    config.set_main_option("script_location", "boltseal.server.storage.metadata:migrations")
    revisions = {each.revision: each.module.change for each in ScriptDirectory.from_config(config).walk_revisions()}
    contracting = [revision for revision, change in revisions.items() if change is Change.CONTRACTS]

    assert set(revisions.values()) <= set(Change)
    assert max(contracting) == OLDEST_SERVER
    assert max(revisions) == HEAD_REVISION


def test_a_prepared_folder_is_recognised_and_left_as_it_is(tmp_path: Path) -> None:
    """Preparing a data folder again changes nothing."""
    data = tmp_path / "data"
    prepare_data(data)
    before = (data / DATABASE_NAME).stat().st_mtime_ns
    prepare_data(data)
    check_data(data)

    assert (data / "format").read_text() == f"{FORMAT}\n"
    assert (data / DATABASE_NAME).stat().st_mtime_ns == before


def test_many_processes_may_prepare_one_folder_at_once(tmp_path: Path) -> None:
    """Processes that start together prepare one folder with one database."""
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: prepare_data(tmp_path / "data"), range(8)))
    with sqlite3.connect(tmp_path / "data" / DATABASE_NAME) as connection:
        revisions = connection.execute("SELECT version_num FROM alembic_version").fetchall()
    connection.close()

    assert revisions == [(HEAD_REVISION,)]


def test_a_killed_first_start_is_done_again(tmp_path: Path) -> None:
    """After a first start was killed, its files, SQLite's journal included, are not treated as foreign."""
    data = tmp_path / "data"
    (data / "blobs").mkdir(parents=True)
    for name in ("format.lock", "format.17.0af3.new", DATABASE_NAME, f"{DATABASE_NAME}-journal"):
        (data / name).touch()
    prepare_data(data)

    assert (data / "format").read_text() == f"{FORMAT}\n"


def test_a_first_start_that_another_process_finished_meanwhile_is_accepted(tmp_path: Path) -> None:
    """A first start that another process completes between this one's two checks is accepted."""
    prepare_data(tmp_path)
    (tmp_path / GENERATION_NAME).touch()
    (tmp_path / "run").mkdir()
    refuse_foreign_folder(tmp_path)
    (tmp_path / "thesis.txt").touch()

    with pytest.raises(FormatInvalid, match=r"thesis\.txt"):
        refuse_foreign_folder(tmp_path)


def test_a_newer_format_is_refused(tmp_path: Path) -> None:
    """A data folder of a newer boltseal is refused with its version, and unchanged."""
    data = tmp_path / "data"
    prepare_data(data)
    (data / "format").write_text("99\n")
    with pytest.raises(FormatInvalid, match=r"data format 99.*newer boltseal"):
        prepare_data(data)

    assert (data / "format").read_text() == "99\n"


def test_a_folder_with_foreign_files_is_refused(tmp_path: Path) -> None:
    """A folder with foreign files, such as a home folder, is refused as a data folder."""
    (tmp_path / "thesis.txt").write_text("important")
    with pytest.raises(FormatInvalid, match=r"thesis\.txt"):
        prepare_data(tmp_path)

    assert not (tmp_path / DATABASE_NAME).exists()


@pytest.mark.parametrize("written", ["", "one", "-1", "1.5", "\N{SUPERSCRIPT TWO}"])
def test_a_format_that_is_no_number_is_refused(tmp_path: Path, written: str) -> None:
    """A `format` file without a number is refused."""
    data = tmp_path / "data"
    prepare_data(data)
    (data / "format").write_text(written)
    with pytest.raises(FormatInvalid):
        prepare_data(data)

    assert (data / "format").read_text() == written


def test_a_read_only_command_on_an_empty_folder_is_an_error(tmp_path: Path) -> None:
    """`admin fsck` of a folder that was never a store is an error, and not a success."""
    with pytest.raises(FormatInvalid, match="not a boltseal data folder"):
        check_data(tmp_path)

    assert list(tmp_path.iterdir()) == []
