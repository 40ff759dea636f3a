"""Random families of images: no image is current while an ancestor's tag resolves to another image."""

from __future__ import annotations

import asyncio
import itertools
import tempfile
from collections.abc import Iterable, Mapping
from contextlib import AsyncExitStack, closing
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from boltseal.oci.digest import Digest
from boltseal.project.bases.base_report import BaseReport
from boltseal.project.bases.image_facts import IMAGE
from tests.project.bases.own_registry import HOST, OwnRegistry, own_registry
from tests.project.bases.published import NOW_US, Published, base_labels

REPOSITORIES = ("base/os", "base/rt", "base/lib", "team/app")
PLATFORMS = ("amd64", "arm64")
HOUR_US = 3_600_000_000


@dataclass(frozen=True)
class Build:
    """What an image of one platform was built of. `parent`: the tag in its FROM, and the digest that this had then."""

    layers: str
    history: tuple[tuple[str, str], ...]
    env: tuple[str, ...]
    parent: tuple[str, Digest] | None


@dataclass(frozen=True)
class Records:
    """What a build wrote down about its base."""

    labels: Mapping[str, str]
    annotations: Mapping[str, str]


NOTHING = Records({}, {})


class FamilyRegistry(Protocol):
    """Where a family is pushed, and scanned an hour later at each scan. `host`: with the prefix of its repositories."""

    host: str

    @property
    def now_us(self) -> int: ...

    def wait(self, us: int) -> None:
        """Let time pass."""

    async def push(self, repository: str, tag: str, images: Mapping[str, Build], records: Records) -> Digest:
        """Push the images of a tag by platform, as an index if there are several."""

    async def scan(self, names: Iterable[str]) -> list[BaseReport]:
        """Scan these images, which are all of the registry."""

    async def forget(self, kept: Mapping[str, set[Digest]]) -> None:
        """Forget former images. `kept`: what tags resolve to now, by repository."""


class WithoutLedger:
    """A registry that keeps no history: the client forgets the layers of what it read."""

    host = "reg.test/"

    def __init__(self, folder: Path) -> None:
        self._published = Published(folder / "state")

    @property
    def now_us(self) -> int:
        return self._published.now_us

    def wait(self, us: int) -> None:
        self._published.now_us += us

    async def push(self, repository: str, tag: str, images: Mapping[str, Build], records: Records) -> Digest:
        children = {
            platform: self._published.image(
                repository,
                tag if len(images) == 1 else f"x-{platform}",
                each.layers,
                architecture=platform,
                labels=records.labels,
                annotations=records.annotations,
                env=each.env,
                history=[line for _, line in each.history],
                times=[time for time, _ in each.history],
                created=_text(self.now_us),
            )
            for platform, each in images.items()
        }
        if len(images) == 1:
            return next(iter(children.values()))
        for platform in children:
            del self._published.hub.manifests[repository][f"x-{platform}"]
        return self._published.index(repository, tag, children)

    async def scan(self, names: Iterable[str]) -> list[BaseReport]:
        return await self._published.look(*names, listed="reg.test")

    async def forget(self, _: Mapping[str, set[Digest]]) -> None:
        import sqlite3

        file = self._published.state / "learned.db"
        if file.exists():
            with closing(sqlite3.connect(file)) as database, database:
                database.execute("DELETE FROM document")


class WithLedger:
    """Repositories of a running registry with a ledger, in which former images are deleted."""

    def __init__(self, registry: OwnRegistry, prefix: str, folder: Path) -> None:
        self.host = f"{HOST}/{prefix}"
        self._registry = registry
        self._prefix = prefix
        self._pushed: dict[str, set[Digest]] = {}
        registry.state = folder / "state"

    @property
    def now_us(self) -> int:
        return self._registry.clock.now_us

    def wait(self, us: int) -> None:
        self._registry.clock.now_us += us

    async def push(self, repository: str, tag: str, images: Mapping[str, Build], records: Records) -> Digest:
        where = f"{self._prefix}{repository}"
        children = {
            platform: await self._registry.image(
                where,
                tag if len(images) == 1 else "",
                each.layers,
                architecture=platform,
                labels=records.labels,
                annotations=records.annotations,
                env=each.env,
                history=each.history,
                created=_text(self.now_us),
            )
            for platform, each in images.items()
        }
        single = next(iter(children.values()))
        digest = single if len(images) == 1 else await self._registry.index(where, tag, children)
        self._pushed.setdefault(repository, set()).add(digest)
        return digest

    async def scan(self, names: Iterable[str]) -> list[BaseReport]:
        return await self._registry.look(*names)

    async def forget(self, kept: Mapping[str, set[Digest]]) -> None:
        for repository, digests in self._pushed.items():
            for digest in sorted(digests - kept[repository], key=str):
                await self._registry.delete(f"{self._prefix}{repository}", digest)
            digests &= kept[repository]
        (self._registry.state / "learned.db").unlink(missing_ok=True)


def _text(time_us: int) -> str:
    return datetime.fromtimestamp(time_us / 1e6, UTC).isoformat()


@dataclass
class Family:
    """A registry, and the truth about its images that no tool knows. Names are `base/os:1`, without the host."""

    registry: FamilyRegistry
    builds: dict[Digest, dict[str, Build]] = field(default_factory=dict)
    tags: dict[str, Digest] = field(default_factory=dict)
    former: dict[tuple[str, Digest], None] = field(default_factory=dict)
    number: int = 0

    async def build(self, name: str, base: str | None, how: str, platforms: Iterable[str], recorded: str) -> None:
        """Build an image `FROM` a tag's current image, or from scratch, and push it; hours later."""
        self._begin()
        digest = self.tags.get(base) if base else None
        found: dict[str, Build] = {}
        for platform in platforms:
            below = None if digest is None else self.builds[digest].get(platform)
            if digest is not None and below is None:
                return  # such a build fails
            found[platform] = self._on(below, platform, how, None if base is None or digest is None else (base, digest))
        await self._push(name, found, self._records(name, base, digest, recorded))

    def _begin(self) -> None:
        self.number += 1
        self.registry.wait(2 * HOUR_US)

    async def _push(self, name: str, images: Mapping[str, Build], records: Records = NOTHING) -> None:
        repository, _, tag = name.partition(":")
        digest = await self.registry.push(repository, tag, images, records)
        self.builds.setdefault(digest, dict(images))
        if name in self.tags:
            self.former[name, self.tags[name]] = None
        self.tags[name] = digest

    def _on(self, below: Build | None, platform: str, how: str, parent: tuple[str, Digest] | None) -> Build:
        step, mark = f"step {self.number} {platform}", chr(0x4E00 + 2 * self.number + PLATFORMS.index(platform))
        now = _text(self.registry.now_us)
        layers, history, env = (below.layers, below.history, below.env) if below else ("", (), ())
        if how == "settings" and below is not None:
            return Build(layers, (*history, (now, f"ENV {step}")), (f"N={self.number}",), parent)
        if how == "squash" and below is not None:
            return Build(mark, (*history, (now, f"squash {step}")), env, parent)
        return Build(layers + mark, (*history, (now, step)), env, parent)

    def _records(self, name: str, base: str | None, digest: Digest | None, recorded: str) -> Records:
        if base is None or digest is None or recorded == "none":
            return NOTHING
        named = base_labels(self.registry.host + base, digest)
        return (
            Records({}, named) if recorded == "annotation" else Records(named | {IMAGE: self.registry.host + name}, {})
        )

    async def lose_top(self, name: str) -> None:
        """Rebuild a tag's image without its uppermost layer, unless that is its base's.

        What is left may be exactly the former image of the same tag that it was built on. Nothing shows that build any more, and each
        reproducible rebuild of a tag looks alike: then its base is that of the former image.
        """
        self._begin()
        images = {}
        for platform, was in self.builds[self.tags[name]].items():
            below = None if was.parent is None else self.builds[was.parent[1]][platform]
            if len(was.layers) < 2 or (below is not None and len(was.layers) <= len(below.layers)):
                return
            left = Build(was.layers[:-1], was.history[:-1], was.env, was.parent)
            if below is not None and was.parent is not None and was.parent[0] == name:
                is_former = (left.layers, left.history) == (below.layers, below.history)
                left = replace(left, parent=below.parent) if is_former else left
            images[platform] = left
        await self._push(name, images)

    async def change_config(self, name: str) -> None:
        """Rebuild a tag's image with the same layers and history, and other settings."""
        self._begin()
        images = self.builds[self.tags[name]].items()
        await self._push(
            name, {at: Build(was.layers, was.history, (f"C={self.number}",), was.parent) for at, was in images}
        )

    async def forget(self) -> None:
        """Forget the layers of former images."""
        kept: dict[str, set[Digest]] = {repository: set() for repository in REPOSITORIES}
        for name, digest in self.tags.items():
            kept[name.partition(":")[0]].add(digest)
        await self.registry.forget(kept)
        self.former.clear()

    def moved_ancestor(self, digest: Digest, platform: str) -> str | None:
        """Return an ancestor's tag that resolves to another image than the one that this image was built on."""
        while (parent := self.builds[digest][platform].parent) is not None:
            tag, was = parent
            now = self.builds[self.tags[tag]].get(platform)
            then = self.builds[was][platform]
            if now is None or (now.layers, now.history, now.env) != (then.layers, then.history, then.env):
                return tag
            digest = was
        return None

    async def scan(self, *, given: bool = False) -> list[str]:
        """Scan all images; return the wrong answers. `given`: also former images by their digests, as containers run them."""
        wrong = []
        names = sorted(self.tags) + ([f"{name}@{digest}" for name, digest in self.former] if given else [])
        for report in await self.registry.scan([self.registry.host + name for name in names]):
            name, _, digest = report.wanted.name.removeprefix(self.registry.host).partition("@")
            for verdict in report.verdicts:
                image = Digest.parse(digest) if digest else self.tags[name]
                moved = self.moved_ancestor(image, verdict.platform.removeprefix("linux/"))
                if str(verdict.status) == "current" and moved is not None:
                    wrong.append(f"{report.wanted.name} is current, but {moved} has moved: {verdict.reason}")
        return wrong


NAMES = [f"{repository}:{tag}" for repository in REPOSITORIES for tag in ("1", "2")]
HOW = st.sampled_from(["layer", "layer", "layer", "settings", "squash"])
RECORDED = st.sampled_from(["none", "none", "none", "annotation", "label"])
USED = st.sampled_from([PLATFORMS[:1], PLATFORMS[:1], PLATFORMS])
SCAN = st.sampled_from([[("scan",)], [("scan",)], [("scan given",)], []])
WHAT = st.sampled_from(["build", "build", "build", "build", "lose top", "change config", "forget"])
Step = tuple[object, ...]


@st.composite
def lives(draw: st.DrawFn) -> list[Step]:
    """Draw the life of a family: two bases and an app on each other at first, and what happens to them and others then.

    A base may be in the repository of its image, and images may be based on each other in a circle.
    """
    steps: list[Step] = []
    used = draw(USED)
    names = [NAMES[0], NAMES[2], NAMES[6]]
    for name, base in zip(names, [None, *names], strict=False):
        steps += [("build", name, base, draw(HOW), used, draw(RECORDED)), *draw(SCAN)]
    for _ in range(draw(st.integers(1, 7))):
        what = draw(WHAT)
        if what == "build":
            name = draw(st.sampled_from(NAMES))
            base = draw(st.sampled_from([None, *names]))
            steps.append((what, name, base, draw(HOW), draw(USED), draw(RECORDED)))
            names.append(name)
        else:
            steps.append((what,) if what == "forget" else (what, draw(st.sampled_from(names))))
        steps += draw(SCAN)
    return steps


STALE: list[Step] = [
    ("build", "base/os:1", None, "layer", ("amd64",), "none"),
    ("scan",),
    ("build", "base/rt:1", "base/os:1", "layer", ("amd64",), "none"),
    ("build", "team/app:1", "base/rt:1", "layer", ("amd64",), "none"),
    ("build", "base/rt:1", None, "layer", ("amd64",), "none"),
    ("scan",),
]
"""A base that moved before it was observed."""

STALE_BUILDS: list[Step] = [("lose top", "team/app:1"), ("change config", "team/app:1")]
"""Builds that still use the former image of that base, because their host has it."""

ON_ITSELF: list[Step] = [
    ("build", "base/os:1", None, "layer", ("amd64",), "none"),
    ("build", "base/rt:1", "base/os:1", "layer", ("amd64",), "none"),
    ("scan",),
    ("lose top", "base/rt:1"),
    ("scan",),
    ("build", "base/rt:1", "base/rt:1", "layer", ("amd64",), "none"),
]
"""A tag whose former image has exactly the layers and history of its base, and an image that is built on that one."""

LIKE_ITS_BASE: list[Step] = [
    ("build", "base/os:1", None, "layer", ("amd64",), "none"),
    ("build", "base/rt:1", "base/os:1", "layer", ("amd64",), "none"),
    ("lose top", "base/rt:1"),
    ("build", "base/lib:1", "base/rt:1", "layer", ("amd64",), "none"),
    ("build", "base/rt:1", None, "layer", ("amd64",), "none"),
]
"""An image on a tag whose former image has the layers and history of its own base, which has not moved."""

CIRCLE: list[Step] = [
    ("build", "base/os:1", None, "layer", ("amd64",), "none"),
    ("scan",),
    ("build", "base/rt:1", "base/os:1", "layer", ("amd64",), "none"),
    ("scan",),
    ("build", "team/app:1", "base/rt:1", "layer", ("amd64",), "none"),
    ("scan",),
    ("build", "base/os:1", "base/rt:1", "settings", ("amd64",), "none"),
]
"""A base that is built again on an image that was built on it, with other settings only."""

DELETED_CIRCLE: list[Step] = [
    *CIRCLE,
    ("scan",),
    ("build", "base/os:1", None, "layer", ("amd64",), "none"),
    ("forget",),
    ("scan",),
]
"""A circle whose base is then built from scratch again, and whose former images are all deleted."""

GIVEN: list[Step] = [
    ("build", "team/app:2", None, "layer", ("amd64",), "none"),
    ("build", "base/lib:1", "team/app:2", "layer", ("amd64",), "none"),
    ("build", "base/lib:1", "base/lib:1", "settings", ("amd64",), "none"),
    ("scan given",),
]
"""A tag whose image is built on its own former one, which the run has by its digest."""


async def _run_steps(family: Family, steps: list[Step], *, observed: bool) -> list[str]:
    """Run the life of a family; return the wrong answers.

    `observed`: scan before an image is built on one of its own repository. Without a ledger, boltseal does not know that such
    a base existed if no scan observed it (ADR 0043).
    """
    wrong: list[str] = []
    for what, *arguments in steps:
        if what == "build":
            name, base = str(arguments[0]), arguments[1]
            if observed and base is not None and name.partition(":")[0] == str(base).partition(":")[0]:
                wrong += await family.scan()
            await family.build(*arguments)  # type: ignore[arg-type]
        elif what in ("scan", "scan given"):
            wrong += await family.scan(given=what == "scan given")
        elif what == "forget":
            await family.forget()
        elif arguments[0] in family.tags:
            await (family.lose_top if what == "lose top" else family.change_config)(str(arguments[0]))
    return wrong + await family.scan() + await family.scan(given=True)


@pytest.mark.slow
@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@given(lives())
@example([*STALE, STALE_BUILDS[0]])
@example([*STALE, STALE_BUILDS[1]])
def test_no_image_is_current_while_an_ancestor_has_moved(steps: list[Step]) -> None:
    """Whatever was built on what, moved, squashed, cut, recorded and scanned: no image is called current by mistake."""
    with tempfile.TemporaryDirectory() as folder:
        family = Family(WithoutLedger(Path(folder)))

        assert asyncio.run(_run_steps(family, steps, observed=True)) == []


@pytest.mark.slow
def test_no_image_is_current_by_mistake_at_a_registry_with_a_ledger(tmp_path: Path) -> None:
    """At a registry with a ledger no image is called current by mistake, whatever was deleted, and whenever it was scanned."""
    numbers = itertools.count()
    with asyncio.Runner() as runner, tempfile.TemporaryDirectory() as folder:
        stack = AsyncExitStack()
        registry = runner.run(stack.enter_async_context(own_registry(Path(folder), NOW_US)))

        @settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
        @given(lives())
        @example([*STALE, STALE_BUILDS[0]])
        @example([*STALE, STALE_BUILDS[1]])
        @example(ON_ITSELF)
        @example(LIKE_ITS_BASE)
        @example(CIRCLE)
        @example(DELETED_CIRCLE)
        @example(GIVEN)
        def check(steps: list[Step]) -> None:
            number = next(numbers)
            family = Family(WithLedger(registry, f"f{number}/", tmp_path / str(number)))

            assert runner.run(_run_steps(family, steps, observed=False)) == []

        try:
            check()
        finally:
            runner.run(stack.aclose())
