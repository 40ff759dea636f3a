"""A look at images: what it finds, and how little it asks."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from boltseal.client.credentials import CredentialStore
from boltseal.client.document_cache import DocumentCache
from boltseal.client.errors import RemoteUnavailable
from boltseal.client.state import ClientState
from boltseal.client.transport import Transport, TransportOptions
from boltseal.oci.digest import Digest
from boltseal.oci.reference import Repository
from boltseal.project.bases.base_claims import ClaimKind, ClaimSource
from boltseal.project.bases.freshness import BaseStatus
from boltseal.project.bases.image_documents import ImageDocuments, RemoteRepository
from boltseal.project.bases.image_facts import IMAGE, NotAnImage, NotRead
from tests.client.listening import listening
from tests.images import artifact
from tests.project.bases.published import HUB, Published, base_labels

APP = "reg.test/shop/app"
NODE = "docker.io/library/node:16.13"


@pytest.fixture
def registry(tmp_path: Path) -> Published:
    return Published(tmp_path / "state")


async def status(registry: Published, *names: str, base: str = "") -> list[str]:
    return [str(answer.verdict.status) for answer in await registry.look(*names, base=base)]


@pytest.mark.slow
async def test_a_thousand_images_on_thirty_tags_cost_thirty_heads_and_no_pull(registry: Published) -> None:
    """Counted at a Docker Hub whose quota lets nobody pull: nothing moved, so nothing needs to be read there."""
    registry.hub.quota, registry.hub.counting = 0, HUB
    bases = [registry.image("library/node", f"16.{number}", f"ab{number}") for number in range(30)]
    for number in range(1000):
        labels = base_labels(f"docker.io/library/node:16.{number % 30}", bases[number % 30])
        registry.image(f"team{number % 10}/app", f"{number}", "abX", annotations=labels)
    names = [f"reg.test/team{number % 10}/app:{number}" for number in range(1000)]
    first = await registry.look(*names)
    asked = registry.asked("HEAD"), registry.asked("GET")
    again = await registry.look(*names)

    assert {str(answer.verdict.status) for answer in first + again} == {"current"}
    assert asked == (30, 0)
    assert (registry.asked("HEAD"), registry.asked("GET")) == (30, 0)
    assert registry.asked("GET", "reg.test") == 0  # what an image is was learned at the first look


async def test_within_the_window_no_base_is_asked_for_again(registry: Published) -> None:
    """Whoever looks every minute costs the registry nothing."""
    base = registry.image("library/node", "16.13", "ab")
    registry.image("shop/app", "1", "abX", annotations=base_labels(NODE, base))
    await registry.look(f"{APP}:1")
    registry.now_us -= 3_600_000_000 - 60_000_000
    await registry.look(f"{APP}:1")

    assert registry.asked("HEAD") == 0


@pytest.mark.lengthy
async def test_a_base_that_moved_is_read_by_digest_once(registry: Published) -> None:
    """What it means now and what it meant; at the next look nothing of it is fetched again."""
    base = registry.image("library/node", "16.13", "ab")
    for number in range(20):
        registry.image("shop/app", f"{number}", f"abX{number}", annotations=base_labels(NODE, base))
    names = [f"{APP}:{number}" for number in range(20)]
    await registry.look(*names)
    registry.image("library/node", "16.13", "ac", env=["NODE_VERSION=16.13.2"])
    answers = await registry.look(*names)
    gets = registry.asked("GET")
    await registry.look(*names)
    verdict = answers[0].verdict

    assert {str(answer.verdict.status) for answer in answers} == {"outdated"}
    assert gets == 2
    assert registry.asked("GET") == 0
    assert (verdict.behind, verdict.exact) == (1, True)
    assert verdict.since_us == registry.now_us - 2 * 3_600_000_000
    assert verdict.changes is not None
    assert (verdict.changes.removed.number, verdict.changes.added.number) == (1, 1)
    assert verdict.changes.settings[0].what == "ENV NODE_VERSION"


async def test_what_is_new_is_read_through_the_mirror(registry: Published) -> None:
    """The registry itself is asked by HEAD alone."""
    base = registry.image("library/node", "16.13", "ab")
    registry.image("shop/app", "1", "abX", annotations=base_labels(NODE, base))
    registry.image("library/node", "16.13", "ac")
    registry.hub.manifests["hub/library/node"] = registry.hub.manifests["library/node"]
    [answer] = await registry.look(f"{APP}:1", mirrors={"docker.io": ("mirror.test", "hub")})

    assert answer.verdict.status is BaseStatus.OUTDATED
    assert (registry.asked("HEAD"), registry.asked("GET")) == (1, 0)
    assert registry.asked("GET", "mirror.test") == 2


async def test_a_mirror_that_has_it_not_is_no_miss(registry: Published) -> None:
    """The registry has the last word."""
    base = registry.image("library/node", "16.13", "ab")
    registry.image("shop/app", "1", "abX", annotations=base_labels(NODE, base))
    registry.image("library/node", "16.13", "ac")
    [answer] = await registry.look(f"{APP}:1", mirrors={"docker.io": ("mirror.test", "empty")})

    assert answer.verdict.status is BaseStatus.OUTDATED


async def test_only_another_platform_of_the_index_moved(registry: Published) -> None:
    """The image for the platform in use is the same one."""
    amd, arm = (registry.image("library/node", "x", f"ab{name}", architecture=name) for name in ("amd64", "arm64"))
    base = registry.index("library/node", "16.13", {"amd64": amd, "arm64": arm})
    registry.image("shop/app", "1", "abamd64X", annotations=base_labels(NODE, base))
    moved = registry.image("library/node", "x", "new", architecture="arm64")
    registry.index("library/node", "16.13", {"amd64": amd, "arm64": moved})
    [answer] = await registry.look(f"{APP}:1")

    assert answer.verdict.status is BaseStatus.CURRENT
    assert "other platforms" in answer.verdict.reason


async def test_an_attestation_made_anew_is_no_new_base(registry: Published) -> None:
    """Only the index has another digest."""
    amd = registry.image("library/node", "x", "ab")
    base = registry.index("library/node", "16.13", {"amd64": amd}, registry.attested("library/node", amd))
    registry.image("shop/app", "1", "abX", labels=base_labels(NODE, base))
    registry.index("library/node", "16.13", {"amd64": amd}, registry.attested("library/node", amd, salt="2"))

    assert await status(registry, f"{APP}:1") == ["current"]


async def test_an_image_of_several_platforms_is_as_old_as_its_oldest(registry: Published) -> None:
    """Each is held against its own platform of the base."""
    amd, arm = (registry.image("library/node", "x", name, architecture=name) for name in ("amd64", "arm64"))
    base = registry.index("library/node", "16.13", {"amd64": amd, "arm64": arm})
    said = base_labels(NODE, base)
    apps = {
        name: registry.image("shop/app", "x", f"{name}X", architecture=name, labels=said) for name in ("amd64", "arm64")
    }
    registry.index("shop/app", "1", apps)
    moved = registry.image("library/node", "x", "new", architecture="arm64")
    registry.index("library/node", "16.13", {"amd64": amd, "arm64": moved})
    [answer] = await registry.look(f"{APP}:1")

    assert {verdict.platform: str(verdict.status) for verdict in answer.verdicts} == {
        "linux/amd64": "current",
        "linux/arm64": "outdated",
    }
    assert answer.verdict.status is BaseStatus.OUTDATED


async def test_a_base_that_was_compressed_anew_is_the_same(registry: Published) -> None:
    """Other digests in the manifest, the same config."""
    base = registry.image("library/node", "16.13", "ab")
    registry.image("shop/app", "1", "abX", labels=base_labels(NODE, base))
    registry.image("library/node", "16.13", "ab", packed="zstd")
    [answer] = await registry.look(f"{APP}:1")

    assert answer.verdict.status is BaseStatus.CURRENT
    assert "compressed" in answer.verdict.reason


async def test_a_base_that_lost_its_top_layer_is_found_without_a_label(registry: Published) -> None:
    """By what an earlier look saw: the longest chain of all that the tag ever meant."""
    registry.image("library/node", "16.13", "abc", created="2026-01-01T00:00:00Z")
    registry.image("shop/app", "1", "abcX", created="2199-01-01T00:00:00Z")
    before = await status(registry, f"{APP}:1", base=NODE)
    registry.image("library/node", "16.13", "ab")
    [answer] = await registry.look(f"{APP}:1", base=NODE)

    assert before == ["cannot tell"]
    assert answer.verdict.status is BaseStatus.OUTDATED
    assert "lost its uppermost layer" in answer.verdict.reason
    assert answer.verdict.claim is not None
    assert (answer.verdict.claim.kind, answer.verdict.claim.source) == (ClaimKind.PROVEN, ClaimSource.LAYERS)


async def test_a_beginning_that_nobody_watched_is_no_proof(registry: Published) -> None:
    """It was built before anybody looked at the tag: it may have meant more then."""
    registry.image("library/node", "16.13", "abc")
    registry.image("shop/app", "1", "abX", created="2020-01-01T00:00:00Z")
    await registry.look(f"{APP}:1", base=NODE)
    registry.image("library/node", "16.13", "ab")
    [answer] = await registry.look(f"{APP}:1", base=NODE)

    assert answer.verdict.status is BaseStatus.UNKNOWN
    assert "boltseal build" in answer.verdict.reason


async def test_a_base_that_is_gone_is_said_to_be(registry: Published) -> None:
    """There is nothing to build on again; the others go on."""
    base = registry.image("library/node", "16.13", "ab")
    registry.image("shop/app", "1", "abX", labels=base_labels(NODE, base))
    registry.image("shop/app", "2", "abY", labels=base_labels("docker.io/library/gone:1", base))
    answers = await registry.look(f"{APP}:1", f"{APP}:2")

    assert [str(answer.verdict.status) for answer in answers] == ["current", "cannot tell"]
    assert "docker.io/library/gone:1 no longer exists" in answers[1].verdict.reason


async def test_an_image_that_is_not_there_and_one_that_is_none(registry: Published) -> None:
    """A line for each; the others go on."""
    registry.attested("shop/app", registry.image("shop/app", "1", "ab", labels={"x": "y"}))
    sbom = artifact("an SBOM")
    registry.hub.publish("shop/app", "sbom", sbom.raw, sbom.media_type)
    answers = await registry.look(f"{APP}:1", f"{APP}:none", f"{APP}:sbom")

    assert "no manifest none" in answers[1].verdict.reason
    assert "not a container image" in answers[2].verdict.reason
    assert {str(answer.verdict.status) for answer in answers} == {"cannot tell"}


async def test_provenance_names_all_and_layers_tell_which(registry: Published) -> None:
    """Of the builder's image and the runtime's image the one is the base that the image begins with."""
    go, run = registry.image("library/golang", "1.22", "gh"), registry.image("library/alpine", "3.20", "al")
    app = registry.image("shop/app", "x", "alX")
    attested = registry.attested("shop/app", app, ("golang@1.22", go), ("alpine@3.20", run))
    registry.index("shop/app", "1", {"amd64": app}, attested)
    unmoved = await registry.look(f"{APP}:1")
    gets = registry.asked("GET")
    registry.image("library/golang", "1.22", "g2")
    builder_moved = await registry.look(f"{APP}:1")
    registry.image("library/alpine", "3.20", "a2")
    moved = await registry.look(f"{APP}:1")

    assert unmoved[0].verdict.status is BaseStatus.CURRENT
    assert gets == 0
    assert builder_moved[0].verdict.status is BaseStatus.CURRENT
    assert moved[0].verdict.status is BaseStatus.OUTDATED
    assert moved[0].verdict.claim is not None
    assert str(moved[0].verdict.claim.base) == "docker.io/library/alpine:3.20"


async def test_what_is_built_from_scratch_has_no_base(registry: Published) -> None:
    """Though an image went into its build."""
    go = registry.image("library/golang", "1.22", "gh")
    app = registry.image("shop/app", "x", "X")
    registry.index("shop/app", "1", {"amd64": app}, registry.attested("shop/app", app, ("golang@1.22", go)))
    registry.image("library/golang", "1.22", "g2")
    registry.image("shop/app", "2", "Y", labels={"org.opencontainers.image.base.name": "scratch"})

    assert await status(registry, f"{APP}:1", f"{APP}:2") == ["no base", "no base"]


async def test_a_label_that_came_with_the_base_speaks_of_the_bases_base(registry: Published) -> None:
    """An app on our own base on node, of which only our base was labelled: the app stands on our base."""
    node = registry.image("library/node", "16.13", "ab")
    said = base_labels(NODE, node)
    registry.image("shop/base", "1", "abB", labels=said, created="2026-01-01T00:00:00Z")
    registry.image("shop/app", "1", "abBX", labels=said)
    answers = await registry.look("reg.test/shop/base:1", f"{APP}:1")

    assert answers[1].verdict.claim is not None
    assert str(answers[1].verdict.claim.base) == "reg.test/shop/base:1"


async def test_a_base_of_a_registry_that_nobody_allowed_is_not_asked_for(registry: Published) -> None:
    """A label can't make us talk to a host of its author's choice."""
    base = registry.image("library/node", "16.13", "ab")
    registry.image("shop/app", "1", "abX", labels=base_labels("internal.test/x/y:1", base))
    registry.allowed = False
    [answer] = await registry.look(f"{APP}:1")

    assert answer.verdict.status is BaseStatus.UNKNOWN
    assert "--allow internal.test" in answer.verdict.reason
    assert registry.asked("HEAD", "internal.test") == 0


async def test_a_private_base_is_could_not_check(registry: Published) -> None:
    """With what the registry says, and never as success."""
    base = registry.image("secret/base", "1", "ab")
    registry.image("shop/app", "1", "abX", labels=base_labels("docker.io/secret/base:1", base))
    registry.hub.private = "secret/base"
    [answer] = await registry.look(f"{APP}:1")

    assert answer.verdict.status is BaseStatus.UNKNOWN
    assert "docker login" in answer.verdict.reason


async def test_an_image_of_which_nobody_says_anything(registry: Published) -> None:
    """Says what to do."""
    registry.image("shop/app", "1", "abX")
    [answer] = await registry.look(f"{APP}:1")

    assert answer.verdict.status is BaseStatus.UNKNOWN
    assert "--dockerfile" in answer.verdict.reason


async def test_a_squashed_image_is_judged_by_its_label_alone(registry: Published) -> None:
    """Its one layer proves nothing."""
    base = registry.image("library/node", "16.13", "ab")
    registry.image("shop/app", "1", "S", labels=base_labels(NODE, base))
    registry.image("shop/app", "2", "T")
    before = await status(registry, f"{APP}:1")
    registry.image("library/node", "16.13", "ac")

    assert before == ["current"]
    assert await status(registry, f"{APP}:1") == ["outdated"]
    assert await status(registry, f"{APP}:2", base=NODE) == ["cannot tell"]


async def test_a_pull_limit_that_is_used_up_is_said(registry: Published) -> None:
    """HEADs go on; what would have to be read can't be."""
    base = registry.image("library/node", "16.13", "ab")
    registry.image("shop/app", "1", "abX", labels=base_labels(NODE, base))
    await registry.look(f"{APP}:1")
    registry.image("library/node", "16.13", "ac")
    registry.hub.quota, registry.hub.counting = 0, HUB
    [answer] = await registry.look(f"{APP}:1")

    assert answer.verdict.status is BaseStatus.UNKNOWN
    assert "limits how often" in answer.verdict.reason
    assert registry.asked("HEAD", HUB) == 1


async def test_an_index_with_a_thousand_statements_costs_four(registry: Published) -> None:
    """Whoever may push can write anything into an index."""
    app = registry.image("shop/app", "x", "abX")
    attested = [registry.attested("shop/app", app, salt=str(number)) for number in range(1000)]
    registry.index("shop/app", "1", {"amd64": app}, *attested)
    await registry.look(f"{APP}:1")

    assert registry.asked("GET", "reg.test") <= 2 + 4


async def test_no_more_is_held_at_a_time_than_is_stated(registry: Published) -> None:
    """What is beyond it is not judged, and that is said."""
    base = registry.image("library/node", "16.13", "ab")
    for number in range(40):
        registry.image("shop/app", f"{number}", f"abX{number}", annotations=base_labels(NODE, base))
    answers = await registry.look(*(f"{APP}:{number}" for number in range(40)), max_units=20)
    found = [str(answer.verdict.status) for answer in answers]

    assert found[0] == "current"
    assert found[-1] == "cannot tell"
    assert "fewer at a time" in answers[-1].verdict.reason


async def test_what_a_label_holds_is_shown_as_one_line_of_plain_text(registry: Published) -> None:
    """A name that is none claims nothing; it can't write into somebody's terminal."""
    registry.image("shop/app", "1", "abX", labels={"org.opencontainers.image.base.name": "x\x1b[2J\ny"})
    [answer] = await registry.look(f"{APP}:1")

    assert answer.verdict.status is BaseStatus.UNKNOWN
    assert answer.verdict.reason.isprintable()


async def test_an_image_of_many_huge_configs_is_refused(registry: Published) -> None:
    """A config of more than is read is not read."""
    app = registry.image("shop/app", "x", "ab")
    media_type, raw = registry.hub.manifests["shop/app"][str(app)]
    size = raw[raw.index(b'"size": ') + 8 :].partition(b"}")[0]
    huge = raw.replace(b'"size": ' + size, b'"size": 99999999', 1)
    registry.hub.publish("shop/app", "1", huge, media_type)
    [answer] = await registry.look(f"{APP}:1")

    assert "expected at most 8388608" in answer.verdict.reason


async def test_a_provenance_makes_us_read_at_no_host_that_nobody_allowed(registry: Published) -> None:
    """Neither a tag nor, by digest, a manifest: also where another of the images that it names has moved."""
    node = registry.image("library/node", "16.13", "ab")
    app = registry.image("shop/app", "x", "abX")
    inner = ("169.254.169.254/latest/meta-data@1", registry.image("x/y", "1", "q"))
    attested = registry.attested("shop/app", app, ("node@16.13", node), inner)
    registry.index("shop/app", "1", {"amd64": app}, attested)
    registry.image("library/node", "16.13", "ac")
    registry.inner = frozenset({"169.254.169.254"})
    [answer] = await registry.look(f"{APP}:1")

    assert registry.asked("HEAD", "169.254.169.254") + registry.asked("GET", "169.254.169.254") == 0
    assert answer.verdict.status is BaseStatus.OUTDATED


async def test_a_base_that_can_not_be_asked_for_may_be_the_nearer_one(registry: Published) -> None:
    """What can be read has not moved; whether it is what the image stands on is not said by that."""
    node = registry.image("library/node", "16.13", "ab")
    ours = registry.image("ours", "1", "abc")
    app = registry.image("shop/app", "x", "abcX")
    attested = registry.attested("shop/app", app, ("node@16.13", node), ("inner.test/ours@1", ours))
    registry.index("shop/app", "1", {"amd64": app}, attested)
    registry.inner = frozenset({"inner.test"})
    [answer] = await registry.look(f"{APP}:1")

    assert answer.verdict.status is BaseStatus.UNKNOWN
    assert "--allow inner.test" in answer.verdict.reason


async def test_a_provenance_of_more_images_than_are_believed_says_nothing(registry: Published) -> None:
    """Neither that the base is among the first of them, nor that it is not: what the label says counts."""
    many = [(f"other{number}@1", Digest.of(b"%d" % number)) for number in range(250)]
    node = registry.image("library/node", "16.13", "ab")
    app = registry.image("shop/app", "x", "abX", labels=base_labels(NODE, node))
    registry.index("shop/app", "1", {"amd64": app}, registry.attested("shop/app", app, *many, ("node@16.13", node)))
    registry.image("library/node", "16.13", "ac")
    [answer] = await registry.look(f"{APP}:1")

    assert answer.verdict.status is BaseStatus.OUTDATED
    assert registry.asked("HEAD") == 1


async def test_what_is_too_large_to_look_at_is_not_taken_for_no_image(registry: Published) -> None:
    """An index of very many platforms could not be told; one that holds other things beside an image is that image."""
    node = registry.image("library/node", "16.13", "ab")
    app = registry.image("shop/app", "x", "abX", labels=base_labels(NODE, node))
    registry.index("shop/app", "many", {f"arch{number}": app for number in range(101)})
    sbom = artifact("an SBOM")
    chart = registry.hub.publish("shop/app", "sbom", sbom.raw, sbom.media_type)
    registry.index("shop/app", "1", {"arm64": chart, "amd64": app})
    registry.index("shop/app", "charts", {"amd64": chart})
    registry.image("library/node", "16.13", "ac")
    many, beside, charts = await registry.look(f"{APP}:many", f"{APP}:1", f"{APP}:charts")

    assert isinstance(many.error, NotRead)
    assert "an index has 101 images" in many.verdict.reason
    assert beside.verdict.status is BaseStatus.OUTDATED
    assert isinstance(charts.error, NotAnImage)


async def test_a_look_of_a_clock_that_was_ahead_hides_no_move(registry: Published) -> None:
    """What was seen at a time that is still to come is as old as anything."""
    base = registry.image("library/node", "16.13", "ab")
    registry.image("shop/app", "1", "abX", labels=base_labels(NODE, base))
    now_us = registry.now_us
    registry.now_us += 10 * 365 * 86_400_000_000
    before = await status(registry, f"{APP}:1")
    registry.now_us = now_us
    registry.image("library/node", "16.13", "ac")

    assert before == ["current"]
    assert await status(registry, f"{APP}:1") == ["outdated"]


async def test_a_clock_that_was_behind_has_watched_nothing(registry: Published) -> None:
    """It saw a base before that was made; so whether the base had one layer more when the image was built, nobody knows."""
    registry.image("library/node", "16.13", "ab", created="2026-11-20T00:00:00Z")
    registry.image("shop/app", "1", "abcX", history="pqrs", created="2026-11-20T00:00:00Z")
    now_us = registry.now_us
    registry.now_us = 0
    await status(registry, f"{APP}:1", base=NODE)
    registry.now_us = now_us

    assert await status(registry, f"{APP}:1", base=NODE) == ["cannot tell"]


async def test_an_image_that_was_made_tomorrow_proves_nothing(registry: Published) -> None:
    """Whoever watched the tag before that may have begun a moment ago."""
    registry.image("library/node", "16.13", "ab")
    registry.image("shop/app", "1", "abcX", history="pqrs", created="2099-01-01T00:00:00Z")

    assert [await status(registry, f"{APP}:1", base=NODE) for _ in range(2)] == [["cannot tell"]] * 2


async def test_what_a_tag_meant_and_can_not_be_read_any_more_may_be_the_base(registry: Published) -> None:
    """A pull limit that is used up, or an image that was deleted, makes no shorter base of it."""
    longer = registry.image("library/node", "16.13", "abc")
    registry.image("x/y", "1", "abcq", labels=base_labels(NODE, longer))
    await registry.look("reg.test/x/y:1")  # what the tag means is seen; nothing is read of it
    registry.image("shop/app", "1", "abcX", history="pqrs", created="2026-11-25T00:00:00Z")
    registry.image("library/node", "16.13", "ab")
    there = registry.hub.manifests["library/node"].pop(str(longer))
    [unread] = await registry.look(f"{APP}:1", base=NODE)
    registry.hub.manifests["library/node"][str(longer)] = there
    [read] = await registry.look(f"{APP}:1", base=NODE)

    assert unread.verdict.status is BaseStatus.UNKNOWN
    assert read.verdict.status is BaseStatus.OUTDATED


async def test_images_of_one_dockerfile_are_no_bases_of_one_another(registry: Published) -> None:
    """They begin with the same layers, and go on with steps of their own: what the user says of both counts."""
    node = registry.image("library/node", "16.13", "ab")
    for labels in ({}, base_labels(NODE, node)):
        registry.image("shop/worker", "1", "abC", history=["a", "b", "C", "CMD worker"], labels=labels)
        registry.image("shop/web", "1", "abCX", history=["a", "b", "C", "X", "CMD web"], labels=labels)
        answers = await registry.look("reg.test/shop/worker:1", "reg.test/shop/web:1", base=NODE)
        named = [str(answer.verdict.claim.base) for answer in answers if answer.verdict.claim is not None]

        assert named == [NODE, NODE]


async def test_a_label_that_came_with_a_base_that_has_moved_since_hides_no_move(registry: Published) -> None:
    """The label says of which image it speaks: that is what the app stands on, also when nobody looks at it."""
    node = registry.image("library/node", "16.13", "ab")
    said = {**base_labels(NODE, node), IMAGE: "docker.io/shop/base:1"}
    registry.image("shop/base", "1", "abB", labels=said)
    registry.image("shop/app", "1", "abBX", labels=said)
    before = await status(registry, f"{APP}:1")
    registry.image("shop/base", "1", "abC", labels=said)
    [answer] = await registry.look(f"{APP}:1")

    assert before == ["cannot tell"]  # nobody has seen what the base meant when the app was built
    assert answer.verdict.status is BaseStatus.OUTDATED
    assert answer.verdict.claim is not None
    assert str(answer.verdict.claim.base) == "docker.io/shop/base:1"


async def test_a_copy_under_another_name_stands_on_what_its_label_says(registry: Published) -> None:
    """It has all labels of what it is a copy of, and is that image; one of which that can't be seen is not told."""
    node = registry.image("library/node", "16.13", "ab")
    said = {**base_labels(NODE, node), IMAGE: "docker.io/shop/app:1"}
    for repository in ("shop/app", "prod/app"):
        registry.image(repository, "1", "abX", labels=said)
    registry.image("prod/other", "1", "abY", labels=said)
    looked = (f"{APP}:1", "reg.test/prod/app:1", "reg.test/prod/other:1")
    before = await status(registry, *looked)
    registry.image("library/node", "16.13", "ac")

    assert before == ["current", "current", "cannot tell"]
    assert await status(registry, *looked) == ["outdated", "outdated", "cannot tell"]


@pytest.mark.slow
async def test_what_a_tag_meant_longer_ago_than_is_looked_may_be_the_base(registry: Published) -> None:
    """Of a tag that moved sixty times, what it means now is a shorter base than the one that the image was built on."""
    last = registry.image("library/node", "16.13", "abc")
    for number in range(60):
        registry.image("x/y", "1", "q", labels=base_labels(NODE, last))
        await registry.look("reg.test/x/y:1")
        if number == 0:
            registry.image("shop/app", "1", "abcX", history="pqrs", created="2026-11-24T06:30:00Z")
        last = registry.image("library/node", "16.13", "ab", history=["a", str(number)])
    [answer] = await registry.look(f"{APP}:1", base=NODE)

    assert answer.verdict.status is BaseStatus.UNKNOWN


async def test_a_config_that_is_a_bomb_is_a_line_and_the_others_go_on(registry: Published) -> None:
    """Brackets within brackets: one image of a stranger ends no look at all of them."""
    base = registry.image("library/node", "16.13", "ab")
    app = registry.image("shop/app", "1", "abX", labels=base_labels(NODE, base))
    media_type, raw = registry.hub.manifests["shop/app"][str(app)]
    bomb = b'{"x": ' + b"[" * 100_000 + b"]" * 100_000 + b"}"
    registry.hub.blobs[str(Digest.of(bomb))] = bomb
    document = json.loads(raw)
    document["config"] |= {"digest": str(Digest.of(bomb)), "size": len(bomb)}
    registry.hub.publish("shop/app", "bomb", json.dumps(document).encode(), media_type)
    answers = await registry.look(f"{APP}:bomb", f"{APP}:1")

    assert isinstance(answers[0].error, NotRead)
    assert "nested too deeply" in answers[0].verdict.reason
    assert answers[1].verdict.status is BaseStatus.CURRENT


async def test_a_config_that_comes_byte_by_byte_is_not_waited_for_for_ever(tmp_path: Path) -> None:
    """Its registry is never silent, and never done."""

    async def drip(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 9999\r\n\r\n")
        while True:
            writer.write(b"a")
            await writer.drain()
            await asyncio.sleep(0.02)

    async with listening(drip) as port:
        place = RemoteRepository(f"127.0.0.1:{port}", Repository("x/y"))
        transport = Transport(CredentialStore(()), TransportOptions(plain_http=frozenset({place.registry})))
        learned = DocumentCache(ClientState(tmp_path), now_us=1)
        with pytest.raises(RemoteUnavailable, match=r"within 0\.5 s"):
            await ImageDocuments(transport, learned, read_s=0.5).blob(place, Digest.of(b""), 9999)
        await transport.aclose()
