"""Running containers of an engine: by the container's own image, and with few requests."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from boltseal.engines.api import MAX_CONTAINERS, EngineUnavailable, connected
from boltseal.engines.inventory import ContainerHealth, EngineMismatch, State
from boltseal.host.containers.hosts import ContainerHost, RunningContainer, list_running
from boltseal.lockfile.container_check import DigestKind, Origin
from boltseal.oci.digest import Digest
from boltseal.oci.reference import Reference
from tests.fakes.engine import SNAPSHOTTER, FakeEngine, Wrong
from tests.images import OCI_INDEX, OCI_MANIFEST

NAME = "localhost:5000/shop/app:1.4.2"
PULLED = Digest.of(b"index")
AT = f"localhost:5000/shop/app@{PULLED}"


async def looked(fake: FakeEngine, folder: Path, **more: float) -> ContainerHost:
    async with fake.listening(folder) as address, connected(address) as engine:
        return await list_running(engine, **more)


async def container(fake: FakeEngine, folder: Path) -> RunningContainer:
    (found,) = (await looked(fake, folder)).seen
    return found


async def test_a_container_is_described_by_its_own_image(tmp_path: Path) -> None:
    """A container is described by its own image; that its image name now resolves to another is reported too."""
    fake = FakeEngine()
    old = fake.image("old", pulled=(AT,))
    new = fake.image("new", NAME)
    labels = {"com.docker.compose.project": "shop", "com.docker.compose.service": "web"}
    fake.container("web", NAME, old, labels=labels, RestartCount=2)
    found = await container(fake, tmp_path)

    assert found.image.digests == {PULLED: DigestKind.UNSPECIFIED, Digest.parse(old): DigestKind.CONFIG}
    assert found.image.local_digests == frozenset({Digest.parse(new)})
    assert found.image.started_as == Reference.parse(NAME)
    assert (found.image.origin, found.image.recorded, found.image.platform) == (Origin.PULLED, True, "linux/amd64")
    assert (found.project, found.service, found.restarts) == ("shop", "web", 2)
    assert (found.state, found.health, found.runtime) == (State.RUNNING, ContainerHealth.NONE, "Docker")


async def test_one_list_and_one_request_per_container_and_two_per_image(tmp_path: Path) -> None:
    """One list, one request per container and two per image without a registry are sent, however many names an image has."""
    fake = FakeEngine()
    images = [fake.image(f"app {number}", f"app:{number}") for number in range(3)]
    gone = fake.image("gone")
    del fake.images[gone]
    for number in range(12):
        fake.container(f"web{number}", f"app:{number % 3}", [*images, gone][number % 4])
    found = await looked(fake, tmp_path)
    asked = Counter(line.partition("?")[0] for line in fake.asked)

    assert len(found.seen) == 12
    assert max(asked.values()) == 1
    assert len(fake.asked) == 3 + 12 + 4 + 3  # the history of the three images that exist shows whether they are copies


async def test_missing_images_are_listed_and_ended_containers_are_not(tmp_path: Path) -> None:
    """A container of a missing image has its ID; ended and stopped containers are left out."""
    fake = FakeEngine()
    id_ = fake.image("app")
    del fake.images[id_]
    fake.container("web", NAME, id_)
    fake.container("done", NAME, id_, State={"Status": "exited"})
    fake.containers["0" * 64] = {}
    fake.wrong[f"containers/{'0' * 64}/json"] = Wrong(404, b'{"message": "No such container"}')
    found = await container(fake, tmp_path)

    assert (found.name, found.image.recorded, found.image.local_digests) == ("web", False, None)
    assert found.image.digests == {Digest.parse(id_): DigestKind.CONFIG}


@pytest.mark.parametrize("started_as", ["", "not/a:ref:at all", "<none>"])
async def test_any_text_as_image_name_is_shown(tmp_path: Path, started_as: str) -> None:
    """Any text as a container's image name is shown, even if it is no reference."""
    fake = FakeEngine()
    fake.container("web", started_as, fake.image("app", NAME))
    found = await container(fake, tmp_path)

    assert (found.started_as, found.image.started_as) == (started_as, None)
    assert found.image.names == (Reference.parse(NAME),)


@pytest.mark.parametrize("digits", [7, 12, 64])
async def test_an_image_id_is_not_a_name(tmp_path: Path, digits: int) -> None:
    """An image ID is not taken for a name, although its prefix could be one."""
    fake = FakeEngine()
    id_ = fake.image("app", NAME)
    fake.container("web", id_.removeprefix("sha256:")[:digits], id_)

    assert (await container(fake, tmp_path)).image.started_as is None


@pytest.mark.parametrize(
    ("media_type", "kind"),
    [(OCI_INDEX, DigestKind.INDEX), (OCI_MANIFEST, DigestKind.MANIFEST), ("", DigestKind.UNSPECIFIED)],
)
async def test_digest_kinds_in_containerds_store_are_distinguished(
    tmp_path: Path, media_type: str, kind: DigestKind
) -> None:
    """In containerd's store the ID is what was pulled or built; newer engines report which one, and the container's
    manifest."""
    fake = FakeEngine(driver_status=SNAPSHOTTER)
    id_ = fake.image("app", NAME, Descriptor={"digest": str(PULLED), "mediaType": media_type} if media_type else None)
    manifest = Digest.of(b"manifest")
    fields = {"digest": str(manifest), "mediaType": OCI_MANIFEST, "platform": {"os": "linux", "architecture": "arm64"}}
    fake.container("web", NAME, id_, ImageManifestDescriptor=fields)
    found = await container(fake, tmp_path)

    assert found.image.digests == {Digest.parse(id_): kind, manifest: DigestKind.MANIFEST}
    assert (found.image.platform, found.image.machine) == ("linux/arm64", "linux/amd64")
    assert found.image.origin is Origin.UNSPECIFIED


@pytest.mark.parametrize(
    ("podman", "names", "pulled", "origin"),
    [
        (False, [NAME], [], Origin.LOCAL),
        (False, [NAME], [AT], Origin.PULLED),
        (True, ["localhost/app:1"], [f"localhost/app@{PULLED}"], Origin.LOCAL),
        (True, ["localhost/app:1", NAME], [], Origin.UNSPECIFIED),
        (True, [], [], Origin.UNSPECIFIED),
    ],
)
async def test_the_origin_of_an_image_is_read(
    tmp_path: Path, podman: bool, names: list[str], pulled: list[str], origin: Origin
) -> None:
    """Docker's classic store records pulls, and Podman has a registry name for local builds."""
    fake = FakeEngine(podman=podman)
    fake.container("web", NAME, fake.image("app", *names, pulled=tuple(pulled)))

    assert (await container(fake, tmp_path)).image.origin is origin


async def test_endless_labels_and_names_are_bounded(tmp_path: Path) -> None:
    """Endless labels and image names are read up to a limit."""
    fake = FakeEngine()
    names = [f"localhost:5000/shop/app:{number}" for number in range(500)]
    label = "com.docker.compose.project"
    fake.container("web", NAME, fake.image("app", *names), labels={label: "x" * 100_000, "other": "y" * 100_000})
    found = await container(fake, tmp_path)
    fake.container("web", "a" * 5000, fake.image("app"))

    assert (len(found.image.names), len(found.project)) == (100, 255)
    with pytest.raises(EngineMismatch, match="about a container can't be parsed"):
        await looked(fake, tmp_path)


async def test_a_slow_engine_times_out(tmp_path: Path) -> None:
    """The time limit applies to all requests to an engine together."""
    fake = FakeEngine()
    id_ = fake.container("web", NAME, fake.image("app"))
    fake.wrong[f"containers/{id_}/json"] = Wrong(200, b" ", endless=True)

    with pytest.raises(EngineUnavailable, match="did not list all running containers"):
        await looked(fake, tmp_path, within_s=0.2)


@pytest.mark.parametrize(
    "time", ["9999-12-31T23:59:59-23:59", "0001-01-01T00:00:00Z", "some day", "2026-11-21T09:00:00"]
)
async def test_an_invalid_time_is_unknown(tmp_path: Path, time: str) -> None:
    """An invalid creation time is unknown, neither an error nor a guess."""
    fake = FakeEngine()
    fake.container("web", NAME, fake.image("app"), State={"Status": "running", "StartedAt": time})

    assert (await container(fake, tmp_path)).started_us is None


async def test_an_endless_list_is_refused(tmp_path: Path) -> None:
    """A list of too many containers is refused before any is inspected."""
    fake = FakeEngine(containers={f"{number:064x}": {} for number in range(MAX_CONTAINERS + 1)})
    with pytest.raises(EngineMismatch, match="reports 10001 containers"):
        await looked(fake, tmp_path)

    assert len(fake.asked) == 3
