"""Pulling: the name moves last, the image that works is kept first, and what is here already costs one HEAD."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from pathlib import Path

import pytest

from boltseal.client.credentials import Credentials, OneLogin
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


async def test_a_first_pull_is_by_the_digest_that_the_tag_means(shop: Hosting) -> None:
    """Asked by HEAD; the name is given when the image is there."""
    digest = shop.publish("one")
    brought = await shop.puller().bring(WANTED)

    at = shop.fake.asked.index("POST images/create")
    assert shop.fake.queries[at] == {"fromImage": f"{APP.name}@{digest}"}
    assert (brought.digest, brought.outcome, brought.kept) == (digest, PullOutcome.PULLED, None)
    assert shop.meaning() == shop.id_of(digest) == brought.image


async def test_what_is_here_costs_one_head_and_nothing_else(shop: Hosting) -> None:
    """Counted at the registry: neither a manifest nor a ledger is read. The engine is asked for the image."""
    shop.publish("one")
    await shop.puller().bring(WANTED)
    shop.hub.counted.clear()
    shop.fake.asked.clear()

    async def watch(registry: str) -> None:
        raise AssertionError(f"{registry} was asked for its ledger")

    brought = await shop.puller(watch=watch).bring(WANTED)

    assert brought.outcome is PullOutcome.HERE
    assert shop.hub.counted == {"HEAD manifest": 1}
    assert shop.fake.asked == [f"GET images/{APP}/json"]


async def test_a_digest_that_is_here_costs_nothing(shop: Hosting) -> None:
    """What a lock names needs no HEAD."""
    digest = shop.publish("one")
    await shop.puller().bring(WANTED)
    shop.hub.counted.clear()
    brought = await shop.puller().bring(PullRequest(APP, digest, locked=True))

    assert (brought.outcome, brought.digest) == (PullOutcome.HERE, digest)
    assert not shop.hub.counted


async def test_the_image_that_works_is_kept_before_the_newer_one_takes_its_name(shop: Hosting) -> None:
    """By a name of its own on the engine, and a row with the registry's digest."""
    old, _ = shop.publish("one"), await shop.puller().bring(WANTED)
    new = shop.publish("two")
    brought = await shop.puller().bring(WANTED)

    assert brought.kept is not None
    assert (brought.kept.image, brought.kept.digest) == (shop.id_of(old), old)
    assert brought.kept.media_type == "application/vnd.oci.image.index.v1+json"
    assert shop.meaning(keep_name(old)) == shop.id_of(old)
    assert shop.meaning() == shop.id_of(new)
    order = [each for each in shop.fake.asked if each.endswith("/tag")]
    assert order[-2:] == [f"POST images/{shop.id_of(old)}/tag", f"POST images/{shop.id_of(new)}/tag"]
    assert shop.host.kept.kept(shop.host.key) == (brought.kept,)


async def test_what_another_tool_put_there_is_kept_too(shop: Hosting) -> None:
    """An image that no registry holds goes by its ID."""
    built = Digest.parse(shop.fake.image("built here", str(APP)))
    shop.publish("one")
    brought = await shop.puller().bring(WANTED)

    assert brought.kept is not None
    assert brought.kept.image == built
    assert brought.kept.digest == (built if shop.host.store is ImageStoreKind.CONTAINERD else None)
    assert shop.meaning(keep_name(built)) == built


async def test_an_image_that_is_here_under_no_name_is_not_pulled_again(shop: Hosting) -> None:
    """It gets the name; the tag has moved back upstream, say."""
    old, _ = shop.publish("one"), await shop.puller().bring(WANTED)
    shop.publish("two")
    await shop.puller().bring(WANTED)
    assert shop.publish("one") == old
    shop.fake.asked.clear()
    brought = await shop.puller().bring(WANTED)

    assert (brought.outcome, shop.meaning()) == (PullOutcome.NAMED, shop.id_of(old))
    assert "POST images/create" not in shop.fake.asked


async def test_a_new_index_of_the_same_image_keeps_nothing(classic: Hosting) -> None:
    """The ID is the same: what works still works under its name."""
    first, _ = classic.publish("one"), await classic.puller().bring(WANTED)
    again = Digest.parse(
        str(
            classic.hub.publish(
                "shop/app", "latest", classic.hub.manifests["shop/app"][str(first)][1] + b"\n", OCI_INDEX
            )
        )
    )
    made = classic.fake.images[str(classic.id_of(first))]
    classic.fake.pullable[f"{APP.name}@{again}"] = made | {"RepoDigests": [f"{APP.name}@{again}"]}
    brought = await classic.puller().bring(WANTED)

    assert (brought.digest, brought.image, brought.kept) == (again, classic.id_of(first), None)
    assert classic.host.registry_digests(await classic.host.engine.image(APP), APP)[0] in (first, again)


async def test_the_proof_is_as_good_as_the_store_allows(shop: Hosting) -> None:
    """An ID that is the digest; or manifests whose bytes were hashed here."""
    shop.publish("one")
    brought = await shop.puller().bring(WANTED)

    assert brought.proof is (Proof.IDENTICAL if shop.host.store is ImageStoreKind.CONTAINERD else Proof.MANIFEST)


async def test_where_reading_counts_as_a_pull_the_engine_is_believed(classic: Hosting) -> None:
    """Docker Hub: one HEAD, and the engine's own pull."""
    hub = Reference.parse("shop/app:latest")
    classic.publish("one", hub)
    brought = await classic.puller().bring(PullRequest.of(hub))

    assert brought.proof is Proof.ENGINE
    assert classic.hub.counted["GET manifest"] == 0


async def test_a_lock_that_knows_the_image_proves_it(classic: Hosting) -> None:
    """Without a question to the registry."""
    digest = classic.publish("one")
    brought = await classic.puller().bring(PullRequest(APP, digest, locked=True, images=(classic.id_of(digest),)))

    assert brought.proof is Proof.LOCK
    assert not classic.hub.counted


async def test_an_engine_that_has_another_image_than_was_asked_for(shop: Hosting) -> None:
    """The name means what it meant; nothing is kept, since nothing takes its place."""
    old, _ = shop.publish("one"), await shop.puller().bring(WANTED)
    new = shop.publish("two")
    evil = Digest.of(b"evil")
    made = shop.fake.pullable[f"{APP.name}@{new}"]
    made["Id"] = str(evil)

    with pytest.raises(PulledImageMismatch, match="the tag was not changed"):
        await shop.puller().bring(WANTED)
    assert shop.meaning() == shop.id_of(old)
    assert not shop.host.kept.kept(shop.host.key)


async def test_another_image_than_the_lock_knows(classic: Hosting) -> None:
    """Whatever the engine lists it under."""
    digest = classic.publish("one")

    with pytest.raises(PulledImageMismatch, match="which is not in the lock"):
        await classic.puller().bring(PullRequest(APP, digest, locked=True, images=(Digest.of(b"other"),)))
    assert classic.meaning() is None


async def test_a_registry_that_answers_with_other_bytes(classic: Hosting) -> None:
    """Is not believed by what it proves."""
    classic.publish("one")
    classic.hub.wrong_bytes = True

    with pytest.raises(RemoteMismatch):
        await classic.puller().bring(WANTED)
    assert classic.meaning() is None


async def test_a_ledger_that_is_broken_ends_it_before_anything_is_pulled(shop: Hosting) -> None:
    """What the tag means now is not believed."""

    class Broken(Unavailable):
        pass

    async def watch(_registry: str) -> None:
        raise Broken("rewritten")

    shop.publish("one")
    with pytest.raises(Broken):
        await shop.puller(watch=watch).bring(WANTED)
    assert "POST images/create" not in shop.fake.asked


async def test_a_tag_that_no_registry_has(shop: Hosting) -> None:
    """Is a miss; the engine was asked for nothing."""
    shop.fake.asked.clear()
    with pytest.raises(RemoteNotFound):
        await shop.puller().bring(WANTED)
    assert shop.fake.asked == []


@pytest.mark.parametrize(
    ("said", "kind"),
    [
        ("write /var/lib/docker/tmp/x: no space left on device", EngineFull),
        ("manifest unknown", NoSuchImage),
        ("received unexpected HTTP status: 500", EngineFailed),
    ],
)
async def test_a_pull_that_fails_changes_no_name(shop: Hosting, said: str, kind: type[Exception]) -> None:
    """A full disk, an image that has vanished, an engine in trouble: nothing half done."""
    old, _ = shop.publish("one"), await shop.puller().bring(WANTED)
    shop.publish("two")
    before = json.dumps(shop.fake.images)
    shop.fake.wrong["images/create"] = Wrong(
        200, json.dumps({"errorDetail": {"message": said}, "error": said}).encode()
    )

    with pytest.raises(kind):
        await shop.puller().bring(WANTED)
    assert json.dumps(shop.fake.images) == before
    assert shop.meaning() == shop.id_of(old)
    assert not shop.host.kept.kept(shop.host.key)


@pytest.mark.parametrize("done", [False, True], ids=["not done", "done, the answer lost"])
@pytest.mark.parametrize("step", ["keep", "name"])
async def test_a_name_that_the_engine_fails_to_give(shop: Hosting, step: str, done: bool) -> None:
    """Before it, or when only the answer is lost: the old image keeps a name, and the next pull ends what was begun."""
    old, _ = shop.publish("one"), await shop.puller().bring(WANTED)
    new = shop.publish("two")
    id_ = shop.id_of(old if step == "keep" else new)
    path = f"images/{id_}/tag"
    shop.fake.wrong[path] = Wrong(500, b'{"message": "broken"}')
    if done:
        shop.fake.loses.add(path)

    with pytest.raises(EngineFailed):
        await shop.puller().bring(WANTED)
    assert shop.meaning() in (shop.id_of(old), shop.id_of(new))
    assert shop.id_of(old) in (shop.meaning(), shop.meaning(keep_name(old)))
    shop.fake.wrong.clear()
    await shop.puller().bring(WANTED)
    assert shop.meaning() == shop.id_of(new)
    assert shop.meaning(keep_name(old)) == shop.id_of(old)


async def test_a_memory_that_can_not_be_written_moves_no_name(shop: Hosting, tmp_path: Path) -> None:
    """The digest of what is to be kept would be lost."""
    old, _ = shop.publish("one"), await shop.puller().bring(WANTED)
    shop.publish("two")
    (tmp_path / "state/kept.db").write_bytes(b"no database" * 100)

    with pytest.raises(StateUnusable, match="move it away"):
        await shop.puller().bring(WANTED)
    assert shop.meaning() == shop.id_of(old)


async def test_two_pulls_at_once_lose_nothing(shop: Hosting) -> None:
    """Of two tags' worth of news: whoever is second keeps what the first has put there."""
    first, _ = shop.publish("one"), await shop.puller().bring(WANTED)
    second, third = shop.publish("two"), shop.publish("three")
    await asyncio.gather(*(shop.puller().bring(replace(WANTED, digest=each)) for each in (second, third)))

    kept = {each.digest for each in shop.host.kept.kept(shop.host.key)}
    assert shop.meaning() in (shop.id_of(second), shop.id_of(third))
    assert kept | {next(d for d in (second, third) if shop.id_of(d) == shop.meaning())} == {first, second, third}
    assert all(shop.meaning(keep_name(digest)) == shop.id_of(digest) for digest in kept if digest)


async def test_somebody_who_gives_the_name_meanwhile_is_told_of(shop: Hosting) -> None:
    """`docker pull` beside us: what is there then is kept, for we look again before the name is given."""
    shop.publish("one")
    await shop.puller().bring(WANTED)
    new = shop.publish("two")
    arrived = await shop.puller().fetch(WANTED)
    other = Digest.parse(shop.fake.image("somebody's"))
    await shop.host.engine.tag(other, APP)
    brought = await shop.puller().settle(arrived)

    assert brought.kept is not None
    assert (brought.kept.image, shop.meaning()) == (other, shop.id_of(new))


async def test_what_a_prune_takes_before_it_has_its_name_is_brought_again(shop: Hosting) -> None:
    """`docker image prune` beside us: what has just arrived has no name yet."""
    old, _ = shop.publish("one"), await shop.puller().bring(WANTED)
    new = shop.publish("two")
    arrived = await shop.puller().fetch(WANTED)
    pruned = shop.fake.images.pop(str(arrived.image.id))
    shop.fake.pullable[f"{APP.name}@{new}"] = pruned
    still = await shop.puller().still(arrived)
    del shop.fake.images[str(arrived.image.id)]
    brought = await shop.puller().settle(still)

    assert shop.fake.asked.count("POST images/create") == 4
    assert shop.meaning() == shop.id_of(new)
    assert brought.kept is not None
    assert brought.kept.digest == old


async def test_what_is_removed_again_and_again_is_told(shop: Hosting) -> None:
    """After a few times, and the name means what it meant; the old image is kept twice over."""
    old, _ = shop.publish("one"), await shop.puller().bring(WANTED)
    shop.publish("two")
    arrived = await shop.puller().fetch(WANTED)
    tag = f"images/{arrived.image.id}/tag"
    shop.fake.wrong[tag] = Wrong(404, b'{"message": "No such image"}')
    with pytest.raises(PulledImageRemoved, match="was removed from the engine 3 times"):
        await shop.puller().settle(arrived)

    assert shop.meaning() == shop.meaning(keep_name(old)) == shop.id_of(old)


async def test_a_copy_is_made_before_anything_changes(shop: Hosting) -> None:
    """And one that fails ends the pull: it was asked for."""
    old, _ = shop.publish("one"), await shop.puller().bring(WANTED)
    shop.publish("two")

    async def fails(_name: Reference, _digest: Digest) -> Reference:
        raise Unavailable("the other registry is down")

    async def copies(name: Reference, digest: Digest) -> Reference:
        assert (name, digest, shop.meaning()) == (APP, old, shop.id_of(old))
        return Reference("registry.example.com", name.repository, digest=digest)

    with pytest.raises(Unavailable):
        await shop.puller(copy=fails).bring(WANTED)
    assert shop.meaning() == shop.id_of(old)
    brought = await shop.puller(copy=copies).bring(WANTED)
    assert brought.kept is not None
    assert str(brought.kept.copy) == f"registry.example.com/shop/app@{old}"


async def test_a_scrub_that_does_not_hold_moves_no_name(shop: Hosting) -> None:
    """What lies on the disk is another thing than what was pulled."""
    old, _ = shop.publish("one"), await shop.puller().bring(WANTED)
    shop.publish("two")

    async def scrub(_image: object) -> None:
        raise Unavailable("not scrubbed: no right")

    with pytest.raises(Unavailable, match="not scrubbed"):
        await shop.puller(scrub=scrub).bring(WANTED)
    assert shop.meaning() == shop.id_of(old)


async def test_a_reference_by_digest_alone_gets_no_name(shop: Hosting) -> None:
    """As with `docker pull`."""
    digest = shop.publish("one")
    brought = await shop.puller().bring(PullRequest.of(Reference.parse(f"{APP.name}@{digest}")))

    assert (brought.outcome, shop.meaning(brought.name)) == (PullOutcome.PULLED, None)
    assert (
        await shop.puller().bring(PullRequest.of(Reference.parse(f"{APP.name}@{digest}")))
    ).outcome is PullOutcome.HERE


async def test_a_digest_and_a_tag_together(shop: Hosting) -> None:
    """The digest is what it must be; the tag is the name that it gets."""
    digest = shop.publish("one")
    shop.publish("two")
    await shop.puller().bring(PullRequest.of(Reference.parse(f"{APP}@{digest}")))

    assert shop.meaning() == shop.id_of(digest)
    assert not shop.hub.counted["HEAD manifest"]


async def test_an_engine_that_goes_away(shop: Hosting) -> None:
    """Is one line."""
    shop.publish("one")
    shop.fake.wrong["images/create"] = Wrong(200, b'{"status": ', endless=False)

    with pytest.raises((EngineUnavailable, Unavailable)):
        await shop.puller().bring(WANTED)
    assert shop.meaning() is None


def test_what_a_person_types() -> None:
    """`latest` is added as Docker adds it: where there is neither tag nor digest."""
    assert PullRequest.of(Reference.parse(f"{REGISTRY}/shop/app")).name.tag == "latest"
    assert PullRequest.of(Reference.parse(f"{REGISTRY}/shop/app@{Digest.of(b'')}")).name.tag is None


async def test_a_platform_is_asked_for_and_another_one_is_not_here(classic: Hosting) -> None:
    """An image of the name that is for another machine is not the one."""
    digest = classic.publish("one")
    await classic.puller().bring(WANTED)
    await classic.puller().bring(replace(WANTED, platform="linux/amd64"))
    here = [each for each in classic.fake.asked if each == "POST images/create"]
    with pytest.raises(PulledImageMismatch, match="the engine has it only for linux/amd64"):
        await classic.puller().bring(replace(WANTED, platform="linux/arm64"))
    arm = {"Id": image("one arm", architecture="arm64").config.digest, "Architecture": "arm64", "RepoTags": []}
    pulled = f"{APP.name}@{digest}"
    classic.fake.pullable[pulled] = classic.fake.pullable[pulled] | arm
    classic.fake.images[str(classic.meaning())]["RepoDigests"] = []
    brought = await classic.puller().bring(replace(WANTED, platform="linux/arm64"))

    assert here == ["POST images/create"]
    assert (str(brought.image), brought.proof) == (arm["Id"], Proof.MANIFEST)
    assert brought.kept is not None
    at = [number for number, each in enumerate(classic.fake.asked) if each == "POST images/create"][-1]
    assert classic.fake.queries[at]["platform"] == "linux/arm64"


async def test_a_login_is_not_sent_in_the_clear(classic: Hosting) -> None:
    """An engine by tcp:// without TLS: whoever listens would have the password."""
    classic.publish("one")
    logins = OneLogin(REGISTRY, Credentials("ci", "secret"))
    classic.host.engine.address = EngineAddress.parse("tcp://web1:2375")
    with pytest.raises(LoginExposed, match="unencrypted") as error:
        await replace(classic.puller(), logins=logins).bring(WANTED)
    classic.host.engine.address = EngineAddress.parse("tcp://127.0.0.1:2375")
    brought = await replace(classic.puller(), logins=logins).bring(WANTED)

    assert "secret" not in error.value.message
    assert brought.outcome is PullOutcome.PULLED


async def test_one_token_for_all_tags_of_a_registry(classic: Hosting) -> None:
    """They are announced together."""
    other = Reference.parse(f"{REGISTRY}/shop/db:latest")
    classic.publish("one")
    classic.publish("db", other)
    puller = classic.puller()
    puller.announce([WANTED, PullRequest.of(other)])
    for each in (WANTED, PullRequest.of(other)):
        await puller.fetch(each)

    assert classic.hub.counted["token"] == 1
