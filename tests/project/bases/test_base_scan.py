"""Scans of images: what they find, and how few requests they make."""

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
from boltseal.policy.tag_expectations import OFFICIAL_IMAGES, Expect, TagExpectations, parse_tags
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
    """At Docker Hub without pulls left, a thousand images on thirty unmoved base tags cost thirty HEADs and no
    manifest GET."""
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
    assert registry.asked("GET", "reg.test") == 0  # the images were read by the first scan


async def test_within_the_window_no_base_is_asked_for_again(registry: Published) -> None:
    """Within the caching window a repeated scan sends no request for bases."""
    base = registry.image("library/node", "16.13", "ab")
    registry.image("shop/app", "1", "abX", annotations=base_labels(NODE, base))
    await registry.look(f"{APP}:1")
    registry.now_us -= 3_600_000_000 - 60_000_000
    await registry.look(f"{APP}:1")

    assert registry.asked("HEAD") == 0


async def test_a_base_that_moved_is_read_by_digest_once(registry: Published) -> None:
    """After a base moved, its current and former image are each fetched once by digest, and not again."""
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


@pytest.mark.parametrize(
    ("base", "table", "expect"),
    [
        ("quay.io/team/base:1.4.2", None, Expect.IMMUTABLE),
        ("quay.io/team/base:1.4.2", "rebuilt", Expect.REBUILT),
        ("quay.io/team/base:1.4.2", "moving", Expect.MOVING),
        ("quay.io/team/base:stable", None, Expect.MOVING),
        ("quay.io/team/base:stable", "immutable", Expect.IMMUTABLE),
        ("docker.io/library/base:1.4.2", None, Expect.REBUILT),
    ],
)
async def test_a_moved_base_is_an_alarm_if_its_tag_should_never_move(
    registry: Published, base: str, table: str | None, expect: Expect
) -> None:
    """An image on a moved base is outdated, and the custom of the base's publisher says whether the move is an alarm."""
    repository, tag = base.partition("/")[2].split(":")
    registry.image("shop/app", "1", "abX", annotations=base_labels(base, registry.image(repository, tag, "ab")))
    registry.image(repository, tag, "ac")
    own = parse_tags([{"repository": "quay.io/**", "expect": table}]) if table else ()
    [answer] = await registry.look(f"{APP}:1", expectations=TagExpectations((*own, *OFFICIAL_IMAGES)))

    assert answer.verdict.status is BaseStatus.OUTDATED
    assert answer.verdict.expect is expect
    assert answer.verdict.is_alarm == (expect is Expect.IMMUTABLE)


async def test_an_unmoved_release_is_no_alarm(registry: Published) -> None:
    """A base that still resolves to the recorded digest, or whose digest is not recorded, is no alarm."""
    base = registry.image("team/base", "1.4.2", "ab")
    registry.image("shop/app", "1", "abX", annotations=base_labels("quay.io/team/base:1.4.2", base))
    registry.image("shop/other", "1", "cdX")
    [app] = await registry.look(f"{APP}:1")
    [other] = await registry.look("reg.test/shop/other:1", base="quay.io/team/base:1.4.2")

    assert (app.verdict.status, app.verdict.expect) == (BaseStatus.CURRENT, None)
    assert (other.verdict.status, other.verdict.expect) == (BaseStatus.OUTDATED, None)


async def test_new_images_are_read_through_the_mirror(registry: Published) -> None:
    """New images are read through the mirror, and the registry itself gets HEADs only."""
    base = registry.image("library/node", "16.13", "ab")
    registry.image("shop/app", "1", "abX", annotations=base_labels(NODE, base))
    registry.image("library/node", "16.13", "ac")
    registry.hub.manifests["hub/library/node"] = registry.hub.manifests["library/node"]
    [answer] = await registry.look(f"{APP}:1", mirrors={"docker.io": ("mirror.test", "hub")})

    assert answer.verdict.status is BaseStatus.OUTDATED
    assert (registry.asked("HEAD"), registry.asked("GET")) == (1, 0)
    assert registry.asked("GET", "mirror.test") == 2


async def test_a_missing_image_at_the_mirror_is_read_from_the_registry(registry: Published) -> None:
    """An image that is missing at the mirror is read from the registry, which decides."""
    base = registry.image("library/node", "16.13", "ab")
    registry.image("shop/app", "1", "abX", annotations=base_labels(NODE, base))
    registry.image("library/node", "16.13", "ac")
    [answer] = await registry.look(f"{APP}:1", mirrors={"docker.io": ("mirror.test", "empty")})

    assert answer.verdict.status is BaseStatus.OUTDATED


async def test_only_another_platform_of_the_index_moved(registry: Published) -> None:
    """If only another platform of a base's index moved, the image is current."""
    amd, arm = (registry.image("library/node", "x", f"ab{name}", architecture=name) for name in ("amd64", "arm64"))
    base = registry.index("library/node", "16.13", {"amd64": amd, "arm64": arm})
    registry.image("shop/app", "1", "abamd64X", annotations=base_labels(NODE, base))
    moved = registry.image("library/node", "x", "new", architecture="arm64")
    registry.index("library/node", "16.13", {"amd64": amd, "arm64": moved})
    [answer] = await registry.look(f"{APP}:1")

    assert answer.verdict.status is BaseStatus.CURRENT
    assert "other platforms" in answer.verdict.reason


async def test_a_new_attestation_is_not_a_moved_base(registry: Published) -> None:
    """If only an attestation was added to a base's index, the image is current."""
    amd = registry.image("library/node", "x", "ab")
    base = registry.index("library/node", "16.13", {"amd64": amd}, registry.attested("library/node", amd))
    registry.image("shop/app", "1", "abX", labels=base_labels(NODE, base))
    registry.index("library/node", "16.13", {"amd64": amd}, registry.attested("library/node", amd, salt="2"))

    assert await status(registry, f"{APP}:1") == ["current"]


async def test_an_image_of_several_platforms_is_as_outdated_as_its_oldest(registry: Published) -> None:
    """Each platform of an image is compared with the same platform of the base, and the oldest decides."""
    amd, arm = (registry.image("library/node", "x", name, architecture=name) for name in ("amd64", "arm64"))
    base = registry.index("library/node", "16.13", {"amd64": amd, "arm64": arm})
    base_label = base_labels(NODE, base)
    apps = {
        name: registry.image("shop/app", "x", f"{name}X", architecture=name, labels=base_label)
        for name in ("amd64", "arm64")
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


async def test_a_recompressed_base_is_the_same(registry: Published) -> None:
    """A recompressed base has other digests and an unchanged config, so the image is current."""
    base = registry.image("library/node", "16.13", "ab")
    registry.image("shop/app", "1", "abX", labels=base_labels(NODE, base))
    registry.image("library/node", "16.13", "ab", packed="zstd")
    [answer] = await registry.look(f"{APP}:1")

    assert answer.verdict.status is BaseStatus.CURRENT
    assert "compressed" in answer.verdict.reason


async def test_a_base_that_lost_its_top_layer_is_found_without_a_label(registry: Published) -> None:
    """Without a label, the base is the longest match of all images that the tag was observed to resolve to."""
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


async def test_an_unobserved_match_is_no_proof(registry: Published) -> None:
    """A match does not prove a base if the image was built before the tag's first observation."""
    registry.image("library/node", "16.13", "abc")
    registry.image("shop/app", "1", "abX", created="2020-01-01T00:00:00Z")
    await registry.look(f"{APP}:1", base=NODE)
    registry.image("library/node", "16.13", "ab")
    [answer] = await registry.look(f"{APP}:1", base=NODE)

    assert answer.verdict.status is BaseStatus.UNKNOWN
    assert "boltseal build" in answer.verdict.reason


async def test_a_deleted_base_is_reported(registry: Published) -> None:
    """A deleted base is reported as such, and other images are checked."""
    base = registry.image("library/node", "16.13", "ab")
    registry.image("shop/app", "1", "abX", labels=base_labels(NODE, base))
    registry.image("shop/app", "2", "abY", labels=base_labels("docker.io/library/gone:1", base))
    answers = await registry.look(f"{APP}:1", f"{APP}:2")

    assert [str(answer.verdict.status) for answer in answers] == ["current", "cannot tell"]
    assert "docker.io/library/gone:1 no longer exists" in answers[1].verdict.reason


async def test_a_missing_image_and_another_artifact(registry: Published) -> None:
    """A missing image and an artifact without layers are one line each, and other images are checked."""
    registry.attested("shop/app", registry.image("shop/app", "1", "ab", labels={"x": "y"}))
    sbom = artifact("an SBOM")
    registry.hub.publish("shop/app", "sbom", sbom.raw, sbom.media_type)
    answers = await registry.look(f"{APP}:1", f"{APP}:none", f"{APP}:sbom")

    assert "no manifest none" in answers[1].verdict.reason
    assert "not a container image" in answers[2].verdict.reason
    assert {str(answer.verdict.status) for answer in answers} == {"cannot tell"}


async def test_provenance_names_all_inputs_and_layers_decide(registry: Published) -> None:
    """Of the build inputs in a provenance, the base is the one whose layers the image begins with."""
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


async def test_an_image_from_scratch_has_no_base(registry: Published) -> None:
    """An image from scratch has no base, even if its build used an image."""
    go = registry.image("library/golang", "1.22", "gh")
    app = registry.image("shop/app", "x", "X")
    registry.index("shop/app", "1", {"amd64": app}, registry.attested("shop/app", app, ("golang@1.22", go)))
    registry.image("library/golang", "1.22", "g2")
    registry.image("shop/app", "2", "Y", labels={"org.opencontainers.image.base.name": "scratch"})

    assert await status(registry, f"{APP}:1", f"{APP}:2") == ["no base", "no base"]


async def test_a_label_of_scratch_that_may_be_the_bases_is_doubt(registry: Published) -> None:
    """An image inherits the label of a base that is from scratch; only with one layer, or its own name, has it none below itself."""
    scratch, name = {"org.opencontainers.image.base.name": "scratch"}, "boltseal.image"
    registry.image("shop/app", "1", "oX", labels=scratch)
    registry.image("shop/app", "2", "oX", labels=scratch | {name: f"{APP}:2"})
    registry.image("shop/app", "3", "oX", annotations=scratch)

    assert await status(registry, f"{APP}:1", f"{APP}:2", f"{APP}:3") == ["cannot tell", "no base", "no base"]


async def test_an_inherited_label_names_the_bases_base(registry: Published) -> None:
    """If only the base is labelled, with its own base, the app is still based on the base itself."""
    node = registry.image("library/node", "16.13", "ab")
    base_label = base_labels(NODE, node)
    registry.image("shop/base", "1", "abB", labels=base_label, created="2026-01-01T00:00:00Z")
    registry.image("shop/app", "1", "abBX", labels=base_label)
    answers = await registry.look("reg.test/shop/base:1", f"{APP}:1")

    assert answers[1].verdict.claim is not None
    assert str(answers[1].verdict.claim.base) == "reg.test/shop/base:1"


async def test_a_base_at_a_registry_that_is_not_allowed_is_not_resolved(registry: Published) -> None:
    """A label can't make boltseal contact a registry that is not allowed."""
    base = registry.image("library/node", "16.13", "ab")
    registry.image("shop/app", "1", "abX", labels=base_labels("internal.test/x/y:1", base))
    registry.allowed = False
    [answer] = await registry.look(f"{APP}:1")

    assert answer.verdict.status is BaseStatus.UNKNOWN
    assert "--allow internal.test" in answer.verdict.reason
    assert registry.asked("HEAD", "internal.test") == 0


async def test_a_private_base_is_could_not_check(registry: Published) -> None:
    """A private base is "could not check" with the registry's answer, and never a success."""
    base = registry.image("secret/base", "1", "ab")
    registry.image("shop/app", "1", "abX", labels=base_labels("docker.io/secret/base:1", base))
    registry.hub.private = "secret/base"
    [answer] = await registry.look(f"{APP}:1")

    assert answer.verdict.status is BaseStatus.UNKNOWN
    assert "docker login" in answer.verdict.reason


async def test_an_image_without_claims_is_unknown(registry: Published) -> None:
    """For an image without any information about its base, the reason suggests what to do."""
    registry.image("shop/app", "1", "abX")
    [answer] = await registry.look(f"{APP}:1")

    assert answer.verdict.status is BaseStatus.UNKNOWN
    assert "--dockerfile" in answer.verdict.reason


async def test_a_squashed_image_is_judged_by_its_label_alone(registry: Published) -> None:
    """A squashed image is compared by its label only, since its one layer proves nothing."""
    base = registry.image("library/node", "16.13", "ab")
    registry.image("shop/app", "1", "S", labels=base_labels(NODE, base))
    registry.image("shop/app", "2", "T")
    before = await status(registry, f"{APP}:1")
    registry.image("library/node", "16.13", "ac")

    assert before == ["current"]
    assert await status(registry, f"{APP}:1") == ["outdated"]
    assert await status(registry, f"{APP}:2", base=NODE) == ["cannot tell"]


async def test_a_used_up_pull_limit_is_reported(registry: Published) -> None:
    """With the pull limit used up, HEADs are still sent, and what could not be read is reported."""
    base = registry.image("library/node", "16.13", "ab")
    registry.image("shop/app", "1", "abX", labels=base_labels(NODE, base))
    await registry.look(f"{APP}:1")
    registry.image("library/node", "16.13", "ac")
    registry.hub.quota, registry.hub.counting = 0, HUB
    [answer] = await registry.look(f"{APP}:1")

    assert answer.verdict.status is BaseStatus.UNKNOWN
    assert "has a rate limit" in answer.verdict.reason
    assert registry.asked("HEAD", HUB) == 1


async def test_an_index_with_a_thousand_statements_costs_four_requests(registry: Published) -> None:
    """Of an index with a thousand provenance statements, which any pusher could add, four are read."""
    app = registry.image("shop/app", "x", "abX")
    attested = [registry.attested("shop/app", app, salt=str(number)) for number in range(1000)]
    registry.index("shop/app", "1", {"amd64": app}, *attested)
    await registry.look(f"{APP}:1")

    assert registry.asked("GET", "reg.test") <= 2 + 4


async def test_memory_is_limited(registry: Published) -> None:
    """Images beyond the memory limit are reported as not checked."""
    base = registry.image("library/node", "16.13", "ab")
    for number in range(40):
        registry.image("shop/app", f"{number}", f"abX{number}", annotations=base_labels(NODE, base))
    answers = await registry.look(*(f"{APP}:{number}" for number in range(40)), max_units=20)
    found = [str(answer.verdict.status) for answer in answers]

    assert found[0] == "current"
    assert found[-1] == "cannot tell"
    assert "fewer at a time" in answers[-1].verdict.reason


async def test_a_label_is_shown_as_one_line_of_plain_text(registry: Published) -> None:
    """An invalid name in a label is ignored; a label's text is printed without control characters."""
    registry.image("shop/app", "1", "abX", labels={"org.opencontainers.image.base.name": "x\x1b[2J\ny"})
    [answer] = await registry.look(f"{APP}:1")

    assert answer.verdict.status is BaseStatus.UNKNOWN
    assert answer.verdict.reason.isprintable()


async def test_an_image_of_many_huge_configs_is_refused(registry: Published) -> None:
    """A config over the size limit is not read."""
    app = registry.image("shop/app", "x", "ab")
    media_type, raw = registry.hub.manifests["shop/app"][str(app)]
    size = raw[raw.index(b'"size": ') + 8 :].partition(b"}")[0]
    huge = raw.replace(b'"size": ' + size, b'"size": 99999999', 1)
    registry.hub.publish("shop/app", "1", huge, media_type)
    [answer] = await registry.look(f"{APP}:1")

    assert "expected at most 8388608" in answer.verdict.reason


async def test_provenance_causes_no_request_to_a_host_that_is_not_allowed(registry: Published) -> None:
    """Provenance causes no request to a host that is not allowed, even if another input has moved."""
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


async def test_an_unresolvable_build_input_may_be_the_base(registry: Published) -> None:
    """If one build input can't be resolved and the others have not moved, it may be the base: unknown."""
    node = registry.image("library/node", "16.13", "ab")
    ours = registry.image("ours", "1", "abc")
    app = registry.image("shop/app", "x", "abcX")
    attested = registry.attested("shop/app", app, ("node@16.13", node), ("inner.test/ours@1", ours))
    registry.index("shop/app", "1", {"amd64": app}, attested)
    registry.inner = frozenset({"inner.test"})
    [answer] = await registry.look(f"{APP}:1")

    assert answer.verdict.status is BaseStatus.UNKNOWN
    assert "--allow inner.test" in answer.verdict.reason


async def test_a_provenance_of_too_many_images_is_ignored(registry: Published) -> None:
    """A provenance with too many inputs is ignored, and the label decides."""
    many = [(f"other{number}@1", Digest.of(b"%d" % number)) for number in range(250)]
    node = registry.image("library/node", "16.13", "ab")
    app = registry.image("shop/app", "x", "abX", labels=base_labels(NODE, node))
    registry.index("shop/app", "1", {"amd64": app}, registry.attested("shop/app", app, *many, ("node@16.13", node)))
    registry.image("library/node", "16.13", "ac")
    [answer] = await registry.look(f"{APP}:1")

    assert answer.verdict.status is BaseStatus.OUTDATED
    assert registry.asked("HEAD") == 1


async def test_a_large_index_is_not_another_artifact(registry: Published) -> None:
    """An index of very many platforms is unknown; one that also has other artifacts is read as its image."""
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


async def test_an_observation_in_the_future_hides_no_move(registry: Published) -> None:
    """An observation with a future time does not count."""
    base = registry.image("library/node", "16.13", "ab")
    registry.image("shop/app", "1", "abX", labels=base_labels(NODE, base))
    now_us = registry.now_us
    registry.now_us += 10 * 365 * 86_400_000_000
    before = await status(registry, f"{APP}:1")
    registry.now_us = now_us
    registry.image("library/node", "16.13", "ac")

    assert before == ["current"]
    assert await status(registry, f"{APP}:1") == ["outdated"]


async def test_an_observation_by_a_slow_clock_does_not_count(registry: Published) -> None:
    """An observation older than the base's build, by a slow clock, does not count."""
    registry.image("library/node", "16.13", "ab", created="2026-11-20T00:00:00Z")
    registry.image("shop/app", "1", "abcX", history="pqrs", created="2026-11-20T00:00:00Z")
    now_us = registry.now_us
    registry.now_us = 0
    await status(registry, f"{APP}:1", base=NODE)
    registry.now_us = now_us

    assert await status(registry, f"{APP}:1", base=NODE) == ["cannot tell"]


async def test_an_image_built_in_the_future_proves_nothing(registry: Published) -> None:
    """For an image built in the future, the tag's observation may be later than the build, so it proves nothing."""
    registry.image("library/node", "16.13", "ab")
    registry.image("shop/app", "1", "abcX", history="pqrs", created="2099-01-01T00:00:00Z")

    assert [await status(registry, f"{APP}:1", base=NODE) for _ in range(2)] == [["cannot tell"]] * 2


async def test_an_unreadable_former_image_may_be_the_base(registry: Published) -> None:
    """A former image that can't be read may be the base, so a shorter match proves nothing."""
    longer = registry.image("library/node", "16.13", "abc")
    registry.image("x/y", "1", "abcq", labels=base_labels(NODE, longer))
    await registry.look("reg.test/x/y:1")  # the tag's digest is observed, and no document is read
    registry.image("shop/app", "1", "abcX", history="pqrs", created="2026-11-25T00:00:00Z")
    registry.image("library/node", "16.13", "ab")
    there = registry.hub.manifests["library/node"].pop(str(longer))
    [unread] = await registry.look(f"{APP}:1", base=NODE)
    registry.hub.manifests["library/node"][str(longer)] = there
    [read] = await registry.look(f"{APP}:1", base=NODE)

    assert unread.verdict.status is BaseStatus.UNKNOWN
    assert read.verdict.status is BaseStatus.OUTDATED


async def test_images_of_one_dockerfile_are_not_bases_of_each_other(registry: Published) -> None:
    """Images of one Dockerfile, with equal first layers and own later ones, are not taken as bases: the user's claim
    counts."""
    node = registry.image("library/node", "16.13", "ab")
    for labels in ({}, base_labels(NODE, node)):
        registry.image("shop/worker", "1", "abC", history=["a", "b", "C", "CMD worker"], labels=labels)
        registry.image("shop/web", "1", "abCX", history=["a", "b", "C", "X", "CMD web"], labels=labels)
        answers = await registry.look("reg.test/shop/worker:1", "reg.test/shop/web:1", base=NODE)
        named = [str(answer.verdict.claim.base) for answer in answers if answer.verdict.claim is not None]

        assert named == [NODE, NODE]


async def test_an_inherited_label_of_a_moved_base_hides_no_move(registry: Published) -> None:
    """A label inherited from a moved base identifies that base, even if it is not part of the scan."""
    node = registry.image("library/node", "16.13", "ab")
    base_label = {**base_labels(NODE, node), IMAGE: "docker.io/shop/base:1"}
    registry.image("shop/base", "1", "abB", labels=base_label)
    registry.image("shop/app", "1", "abBX", labels=base_label)
    before = await status(registry, f"{APP}:1")
    registry.image("shop/base", "1", "abC", labels=base_label)
    [answer] = await registry.look(f"{APP}:1")

    assert before == ["cannot tell"]  # the base's digest at the time of the build was not observed
    assert answer.verdict.status is BaseStatus.OUTDATED
    assert answer.verdict.claim is not None
    assert str(answer.verdict.claim.base) == "docker.io/shop/base:1"


async def test_a_copy_under_another_name_has_its_originals_base(registry: Published) -> None:
    """A copy with all labels of its original has the original's base, or an unknown one if the original is unreadable."""
    node = registry.image("library/node", "16.13", "ab")
    base_label = {**base_labels(NODE, node), IMAGE: "docker.io/shop/app:1"}
    for repository in ("shop/app", "prod/app"):
        registry.image(repository, "1", "abX", labels=base_label)
    registry.image("prod/other", "1", "abY", labels=base_label)
    looked = (f"{APP}:1", "reg.test/prod/app:1", "reg.test/prod/other:1")
    before = await status(registry, *looked)
    registry.image("library/node", "16.13", "ac")

    assert before == ["current", "current", "cannot tell"]
    assert await status(registry, *looked) == ["outdated", "outdated", "cannot tell"]


@pytest.mark.slow
async def test_a_former_image_beyond_the_limit_may_be_the_base(registry: Published) -> None:
    """If a tag moved more often than can be read, a former image may be the base: unknown."""
    last = registry.image("library/node", "16.13", "abc")
    for number in range(60):
        registry.image("x/y", "1", "q", labels=base_labels(NODE, last))
        await registry.look("reg.test/x/y:1")
        if number == 0:
            registry.image("shop/app", "1", "abcX", history="pqrs", created="2026-11-24T06:30:00Z")
        last = registry.image("library/node", "16.13", "ab", history=["a", str(number)])
    [answer] = await registry.look(f"{APP}:1", base=NODE)

    assert answer.verdict.status is BaseStatus.UNKNOWN


async def test_a_hostile_config_does_not_stop_other_images(registry: Published) -> None:
    """A config with deep nesting does not stop the check of other images."""
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


async def test_an_endlessly_slow_config_times_out(tmp_path: Path) -> None:
    """A config that is sent endlessly slowly ends in a time-out."""

    async def drip(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 9999\r\n\r\n")
        while True:
            writer.write(b"a")
            await writer.drain()
            await asyncio.sleep(0.02)  # a body that arrives byte by byte

    async with listening(drip) as port:
        place = RemoteRepository(f"127.0.0.1:{port}", Repository("x/y"))
        transport = Transport(CredentialStore(()), TransportOptions(plain_http=frozenset({place.registry})))
        learned = DocumentCache(ClientState(tmp_path), now_us=1)
        with pytest.raises(RemoteUnavailable, match=r"within 0\.5 s"):
            await ImageDocuments(transport, learned, read_s=0.5).blob(place, Digest.of(b""), 9999)
        await transport.aclose()
