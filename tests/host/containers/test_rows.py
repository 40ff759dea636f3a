"""What is said of a container, by what hosts, registries and lock say; where one of them is silent nothing is guessed."""

from __future__ import annotations

from dataclasses import replace

import pytest

from boltseal.client.errors import RemoteNotFound, RemoteUnavailable
from boltseal.client.registry_client import Resolved
from boltseal.errors import BoltsealError
from boltseal.host.containers.hosts import RunningContainer
from boltseal.host.containers.registries import (
    NOT_ASKED,
    RegistryAnswers,
    RepositoryName,
    TagEvidence,
    TagHistory,
    digest_name,
    repository_of,
    with_observations,
)
from boltseal.host.containers.rows import ContainerRow, container_rows, digests_to_query, names_to_query, needs_registry
from boltseal.ledger.tag_intervals import Behind, TagInterval, TagStep
from boltseal.lockfile.container_check import ContainerStatus, DigestKind, LockedImages, Origin, RunningImage
from boltseal.lockfile.document import LockedImage, LockedPlatform
from boltseal.oci.digest import Digest
from boltseal.oci.reference import Reference
from tests.images import OCI_INDEX, OCI_MANIFEST
from tests.lockfile.locks import NOW_US, lock_of

NAME = Reference.parse("localhost:5000/shop/app:latest")
INDEX, CONFIG, OTHER = (Digest.of(words) for words in (b"index", b"config", b"other"))
LOCKED = LockedImage(NAME, INDEX, NOW_US, OCI_INDEX, (LockedPlatform("linux/amd64", Digest.of(b"manifest"), CONFIG),))
LOCK = LockedImages.of(lock_of(LOCKED))


def seen(
    *digests: Digest, kind: DigestKind = DigestKind.UNSAID, name: Reference | None = NAME, **more: object
) -> RunningContainer:
    image = RunningImage(name, dict.fromkeys(digests, kind))
    return RunningContainer("host", "web", "id", str(name), replace(image, **more), "Docker")  # type: ignore[arg-type]


def row(it: RunningContainer, lock: LockedImages | None, told: RegistryAnswers = NOT_ASKED) -> ContainerRow:
    (found,) = container_rows([it], lock, told)
    return found


def meaning(
    digest: Digest, media_type: str = OCI_INDEX, name: Reference = NAME
) -> dict[Reference, Resolved | BoltsealError]:
    return {name: Resolved(digest, media_type, 1)}


def past(*steps: TagStep, by: TagEvidence = TagEvidence.REGISTRY) -> dict[RepositoryName, TagHistory]:
    return {repository_of(NAME): TagHistory({"latest": steps}, by=by)}


def test_what_the_tag_means_now() -> None:
    """The same, another, or nobody knows: an image ID says nothing of what a registry calls the image."""
    same = row(seen(INDEX), None, RegistryAnswers(meaning(INDEX)))
    moved = row(seen(INDEX), None, RegistryAnswers(meaning(OTHER)))
    by_id = row(seen(CONFIG, kind=DigestKind.CONFIG), None, RegistryAnswers(meaning(OTHER)))
    by_lock = row(seen(CONFIG, kind=DigestKind.CONFIG), LOCK, RegistryAnswers(meaning(INDEX)))

    assert [each.moved for each in (same, moved, by_id, by_lock)] == [False, True, None, False]
    assert [each.behind for each in (same, moved, by_id, by_lock)] == [Behind(0), None, None, Behind(0)]
    assert same.digests == {INDEX: DigestKind.INDEX}


def test_how_far_behind_and_what_it_was() -> None:
    """By the history of its tag."""
    told = RegistryAnswers(
        meaning(OTHER), past(TagStep(1, str(INDEX), "ci"), TagStep(2, str(CONFIG)), TagStep(3, str(OTHER)))
    )
    found = row(seen(INDEX), None, told)

    assert (found.behind, found.moved, found.tags_by) == (Behind(2, 2), True, "registry")
    assert found.tags == (TagInterval("latest", 1, 2, "ci"),)


def test_a_manifest_by_the_word_of_its_registry() -> None:
    """Which gives the media type with the digest."""
    by_digest = meaning(INDEX, OCI_MANIFEST, digest_name(NAME, INDEX))
    found = row(seen(INDEX), None, RegistryAnswers(meaning(OTHER) | by_digest))

    assert found.digests == {INDEX: DigestKind.MANIFEST}
    assert found.of_kind(DigestKind.MANIFEST) == (INDEX,)


@pytest.mark.parametrize(
    ("answer", "origin"),
    [
        (Resolved(INDEX, OCI_INDEX, 1), Origin.PULLED),
        (RemoteNotFound("gone"), Origin.LOCAL),
        (RemoteUnavailable("down"), Origin.UNSAID),
    ],
)
def test_where_an_image_came_from_that_its_host_does_not_say(answer: Resolved | BoltsealError, origin: Origin) -> None:
    """Its registry has it, or has not, or does not answer, which is neither."""
    found = row(seen(INDEX), None, RegistryAnswers({digest_name(NAME, INDEX): answer}))

    assert found.seen.image.origin is origin
    assert found.local is (origin is Origin.LOCAL)


def test_the_hosts_word_for_where_it_came_from_is_not_asked_again() -> None:
    """It knows."""
    told = RegistryAnswers({digest_name(NAME, INDEX): RemoteNotFound("gone")})

    assert row(seen(INDEX, origin=Origin.PULLED), None, told).seen.image.origin is Origin.PULLED


def test_who_is_asked_by_digest() -> None:
    """Only of what neither the lock nor a tag explains, and whose host does not say where it came from; never by an image ID."""
    told = RegistryAnswers(meaning(INDEX))
    containers = [
        seen(OTHER),
        seen(INDEX),
        seen(OTHER, origin=Origin.PULLED),
        seen(CONFIG, kind=DigestKind.CONFIG),
        seen(CONFIG, kind=DigestKind.IMAGE_ID),
        seen(OTHER, name=None),
    ]

    assert digests_to_query(containers, None, told) == {digest_name(NAME, OTHER)}
    assert digests_to_query([seen(INDEX)], LOCK, NOT_ASKED) == set()


def test_names_that_are_asked_about() -> None:
    """Each once; of a local build none, unless it is what is locked; of what an ID started, what its host calls it."""
    other = Reference.parse("localhost:5000/shop/db:1")
    local = seen(OTHER, origin=Origin.LOCAL, name=Reference.parse("made:1"))
    loaded = seen(CONFIG, kind=DigestKind.CONFIG, origin=Origin.LOCAL)
    by_id = seen(OTHER, name=None, names=(other, NAME))

    assert names_to_query([seen(INDEX), seen(INDEX), local, by_id], None) == (NAME, other)
    assert names_to_query([local, loaded], LOCK) == (NAME,)


def test_a_name_that_was_given_on_the_host_is_no_registrys_business() -> None:
    """The image came from another repository, so that one is asked: under its name there, else by digest."""
    mine, pulled = Reference.parse("mine:dev"), digest_name(NAME, INDEX)
    retagged = seen(INDEX, name=mine, names=(mine, NAME), pulled_as=(pulled,))
    alone = seen(INDEX, name=mine, names=(mine,), pulled_as=(pulled,))

    assert names_to_query([retagged, alone], None) == (NAME, pulled)
    assert row(alone, None, RegistryAnswers()).name == pulled
    assert names_to_query([seen(INDEX, name=mine)], LOCK) == (NAME,)


@pytest.mark.parametrize(
    ("it", "told", "why"),
    [
        (seen(INDEX), NOT_ASKED, "no registry was asked"),
        (seen(INDEX), RegistryAnswers(meaning(INDEX)), ""),
        (seen(INDEX), RegistryAnswers({NAME: RemoteUnavailable("it is down")}), "it is down"),
        (seen(INDEX), RegistryAnswers({NAME: RemoteNotFound("no such tag")}), ""),
        (seen(INDEX), RegistryAnswers(meaning(INDEX), {repository_of(NAME): TagHistory(why="no right")}), "no right"),
        (seen(INDEX, name=None), RegistryAnswers(), "it has no name to ask a registry about"),
        (seen(OTHER, origin=Origin.LOCAL), RegistryAnswers(), ""),
    ],
)
def test_why_nobody_was_asked(it: RunningContainer, told: RegistryAnswers, why: str) -> None:
    """Each reason is said; what was asked, and what need not be, has none."""
    assert row(it, None, told).unasked == why


def test_what_was_seen_from_here() -> None:
    """Counts where the registry keeps no history; where it does, that is what counts."""
    steps = {NAME: (TagStep(1, str(INDEX)), TagStep(2, str(OTHER)))}
    offline = row(seen(INDEX), None, with_observations(NOT_ASKED, steps))
    signed = RegistryAnswers(histories={repository_of(NAME): TagHistory({}, by=TagEvidence.LEDGER)})

    assert (offline.tags, offline.tags_by) == ((TagInterval("latest", 1, 2),), "watch")
    assert (offline.behind, offline.unasked) == (Behind(1, 2), "no registry was asked")
    assert with_observations(signed, steps) == signed
    assert with_observations(NOT_ASKED, {NAME: ()}) == NOT_ASKED


def test_whose_reason_a_registry_can_tell_apart() -> None:
    """Not of what holds, nor of what no tag explains."""
    held, moved = row(seen(INDEX), LOCK), row(seen(OTHER), LOCK)

    assert (moved.verdict is not None and moved.verdict.standing) == ContainerStatus.MOVED_AFTER_PULL
    assert [needs_registry(each) for each in (held, moved, row(seen(OTHER), None))] == [False, True, False]
