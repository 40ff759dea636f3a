"""Resolving references causes no counted pull, and contacts only allowed registries."""

from __future__ import annotations

import pytest

from boltseal.client.errors import RemoteMismatch, RemoteNotFound
from boltseal.client.ledger_trust import LedgerCheck, LedgerUnchecked, TrustStatus
from boltseal.client.registry_client import Resolved
from boltseal.ledger.follow import Fault, LedgerBroken
from boltseal.lockfile.document import LockedPlatform
from boltseal.oci.digest import Digest
from boltseal.oci.platform import Platform
from boltseal.oci.reference import Reference
from boltseal.project.resolve import RegistryNotAllowed, platform_name
from tests.fakes.hub import FakeHub
from tests.images import Document, artifact, image, index
from tests.project.image_ref_samples import REGISTRY, publish, references, resolving, two_platforms

pytestmark = pytest.mark.usefixtures("one_attempt")


@pytest.fixture
def hub() -> FakeHub:
    return FakeHub()


async def platforms_of(hub: FakeHub, name: str, document: Document, *, count_pulls: bool = False) -> object:
    digest = Digest.parse(publish(hub, name.partition("/")[2], document))
    async with resolving(hub, count_pulls=count_pulls) as resolver:
        return (await resolver.platforms({digest: Reference.parse(name)}))[digest]


def expected(*children: Document) -> tuple[LockedPlatform, ...]:
    names = ("linux/amd64", "linux/arm64")
    return tuple(
        LockedPlatform(name, Digest.parse(child.digest), Digest.parse(child.config.digest))
        for name, child in zip(names, children, strict=False)
    )


async def test_each_distinct_reference_costs_one_head_and_nothing_is_fetched(hub: FakeHub) -> None:
    """Each distinct reference costs one HEAD, however often the project names it."""
    for number in range(20):
        publish(hub, f"team/app{number}:1.0.0", two_platforms(str(number)))
    named = references(*[f"docker.io/team/app{number}:1.0.0" for number in range(20)])
    async with resolving(hub) as resolver:
        found = await resolver.resolve([*named, *named])

    assert all(isinstance(each, Resolved) for each in found.values())
    assert hub.counted == {"token": 1, "HEAD manifest": 20}
    assert (
        len([request for request in hub.seen if request.method == "HEAD"]) == 21
    )  # the first request learns how to authenticate


async def test_a_registry_that_is_not_allowed_is_not_asked(hub: FakeHub) -> None:
    """A registry that the user has not allowed is not contacted for a checked-out project."""
    publish(hub, "shop/app:1", image("app"))
    asked, refused = references(f"{REGISTRY}/shop/app:1", "169.254.169.254/shop/app:1")
    async with resolving(hub, allowed=lambda name: name == REGISTRY) as resolver:
        found = await resolver.resolve([asked, refused])

    assert isinstance(found[asked], Resolved)
    assert isinstance(found[refused], RegistryNotAllowed)
    assert {request.url.hostname for request in hub.seen} == {REGISTRY, "auth.test"}


async def test_an_index_has_platforms_with_image_ids(hub: FakeHub) -> None:
    """An index is resolved with its platforms and image IDs, which hosts report for running images."""
    document = two_platforms("app")

    assert await platforms_of(hub, f"{REGISTRY}/shop/app:1", document) == expected(*document.children)


async def test_on_docker_hub_nothing_is_read_that_counts_as_a_pull(hub: FakeHub) -> None:
    """On Docker Hub no manifest is fetched, since a GET counts as a pull, by digest too."""
    found = await platforms_of(hub, "docker.io/team/app:1", two_platforms("app"))

    assert found == ()
    assert "GET manifest" not in hub.counted


async def test_on_docker_hub_platforms_are_read_if_pulls_may_count(hub: FakeHub) -> None:
    """With `--count-pulls`, one GET for the index and one for each platform are sent to Docker Hub."""
    document = two_platforms("app")
    found = await platforms_of(hub, "docker.io/team/app:1", document, count_pulls=True)

    assert found == expected(*document.children)
    assert hub.counted["GET manifest"] == 3


async def test_a_single_images_platform_is_in_its_config(hub: FakeHub) -> None:
    """A single image's platform is read from its config."""
    app = image("app", architecture="arm64")
    found = await platforms_of(hub, f"{REGISTRY}/shop/app:1", app)

    assert found == (LockedPlatform("linux/arm64", Digest.parse(app.digest), Digest.parse(app.config.digest)),)


async def test_another_artifact_has_no_image_id(hub: FakeHub) -> None:
    """An artifact such as an SBOM, which has an empty config, has no image ID."""
    found = await platforms_of(hub, f"{REGISTRY}/shop/sbom:1", artifact("sbom"))

    assert found == (LockedPlatform("", Digest.parse(artifact("sbom").digest), None),)


async def test_an_unreadable_config_names_no_platform(hub: FakeHub) -> None:
    """An image with an unreadable config is locked without a platform."""
    blob = b"[]"
    config = {"mediaType": image("app").config.media_type, "digest": str(Digest.of(blob)), "size": 2}
    hub.blobs[str(Digest.of(blob))] = blob
    found = await platforms_of(hub, f"{REGISTRY}/shop/app:2", image("app", config=config))

    assert isinstance(found, tuple)
    assert (found[0].platform, found[0].image) == ("", Digest.of(blob))


async def test_attestations_are_not_platforms(hub: FakeHub) -> None:
    """BuildKit's attestations, with the platform `unknown/unknown`, are not platforms."""
    app, attestation = image("app"), image("attestation")
    entries = [
        app.descriptor(platform={"os": "linux", "architecture": "amd64"}),
        attestation.descriptor(platform={"os": "unknown", "architecture": "unknown"}),
    ]
    found = await platforms_of(hub, f"{REGISTRY}/shop/app:1", index(app, attestation, extra={}, manifests=entries))

    assert found == expected(app)


async def test_a_platform_that_was_not_copied_has_no_image_id(hub: FakeHub) -> None:
    """A platform that is missing after a partial copy of an index has no image ID."""
    document = two_platforms("app")
    digest = Digest.parse(publish(hub, "shop/app:1", document))
    del hub.manifests["shop/app"][document.children[1].digest]
    async with resolving(hub) as resolver:
        found = (await resolver.platforms({digest: Reference.parse(f"{REGISTRY}/shop/app:1")}))[digest]

    first, second = expected(*document.children)
    assert found == (first, second._replace(image=None))


async def test_a_huge_index_is_locked_without_asking_for_each_child(hub: FakeHub) -> None:
    """A huge index is locked without a request for each child."""
    children = [
        image(str(number)).descriptor(platform={"os": "linux", "architecture": "amd64"}) for number in range(201)
    ]
    found = await platforms_of(hub, f"{REGISTRY}/shop/app:1", index(manifests=children))

    assert isinstance(found, tuple)
    assert len(found) == 201
    assert hub.counted["GET manifest"] == 1


async def test_a_config_too_large_to_be_one_is_not_read(hub: FakeHub) -> None:
    """A config over the size limit is not read, whatever size the manifest states."""
    config = image("app").config.descriptor() | {"size": 9 * 1024 * 1024}
    found = await platforms_of(hub, f"{REGISTRY}/shop/app:1", image("app", config=config))

    assert isinstance(found, RemoteMismatch)
    assert "GET blob" not in hub.counted


async def test_a_missing_digest_is_an_error(hub: FakeHub) -> None:
    """A digest that does not exist is an error."""
    gone = Digest.of(b"gone")
    async with resolving(hub) as resolver:
        found = await resolver.platforms({gone: Reference.parse(f"{REGISTRY}/shop/app:1")})

    assert isinstance(found[gone], RemoteNotFound)


@pytest.mark.parametrize(
    ("platform", "name"),
    [
        (None, ""),
        (Platform("linux", "arm", "v7"), "linux/arm/v7"),
        (Platform("windows", "amd64", os_version="10.0.17763.1"), "windows/amd64:10.0.17763.1"),
        (Platform("x" * 300), "x" * 200),
    ],
)
def test_the_name_of_a_platform_is_as_in_docker(platform: Platform | None, name: str) -> None:
    """A platform is written as in Docker, with the version for Windows."""
    assert platform_name(platform) == name


async def test_a_registry_with_an_unreadable_ledger_is_not_asked(hub: FakeHub) -> None:
    """A registry whose ledger can't be read is not asked for tags; others are, and each ledger is read once."""
    publish(hub, "library/node:16.13", image("node"))
    node, other = references("node:16.13", "quay.io/library/node:16.13")
    looked = []

    async def watch(registry: str) -> LedgerCheck:
        looked.append(registry)
        if registry == "quay.io":
            raise LedgerUnchecked("quay.io has a ledger, and it can't check now")
        return LedgerCheck(registry, TrustStatus.NO_LEDGER)

    async with resolving(hub, watch=watch) as resolver:
        found = await resolver.resolve([node, other])
        await resolver.resolve([node, other])

    assert isinstance(found[node], Resolved)
    assert isinstance(found[other], LedgerUnchecked)
    assert sorted(looked) == ["docker.io", "quay.io"]


async def test_a_broken_ledger_ends_everything(hub: FakeHub) -> None:
    """A ledger that contradicts earlier checkpoints ends the command, and nothing is locked or verified."""

    async def watch(_: str) -> LedgerCheck:
        raise LedgerBroken(Fault.FORKED, "it forked")

    async with resolving(hub, watch=watch) as resolver:
        with pytest.raises(LedgerBroken):
            await resolver.resolve([Reference.parse("node:16.13")])


async def test_long_work_reports_progress(hub: FakeHub) -> None:
    """Resolving reports progress at each step, to the last."""
    for number in range(5):
        publish(hub, f"team/app{number}:1.0.0", two_platforms(str(number)))
    named = references(*[f"{REGISTRY}/team/app{number}:1.0.0" for number in range(5)])
    reported: list[tuple[str, int, int]] = []
    async with resolving(hub, progress=lambda *step: reported.append(step)) as resolver:
        found = await resolver.resolve(named)
        await resolver.platforms({one.digest: at for at, one in found.items() if isinstance(one, Resolved)})

    assert reported == [(step, done, 5) for step in ("resolving tags", "reading platforms") for done in range(1, 6)]
