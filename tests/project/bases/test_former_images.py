"""A base whose tag has moved is found by its former image, or is unknown; its own base is never reported instead."""

from __future__ import annotations

from pathlib import Path

import pytest

from boltseal.ledger.entry import Entry, EntryKind
from boltseal.oci.digest import Digest
from boltseal.oci.reference import Reference, Repository
from boltseal.project.bases.former_images import MOVED_OR_GONE, former_digests
from boltseal.project.bases.freshness import BaseStatus, BaseVerdict, TagInterval
from boltseal.project.bases.image_documents import RemoteRepository
from boltseal.project.bases.image_facts import IMAGE
from tests.project.bases.own_registry import HOST, own_registry
from tests.project.bases.published import NOW_US, Published, base_labels

OS, RUNTIME, APP = "reg.test/base/os:1", "reg.test/base/rt:1", "reg.test/team/app:1"
EVERY = (OS, RUNTIME, APP)
BEFORE, MEANWHILE, MADE = "2026-11-19T00:00:00Z", "2026-11-24T06:30:00Z", "2026-11-24T08:00:00Z"
"""When the lowest base was made; when the base on it was, after the first look; when the app was, after the second."""


@pytest.fixture
async def registry(tmp_path: Path) -> Published:
    """A base, a base on it, and an app on that, without labels; the bases were scanned before the app was built."""
    made = Published(tmp_path / "state")
    made.image("base/os", "1", "o")
    await made.look(OS, listed="reg.test")
    made.image("base/rt", "1", "or", created=MEANWHILE)
    await made.look(OS, RUNTIME, listed="reg.test")
    made.image("team/app", "1", "orX", created=MADE)
    made.now_us += 86_400_000_000
    return made


async def of_app(registry: Published, *names: str, base: str = "") -> BaseVerdict:
    answers = await registry.look(*(names or EVERY), base=base, listed="reg.test")
    return next(one.verdict for one in answers if one.wanted.name == APP)


def status_and_base(verdict: BaseVerdict) -> tuple[str, str]:
    """Return the status and the base."""
    return str(verdict.status), "" if verdict.claim is None else str(verdict.claim.base)


def forget(registry: Published) -> None:
    """Delete the cached images, as if only their digests had been observed."""
    import sqlite3

    with sqlite3.connect(registry.state / "learned.db") as database:
        database.execute("DELETE FROM document")
    database.close()


async def test_a_moved_base_is_found_by_an_earlier_observation(registry: Published) -> None:
    """A moved base is found by an earlier observation, although the base's own base has not moved."""
    before = await of_app(registry)
    registry.image("base/rt", "1", "os")
    verdict = await of_app(registry)

    assert status_and_base(before) == ("current", RUNTIME)
    assert status_and_base(verdict) == ("outdated", RUNTIME)
    assert verdict.built_on == before.built_on
    assert verdict.reason == "the base has other layers"
    assert (verdict.behind, verdict.exact) == (1, True)


async def test_a_base_that_moved_several_times_is_still_found(registry: Published) -> None:
    """A base that moved several times is found, also if one move changed only settings."""
    for number in range(3):
        registry.image("base/rt", "1", "or", env=[f"N={number}"], history=["o", "r", f"ENV N={number}"])
        await of_app(registry)
    registry.image("base/rt", "1", "os")
    verdict = await of_app(registry)

    assert status_and_base(verdict) == ("outdated", RUNTIME)
    assert verdict.behind == 4


async def test_a_base_that_moved_back_is_current(registry: Published) -> None:
    """If the base's tag moved back, the image is current, since it was not built on the image in between."""
    held = registry.hub.manifests["base/rt"]["1"]
    await of_app(registry)
    registry.image("base/rt", "1", "os")
    moved = await of_app(registry)
    registry.hub.manifests["base/rt"]["1"] = held

    assert status_and_base(moved) == ("outdated", RUNTIME)
    assert status_and_base(await of_app(registry)) == ("current", RUNTIME)


async def test_a_base_without_own_layers_is_the_closer_one(registry: Published) -> None:
    """A base that adds no layers to its own base is distinguished from it by the history."""
    registry.image("base/rt", "1", "o", env=["V=1"], history=["o", "ENV V=1"], created=BEFORE)
    registry.image("team/app", "1", "oX", history=["o", "ENV V=1", "X"], created=MADE)
    before = await of_app(registry)
    registry.image("base/rt", "1", "o", env=["V=2"], history=["o", "ENV V=2"])

    assert status_and_base(before)[1] == RUNTIME
    assert status_and_base(await of_app(registry)) == ("outdated", RUNTIME)


async def test_an_uncached_former_image_proves_no_other_base(registry: Published) -> None:
    """A former image that is not in the cache leaves the base unknown; the reason names the tag."""
    registry.image("base/rt", "1", "os")
    forget(registry)
    verdict = await of_app(registry)

    assert status_and_base(verdict) == ("cannot tell", OS)
    assert f"{RUNTIME} formerly resolved to sha256:" in verdict.reason
    assert "boltseal build" in verdict.reason
    assert verdict.built_on is None


async def test_a_named_base_is_not_proven_by_layers_if_a_former_image_is_unknown(registry: Published) -> None:
    """A base named by --base or --dockerfile is unknown if a former image is, since layers must prove it."""
    registry.image("base/rt", "1", "os")
    forget(registry)

    assert status_and_base(await of_app(registry, base=OS))[0] == "cannot tell"


async def test_a_recorded_base_is_not_weakened(registry: Published) -> None:
    """A base in an annotation, or in a label beside the image's own name, is used although a former image is unknown."""
    os = Digest.of(registry.hub.manifests["base/os"]["1"][1])
    registry.image("base/rt", "1", "os")
    forget(registry)
    own = base_labels(OS, os) | {IMAGE: APP}
    for more in ({"labels": own}, {"annotations": base_labels(OS, os)}):
        registry.image("team/app", "1", "oX", created=MADE, **more)  # type: ignore[arg-type]

        assert status_and_base(await of_app(registry)) == ("current", OS)


async def test_a_label_that_an_unknown_base_may_have_had_is_no_proof(registry: Published) -> None:
    """A label without the image's own name may have come with a base whose labels are unknown: the answer is unknown."""
    os = Digest.of(registry.hub.manifests["base/os"]["1"][1])
    registry.image("base/rt", "1", "os")
    forget(registry)
    registry.image("team/app", "1", "oX", created=MADE, labels=base_labels(OS, os))
    verdict = await of_app(registry)

    assert status_and_base(verdict) == ("cannot tell", OS)
    assert f"{RUNTIME} formerly resolved to sha256:" in verdict.reason


async def test_a_tag_that_was_not_observed_when_the_image_was_built_may_be_its_base(tmp_path: Path) -> None:
    """At a registry without history, an image is not current on an unmoved base if another tag may have been its base."""
    registry = Published(tmp_path / "state")
    registry.image("base/os", "1", "o", created=BEFORE)
    await registry.look(OS)
    registry.image("base/rt", "1", "or", created=MEANWHILE)
    registry.image("team/app", "1", "orX", created=MADE)
    registry.image("base/rt", "1", "os", created=MADE)
    registry.now_us += 86_400_000_000
    verdict = await of_app(registry)

    assert status_and_base(verdict) == ("cannot tell", OS)
    assert f"{RUNTIME} was not observed all the time" in verdict.reason


async def test_a_tag_that_moved_unobserved_between_two_scans_may_be_the_base(registry: Published) -> None:
    """If the base's tag moved when the image was built, and only before and after was observed, the answer is unknown."""
    registry.image("base/rt", "1", "o", history=["o", "ENV A=1"], env=["A=1"], created=MADE)
    verdict = await of_app(registry)

    assert status_and_base(verdict)[0] == "outdated"
    registry.image("team/app", "2", "oX", history=["o", "ENV A=1", "X"], created=MADE)
    answers = await registry.look(OS, RUNTIME, "reg.test/team/app:2")

    assert status_and_base(answers[-1].verdict)[0] == "cannot tell"


async def test_an_inherited_label_does_not_hide_that_the_labelled_base_moved(tmp_path: Path) -> None:
    """The app's inherited label, which names the base's base, does not hide that the base moved."""
    registry = Published(tmp_path / "state")
    labels = base_labels(OS, registry.image("base/os", "1", "o", created=BEFORE))
    registry.image("base/rt", "1", "or", created=BEFORE, labels=labels)
    await registry.look(OS, RUNTIME)
    registry.image("team/app", "1", "orX", created=MADE, labels=labels)
    registry.image("base/rt", "1", "os", labels=labels)

    assert status_and_base(await of_app(registry)) == ("outdated", RUNTIME)


async def test_an_index_is_compared_for_the_platforms_in_use(tmp_path: Path) -> None:
    """If a multi-platform base moved, the app's platform decides."""
    registry = Published(tmp_path / "state")
    registry.image("base/os", "1", "o", created=BEFORE)

    def runtime(letter: str) -> None:
        children = {
            name: registry.image("base/rt", "x", f"{start}{letter}", architecture=name, created=BEFORE)
            for name, start in (("amd64", "o"), ("arm64", "p"))
        }
        registry.index("base/rt", "1", children)
        del registry.hub.manifests["base/rt"]["x"]

    runtime("r")
    await registry.look(OS, RUNTIME)
    registry.image("team/app", "1", "orX", created=MADE)
    runtime("s")

    assert status_and_base(await of_app(registry)) == ("outdated", RUNTIME)


@pytest.mark.parametrize("history", [None, ["o"]], ids=["whole", "only of the known base"])
async def test_a_build_may_use_a_base_that_had_moved_before(tmp_path: Path, history: list[str] | None) -> None:
    """A build may use an image that its host pulled before the base's tag was observed; a layer without a step may be that one's."""
    registry = Published(tmp_path / "state")
    registry.image("base/os", "1", "o", created=BEFORE)
    await registry.look(OS, listed="reg.test")
    registry.image("base/rt", "1", "or", created=MEANWHILE)
    registry.image("base/rt", "1", "s", created=MEANWHILE)
    registry.now_us += 86_400_000_000
    await registry.look(OS, RUNTIME, listed="reg.test")
    registry.now_us += 86_400_000_000
    registry.image("team/app", "1", "orX", history=history, created="2026-11-26T05:00:00Z")
    verdict = await of_app(registry)

    assert status_and_base(verdict)[0] == "cannot tell"


async def test_two_tags_of_the_base_of_which_one_moved_are_unknown(registry: Published) -> None:
    """If two tags resolved to the base, and one has moved, the image may be built on that one, which the reason names."""
    media_type, raw = registry.hub.manifests["base/rt"]["1"]
    registry.hub.publish("base/rt", "1.0.0", raw, media_type)
    every = (*EVERY, "reg.test/base/rt:1.0.0")
    registry.now_us -= 2 * 86_400_000_000
    await registry.look(OS, RUNTIME, "reg.test/base/rt:1.0.0")
    registry.now_us += 2 * 86_400_000_000
    registry.image("base/rt", "1", "os")
    verdict = await of_app(registry, *every)

    assert status_and_base(verdict) == ("cannot tell", "reg.test/base/rt:1.0.0")
    assert f"{RUNTIME} also resolved to it and has moved" in verdict.reason


async def test_a_former_image_given_by_digest_does_not_stand_for_its_tag(tmp_path: Path) -> None:
    """A run with the base by its digest, such as a container's, sees that one of the two tags of the base has moved."""
    async with own_registry(tmp_path, NOW_US) as made:
        await made.unlabelled("base/os", "1", "o")
        runtime = await made.unlabelled("base/rt", "1", "or")
        await made.unlabelled("base/rt", "1.0.0", "or")
        await made.unlabelled("team/app", "1", "orX")
        app = f"{HOST}/team/app:1"
        every = (f"{HOST}/base/os:1", f"{HOST}/base/rt:1.0.0", f"{HOST}/base/rt:1@{runtime}", app)
        before = await made.look(*every, listed=None)
        await made.unlabelled("base/rt", "1", "os")
        after = await made.look(*every, listed=None)
    verdict = after[-1].verdict

    assert status_and_base(before[-1].verdict)[0] == "current"
    assert status_and_base(verdict)[0] == "cannot tell"
    assert f"{HOST}/base/rt:1 also resolved to it and has moved" in verdict.reason


async def test_a_tag_of_the_images_own_repository_that_moved_is_no_doubt(registry: Published) -> None:
    """A moved tag of the own repository is no doubt if its former image has other layers, and one if they are unknown."""
    registry.image("team/app", "latest", "orW", created=MADE)
    await registry.look("reg.test/team/app:latest")
    registry.image("team/app", "latest", "orZ", created=MADE)
    known = await of_app(registry, *EVERY, "reg.test/team/app:latest")
    forget(registry)
    unknown = await of_app(registry, *EVERY, "reg.test/team/app:latest")

    assert status_and_base(known) == ("current", RUNTIME)
    assert status_and_base(unknown)[0] == "cannot tell"
    assert "reg.test/team/app:latest formerly resolved to sha256:" in unknown.reason


async def test_a_moved_base_in_the_own_repository_is_doubt(registry: Published) -> None:
    """An image that begins with a former image of its own repository may be built on it, and is not current."""
    base = "reg.test/team/app:base"
    registry.image("team/app", "base", "orB", created=MADE)
    await registry.look(base)
    registry.image("team/app", "1", "orBX", created=MADE)
    before = await of_app(registry, *EVERY, base)
    registry.image("team/app", "base", "orC", created=MADE)
    verdict = await of_app(registry, *EVERY, base)

    assert status_and_base(before) == ("current", RUNTIME)
    assert status_and_base(verdict)[0] == "cannot tell"
    assert f"an image that {base} resolves to no longer" in verdict.reason


async def test_a_base_in_the_own_repository_that_is_not_current_is_doubt(registry: Published) -> None:
    """An image is not current if it begins with an image of its own repository that is not current itself."""
    base = "reg.test/team/app:base"
    unresolved = base_labels("reg.test/base/deleted:1", Digest.of(b"a deleted image"))
    registry.image("team/app", "base", "orB", annotations=unresolved, created=MADE)
    registry.image("team/app", "1", "orBX", created=MADE)
    verdict = await of_app(registry, *EVERY, base)

    assert status_and_base(verdict) == ("cannot tell", RUNTIME)
    assert f"it may be based on {base} as well" in verdict.reason


async def test_a_label_that_came_from_the_own_repository_is_doubt(registry: Published) -> None:
    """A label that names another tag of the image's repository came with its base, unless it is that tag's image."""
    base = "reg.test/team/app:base"
    runtime = Digest.of(registry.hub.manifests["base/rt"]["1"][1])
    own = base_labels(RUNTIME, runtime) | {IMAGE: base}
    registry.image("team/app", "base", "orB", labels=own, created=MADE)
    registry.image("team/app", "copy", "orB", labels=own, created=MADE)
    await registry.look(base, "reg.test/team/app:copy")
    registry.image("team/app", "1", "orBX", labels=own, created=MADE)
    await of_app(registry, *EVERY, base)
    registry.image("team/app", "base", "orC", created=MADE)
    answers = await registry.look(*EVERY, base, "reg.test/team/app:copy", listed="reg.test")
    found = {one.wanted.name: str(one.verdict.status) for one in answers}

    assert found[APP] == "cannot tell"
    assert found["reg.test/team/app:copy"] == "current"


async def test_a_tag_whose_registry_does_not_answer_may_have_moved(registry: Published) -> None:
    """A tag that can't be resolved now is not taken for a moved one, but it may be one, so layers prove nothing."""
    tool = "other.test/other/tool:1"
    registry.image("other/tool", "1", "t")
    registry.now_us -= 2 * 86_400_000_000
    await registry.look(tool)
    registry.now_us += 2 * 86_400_000_000
    del registry.hub.manifests["other/tool"]["1"]
    forget(registry)
    verdict = await of_app(registry, *EVERY, tool)

    assert status_and_base(verdict) == ("cannot tell", RUNTIME)
    assert f"{tool} was not observed all the time" in verdict.reason


async def test_former_images_beyond_the_limit_are_unknown(registry: Published) -> None:
    """Former images beyond the memory limit leave the base unknown."""
    await of_app(registry)
    registry.image("base/rt", "1", "os")
    answers = await registry.look(*EVERY, max_units=11)

    assert answers[-1].verdict.status is BaseStatus.UNKNOWN
    assert "too many former images at a time" in answers[-1].verdict.reason


async def test_nothing_more_is_requested_while_no_tag_moved(registry: Published) -> None:
    """While no tag moved, a scan sends two HEADs for the bases and one for the app, and reads nothing."""
    await of_app(registry)
    await of_app(registry)

    assert (registry.asked("HEAD", "reg.test"), registry.asked("GET", "reg.test")) == (3, 0)


def test_former_digests_are_read_from_ledger_entries() -> None:
    """Ledger entries give the former digests of moved and deleted tags, oldest first, without signature tags."""
    one, two, other = (str(Digest.of(text.encode())) for text in ("one", "two", "other"))
    signature = f"sha256-{'a' * 64}.sig"

    def entry(kind: EntryKind, tag: str, digest: str, was: str) -> Entry:
        return Entry(kind=kind, time_us=1, registry="r", repository="a/b", tag=tag, digest=digest, was=was, salt="")

    entries = [
        entry(EntryKind.TAG_CREATED, "sealed", other, ""),
        entry(EntryKind.TAG_MOVED, "1", two, one),
        entry(EntryKind.TAG_DELETED, "2", one, one),
        entry(EntryKind.TAG_MOVED, signature, two, one),
        entry(EntryKind.BUILT, "1", other, ""),
    ]
    place = RemoteRepository("reg.test", Repository("a/b"))

    assert former_digests(place, entries) == {
        Reference.parse("reg.test/a/b:1"): [
            TagInterval(Digest.parse(one), None, 1),
            TagInterval(Digest.parse(two), 1, None),
        ],
        Reference.parse("reg.test/a/b:2"): [TagInterval(Digest.parse(one), None, 1), TagInterval(None, 1, None)],
    }
    assert EntryKind.TAG_CREATED not in MOVED_OR_GONE
