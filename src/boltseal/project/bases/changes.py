"""Compare two images of a base: layers, settings, version. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from boltseal.oci.annotations import REVISION, VERSION
from boltseal.project.bases.image_facts import ImageFacts


class LayerCount(NamedTuple):
    """The number of layers, and their stored size in bytes; None if unknown."""

    number: int
    size_bytes: int | None


class SettingChange(NamedTuple):
    """A changed setting: its name (`ENV NODE_VERSION`, `USER`), and its old and new value; "" for not set."""

    what: str
    was: str
    now: str


@dataclass(frozen=True, slots=True)
class BaseChanges:
    """The differences between two images of the same platform."""

    removed: LayerCount
    added: LayerCount
    settings: tuple[SettingChange, ...]
    version: SettingChange | None
    revision: SettingChange | None

    @property
    def lost_top(self) -> bool:
        """Whether it only lost layers from the top."""
        return bool(self.removed.number) and not self.added.number


def changes(was: ImageFacts, now: ImageFacts) -> BaseChanges:
    """Compare two images. Common layers are those at the beginning of both."""
    common = 0
    for old, new in zip(was.diff_ids, now.diff_ids, strict=False):
        if old != new:
            break
        common += 1
    return BaseChanges(
        removed=_layers(was, common),
        added=_layers(now, common),
        settings=tuple(_settings(was, now)),
        version=_label(VERSION, "version", was, now),
        revision=_label(REVISION, "revision", was, now),
    )


def _layers(facts: ImageFacts, start: int) -> LayerCount:
    number = len(facts.diff_ids) - start
    return LayerCount(number, sum(facts.sizes[start:]) if facts.sizes or not number else None)


def _settings(was: ImageFacts, now: ImageFacts) -> Iterator[SettingChange]:
    old, new = was.settings, now.settings
    for name in sorted({*old.env, *new.env}):
        yield from _differs(f"ENV {name}", old.env.get(name, ""), new.env.get(name, ""))
    yield from _differs("ENTRYPOINT", " ".join(old.entrypoint), " ".join(new.entrypoint))
    yield from _differs("CMD", " ".join(old.command), " ".join(new.command))
    yield from _differs("USER", old.user, new.user)
    yield from _differs("EXPOSE", " ".join(old.ports), " ".join(new.ports))
    yield from _differs("WORKDIR", old.folder, new.folder)
    yield from _differs("VOLUME", " ".join(old.volumes), " ".join(new.volumes))
    yield from _differs("HEALTHCHECK", old.health, new.health)
    yield from _differs("STOPSIGNAL", old.stop_signal, new.stop_signal)
    yield from _differs("SHELL", " ".join(old.shell), " ".join(new.shell))
    yield from _differs("ONBUILD", "; ".join(old.on_build), "; ".join(new.on_build))


def _differs(what: str, was: str, now: str) -> Iterator[SettingChange]:
    if was != now:
        yield SettingChange(what, was, now)


def _label(name: str, what: str, was: ImageFacts, now: ImageFacts) -> SettingChange | None:
    return next(_differs(what, was.annotation_or_label(name), now.annotation_or_label(name)), None)
