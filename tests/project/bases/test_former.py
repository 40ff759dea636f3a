"""A base whose tag has moved since: found by what the tag resolved to before, or "cannot tell"; never its own base instead."""

from __future__ import annotations

from pathlib import Path

import pytest

from boltseal.ledger.entry import Entry, EntryKind
from boltseal.oci.digest import Digest
from boltseal.oci.reference import Reference, Repository
from boltseal.project.bases.former_images import MOVED_OR_GONE, former_digests
from boltseal.project.bases.freshness import BaseStatus, BaseVerdict
from boltseal.project.bases.image_documents import RemoteRepository
from tests.project.bases.published import Published, base_labels

OS, RUNTIME, APP = "reg.test/base/os:1", "reg.test/base/rt:1", "reg.test/team/app:1"
EVERY = (OS, RUNTIME, APP)
BEFORE, MADE = "2026-11-19T00:00:00Z", "2026-11-24T08:00:00Z"
"""When the bases were made; when the app was, between the first look at the bases and the second."""


@pytest.fixture
async def registry(tmp_path: Path) -> Published:
    """A base, a base on it, and an app on that, all without labels; the bases were looked at before the app was made."""
    made = Published(tmp_path / "state")
    made.image("base/os", "1", "o", created=BEFORE)
    made.image("base/rt", "1", "or", created=BEFORE)
    await made.look(OS, RUNTIME)
    made.image("team/app", "1", "orX", created=MADE)
    made.now_us += 86_400_000_000
    return made


async def of_app(registry: Published, *names: str, base: str = "") -> BaseVerdict:
    answers = await registry.look(*(names or EVERY), base=base)
    return next(one.verdict for one in answers if one.wanted.name == APP)


def told(verdict: BaseVerdict) -> tuple[str, str]:
    """The status, and the base."""
    return str(verdict.status), "" if verdict.claim is None else str(verdict.claim.base)


def forget(registry: Published) -> None:
    """Delete what was read of images, as if only their digests had been seen."""
    import sqlite3

    with sqlite3.connect(registry.state / "learned.db") as database:
        database.execute("DELETE FROM document")
    database.close()


async def test_a_base_that_moved_is_found_by_what_its_tag_was_seen_to_resolve_to(registry: Published) -> None:
    """The base's own base, which has not moved, proves nothing."""
    before = await of_app(registry)
    registry.image("base/rt", "1", "os")
    verdict = await of_app(registry)

    assert told(before) == ("current", RUNTIME)
    assert told(verdict) == ("outdated", RUNTIME)
    assert verdict.built_on == before.built_on
    assert verdict.reason == "the base has other layers"
    assert (verdict.behind, verdict.exact) == (1, True)


async def test_a_base_that_moved_several_times_is_still_found(registry: Published) -> None:
    """Also one that moved by its settings alone meanwhile, and so has the same layers."""
    for number in range(3):
        registry.image("base/rt", "1", "or", env=[f"N={number}"], history=["o", "r", f"ENV N={number}"])
        await of_app(registry)
    registry.image("base/rt", "1", "os")
    verdict = await of_app(registry)

    assert told(verdict) == ("outdated", RUNTIME)
    assert verdict.behind == 4


async def test_a_base_that_moved_back_is_current(registry: Published) -> None:
    """What it resolved to in between is the base of nothing here."""
    held = registry.hub.manifests["base/rt"]["1"]
    registry.image("base/rt", "1", "os")
    moved = await of_app(registry)
    registry.hub.manifests["base/rt"]["1"] = held

    assert told(moved) == ("outdated", RUNTIME)
    assert told(await of_app(registry)) == ("current", RUNTIME)


async def test_a_base_that_adds_no_layer_to_its_own_base_is_the_nearer_one(registry: Published) -> None:
    """Layers can't tell it from its own base; the history does."""
    registry.image("base/rt", "1", "o", env=["V=1"], history=["o", "ENV V=1"], created=BEFORE)
    registry.image("team/app", "1", "oX", history=["o", "ENV V=1", "X"], created=MADE)
    before = await of_app(registry)
    registry.image("base/rt", "1", "o", env=["V=2"], history=["o", "ENV V=2"])

    assert told(before)[1] == RUNTIME
    assert told(await of_app(registry)) == ("outdated", RUNTIME)


async def test_a_tag_that_moved_and_of_which_nothing_was_read_proves_no_other_base(registry: Published) -> None:
    """Its registry keeps no ledger, so it is not asked for what was overwritten; the reason names the tag."""
    registry.image("base/rt", "1", "os")
    forget(registry)
    verdict = await of_app(registry)

    assert told(verdict) == ("cannot tell", OS)
    assert f"{RUNTIME} formerly resolved to sha256:" in verdict.reason
    assert "boltseal build" in verdict.reason
    assert verdict.built_on is None


async def test_a_named_base_is_not_proven_by_layers_either_while_one_is_not_known(registry: Published) -> None:
    """--base and --dockerfile say which tag it is, and layers have to say what that resolved to."""
    registry.image("base/rt", "1", "os")
    forget(registry)

    assert told(await of_app(registry, base=OS))[0] == "cannot tell"


async def test_what_is_recorded_is_as_strong_as_it_was(registry: Published) -> None:
    """A label or an annotation names the base: layers that are not known take nothing from it."""
    os = Digest.of(registry.hub.manifests["base/os"]["1"][1])
    registry.image("base/rt", "1", "os")
    forget(registry)
    for more in ({"labels": base_labels(OS, os)}, {"annotations": base_labels(OS, os)}):
        registry.image("team/app", "1", "oX", created=MADE, **more)  # type: ignore[arg-type]

        assert told(await of_app(registry)) == ("current", OS)


async def test_an_inherited_label_does_not_hide_that_the_labelled_base_moved(tmp_path: Path) -> None:
    """The app has the label of its base, which speaks of the base's base."""
    registry = Published(tmp_path / "state")
    labels = base_labels(OS, registry.image("base/os", "1", "o", created=BEFORE))
    registry.image("base/rt", "1", "or", created=BEFORE, labels=labels)
    await registry.look(OS, RUNTIME)
    registry.image("team/app", "1", "orX", created=MADE, labels=labels)
    registry.image("base/rt", "1", "os", labels=labels)

    assert told(await of_app(registry)) == ("outdated", RUNTIME)


async def test_an_index_is_looked_at_for_the_platforms_in_use(tmp_path: Path) -> None:
    """A base for several platforms that moved; the app is for one of them."""
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

    assert told(await of_app(registry)) == ("outdated", RUNTIME)


async def test_a_sealed_tag_of_the_very_image_keeps_it_current(registry: Published) -> None:
    """Built on the tag that moved it is outdated, which nothing tells: that is said."""
    media_type, raw = registry.hub.manifests["base/rt"]["1"]
    registry.hub.publish("base/rt", "1.0.0", raw, media_type)
    every = (*EVERY, "reg.test/base/rt:1.0.0")
    registry.now_us -= 2 * 86_400_000_000
    await registry.look(*every)
    registry.now_us += 2 * 86_400_000_000
    registry.image("base/rt", "1", "os")
    verdict = await of_app(registry, *every)

    assert told(verdict) == ("current", "reg.test/base/rt:1.0.0")
    assert f"{RUNTIME} also resolved to it and has moved" in verdict.reason


async def test_a_tag_of_the_images_own_repository_that_moved_is_no_doubt(registry: Published) -> None:
    """Images of one repository are no bases of one another: each release moves `latest`."""
    registry.image("team/app", "latest", "orW", created=MADE)
    await registry.look("reg.test/team/app:latest")
    registry.image("team/app", "latest", "orZ", created=MADE)
    forget(registry)

    assert told(await of_app(registry, *EVERY, "reg.test/team/app:latest")) == ("current", RUNTIME)


async def test_a_registry_that_does_not_answer_is_no_tag_that_moved(registry: Published) -> None:
    """What its tag was last seen to resolve to may be what it resolves to now."""
    registry.image("other/tool", "1", "t")
    await registry.look("other.test/other/tool:1")
    del registry.hub.manifests["other/tool"]["1"]
    forget(registry)

    assert told(await of_app(registry, *EVERY, "other.test/other/tool:1")) == ("current", RUNTIME)


async def test_more_moves_than_are_held_are_not_known(registry: Published) -> None:
    """What is beyond the bound of memory may be the base."""
    await of_app(registry)
    registry.image("base/rt", "1", "os")
    answers = await registry.look(*EVERY, max_units=11)

    assert answers[-1].verdict.status is BaseStatus.UNKNOWN
    assert "too many former images at a time" in answers[-1].verdict.reason


async def test_nothing_more_is_asked_while_no_tag_moved(registry: Published) -> None:
    """Two HEADs for the bases and one for the app, and nothing is read again."""
    await of_app(registry)
    await of_app(registry)

    assert (registry.asked("HEAD", "reg.test"), registry.asked("GET", "reg.test")) == (3, 0)


def test_what_entries_say_that_tags_resolved_to() -> None:
    """Of tags that moved or are gone, the oldest first; nothing of the tags of signature tools, which move at each signature."""
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
        Reference.parse("reg.test/a/b:1"): [Digest.parse(one), Digest.parse(two)],
        Reference.parse("reg.test/a/b:2"): [Digest.parse(one)],
    }
    assert EntryKind.TAG_CREATED not in MOVED_OR_GONE
