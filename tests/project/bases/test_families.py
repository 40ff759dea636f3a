"""Random families of images: no image is current while an ancestor's tag resolves to another image."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from boltseal.oci.digest import Digest
from boltseal.project.bases.image_facts import IMAGE
from tests.project.bases.published import Published, base_labels

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


@dataclass
class Family:
    """A registry, and the truth about its images that no tool knows."""

    registry: Published
    builds: dict[Digest, dict[str, Build]] = field(default_factory=dict)
    tags: dict[str, Digest] = field(default_factory=dict)
    number: int = 0

    def build(self, name: str, base: str | None, how: str, platforms: Iterable[str], recorded: str) -> None:
        """Build an image `FROM` a tag's current image, or from scratch, and push it; hours later."""
        self.number += 1
        self.registry.now_us += 2 * HOUR_US
        repository, _, tag = name.removeprefix("reg.test/").partition(":")
        digest = self.tags.get(base) if base else None
        found: dict[str, Build] = {}
        for platform in platforms:
            below = None if digest is None else self.builds[digest].get(platform)
            if digest is not None and below is None:
                return  # such a build fails
            found[platform] = self._on(below, platform, how, None if base is None or digest is None else (base, digest))
        labels, annotations = self._records(name, base, digest, recorded)
        children = {
            platform: self.registry.image(
                repository,
                f"x-{platform}" if len(found) > 1 else tag,
                each.layers,
                architecture=platform,
                labels=labels,
                annotations=annotations,
                env=each.env,
                history=[line for _, line in each.history],
                times=[time for time, _ in each.history],
                created=self.now,
            )
            for platform, each in found.items()
        }
        pushed = self.registry.index(repository, tag, children) if len(found) > 1 else next(iter(children.values()))
        for platform in children if len(found) > 1 else ():
            del self.registry.hub.manifests[repository][f"x-{platform}"]
        self.builds[pushed] = found
        self.tags[name] = pushed

    @property
    def now(self) -> str:
        return datetime.fromtimestamp(self.registry.now_us / 1e6, UTC).isoformat()

    def _on(self, below: Build | None, platform: str, how: str, parent: tuple[str, Digest] | None) -> Build:
        step, mark = f"step {self.number} {platform}", chr(0x4E00 + 2 * self.number + PLATFORMS.index(platform))
        layers, history, env = (below.layers, below.history, below.env) if below else ("", (), ())
        if how == "settings" and below is not None:
            return Build(layers, (*history, (self.now, f"ENV {step}")), (f"N={self.number}",), parent)
        if how == "squash" and below is not None:
            return Build(mark, (*history, (self.now, f"squash {step}")), env, parent)
        return Build(layers + mark, (*history, (self.now, step)), env, parent)

    def _records(
        self, name: str, base: str | None, digest: Digest | None, recorded: str
    ) -> tuple[dict[str, str], dict[str, str]]:
        if base is None or digest is None or recorded == "none":
            return {}, {}
        if recorded == "annotation":
            return {}, base_labels(base, digest)
        return base_labels(base, digest) | {IMAGE: name}, {}

    def lose_top(self, name: str) -> None:
        """Rebuild a tag's image without its uppermost layer."""
        self.number += 1
        self.registry.now_us += 2 * HOUR_US
        digest = self.tags.get(name)
        if digest is None or len(self.builds[digest]) > 1:
            return
        [(platform, was)] = self.builds[digest].items()
        below = None if was.parent is None else self.builds[was.parent[1]].get(platform)
        if len(was.layers) < 2 or (below is not None and len(was.layers) <= len(below.layers)):
            return  # the uppermost layer is its base's
        repository, _, tag = name.removeprefix("reg.test/").partition(":")
        pushed = self.registry.image(
            repository,
            tag,
            was.layers[:-1],
            architecture=platform,
            history=[line for _, line in was.history[:-1]],
            times=[time for time, _ in was.history[:-1]],
            env=was.env,
            created=self.now,
        )
        self.builds.setdefault(pushed, {platform: Build(was.layers[:-1], was.history[:-1], was.env, was.parent)})
        self.tags[name] = pushed

    def moved_ancestor(self, name: str, platform: str) -> str | None:
        """Return an ancestor's tag that resolves to another image than the one that this image was built on."""
        digest = self.tags[name]
        while (parent := self.builds[digest][platform].parent) is not None:
            tag, was = parent
            now = self.builds[self.tags[tag]].get(platform)
            then = self.builds[was][platform]
            if now is None or (now.layers, now.history, now.env) != (then.layers, then.history, then.env):
                return tag
            digest = was
        return None


NAMES = [f"reg.test/{repository}:{tag}" for repository in REPOSITORIES for tag in ("1", "2")]
HOW = st.sampled_from(["layer", "layer", "layer", "settings", "squash"])
RECORDED = st.sampled_from(["none", "none", "none", "annotation", "label"])
USED = st.sampled_from([PLATFORMS[:1], PLATFORMS[:1], PLATFORMS])
SCAN = st.sampled_from([True, True, True, False])


def _rank(name: str) -> int:
    return REPOSITORIES.index(name.removeprefix("reg.test/").partition(":")[0])


@st.composite
def lives(draw: st.DrawFn) -> list[tuple[object, ...]]:
    """Draw the life of a family: two bases and an app on each other at first, and what happens to them and others then."""
    steps: list[tuple[object, ...]] = []
    used = draw(USED)
    names = [NAMES[0], NAMES[2], NAMES[6]]
    for name, base in zip(names, [None, *names], strict=False):
        steps += [("build", name, base, draw(HOW), used, draw(RECORDED)), *[("scan",)] * draw(SCAN)]
    for _ in range(draw(st.integers(1, 7))):
        what = draw(st.sampled_from(["build", "build", "build", "lose top", "forget layers"]))
        if what == "build":
            name = draw(st.sampled_from(NAMES))
            # no image is taken for the base of another one in its repository; so there are no circles either
            others = [other for other in names if _rank(other) < _rank(name)]
            base = draw(st.sampled_from([None, *others]))
            steps.append((what, name, base, draw(HOW), draw(USED), draw(RECORDED)))
            names.append(name)
        else:
            steps.append((what, draw(st.sampled_from(names))) if what == "lose top" else (what,))
        steps += [("scan",)] * draw(SCAN)
    return steps


async def _scan(family: Family) -> list[str]:
    """Scan all images; return the wrong answers."""
    names = sorted(family.tags)
    wrong = []
    for report in await family.registry.look(*names, listed="reg.test"):
        for verdict in report.verdicts:
            moved = family.moved_ancestor(report.wanted.name, verdict.platform.removeprefix("linux/"))
            if str(verdict.status) == "current" and moved is not None:
                wrong.append(f"{report.wanted.name} is current, but {moved} has moved: {verdict.reason}")
    return wrong


async def _run_steps(steps: list[tuple[object, ...]]) -> list[str]:
    with tempfile.TemporaryDirectory() as folder:
        family = Family(Published(Path(folder) / "state"))
        wrong: list[str] = []
        for what, *arguments in steps:
            if what == "build":
                family.build(*arguments)  # type: ignore[arg-type]
            elif what == "lose top":
                family.lose_top(*arguments)  # type: ignore[arg-type]
            elif what == "forget layers":
                _forget(family)
            else:
                wrong += await _scan(family)
        return wrong + await _scan(family)


def _forget(family: Family) -> None:
    import sqlite3

    file = family.registry.state / "learned.db"
    if file.exists():
        with sqlite3.connect(file) as database:
            database.execute("DELETE FROM document")
        database.close()


@pytest.mark.slow
@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@given(lives())
def test_no_image_is_current_while_an_ancestor_has_moved(steps: list[tuple[object, ...]]) -> None:
    """Whatever was built on what, moved, squashed, cut, recorded and scanned: no image is called current by mistake."""
    assert asyncio.run(_run_steps(steps)) == []
