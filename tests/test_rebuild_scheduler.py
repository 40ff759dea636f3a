"""The rebuild scheduler of a server: it scans its own images without a login, reads only, and requests rebuilds."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, cast

import bcrypt
import pytest
from structlog.testing import capture_logs

from boltseal.client.registry_request import RegistryRequest
from boltseal.events import Event
from boltseal.ledger.entry import EntryKind, format_time, parse
from boltseal.server.app import Application
from boltseal.server.rebuilds import InProcessTransport, ReadOnlyTransport, RebuildScheduler
from boltseal.server.registry.opened_store import OpenStore
from boltseal.server.settings import OutdatedSettings, Settings
from boltseal.server.storage.coordination.file_leases import FileLeases
from boltseal.server.storage.metadata import ledger_store
from boltseal.server.store_factory import now_us
from tests.fakes.hub import FakeHub
from tests.images import Document, push
from tests.polling import until_signed
from tests.project.bases.layered import layered
from tests.serving import Serving, serving_as

NAME, DIGEST = "org.opencontainers.image.base.name", "org.opencontainers.image.base.digest"
WAS, NOW = layered("ab"), layered("ac")


def app_on(base: str, was: Document, layers: str = "abX") -> Document:
    return layered(layers, annotations={NAME: base, DIGEST: was.digest})


def written(file: Path) -> str:
    return file.read_text() if file.exists() else ""


@pytest.fixture
def arguments_file(tmp_path: Path) -> Path:
    return tmp_path / "recorded"


@pytest.fixture
def settings(data: Path, tmp_path: Path, arguments_file: Path) -> Settings:
    """Settings of a registry with users, and of a program that writes its arguments to a file."""
    hashed = bcrypt.hashpw(b"d", bcrypt.gensalt(4)).decode()
    data.with_name("data.keys").joinpath("htpasswd").write_text(f"dev:{hashed}\n")
    program = tmp_path / "rebuild"
    program.write_text(f'#!/bin/sh\necho "$@" >> {arguments_file}\n')
    program.chmod(0o755)
    grant = {"users": ["dev"], "repository": "**", "actions": ["pull", "push", "delete"]}
    return Settings.model_validate(
        {
            "server": {"data": data},
            "auth": {"grant": [grant]},
            "on_outdated": [{"command": [str(program), "{image}", "{base}"]}],
        }
    )


@pytest.fixture
async def registry(settings: Settings) -> AsyncIterator[Serving]:
    async with serving_as(settings) as running:
        running.client.auth = ("dev", "d")
        yield running


def store_of(registry: Serving) -> OpenStore:
    found = cast("Application", registry.app)._store
    assert found is not None
    return found


def rebuilding(registry: Serving, settings: Settings, events: list[Event], hub: FakeHub) -> RebuildScheduler:
    return RebuildScheduler(
        settings, store_of(registry), FileLeases(settings.server.data), now_us, events.append, outside=hub.app()
    )


async def test_a_server_names_the_revision_of_a_sealed_tag(
    registry: Serving, settings: Settings, arguments_file: Path
) -> None:
    """The server's command learns the next revision of a sealed tag, and a mutable tag itself, as what to push."""
    [table] = settings.on_outdated
    command = [table["command"][0], "{new_image}"]
    named = Settings.model_validate({**settings.model_dump(), "on_outdated": [{"command": command}]})
    base = "localhost:5000/base/node:latest"
    await push(registry.client, "base/node", "latest", WAS)
    await push(registry.client, "shop/app", "1.0.0", app_on(base, WAS))
    await push(registry.client, "shop/app", "edge", app_on(base, WAS, "abY"))
    await push(registry.client, "base/node", "latest", NOW)
    await until_signed(registry.client, 5)
    await rebuilding(registry, named, [], FakeHub()).once()

    assert sorted(written(arguments_file).splitlines()) == [
        "localhost:5000/shop/app:1.0.0.1",
        "localhost:5000/shop/app:edge",
    ]


async def test_a_server_rebuilds_images_of_its_own_bases(
    registry: Serving, settings: Settings, arguments_file: Path
) -> None:
    """A rebuild of an outdated image is requested once, notified, and recorded in the ledger."""
    events: list[Event] = []
    await push(registry.client, "base/node", "latest", WAS)
    await push(registry.client, "shop/app", "1.0.0", app_on("localhost:5000/base/node:latest", WAS))
    await push(registry.client, "base/node", "latest", NOW)
    await until_signed(registry.client, 5)
    looks = rebuilding(registry, settings, events, FakeHub())
    first, again = await looks.once(), await looks.once()
    lines = await store_of(registry).database.read(lambda held: [line for _, line in ledger_store.lines(held)])
    last = parse(lines[-1])

    assert [(str(one.due.image), str(one.outcome), one.recorded) for one in first] == [
        ("localhost:5000/shop/app:1.0.0", "done", "")
    ]
    assert again == []
    assert written(arguments_file) == "localhost:5000/shop/app:1.0.0 localhost:5000/base/node:latest\n"
    assert [event.text[:41] for event in events] == ["localhost:5000/shop/app:1.0.0 is outdated"]
    assert (last.kind, last.tag, last.actor, last.extra["outcome"]) == (
        EntryKind.REBUILD_REQUESTED,
        "1.0.0",
        "boltseal",
        "done",
    )
    assert last.extra["base.digest"] == NOW.digest


async def layers_alone(registry: Serving) -> None:
    """Push a base, a base on it that moves twice, and an app on its first image, without labels and records."""
    await push(registry.client, "base/os", "latest", layered("o"))
    await push(registry.client, "base/rt", "latest", layered("or"))
    await push(registry.client, "shop/app", "1.0.0", layered("orX", created=format_time(now_us())))
    await push(registry.client, "base/rt", "latest", layered("os"))
    await push(registry.client, "base/rt", "latest", layered("ot"))
    await until_signed(registry.client, 7)


async def test_an_app_without_a_label_is_rebuilt_when_its_base_moves(
    registry: Serving, settings: Settings, arguments_file: Path
) -> None:
    """An app without a label is rebuilt when its base moves, since the registry keeps the base's former image."""
    await layers_alone(registry)
    first = await rebuilding(registry, settings, [], FakeHub()).once()

    assert [(str(one.due.base), str(one.due.built_on)) for one in first] == [
        ("localhost:5000/base/rt:latest", layered("or").digest)
    ]
    assert written(arguments_file) == "localhost:5000/shop/app:1.0.0 localhost:5000/base/rt:latest\n"


async def test_an_ignored_image_is_not_rebuilt(registry: Serving, settings: Settings, arguments_file: Path) -> None:
    """A server requests no rebuild of an image that `[outdated] ignore` names, but of one that is based on it."""
    await push(registry.client, "base/os", "latest", WAS)
    await push(registry.client, "shop/app", "1.0.0", app_on("localhost:5000/base/os:latest", WAS))
    await push(registry.client, "shop/other", "1.0.0", app_on("localhost:5000/base/os:latest", WAS, "abY"))
    await push(registry.client, "base/os", "latest", NOW)
    await until_signed(registry.client, 6)
    ignoring = settings.model_copy(update={"outdated": OutdatedSettings(ignore=("shop/app",))})
    with capture_logs() as logs:
        asked = await rebuilding(registry, ignoring, [], FakeHub()).once()
    [looked] = [one for one in logs if one["event"] == "images checked for outdated bases"]

    assert [str(one.due.image) for one in asked] == ["localhost:5000/shop/other:1.0.0"]
    assert looked["stand"] == {"ignored": 1, "outdated": 1, "cannot tell": 1}


async def test_an_app_whose_base_was_deleted_is_not_current_on_the_bases_base(
    registry: Serving, settings: Settings, arguments_file: Path
) -> None:
    """An app whose base was deleted is neither rebuilt nor logged as current."""
    await layers_alone(registry)
    await push(registry.client, "base/rt", "stable", layered("q"))
    gone = await registry.client.delete("/v2/base/rt/manifests/latest")
    await until_signed(registry.client, 9)
    looks = rebuilding(registry, settings, [], FakeHub())
    with capture_logs() as logs:
        asked = await looks.once()
    [looked] = [one for one in logs if one["event"] == "images checked for outdated bases"]

    assert gone.status_code == 202
    assert asked == []
    assert looked["stand"] == {"cannot tell": 1, "no base": 2}


async def test_a_former_base_that_was_deleted_is_still_the_base(registry: Serving, settings: Settings) -> None:
    """An app is rebuilt when its base moved, also if the base's former image was deleted: its layer chain is kept."""
    await layers_alone(registry)
    gone = await registry.client.delete(f"/v2/base/rt/manifests/{layered('or').digest}")
    first = await rebuilding(registry, settings, [], FakeHub()).once()

    assert gone.status_code == 202
    assert [(str(one.due.base), str(one.due.built_on)) for one in first] == [
        ("localhost:5000/base/rt:latest", layered("or").digest)
    ]


async def test_a_deleted_base_whose_layers_are_unknown_proves_no_other_base(
    registry: Serving, settings: Settings, arguments_file: Path
) -> None:
    """An image is neither current nor rebuilt if a former base was deleted before the registry kept layer chains."""
    await layers_alone(registry)
    gone = await registry.client.delete(f"/v2/base/rt/manifests/{layered('or').digest}")
    await forget_chain(registry, layered("or"))
    looks = rebuilding(registry, settings, [], FakeHub())
    with capture_logs() as logs:
        asked = await looks.once()
    [looked] = [one for one in logs if one["event"] == "images checked for outdated bases"]

    assert gone.status_code == 202
    assert asked == []
    assert looked["stand"] == {"cannot tell": 3}


async def forget_chain(registry: Serving, document: Document) -> None:
    """Remove the layer chain of a manifest, as in a store that is older than the table."""
    await store_of(registry).database.write(
        lambda tx: tx.sql.plain("DELETE FROM layer_chain WHERE digest = ?", (document.digest,))
    )


async def test_a_run_sends_no_further_request_while_no_tag_moved(registry: Serving, settings: Settings) -> None:
    """A run reads one list of entries per repository and one history per base; the layers of former images once."""
    await push(registry.client, "base/os", "latest", layered("o"))
    await push(registry.client, "shop/app", "1.0.0", layered("oX", created=format_time(now_us())))
    await until_signed(registry.client, 4)
    still = await asked_of(registry, settings)
    await push(registry.client, "base/rt", "latest", layered("or"))
    await push(registry.client, "base/rt", "latest", layered("os"))
    await until_signed(registry.client, 6)
    moved, again = await asked_of(registry, settings), await asked_of(registry, settings)

    assert still == {"_boltseal": 2, "tag-history": 1, "manifests": 4, "blobs": 2}
    assert moved == {"_boltseal": 4, "tag-history": 1, "manifests": 4, "blobs": 1}
    assert again == {"_boltseal": 3, "tag-history": 1, "manifests": 3}


async def asked_of(registry: Serving, settings: Settings) -> dict[str, int]:
    """Return the requests of a scan to its own registry, by the kind of the path, without lists of tags."""
    looks, counted = rebuilding(registry, settings, [], FakeHub()), Counter[str]()
    inside = looks._inside

    async def counting(scope: Any, receive: Any, send: Any) -> None:
        counted.update(
            word for word in ("_boltseal", "tag-history", "manifests", "blobs") if f"/{word}/" in scope["path"]
        )
        await inside(scope, receive, send)

    looks._inside = counting
    await looks.once()
    looks._leases.close()  # as a server that ends, so that the next one scans
    return dict(counted)


async def test_a_base_of_docker_hub_costs_one_head(registry: Serving, settings: Settings, arguments_file: Path) -> None:
    """While a base on Docker Hub has not moved, a scan sends one HEAD for it."""
    hub = FakeHub()
    hub.publish("library/node", "16.13", WAS.raw, WAS.media_type)
    for number in range(5):
        await push(registry.client, "shop/app", f"1.0.{number}", app_on("node:16.13", WAS, f"abX{number}"))
    await until_signed(registry.client, 7)
    asked = await rebuilding(registry, settings, [], hub).once()

    assert asked == []
    assert written(arguments_file) == ""
    assert (hub.counted["HEAD manifest"], hub.counted["GET manifest"]) == (1, 0)


async def test_a_pushed_label_causes_no_request_to_internal_hosts(
    registry: Serving, settings: Settings, arguments_file: Path
) -> None:
    """A label of a pushed image can't make the server contact an internal host or a port of this machine."""
    hub = FakeHub()
    for number, base in enumerate(("10.0.0.1:9200/x/y:1", "127.0.0.1:8500/x/y:1", "metadata.internal/x/y:1")):
        await push(registry.client, "shop/app", f"1.0.{number}", app_on(base, WAS))
    asked = await rebuilding(registry, settings, [], hub).once()

    assert asked == []
    assert hub.counted == {}


async def test_only_one_process_scans(registry: Serving, settings: Settings) -> None:
    """Of several worker processes only one scans."""
    looks = rebuilding(registry, settings, [], FakeHub())
    with looks._state.alone("looking") as first, looks._state.alone("looking") as second:
        assert (first, second) == (True, False)


@pytest.mark.parametrize("method", ["PUT", "POST", "DELETE", "PATCH"])
async def test_the_internal_transport_only_reads(registry: Serving, settings: Settings, method: str) -> None:
    """The internal transport without a login refuses everything but reads."""
    inside = rebuilding(registry, settings, [], FakeHub())._inside
    transport = InProcessTransport(inside, "localhost:5000", frozenset(), frozenset({"docker.io"}))
    for host in ("localhost:5000", "docker.io"):
        with pytest.raises(ReadOnlyTransport):
            await transport.request(RegistryRequest(host, method, "/v2/shop/app/manifests/1", "x"))
    await transport.aclose()
    messages: list[Any] = []

    async def send(message: Any) -> None:
        messages.append(message)

    async def receive() -> Any:
        return {"type": "http.request", "body": b"", "more_body": False}

    path = "/v2/shop/app/blobs/uploads/"
    scope = {
        "type": "http",
        "method": "POST",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "headers": [],
    }
    await inside(scope, receive, send)

    assert messages[0]["status"] == 405
