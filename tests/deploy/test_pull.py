"""Pulling: the tag changes last, the working image is kept first, and an unchanged image costs one HEAD."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from pathlib import Path

import pytest

from boltseal.client.credentials import Credentials, SingleLogin
from boltseal.client.errors import RemoteMismatch, RemoteNotFound
from boltseal.client.state import StateUnusable
from boltseal.engines.address import EngineAddress
from boltseal.engines.api import EngineFailed, EngineFull, EngineUnavailable, NoSuchImage
from boltseal.engines.inventory import ImageStoreKind
from boltseal.errors import Unavailable
from boltseal.host.kept_images import Proof
from boltseal.host.pull import LoginExposed, PulledImageMismatch, PulledImageRemoved, PullOutcome, PullRequest
from boltseal.oci.digest import Digest
from boltseal.oci.reference import Reference, Tag
from tests.deploy.hosting import APP, REGISTRY, Hosting
from tests.fakes.engine import Wrong
from tests.images import image

WANTED = PullRequest.of(APP)
OCI_INDEX = "application/vnd.oci.image.index.v1+json"


def keep_name(digest: Digest) -> Reference:
    return Reference(APP.registry, APP.repository, Tag(f"boltseal-keep-{digest.hex[:12]}"))


async def test_a_first_pull_is_by_digest(shop: Hosting) -> None:
    """A first pull resolves the tag by HEAD, pulls by digest, and then sets the tag."""
    digest = shop.publish("one")
    brought = await shop.puller().pull(WANTED)

    at = shop.fake.asked.index("POST images/create")
    assert shop.fake.queries[at] == {"fromImage": f"{APP.name}@{digest}"}
    assert (brought.digest, brought.outcome, brought.kept) == (digest, PullOutcome.PULLED, None)
    assert shop.meaning() == shop.id_of(digest) == brought.image


async def test_an_unchanged_image_costs_one_head(shop: Hosting) -> None:
    """An unchanged image costs one HEAD, and no manifest or ledger request; the engine is asked for the image."""
    shop.publish("one")
    await shop.puller().pull(WANTED)
    shop.hub.counted.clear()
    shop.fake.asked.clear()

    async def watch(registry: str) -> None:
        raise AssertionError(f"{registry} was asked for its ledger")

    brought = await shop.puller(watch=watch).pull(WANTED)

    assert brought.outcome is PullOutcome.HERE
    assert shop.hub.counted == {"HEAD manifest": 1}
    assert shop.fake.asked == [f"GET images/{APP}/json"]


async def test_a_present_digest_costs_no_request(shop: Hosting) -> None:
    """A present image with a locked digest costs no registry request."""
    digest = shop.publish("one")
    await shop.puller().pull(WANTED)
    shop.hub.counted.clear()
    brought = await shop.puller().pull(PullRequest(APP, digest, locked=True))

    assert (brought.outcome, brought.digest) == (PullOutcome.HERE, digest)
    assert not shop.hub.counted


async def test_the_working_image_is_kept_before_the_tag_moves(shop: Hosting) -> None:
    """Before the tag moves, the working image gets a keep tag and a row with the registry's digest."""
    old, _ = shop.publish("one"), await shop.puller().pull(WANTED)
    new = shop.publish("two")
    brought = await shop.puller().pull(WANTED)

    assert brought.kept is not None
    assert (brought.kept.image, brought.kept.digest) == (shop.id_of(old), old)
    assert brought.kept.media_type == "application/vnd.oci.image.index.v1+json"
    assert shop.meaning(keep_name(old)) == shop.id_of(old)
    assert shop.meaning() == shop.id_of(new)
    order = [each for each in shop.fake.asked if each.endswith("/tag")]
    assert order[-2:] == [f"POST images/{shop.id_of(old)}/tag", f"POST images/{shop.id_of(new)}/tag"]
    assert shop.host.kept.kept(shop.host.key) == (brought.kept,)


async def test_an_image_from_another_tool_is_kept_too(shop: Hosting) -> None:
    """An image that no registry has is kept by its ID."""
    built = Digest.parse(shop.fake.image("built here", str(APP)))
    shop.publish("one")
    brought = await shop.puller().pull(WANTED)

    assert brought.kept is not None
    assert brought.kept.image == built
    assert brought.kept.digest == (built if shop.host.store is ImageStoreKind.CONTAINERD else None)
    assert shop.meaning(keep_name(built)) == built


async def test_a_present_image_without_a_tag_is_not_pulled_again(shop: Hosting) -> None:
    """A present image without a tag is tagged and not pulled again, for example after the tag moved back."""
    old, _ = shop.publish("one"), await shop.puller().pull(WANTED)
    shop.publish("two")
    await shop.puller().pull(WANTED)
    assert shop.publish("one") == old
    shop.fake.asked.clear()
    brought = await shop.puller().pull(WANTED)

    assert (brought.outcome, shop.meaning()) == (PullOutcome.NAMED, shop.id_of(old))
    assert "POST images/create" not in shop.fake.asked


async def test_a_new_index_of_the_same_image_keeps_nothing(classic: Hosting) -> None:
    """If only the index changed and the image ID is equal, nothing is kept."""
    first, _ = classic.publish("one"), await classic.puller().pull(WANTED)
    again = Digest.parse(
        str(
            classic.hub.publish(
                "shop/app", "latest", classic.hub.manifests["shop/app"][str(first)][1] + b"\n", OCI_INDEX
            )
        )
    )
    made = classic.fake.images[str(classic.id_of(first))]
    classic.fake.pullable[f"{APP.name}@{again}"] = made | {"RepoDigests": [f"{APP.name}@{again}"]}
    brought = await classic.puller().pull(WANTED)

    assert (brought.digest, brought.image, brought.kept) == (again, classic.id_of(first), None)
    assert classic.host.registry_digests(await classic.host.engine.image(APP), APP)[0] in (first, again)


async def test_the_proof_depends_on_the_store(shop: Hosting) -> None:
    """An image is proven by its digest where the store has it, or else by manifests that boltseal verified."""
    shop.publish("one")
    brought = await shop.puller().pull(WANTED)

    assert brought.proof is (Proof.IDENTICAL if shop.host.store is ImageStoreKind.CONTAINERD else Proof.MANIFEST)


async def test_the_engine_is_trusted_where_reading_counts_as_a_pull(classic: Hosting) -> None:
    """For Docker Hub, where reading a manifest counts as a pull, one HEAD is sent and the engine is trusted."""
    hub = Reference.parse("shop/app:latest")
    classic.publish("one", hub)
    brought = await classic.puller().pull(PullRequest.of(hub))

    assert brought.proof is Proof.ENGINE
    assert classic.hub.counted["GET manifest"] == 0


async def test_an_image_id_in_the_lock_proves_the_image(classic: Hosting) -> None:
    """An image ID in the lock proves the image without a registry request."""
    digest = classic.publish("one")
    brought = await classic.puller().pull(PullRequest(APP, digest, locked=True, images=(classic.id_of(digest),)))

    assert brought.proof is Proof.LOCK
    assert not classic.hub.counted


async def test_a_wrong_image_from_the_engine_is_refused(shop: Hosting) -> None:
    """If the engine pulled a wrong image, the tag does not change, and nothing is kept."""
    old, _ = shop.publish("one"), await shop.puller().pull(WANTED)
    new = shop.publish("two")
    evil = Digest.of(b"evil")
    made = shop.fake.pullable[f"{APP.name}@{new}"]
    made["Id"] = str(evil)

    with pytest.raises(PulledImageMismatch, match="the tag was not changed"):
        await shop.puller().pull(WANTED)
    assert shop.meaning() == shop.id_of(old)
    assert not shop.host.kept.kept(shop.host.key)


async def test_an_image_that_is_not_in_the_lock_is_refused(classic: Hosting) -> None:
    """An image that is not in the lock is refused, whatever digests the engine lists."""
    digest = classic.publish("one")

    with pytest.raises(PulledImageMismatch, match="which is not in the lock"):
        await classic.puller().pull(PullRequest(APP, digest, locked=True, images=(Digest.of(b"other"),)))
    assert classic.meaning() is None


async def test_manifests_with_other_bytes_are_no_proof(classic: Hosting) -> None:
    """Manifests whose bytes do not have the digest prove nothing."""
    classic.publish("one")
    classic.hub.wrong_bytes = True

    with pytest.raises(RemoteMismatch):
        await classic.puller().pull(WANTED)
    assert classic.meaning() is None


async def test_a_broken_ledger_stops_the_pull(shop: Hosting) -> None:
    """If the ledger contradicts earlier checkpoints, the pull is refused."""

    class Broken(Unavailable):
        pass

    async def watch(_registry: str) -> None:
        raise Broken("rewritten")

    shop.publish("one")
    with pytest.raises(Broken):
        await shop.puller(watch=watch).pull(WANTED)
    assert "POST images/create" not in shop.fake.asked


async def test_an_unknown_tag_is_not_found(shop: Hosting) -> None:
    """For an unknown tag, the engine gets no request."""
    shop.fake.asked.clear()
    with pytest.raises(RemoteNotFound):
        await shop.puller().pull(WANTED)
    assert shop.fake.asked == []


@pytest.mark.parametrize(
    ("message", "kind"),
    [
        ("write /var/lib/docker/tmp/x: no space left on device", EngineFull),
        ("manifest unknown", NoSuchImage),
        ("received unexpected HTTP status: 500", EngineFailed),
    ],
)
async def test_a_failed_pull_changes_no_tag(shop: Hosting, message: str, kind: type[Exception]) -> None:
    """A full disk, a vanished image or an engine error leaves every tag unchanged."""
    old, _ = shop.publish("one"), await shop.puller().pull(WANTED)
    shop.publish("two")
    before = json.dumps(shop.fake.images)
    shop.fake.wrong["images/create"] = Wrong(
        200, json.dumps({"errorDetail": {"message": message}, "error": message}).encode()
    )

    with pytest.raises(kind):
        await shop.puller().pull(WANTED)
    assert json.dumps(shop.fake.images) == before
    assert shop.meaning() == shop.id_of(old)
    assert not shop.host.kept.kept(shop.host.key)


@pytest.mark.parametrize("done", [False, True], ids=["not done", "done, the answer lost"])
@pytest.mark.parametrize("step", ["keep", "name"])
async def test_a_failure_while_tagging_is_recovered(shop: Hosting, step: str, done: bool) -> None:
    """After a failure while tagging, with or without effect, the old image keeps a name, and the next pull completes."""
    old, _ = shop.publish("one"), await shop.puller().pull(WANTED)
    new = shop.publish("two")
    id_ = shop.id_of(old if step == "keep" else new)
    path = f"images/{id_}/tag"
    shop.fake.wrong[path] = Wrong(500, b'{"message": "broken"}')
    if done:
        shop.fake.loses.add(path)

    with pytest.raises(EngineFailed):
        await shop.puller().pull(WANTED)
    assert shop.meaning() in (shop.id_of(old), shop.id_of(new))
    assert shop.id_of(old) in (shop.meaning(), shop.meaning(keep_name(old)))
    shop.fake.wrong.clear()
    await shop.puller().pull(WANTED)
    assert shop.meaning() == shop.id_of(new)
    assert shop.meaning(keep_name(old)) == shop.id_of(old)


async def test_unwritable_state_moves_no_tag(shop: Hosting, tmp_path: Path) -> None:
    """If the state is unwritable no tag is moved, because the kept image's digest would be lost."""
    old, _ = shop.publish("one"), await shop.puller().pull(WANTED)
    shop.publish("two")
    (tmp_path / "state/kept.db").write_bytes(b"no database" * 100)

    with pytest.raises(StateUnusable, match="move it away"):
        await shop.puller().pull(WANTED)
    assert shop.meaning() == shop.id_of(old)


async def test_two_concurrent_pulls_lose_nothing(shop: Hosting) -> None:
    """Of two concurrent pulls, the second keeps the image that the first tagged."""
    first, _ = shop.publish("one"), await shop.puller().pull(WANTED)
    second, third = shop.publish("two"), shop.publish("three")
    await asyncio.gather(*(shop.puller().pull(replace(WANTED, digest=each)) for each in (second, third)))

    kept = {each.digest for each in shop.host.kept.kept(shop.host.key)}
    assert shop.meaning() in (shop.id_of(second), shop.id_of(third))
    assert kept | {next(d for d in (second, third) if shop.id_of(d) == shop.meaning())} == {first, second, third}
    assert all(shop.meaning(keep_name(digest)) == shop.id_of(digest) for digest in kept if digest)


async def test_a_concurrent_docker_pull_is_handled(shop: Hosting) -> None:
    """The image that a concurrent `docker pull` tagged is kept, since the tag is read again under the lock."""
    shop.publish("one")
    await shop.puller().pull(WANTED)
    new = shop.publish("two")
    arrived = await shop.puller().fetch(WANTED)
    other = Digest.parse(shop.fake.image("somebody's"))
    await shop.host.engine.tag(other, APP)
    brought = await shop.puller().apply_tag(arrived)

    assert brought.kept is not None
    assert (brought.kept.image, shop.meaning()) == (other, shop.id_of(new))


async def test_an_image_pruned_before_it_is_tagged_is_pulled_again(shop: Hosting) -> None:
    """An image that a concurrent prune removed before it was tagged is pulled again."""
    old, _ = shop.publish("one"), await shop.puller().pull(WANTED)
    new = shop.publish("two")
    arrived = await shop.puller().fetch(WANTED)
    pruned = shop.fake.images.pop(str(arrived.image.id))
    shop.fake.pullable[f"{APP.name}@{new}"] = pruned
    still = await shop.puller().ensure_present(arrived)
    del shop.fake.images[str(arrived.image.id)]
    brought = await shop.puller().apply_tag(still)

    assert shop.fake.asked.count("POST images/create") == 4
    assert shop.meaning() == shop.id_of(new)
    assert brought.kept is not None
    assert brought.kept.digest == old


async def test_repeated_removal_is_an_error(shop: Hosting) -> None:
    """If the image is removed repeatedly, the pull fails, the tag stays, and the old image keeps both its names."""
    old, _ = shop.publish("one"), await shop.puller().pull(WANTED)
    shop.publish("two")
    arrived = await shop.puller().fetch(WANTED)
    tag = f"images/{arrived.image.id}/tag"
    shop.fake.wrong[tag] = Wrong(404, b'{"message": "No such image"}')
    with pytest.raises(PulledImageRemoved, match="was removed from the engine 3 times"):
        await shop.puller().apply_tag(arrived)

    assert shop.meaning() == shop.meaning(keep_name(old)) == shop.id_of(old)


async def test_a_copy_is_made_before_anything_changes(shop: Hosting) -> None:
    """If the requested copy to a registry fails, the pull ends before any change."""
    old, _ = shop.publish("one"), await shop.puller().pull(WANTED)
    shop.publish("two")

    async def fails(_name: Reference, _digest: Digest) -> Reference:
        raise Unavailable("the other registry is down")

    async def copies(name: Reference, digest: Digest) -> Reference:
        assert (name, digest, shop.meaning()) == (APP, old, shop.id_of(old))
        return Reference("registry.example.com", name.repository, digest=digest)

    with pytest.raises(Unavailable):
        await shop.puller(copy=fails).pull(WANTED)
    assert shop.meaning() == shop.id_of(old)
    brought = await shop.puller(copy=copies).pull(WANTED)
    assert brought.kept is not None
    assert str(brought.kept.copy) == f"registry.example.com/shop/app@{old}"


async def test_a_failed_scrub_moves_no_tag(shop: Hosting) -> None:
    """If the bytes on disk differ from those that were pulled, no tag is moved."""
    old, _ = shop.publish("one"), await shop.puller().pull(WANTED)
    shop.publish("two")

    async def scrub(_image: object) -> None:
        raise Unavailable("not scrubbed: no right")

    with pytest.raises(Unavailable, match="not scrubbed"):
        await shop.puller(scrub=scrub).pull(WANTED)
    assert shop.meaning() == shop.id_of(old)


async def test_a_reference_by_digest_alone_gets_no_tag(shop: Hosting) -> None:
    """As with `docker pull`, a reference by digest alone sets no tag."""
    digest = shop.publish("one")
    brought = await shop.puller().pull(PullRequest.of(Reference.parse(f"{APP.name}@{digest}")))

    assert (brought.outcome, shop.meaning(brought.name)) == (PullOutcome.PULLED, None)
    assert (
        await shop.puller().pull(PullRequest.of(Reference.parse(f"{APP.name}@{digest}")))
    ).outcome is PullOutcome.HERE


async def test_a_reference_with_tag_and_digest_sets_the_tag(shop: Hosting) -> None:
    """For a reference with tag and digest, the digest is pulled and the tag is set."""
    digest = shop.publish("one")
    shop.publish("two")
    await shop.puller().pull(PullRequest.of(Reference.parse(f"{APP}@{digest}")))

    assert shop.meaning() == shop.id_of(digest)
    assert not shop.hub.counted["HEAD manifest"]


async def test_an_unreachable_engine_is_one_line(shop: Hosting) -> None:
    """An unreachable engine is an error of one line."""
    shop.publish("one")
    shop.fake.wrong["images/create"] = Wrong(200, b'{"status": ', endless=False)

    with pytest.raises((EngineUnavailable, Unavailable)):
        await shop.puller().pull(WANTED)
    assert shop.meaning() is None


def test_latest_is_added_to_a_bare_reference() -> None:
    """As in Docker, `latest` is added to a reference without tag and digest."""
    assert PullRequest.of(Reference.parse(f"{REGISTRY}/shop/app")).name.tag == "latest"
    assert PullRequest.of(Reference.parse(f"{REGISTRY}/shop/app@{Digest.of(b'')}")).name.tag is None


async def test_an_image_for_another_platform_does_not_count(classic: Hosting) -> None:
    """A present image for another platform does not count, even under the requested name."""
    digest = classic.publish("one")
    await classic.puller().pull(WANTED)
    await classic.puller().pull(replace(WANTED, platform="linux/amd64"))
    here = [each for each in classic.fake.asked if each == "POST images/create"]
    with pytest.raises(PulledImageMismatch, match="the engine has it only for linux/amd64"):
        await classic.puller().pull(replace(WANTED, platform="linux/arm64"))
    arm = {"Id": image("one arm", architecture="arm64").config.digest, "Architecture": "arm64", "RepoTags": []}
    pulled = f"{APP.name}@{digest}"
    classic.fake.pullable[pulled] = classic.fake.pullable[pulled] | arm
    classic.fake.images[str(classic.meaning())]["RepoDigests"] = []
    brought = await classic.puller().pull(replace(WANTED, platform="linux/arm64"))

    assert here == ["POST images/create"]
    assert (str(brought.image), brought.proof) == (arm["Id"], Proof.MANIFEST)
    assert brought.kept is not None
    at = [number for number, each in enumerate(classic.fake.asked) if each == "POST images/create"][-1]
    assert classic.fake.queries[at]["platform"] == "linux/arm64"


async def test_a_login_is_not_sent_unencrypted(classic: Hosting) -> None:
    """A registry login is not sent to an engine by tcp:// without TLS."""
    classic.publish("one")
    logins = SingleLogin(REGISTRY, Credentials("ci", "secret"))
    classic.host.engine.address = EngineAddress.parse("tcp://web1:2375")
    with pytest.raises(LoginExposed, match="unencrypted") as error:
        await replace(classic.puller(), logins=logins).pull(WANTED)
    classic.host.engine.address = EngineAddress.parse("tcp://127.0.0.1:2375")
    brought = await replace(classic.puller(), logins=logins).pull(WANTED)

    assert "secret" not in error.value.message
    assert brought.outcome is PullOutcome.PULLED


async def test_one_token_for_all_tags_of_a_registry(classic: Hosting) -> None:
    """One token is requested with the scopes of all tags of a registry."""
    other = Reference.parse(f"{REGISTRY}/shop/db:latest")
    classic.publish("one")
    classic.publish("db", other)
    puller = classic.puller()
    puller.announce([WANTED, PullRequest.of(other)])
    for each in (WANTED, PullRequest.of(other)):
        await puller.fetch(each)

    assert classic.hub.counted["token"] == 1
