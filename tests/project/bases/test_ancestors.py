"""An image is outdated when any of its ancestors has moved; what must be rebuilt first is named."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from boltseal.oci.digest import Digest
from boltseal.oci.reference import Reference
from boltseal.project.bases.base_report import BaseReport
from boltseal.project.settings import ClientSettings
from tests.project.bases.own_registry import HOST, own_registry
from tests.project.bases.published import DIGEST, NAME, NOW_US, Published

OS, RUNTIME, APP = "reg.test/base/os:1", "reg.test/base/rt:1", "reg.test/team/app:1"


@pytest.fixture
def registry(tmp_path: Path) -> Published:
    """An app on a base on another one; each but the lowest one records its base in an annotation."""
    made = Published(tmp_path / "state")
    os = made.image("base/os", "1", "o")
    runtime = made.image("base/rt", "1", "or", annotations={NAME: OS, DIGEST: str(os)})
    made.image("team/app", "1", "orX", annotations={NAME: RUNTIME, DIGEST: str(runtime)})
    return made


async def of(registry: Published, *names: str) -> dict[str, BaseReport]:
    return {report.wanted.name: report for report in await registry.look(*names)}


async def test_an_image_is_outdated_when_the_base_of_its_base_moved(registry: Published) -> None:
    """If only the base's base moved, the image is outdated, and its base must be rebuilt first."""
    before = await of(registry, OS, RUNTIME, APP)
    registry.image("base/os", "1", "p")
    after = await of(registry, OS, RUNTIME, APP)
    verdict = after[APP].verdict

    assert [str(report.verdict.status) for report in before.values()] == ["no base", "current", "current"]
    assert [str(report.verdict.status) for report in after.values()] == ["no base", "outdated", "outdated"]
    assert f"{OS} has moved" in verdict.reason
    assert verdict.rebuild_first == (RUNTIME,)
    assert [str(each.claim and each.claim.base) for each in verdict.ancestors] == [OS, "None"]
    assert verdict.ancestors[0].since_us is not None
    assert verdict.ancestors[0].changes is not None


async def test_with_the_base_rebuilt_a_rebuild_reaches_the_image(registry: Published) -> None:
    """If the base was rebuilt on its moved base, the image is outdated directly, and nothing must be rebuilt first."""
    await of(registry, OS, RUNTIME, APP)
    os = registry.image("base/os", "1", "p")
    registry.image("base/rt", "1", "pr", annotations={NAME: OS, DIGEST: str(os)})
    verdict = (await of(registry, OS, RUNTIME, APP))[APP].verdict

    assert (str(verdict.status), verdict.rebuild_first) == ("outdated", ())
    assert str(verdict.ancestors[0].status) == "current"


async def test_a_base_whose_own_base_is_unknown_leaves_the_image_unknown(registry: Published) -> None:
    """If it is unknown whether the base is outdated, the image is not current."""
    registry.image("base/rt", "1", "or", annotations={NAME: "reg.test/gone/os:1", DIGEST: f"sha256:{'a' * 64}"})
    runtime = registry.hub.manifests["base/rt"]["1"][1]
    registry.image("team/app", "1", "orX", annotations={NAME: RUNTIME, DIGEST: str(Digest.of(runtime))})
    verdict = (await of(registry, RUNTIME, APP))[APP].verdict

    assert str(verdict.status) == "cannot tell"
    assert f"it is not known whether {RUNTIME} is outdated" in verdict.reason


@pytest.mark.parametrize("glob", ["base/*", "base/os:1", "reg.test/base/os", "reg.test/base/os:1"])
def test_an_image_can_be_ignored_by_repository_or_name(glob: str) -> None:
    """`[outdated] ignore` matches a repository or a whole name, with or without a tag."""
    settings = ClientSettings(outdated_ignore=(glob,))

    assert settings.ignores_outdated(Reference.parse(OS))
    assert not settings.ignores_outdated(Reference.parse(APP))


async def test_an_ignored_image_is_a_result(tmp_path: Path) -> None:
    """An ignored image is neither outdated nor unknown, and images on it are judged as usual."""
    registry = Published(tmp_path / "state")
    os = registry.image("base/os", "1", "oab")
    registry.image("team/app", "1", "oabX", annotations={NAME: OS, DIGEST: str(os)})
    reports = await registry.look(OS, APP, ignored=ClientSettings(outdated_ignore=("base/**",)).ignores_outdated)

    assert [str(report.verdict.status) for report in reports] == ["ignored", "current"]


async def test_an_ignored_base_hides_no_moved_ancestor(registry: Published) -> None:
    """An image on an ignored base is outdated if the base of that one moved; it is not current."""
    ignored = ClientSettings(outdated_ignore=("base/rt",)).ignores_outdated
    await registry.look(OS, RUNTIME, APP, ignored=ignored)
    registry.image("base/os", "1", "p")
    found = {each.wanted.name: each.verdict for each in await registry.look(OS, RUNTIME, APP, ignored=ignored)}

    assert [str(found[name].status) for name in (RUNTIME, APP)] == ["ignored", "outdated"]
    assert found[APP].rebuild_first == (RUNTIME,)


async def test_an_ignored_image_that_can_not_be_read_is_a_result(registry: Published) -> None:
    """An image that is ignored is no doubt if it can't be read, or if its tag does not exist."""
    del registry.hub.manifests["base/rt"]["1"]
    ignored = ClientSettings(outdated_ignore=("base/rt",)).ignores_outdated
    reports = await registry.look(OS, RUNTIME, ignored=ignored)

    assert [str(report.verdict.status) for report in reports] == ["no base", "ignored"]


async def test_a_base_that_can_not_be_read_leaves_the_image_unknown(registry: Published) -> None:
    """If the base itself can't be read, it is unknown whether one of its own bases moved, and the image is not current."""
    raw = registry.hub.manifests["base/rt"]["1"][1]
    del registry.hub.blobs[json.loads(raw)["config"]["digest"]]
    verdict = (await of(registry, OS, RUNTIME, APP))[APP].verdict

    assert str(verdict.status) == "cannot tell"
    assert f"it is not known whether {RUNTIME} is outdated" in verdict.reason


async def test_a_base_that_is_also_given_by_a_former_digest_hides_no_ancestor(tmp_path: Path) -> None:
    """If a run has a former image of the base as well, such as a container's, the current one's own base counts all the same."""
    async with own_registry(tmp_path, NOW_US) as registry:
        os = await registry.unlabelled("base/os", "1", "o")
        on_os = {NAME: f"{HOST}/base/os:1", DIGEST: str(os)}
        former = await registry.unlabelled("base/rt", "1", "or", on_os)
        runtime = await registry.unlabelled("base/rt", "1", "os", on_os)
        await registry.unlabelled("team/app", "1", "osX", {NAME: f"{HOST}/base/rt:1", DIGEST: str(runtime)})
        names = (f"{HOST}/base/rt:1@{former}", f"{HOST}/team/app:1")
        before = await registry.look(*names, listed=None)
        await registry.unlabelled("base/os", "1", "p")
        after = await registry.look(*names, listed=None)

    assert [str(report.verdict.status) for report in before] == ["current", "current"]
    assert [str(report.verdict.status) for report in after] == ["outdated", "outdated"]
    assert after[1].verdict.rebuild_first == (f"{HOST}/base/rt:1",)
