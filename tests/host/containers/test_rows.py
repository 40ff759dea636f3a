"""Report rows from host, registry and lock; a missing source is never guessed."""

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
    *digests: Digest, kind: DigestKind = DigestKind.UNSPECIFIED, name: Reference | None = NAME, **more: object
) -> RunningContainer:
    image = RunningImage(name, dict.fromkeys(digests, kind))
    return RunningContainer("host", "web", "id", str(name), replace(image, **more), "Docker")  # type: ignore[arg-type]


def row(container: RunningContainer, lock: LockedImages | None, answers: RegistryAnswers = NOT_ASKED) -> ContainerRow:
    (found,) = container_rows([container], lock, answers)
    return found


def meaning(
    digest: Digest, media_type: str = OCI_INDEX, name: Reference = NAME
) -> dict[Reference, Resolved | BoltsealError]:
    return {name: Resolved(digest, media_type, 1)}


def past(*steps: TagStep, by: TagEvidence = TagEvidence.REGISTRY) -> dict[RepositoryName, TagHistory]:
    return {repository_of(NAME): TagHistory({"latest": steps}, by=by)}


def test_a_row_has_what_the_tag_resolves_to_now() -> None:
    """A row says whether the tag now resolves to the same image; an image ID alone leaves it unknown."""
    same = row(seen(INDEX), None, RegistryAnswers(meaning(INDEX)))
    moved = row(seen(INDEX), None, RegistryAnswers(meaning(OTHER)))
    by_id = row(seen(CONFIG, kind=DigestKind.CONFIG), None, RegistryAnswers(meaning(OTHER)))
    by_lock = row(seen(CONFIG, kind=DigestKind.CONFIG), LOCK, RegistryAnswers(meaning(INDEX)))

    assert [each.moved for each in (same, moved, by_id, by_lock)] == [False, True, None, False]
    assert [each.behind for each in (same, moved, by_id, by_lock)] == [Behind(0), None, None, Behind(0)]
    assert same.digests == {INDEX: DigestKind.INDEX}


def test_the_history_gives_distance_and_former_tags() -> None:
    """The tag's history gives the former tags and how far the tag has moved."""
    answers = RegistryAnswers(
        meaning(OTHER), past(TagStep(1, str(INDEX), "ci"), TagStep(2, str(CONFIG)), TagStep(3, str(OTHER)))
    )
    found = row(seen(INDEX), None, answers)

    assert (found.behind, found.moved, found.tags_by) == (Behind(2, 2), True, "registry")
    assert found.tags == (TagInterval("latest", 1, 2, "ci"),)


@pytest.mark.parametrize("steps", [(), (CONFIG,)])
def test_moves_are_not_counted_by_a_history_that_lacks_the_newest(steps: tuple[Digest, ...]) -> None:
    """When a tag resolves to a digest that its history does not have yet, it has moved a number of times that is not known."""
    known = [TagStep(time_us, str(digest)) for time_us, digest in enumerate((INDEX, *steps), 1)]
    found = row(seen(INDEX), None, RegistryAnswers(meaning(OTHER), past(*known)))

    assert (found.behind, found.moved, found.resolves_to) == (None, True, OTHER)


def test_the_registry_gives_the_kind_of_a_digest() -> None:
    """The media type of the registry's answer gives the kind of a digest."""
    by_digest = meaning(INDEX, OCI_MANIFEST, digest_name(NAME, INDEX))
    found = row(seen(INDEX), None, RegistryAnswers(meaning(OTHER) | by_digest))

    assert found.digests == {INDEX: DigestKind.MANIFEST}
    assert found.of_kind(DigestKind.MANIFEST) == (INDEX,)


@pytest.mark.parametrize(
    ("answer", "origin"),
    [
        (Resolved(INDEX, OCI_INDEX, 1), Origin.PULLED),
        (RemoteNotFound("gone"), Origin.LOCAL),
        (RemoteUnavailable("down"), Origin.UNSPECIFIED),
    ],
)
def test_the_registry_gives_an_unknown_origin(answer: Resolved | BoltsealError, origin: Origin) -> None:
    """An image of unknown origin is looked up at the registry: present, absent, or no answer."""
    found = row(seen(INDEX), None, RegistryAnswers({digest_name(NAME, INDEX): answer}))

    assert found.seen.image.origin is origin
    assert found.local is (origin is Origin.LOCAL)


def test_a_known_origin_is_not_asked_for() -> None:
    """An origin that the host knows is not asked for."""
    answers = RegistryAnswers({digest_name(NAME, INDEX): RemoteNotFound("gone")})

    assert row(seen(INDEX, origin=Origin.PULLED), None, answers).seen.image.origin is Origin.PULLED


def test_which_images_are_looked_up_by_digest() -> None:
    """Only images without lock, tag and known origin are looked up by digest, never by an image ID."""
    answers = RegistryAnswers(meaning(INDEX))
    containers = [
        seen(OTHER),
        seen(INDEX),
        seen(OTHER, origin=Origin.PULLED),
        seen(CONFIG, kind=DigestKind.CONFIG),
        seen(CONFIG, kind=DigestKind.IMAGE_ID),
        seen(OTHER, name=None),
    ]

    assert digests_to_query(containers, None, answers) == {digest_name(NAME, OTHER)}
    assert digests_to_query([seen(INDEX)], LOCK, NOT_ASKED) == set()


def test_which_names_are_queried() -> None:
    """Each name is queried once; local builds only if locked; for a container started by ID, the host's name."""
    other = Reference.parse("localhost:5000/shop/db:1")
    local = seen(OTHER, origin=Origin.LOCAL, name=Reference.parse("made:1"))
    loaded = seen(CONFIG, kind=DigestKind.CONFIG, origin=Origin.LOCAL)
    by_id = seen(OTHER, name=None, names=(other, NAME))

    assert names_to_query([seen(INDEX), seen(INDEX), local, by_id], None) == (NAME, other)
    assert names_to_query([local, loaded], LOCK) == (NAME,)


def test_names_given_on_the_host_are_not_queried() -> None:
    """Tags given on the host are not queried; the repository that the image was pulled from is."""
    mine, pulled = Reference.parse("mine:dev"), digest_name(NAME, INDEX)
    retagged = seen(INDEX, name=mine, names=(mine, NAME), pulled_as=(pulled,))
    alone = seen(INDEX, name=mine, names=(mine,), pulled_as=(pulled,))

    assert names_to_query([retagged, alone], None) == (NAME, pulled)
    assert row(alone, None, RegistryAnswers()).name == pulled
    assert names_to_query([seen(INDEX, name=mine)], LOCK) == (NAME,)


@pytest.mark.parametrize(
    ("container", "answers", "why"),
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
def test_the_reason_why_no_registry_was_asked_is_given(
    container: RunningContainer, answers: RegistryAnswers, why: str
) -> None:
    """A row has the reason why no registry was asked, unless the request was answered or unneeded."""
    assert row(container, None, answers).unasked == why


def test_observations_replace_a_missing_history() -> None:
    """Recorded observations replace a missing history; a registry's own history takes precedence."""
    steps = {NAME: (TagStep(1, str(INDEX)), TagStep(2, str(OTHER)))}
    offline = row(seen(INDEX), None, with_observations(NOT_ASKED, steps))
    signed = RegistryAnswers(histories={repository_of(NAME): TagHistory({}, by=TagEvidence.LEDGER)})

    assert (offline.tags, offline.tags_by) == ((TagInterval("latest", 1, 2),), "watch")
    assert (offline.behind, offline.unasked) == (Behind(1, 2), "no registry was asked")
    assert with_observations(signed, steps) == signed
    assert with_observations(NOT_ASKED, {NAME: ()}) == NOT_ASKED


def test_requests_are_sent_only_for_reasons_that_need_a_registry() -> None:
    """Only mismatches that a tag can explain cause a request to a registry."""
    held, moved = row(seen(INDEX), LOCK), row(seen(OTHER), LOCK)

    assert (moved.verdict is not None and moved.verdict.status) == ContainerStatus.MOVED_AFTER_PULL
    assert [needs_registry(each) for each in (held, moved, row(seen(OTHER), None))] == [False, True, False]
