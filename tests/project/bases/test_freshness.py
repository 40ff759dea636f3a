"""Whether an image is outdated, by its base and the current image of the base's tag."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from boltseal.oci.digest import Digest
from boltseal.oci.reference import Reference
from boltseal.project.bases.base_claims import BaseClaim, ClaimSource
from boltseal.project.bases.changes import changes
from boltseal.project.bases.freshness import (
    BaseStatus,
    BaseVerdict,
    CurrentBase,
    TagInterval,
    is_same_digest,
    judge,
    judge_by_current,
    judge_proven,
    moves_since,
    worst_verdict,
)
from boltseal.project.bases.image_facts import ImageFacts
from boltseal.project.bases.layer_match import Candidate
from tests.project.bases.samples import digest, facts

NODE = Reference.parse("node:16.13")
OLD, NEW = digest("old index"), digest("new index")
IMAGE = facts("abX")


INHERITED: dict[str, Any] = {
    "folder": "/srv",
    "volumes": ("/data",),
    "health": '{"Test":["NONE"]}',
    "stop_signal": "SIGQUIT",
    "shell": ("/bin/bash",),
    "on_build": ("RUN x",),
}


def inheriting(**settings: Any) -> ImageFacts:
    """Return a base with these settings, which images inherit."""
    base = facts("ab", name=str(settings))
    return replace(base, settings=replace(base.settings, **settings))


def claim(built_on: Digest | None = OLD) -> BaseClaim:
    return BaseClaim(NODE, built_on, ClaimSource.BUILT)


def judged(
    was: ImageFacts | None, now: ImageFacts | None, image: ImageFacts = IMAGE, built_on: Digest | None = OLD
) -> BaseVerdict:
    return judge(image, claim(built_on), was, CurrentBase(NEW, now))


def test_the_same_digest_is_the_same_image() -> None:
    """An equal digest is current without reading any document."""
    assert is_same_digest(claim(NEW), NEW)
    assert judged(None, None, built_on=NEW).status is BaseStatus.CURRENT


def test_another_index_with_the_same_image_for_the_platform_is_current() -> None:
    """If the base's index changed but not the image for the platform in use, the image is current."""
    verdict = judged(facts("ab"), facts("ab"))

    assert verdict.status is BaseStatus.CURRENT
    assert "only other platforms" in verdict.reason


def test_a_recorded_platform_digest_is_found_in_the_new_index() -> None:
    """A platform manifest's digest, as some tools record it, is found in the new index."""
    base = facts("ab")

    assert judged(None, base, built_on=base.manifest).status is BaseStatus.CURRENT


def test_recompressed_layers_are_the_same_layers() -> None:
    """Recompressed layers are equal by the uncompressed digests in the config."""
    was = facts("ab")
    now = ImageFacts(digest("zstd"), *(getattr(was, name) for name in list(ImageFacts.__dataclass_fields__)[1:]))
    verdict = judged(was, now)

    assert verdict.status is BaseStatus.CURRENT
    assert "compressed" in verdict.reason


def test_rebuilt_equal_layers_and_settings_are_current() -> None:
    """A rebuilt base with equal layers and settings, and only other times, is current."""
    assert judged(facts("ab"), facts("ab", name="again")).status is BaseStatus.CURRENT


@pytest.mark.parametrize(
    ("now", "reason"),
    [
        (facts("aY"), "other layers"),
        (facts("a"), "lost its uppermost layer"),
        (facts("ab", env={"V": "2"}), "other settings"),
        (facts("ab", user="app"), "other settings"),
        *((inheriting(**{name: value}), "other settings") for name, value in INHERITED.items()),
    ],
)
def test_a_base_that_is_another_image_is_outdated(now: ImageFacts, reason: str) -> None:
    """A base that lost layers, or changed an inherited setting such as ENV, CMD, USER or EXPOSE, is outdated."""
    verdict = judged(facts("ab"), now)

    assert verdict.status is BaseStatus.OUTDATED
    assert reason in verdict.reason
    assert verdict.changes is not None


def test_without_the_old_base_other_layers_prove_outdated() -> None:
    """Without the old base, an image that does not begin with the tag's current layers is outdated."""
    assert judged(None, facts("aY")).status is BaseStatus.OUTDATED


def test_without_the_old_base_common_layers_prove_nothing() -> None:
    """Without the old base, common layers prove nothing, since the old base may have had one more."""
    verdict = judge(IMAGE, claim(), None, CurrentBase(NEW, facts("ab")), unread="the registry has no such manifest")

    assert verdict.status is BaseStatus.UNKNOWN
    assert "no such manifest" in verdict.reason


def test_a_platform_that_the_tag_no_longer_has_is_unknown() -> None:
    """If the tag no longer has the image's platform, the result is unknown."""
    verdict = judged(facts("ab"), None)

    assert verdict.status is BaseStatus.UNKNOWN
    assert "linux/amd64" in verdict.reason


def test_without_history_fewer_layers_are_no_proof() -> None:
    """Without a history, a base with fewer layers leaves the result unknown, with a suggestion."""
    verdict = judge_by_current(IMAGE, claim(None), CurrentBase(NEW, facts("ab")))

    assert verdict.status is BaseStatus.UNKNOWN
    assert "boltseal build" in verdict.reason


def test_without_history_other_layers_are_proof() -> None:
    """Without a history, other layers prove outdated; all layers prove current only if the image adds nothing at all."""
    only_set, same = facts("ab", env={"A": "1"}, history=["a", "b", "ENV A=1"]), facts("ab", name="copy")

    assert judge_by_current(IMAGE, claim(None), CurrentBase(NEW, facts("aY"))).status is BaseStatus.OUTDATED
    assert judge_by_current(only_set, claim(None), CurrentBase(NEW, facts("ab"))).status is BaseStatus.UNKNOWN
    assert judge_by_current(same, claim(None), CurrentBase(NEW, facts("ab"))).status is BaseStatus.CURRENT
    assert judge_by_current(IMAGE, claim(None), CurrentBase(NEW, None, "denied")).reason == "denied"


def test_a_claim_without_a_digest_is_compared_by_layers() -> None:
    """A base named without a digest, as in a Dockerfile's FROM, is compared by layers."""
    assert judged(None, facts("aY"), built_on=None).status is BaseStatus.OUTDATED
    assert judged(None, facts("ab"), built_on=None).status is BaseStatus.UNKNOWN


def proven(*layers: str, now: str) -> BaseVerdict:
    found = [Candidate(NODE, digest(f"index {name}"), facts("ab", env={"V": name})) for name in layers]
    return judge_proven(IMAGE, found, claim(None), CurrentBase(digest(f"index {now}"), facts("ab", env={"V": now})))


def test_a_base_proven_by_layers_shows_whether_it_moved() -> None:
    """A base proven by layers shows by its own digest and its former image whether it moved."""
    assert proven("1", now="1").status is BaseStatus.CURRENT
    assert proven("1", now="2").status is BaseStatus.OUTDATED
    assert proven("1", now="2").built_on == digest("index 1")
    assert proven("1", "2", now="3").status is BaseStatus.OUTDATED


def test_indistinguishable_bases_are_unknown() -> None:
    """If bases can't be distinguished and only one is the tag's current image, the result is unknown."""
    verdict = proven("1", "2", now="2")

    assert verdict.status is BaseStatus.UNKNOWN
    assert "resolved to 2 images with these layers" in verdict.reason


def intervals(*words: str) -> list[TagInterval]:
    return [TagInterval(digest(word) if word else None, at * 10, at * 10 + 5) for at, word in enumerate(words)]


@pytest.mark.parametrize(
    ("past", "expected"),
    [
        ((), (1, False, None)),
        (("1", "2"), (1, True, 10)),
        (("1", "2", "3"), (3, False, 10)),
        (("1", "3", "2"), (2, True, 10)),
        (("1", "3", "1", "2"), (1, True, 30)),
        (("1", "", "2"), (1, True, 20)),
        (("2",), (1, False, 0)),
        (("1",), (1, False, None)),
        (("3", "2"), (1, False, None)),
    ],
)
def test_the_distance_and_time_of_the_first_move_are_reported(
    past: tuple[str, ...], expected: tuple[int, bool, int | None]
) -> None:
    """The result has the number of moves since the tag resolved to the base, and the first move's time."""
    assert moves_since(intervals(*past), digest("1"), digest("2")) == expected


def test_outdated_on_one_platform_is_outdated() -> None:
    """An image that is outdated on one platform is outdated, and unknown on one platform is not current."""

    def of(*statuses: BaseStatus) -> BaseStatus:
        return worst_verdict([BaseVerdict(status, "") for status in statuses]).status

    assert of(BaseStatus.CURRENT, BaseStatus.OUTDATED, BaseStatus.UNKNOWN) is BaseStatus.OUTDATED
    assert of(BaseStatus.CURRENT, BaseStatus.UNKNOWN) is BaseStatus.UNKNOWN
    assert of(BaseStatus.NO_BASE, BaseStatus.CURRENT) is BaseStatus.CURRENT


def test_changes_list_layers_sizes_and_settings() -> None:
    """The list of changes has layers, sizes and settings, without the common first layers."""
    labels = {"org.opencontainers.image.version": "16.13.2", "org.opencontainers.image.revision": "abc"}
    found = changes(facts("abc", env={"V": "1", "W": "x"}), facts("aYZ", env={"V": "2"}, user="app", labels=labels))

    assert (found.removed, found.added) == ((2, 500), (2, 500))
    assert [(one.what, one.was, one.now) for one in found.settings] == [
        ("ENV V", "1", "2"),
        ("ENV W", "x", ""),
        ("USER", "", "app"),
    ]
    assert found.version is not None
    assert found.version.now == "16.13.2"
    assert found.revision is not None
    assert not found.lost_top


def test_every_changed_inherited_setting_is_named() -> None:
    """Each changed inherited setting is named by its Dockerfile instruction."""
    found = changes(facts("ab"), inheriting(**INHERITED)).settings

    assert [one.what for one in found] == ["WORKDIR", "VOLUME", "HEALTHCHECK", "STOPSIGNAL", "SHELL", "ONBUILD"]


def test_unknown_sizes_are_left_out() -> None:
    """Unknown layer sizes are left out, since a manifest may have more layers than its config."""
    found = changes(facts("ab", sizes=False), facts("a"))

    assert found.removed == (1, None)
    assert found.lost_top
