"""A registry with content of every kind, what it answers to reads, and the target of its move on real servers."""

from __future__ import annotations

import json
import shutil
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import bcrypt
import httpx2
import obstore

from boltseal.server.commands.tag_seals import unseal_tag
from boltseal.server.commands.users import put_user
from boltseal.server.settings import Settings
from boltseal.server.storage.bucket_owner import KEY
from boltseal.server.storage.metadata.migrate import FormatInvalid
from boltseal.server.storage.metadata.move_fence import MOVING, Fence
from boltseal.server.storage.metadata.postgres_schema import check_database
from boltseal.server.storage_settings import DatabaseUrl
from tests.images import artifact, image, index, push, put, start_upload
from tests.polling import until_signed
from tests.serving import serving, serving_as, settings_of
from tests.storage_servers import ACCESS_KEY, BUCKET, SECRET_KEY, ObjectServer, Postgres

ONE, TWO, DELETED = image("one"), image("two"), image("deleted")
BOTH = index(ONE, TWO)
SBOM = artifact("an sbom", subject=ONE)
REPOSITORIES = ("shop/app", "shop/base")
NOW_US = 1_795_500_000_000_000
AWS = {"AWS_ACCESS_KEY_ID": ACCESS_KEY, "AWS_SECRET_ACCESS_KEY": SECRET_KEY}


def quiet(step: str, done: int, total: int) -> None:
    """A progress callback that does nothing."""


def target(folder: Path, postgres: Postgres, objects: ObjectServer) -> Settings:
    """Return the settings of a new server: an empty database, an unused prefix, a mark of its own."""
    (folder / "mark.key").write_text(f"{ACCESS_KEY}\n{SECRET_KEY}\n")
    name = uuid.uuid4().hex
    return Settings.model_validate(
        {
            "server": {"data": folder / "new"},
            "storage": {
                "database": postgres.url(postgres.create_database()),
                "blobs": f"s3://{BUCKET}/{name}",
                "s3": {"endpoint": objects.endpoint},
                "mark": {
                    "url": f"s3://{BUCKET}/{name}-mark/boltseal.mark",
                    "endpoint": objects.endpoint,
                    "access_key_file": folder / "mark.key",
                },
            },
        }
    )


def config(folder: Path, settings: Settings) -> Path:
    """Write settings that `target` made as a file, and return it."""
    storage = settings.storage
    path = folder / "new.toml"
    path.write_text(
        f'[server]\ndata = "{settings.server.data}"\n[storage]\ndatabase = "{storage.database}"\nblobs = "{storage.blobs}"\n'
        f'[storage.s3]\nendpoint = "{storage.s3.endpoint}"\n[storage.mark]\nurl = "{storage.mark.url}"\n'
        f'endpoint = "{storage.mark.endpoint}"\naccess_key_file = "{storage.mark.access_key_file}"\n'
    )
    return path


def keys_in(settings: Settings, objects: ObjectServer, below: str = "") -> set[str]:
    """Return the keys of all objects in the prefix of these settings."""
    where = settings.storage.blobs
    assert where is not None
    return {each["path"] for page in obstore.list(objects.store(where.prefix), below) for each in page}


async def fill(data: Path) -> None:
    """Make a registry with seals, a moved tag, a tombstone, an index, a referrer, an open upload, and a user."""
    async with serving(data) as registry:
        client = registry.client
        await push(client, "shop/app", "1.0.0", ONE)
        await push(client, "shop/app", "2.0.0", BOTH)
        await push(client, "shop/app", "latest", ONE)
        await push(client, "shop/app", "latest", TWO)
        await push(client, "shop/app", "0.9.0", DELETED)
        await push(client, "shop/base", "1.0.0", TWO)
        await push(client, "shop/app", SBOM.digest, SBOM)
        await start_upload(client, "shop/app")
        settings = settings_of(data)
        unseal_tag_of(settings, "localhost:5000/shop/app:0.9.0")
        assert (await client.delete("/v2/shop/app/manifests/0.9.0")).status_code == 202
        await until_signed(client, 5)


def unseal_tag_of(settings: Settings, reference: str) -> None:
    """Lift the protection of a tag, in a thread that has no event loop."""
    with ThreadPoolExecutor(1) as thread:
        thread.submit(unseal_tag, settings, reference, "a test").result()


def add_user(settings: Settings) -> None:
    """Add the user `ci` with the password `secret`."""
    put_user(settings, "ci", bcrypt.hashpw(b"secret", bcrypt.gensalt(4)))


def fence_of(settings: Settings) -> Fence:
    """Return the fence of a move to these settings."""
    return Fence(uuid.uuid4().hex, str(settings.storage.database), str(settings.storage.blobs), MOVING)


def is_open(settings: Settings) -> bool:
    """Return whether a server could use the database of these settings now."""
    url = settings.storage.database
    assert url is not None
    try:
        check_database(url)
    except FormatInvalid:
        return False
    return True


def owner(settings: Settings, objects: ObjectServer) -> str:
    """Return the ID of the registry that owns the bucket of these settings."""
    where = settings.storage.blobs
    assert where is not None
    document = json.loads(bytes(obstore.get(objects.store(where.prefix), KEY).bytes()))
    return str(document["registry"])


def stored_manifests(settings: Settings, objects: ObjectServer) -> list[str]:
    """Return the keys of the objects of manifests that a rebuild would find."""
    return sorted(keys_in(settings, objects, "manifests/"))


def with_new_database(settings: Settings, postgres: Postgres) -> Settings:
    """Return the settings with an empty database."""
    database = DatabaseUrl.parse(postgres.url(postgres.create_database()))
    return settings.model_copy(update={"storage": settings.storage.model_copy(update={"database": database})})


def through(settings: Settings, *, database: int | None = None, objects: str | None = None) -> Settings:
    """Return the settings with other addresses of the servers: a port of PostgreSQL, an S3 endpoint."""
    storage, update = settings.storage, dict[str, object]()
    if database is not None and storage.database is not None:
        name = str(storage.database).rpartition("/")[2]
        update["database"] = DatabaseUrl.parse(f"postgresql://boltseal@127.0.0.1:{database}/{name}")
    if objects is not None:
        update["s3"] = storage.s3.model_copy(update={"endpoint": objects})
        update["mark"] = storage.mark.model_copy(update={"endpoint": objects})
    return settings.model_copy(update={"storage": storage.model_copy(update=update)})


async def answers(client: httpx2.AsyncClient) -> dict[str, tuple[int, bytes, str | None]]:
    """Return what a registry answers to reads of everything in it: status, body, digest."""
    paths = ["/v2/_catalog", "/ledger/checkpoint"]
    documents = (ONE, TWO, BOTH, SBOM, DELETED)
    for repository in REPOSITORIES:
        paths += [f"/v2/{repository}/tags/list", f"/v2/{repository}/referrers/{ONE.digest}"]
        references = ["1.0.0", "2.0.0", "latest", "0.9.0", *(each.digest for each in documents)]
        paths += [f"/v2/{repository}/manifests/{reference}" for reference in references]
        blobs = {blob.digest for each in documents for blob in each.blobs}
        paths += [f"/v2/{repository}/blobs/{digest}" for digest in sorted(blobs)]
    size = int((await client.get("/ledger/checkpoint")).text.splitlines()[1])
    paths += [f"/ledger/tile/0/000.p/{size}", f"/ledger/tile/entries/000.p/{size}"]
    paths += [f"/ledger/receipt/{number}" for number in range(size)]
    found = {}
    for path in paths:
        answer = await client.get(path)
        found[path] = (answer.status_code, answer.content, answer.headers.get("Docker-Content-Digest"))
    return found


async def tries_to_push(client: httpx2.AsyncClient, tag: str) -> httpx2.Response:
    """PUT an image whose blobs are there under another tag."""
    return await put(client, "shop/app", tag, ONE)


def with_keys_and_mark(new: Settings, old: Settings) -> Settings:
    """Return settings whose mark is the former one, and copy the keys."""
    shutil.copytree(old.keys, new.keys, dirs_exist_ok=True)
    return new.model_copy(update={"storage": new.storage.model_copy(update={"mark": old.storage.mark})})


async def push_all(settings: Settings, *tags: str) -> None:
    """Push an image under each tag, and wait until the ledger is signed."""
    async with serving_as(settings) as registry:
        for tag in tags:
            assert (await push(registry.client, "shop/app", tag, image(tag))).status_code == 201
        await until_signed(registry.client, len(tags) + 1)
