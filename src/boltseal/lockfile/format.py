"""Write a lock as text, in one canonical form that is easy to review in a diff. Pure.

    # comment
    version = 2                                the lowest that the content needs (see `document`)

    pins = [ { file = "Dockerfile", at = "FROM", number = 2, digest = "sha256:...", replaced = "sha256:..." }, ... ]
                                               digests that `boltseal pin` wrote, one a line; sorted by place

    rendered = [ { tool = "kustomize", path = "deploy/prod" }, ... ]
                                               what is rendered to find images; sorted

    [keys]                                     only where a registry has a ledger key
    "registry.example.com" = "registry.example.com+1a2b3c4d+AQ..."

    [[image]]                                  sorted by reference
    reference = "docker.io/library/node:16.13"
    digest = "sha256:..."                      or: local_build = true
    media_type = "..."
    first_seen = 2026-11-24T18:00:00Z
    entry = 17                                 only where the registry has a ledger
    written = [ ... ]                          lists: sorted, one item a line
    used = [ { file = "Dockerfile", at = "FROM" }, ... ]
    platforms = [ { platform = "linux/amd64", manifest = "sha256:...", image = "sha256:..." }, ... ]
                                               a comment instead, if they were not read (Docker Hub)

The text does not depend on when or where it was written: the same lock always has the same bytes.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from typing import Final

from boltseal.lockfile.document import SECOND_US, Lock, LockedImage, LockedPlatform, WrittenPin, sorted_lock
from boltseal.lockfile.merge import MergedLock
from boltseal.oci.reference import HUB, Reference

_HEAD: Final = (
    "# The digests that the image references of this project resolve to. Written by `boltseal lock`, to be committed.\n"
    "# `boltseal verify` compares; `boltseal lock --update` locks what the tags resolve to now.\n"
)


def format_lock(lock: Lock) -> str:
    """Return the text of a lock. `parse_lock` reads it back as the same lock, sorted."""
    return _text_of(lock, {}, {})


def format_merged(merged: MergedLock) -> str:
    """Return the text of a merge; each conflict has both sides between git's marks, so that it is not read as a lock."""
    return _text_of(merged.lock, merged.theirs, merged.their_keys)


def _text_of(lock: Lock, theirs: Mapping[Reference, LockedImage], their_keys: Mapping[str, str]) -> str:
    lock = sorted_lock(lock.images, lock.keys, lock.pins, lock.rendered)
    return _HEAD + "\n".join(_lines(lock, theirs, their_keys)) + "\n"


def _lines(lock: Lock, theirs: Mapping[Reference, LockedImage], their_keys: Mapping[str, str]) -> Iterator[str]:
    yield f"version = {lock.version}"
    if lock.pins:
        yield ""
        yield from _list("pins", map(_pin, lock.pins))
    if lock.rendered:
        yield ""
        yield from _list(
            "rendered", (f"{{ tool = {_text(each.tool)}, path = {_text(each.path)} }}" for each in lock.rendered)
        )
    if lock.keys:
        yield from ("", "[keys]")
        for name, key in lock.keys.items():
            yield from _sides([_key(name, key)], [_key(name, their_keys[name])] if name in their_keys else [])
    for image in lock.images:
        yield ""
        other = theirs.get(image.reference)
        yield from _sides(image_lines(image), [] if other is None else image_lines(other))


def _sides(ours: Iterable[str], theirs: Iterable[str]) -> Iterator[str]:
    """Yield lines, between marks if there are others."""
    others = [*theirs]
    yield from ("<<<<<<< ours", *ours, "=======", *others, ">>>>>>> theirs") if others else ours


def _key(name: str, key: str) -> str:
    return f"{_text(name)} = {_text(key)}"


def image_lines(image: LockedImage) -> Iterator[str]:
    """Yield the lines of one entry, without line ends."""
    yield "[[image]]"
    yield from _image(image)


def _pin(pin: WrittenPin) -> str:
    number = f", number = {pin.number}" if pin.number > 1 else ""
    replaced = "" if pin.replaced is None else f", replaced = {_text(str(pin.replaced))}"
    return f"{{ file = {_text(pin.file)}, at = {_text(pin.at)}{number}, digest = {_text(str(pin.digest))}{replaced} }}"


def _image(image: LockedImage) -> Iterator[str]:
    yield f"reference = {_text(str(image.reference))}"
    yield "local_build = true" if image.digest is None else f"digest = {_text(str(image.digest))}"
    if image.media_type:
        yield f"media_type = {_text(image.media_type)}"
    yield f"first_seen = {time_text(image.first_seen_us)}"
    if image.entry is not None:
        yield f"entry = {image.entry}"
    yield from _list("written", map(_text, image.written))
    yield from _list("used", (f"{{ file = {_text(use.file)}, at = {_text(use.at)} }}" for use in image.used))
    yield from _list("platforms", map(_platform, image.platforms))
    if image.digest is not None and not image.platforms and image.reference.registry == HUB:
        yield "# platforms: not read, since on Docker Hub that counts as pulls; `boltseal lock --count-pulls` does"


def _platform(each: LockedPlatform) -> str:
    image = "" if each.image is None else f", image = {_text(str(each.image))}"
    return f"{{ platform = {_text(each.platform)}, manifest = {_text(str(each.manifest))}{image} }}"


def _list(name: str, items: Iterable[str]) -> Iterator[str]:
    lines = [f"  {item}," for item in items]
    if lines:
        yield from (f"{name} = [", *lines, "]")


def time_text(time_us: int) -> str:
    """Return a time in whole seconds as in the lock and in messages: 2026-11-24T18:00:00Z."""
    return f"{datetime.fromtimestamp(time_us // SECOND_US, UTC):%Y-%m-%dT%H:%M:%S}Z"


def _text(text: str) -> str:
    """Return a TOML basic string: as in JSON, but with DEL escaped, and half surrogate pairs replaced."""
    whole = text.encode("utf-8", "backslashreplace").decode()
    return json.dumps(whole, ensure_ascii=False).replace("\x7f", "\\u007f")
