"""A server whose metadata is in PostgreSQL and whose mark is an object: what it refuses to start with, and old databases."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from pathlib import Path

import pytest

from boltseal.config import ConfigInvalid
from boltseal.server.configuration import load
from boltseal.server.settings import Settings
from boltseal.server.storage.coordination.lock_session import BehindPooler
from boltseal.server.storage.ledger_mark import MarkUnreachable
from boltseal.server.storage.mark_factory import AccessKeyInvalid, MarkNotShared
from boltseal.server.store_factory import prepare
from tests.images import image, meaning, push, put
from tests.pgbouncer import pgbouncer
from tests.polling import until_answer, until_signed
from tests.ports import free_port
from tests.serving import serving_as
from tests.storage_servers import ACCESS_KEY, BUCKET, SECRET_KEY, ObjectServer, Postgres

NewDatabase = Callable[[], str]


@pytest.fixture
def settings(tmp_path: Path, new_database: NewDatabase, object_server: ObjectServer) -> Settings:
    """The settings of a server on PostgreSQL and an object store."""
    (tmp_path / "mark.key").write_text(f"{ACCESS_KEY}\n{SECRET_KEY}\n")
    mark = {
        "url": f"s3://{BUCKET}/{uuid.uuid4().hex}/boltseal.mark",
        "endpoint": object_server.endpoint,
        "region": "us-east-1",
        "access_key_file": tmp_path / "mark.key",
    }
    return Settings.model_validate(
        {"server": {"data": tmp_path / "data"}, "storage": {"database": new_database(), "mark": mark}}
    )


def changed(settings: Settings, **storage: object) -> Settings:
    """Return settings with other values in `[storage]`."""
    return settings.model_copy(update={"storage": settings.storage.model_copy(update=storage)})


def test_a_mark_on_the_disk_of_one_server_is_refused(settings: Settings) -> None:
    """With PostgreSQL a server does not start with the mark in a file, unless the settings say that it is the only one."""
    alone = settings.storage.mark.model_copy(update={"url": None})
    file = alone.model_copy(update={"url": "file:///srv/boltseal.mark"})
    for mark in (alone, file):
        with pytest.raises(MarkNotShared, match="single_replica"):
            prepare(changed(settings, mark=mark))
    assert not settings.server.data.exists()
    prepare(changed(settings, mark=alone.model_copy(update={"single_replica": True})))

    assert (settings.keys / "ledger.mark").is_file()


def test_without_its_mark_a_server_does_not_start(settings: Settings) -> None:
    """If the store of the mark does not answer, the server does not start, since its database may be an old copy."""
    nowhere = settings.storage.mark.model_copy(update={"endpoint": f"http://127.0.0.1:{free_port()}"})
    with pytest.raises(MarkUnreachable):
        prepare(changed(settings, mark=nowhere))


@pytest.mark.parametrize("text", ["one\n", "one two three\n", "\xff"])
def test_an_unusable_access_key_is_refused(settings: Settings, tmp_path: Path, text: str) -> None:
    """A file that does not contain an id and a secret is an error that does not show its content."""
    (tmp_path / "mark.key").write_text(text, encoding="latin-1")
    with pytest.raises(AccessKeyInvalid, match="access_key_file") as refused:
        prepare(settings)

    assert "three" not in refused.value.message


@pytest.mark.parametrize(
    "url", ["https://s3.example.com/mark", "s3://bucket", "s3:///key", "file://host/mark", "file:///"]
)
def test_an_address_that_names_no_object_or_file_is_refused(tmp_path: Path, url: str) -> None:
    """The address of the mark names an object in a bucket, or a file of this host."""
    (tmp_path / "boltseal.toml").write_text(f'[storage.mark]\nurl = "{url}"\n')
    with pytest.raises(ConfigInvalid, match=r"\[storage.mark\] url is .*; expected an object such as"):
        load(tmp_path / "boltseal.toml")


def test_a_pooler_is_refused_for_locks_unless_another_address_is_given(
    settings: Settings, postgres_server: Postgres
) -> None:
    """A server behind pgbouncer starts only if `database_direct` is the address of the database itself."""
    direct = settings.storage.database
    assert direct is not None
    with pgbouncer(postgres_server, direct.with_password.rpartition("/")[2]) as address:
        pooled = changed(settings, database=type(direct)(address))
        with pytest.raises(BehindPooler, match="database_direct"):
            prepare(pooled)
        prepare(changed(pooled, database_direct=direct))


async def test_a_database_that_is_set_back_under_a_running_server_takes_no_push(
    settings: Settings, postgres_server: Postgres
) -> None:
    """When PostgreSQL comes back with an older state, pulls go on and nothing is written, also after a restart."""
    address = settings.storage.database
    assert address is not None
    name = address.with_password.rpartition("/")[2]
    async with serving_as(settings) as registry:
        await push(registry.client, "shop/app", "1.0.0", image("one"))
        await until_signed(registry.client, 3)
    old = postgres_server.create_database(name)
    async with serving_as(settings) as registry:
        await push(registry.client, "shop/app", "2.0.0", image("two"))
        await until_signed(registry.client, 4)
        postgres_server.drop_database(name)
        postgres_server.execute(f"CREATE DATABASE {name} TEMPLATE {old}")

        async def is_frozen() -> bool:
            return "it is an old copy" in (await registry.client.get("/readyz")).text

        await until_answer(is_frozen, "the server knows that the database is an old copy")
        refused = await put(registry.client, "shop/app", "3.0.0", image("one"))
        pulled = await meaning(registry.client, "shop/app", "1.0.0")
    async with serving_as(settings) as registry:
        again = await registry.client.get("/readyz")
    postgres_server.drop_database(old)

    assert refused.status_code == 503
    assert pulled
    assert again.status_code == 503
