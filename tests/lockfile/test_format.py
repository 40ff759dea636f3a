"""The text of a lock: one form, which is read back unchanged."""

from __future__ import annotations

import tomllib

from hypothesis import given

from boltseal.lockfile.document import Lock, LockedImage, LockedPlatform, Rendered, Use, WrittenPin, sorted_lock
from boltseal.lockfile.format import format_lock
from boltseal.lockfile.parse import parse_lock
from boltseal.oci.reference import Reference
from tests.lockfile.locks import INDEX, KEY, NOW_US, digest, lock_of, locked, locks


@given(locks)
def test_a_written_lock_is_read_back(lock: Lock) -> None:
    """Every lock that is written and read again is equal."""
    assert parse_lock(format_lock(lock).encode()) == lock


@given(locks)
def test_writing_a_lock_that_was_read_changes_no_byte(lock: Lock) -> None:
    """Writing a lock that was read changes no byte."""
    text = format_lock(lock)

    assert format_lock(parse_lock(text.encode())) == text


@given(locks)
def test_every_lock_is_toml(lock: Lock) -> None:
    """Every lock is valid TOML, which any tool can read, with the lowest version that has its content."""
    assert tomllib.loads(format_lock(lock))["version"] == lock.version


def test_the_text_of_a_lock() -> None:
    """A lock is sorted, has one item per line, and nothing that depends on when or where it was written."""
    image = LockedImage(
        Reference.parse("node:16.13"),
        digest(1),
        NOW_US,
        INDEX,
        (LockedPlatform("linux/arm64", digest(3), digest(5)), LockedPlatform("linux/amd64", digest(2))),
        ("node:16.13", "docker.io/library/node:16.13"),
        (Use("b/Dockerfile", "FROM"), Use("a/compose.yaml", "services.web.image")),
        17,
    )
    app = locked("registry.example.com/shop/app:dev", None)
    text = format_lock(sorted_lock([app, image], {"registry.example.com": KEY, "unused.example.com": KEY}))

    assert text.partition("version")[2] == (
        f""" = 1

[keys]
"registry.example.com" = "{KEY}"

[[image]]
reference = "docker.io/library/node:16.13"
digest = "{digest(1)}"
media_type = "{INDEX}"
first_seen = 2026-11-24T18:00:00Z
entry = 17
written = [
  "docker.io/library/node:16.13",
  "node:16.13",
]
used = [
  {{ file = "a/compose.yaml", at = "services.web.image" }},
  {{ file = "b/Dockerfile", at = "FROM" }},
]
platforms = [
  {{ platform = "linux/amd64", manifest = "{digest(2)}" }},
  {{ platform = "linux/arm64", manifest = "{digest(3)}", image = "{digest(5)}" }},
]

[[image]]
reference = "registry.example.com/shop/app:dev"
local_build = true
first_seen = 2026-11-24T18:00:00Z
"""
    )


def test_a_file_name_that_is_not_utf8_is_escaped() -> None:
    """A file name that is not UTF-8 is escaped in the lock."""
    image = locked("app:1", 1)
    odd = LockedImage(image.reference, image.digest, NOW_US, used=(Use("a\udcff.yaml", "x"),))

    assert parse_lock(format_lock(Lock((odd,))).encode()).images[0].used == (Use("a\\udcff.yaml", "x"),)


def test_platforms_that_were_not_read_are_marked() -> None:
    """Platforms that were not read, since Docker Hub counts that as pulls, are marked as missing."""
    names = ("nginx:1.25", "registry.example.com/shop/app:1", "docker.io/team/own:dev", "redis:7")
    images = [
        locked(names[0]),
        locked(names[1]),
        locked(names[2], None),
        locked(names[3], 1, ("linux/amd64", 2)),
    ]
    text = format_lock(sorted_lock(images, {}))

    assert text.count("# platforms: not read") == 1
    assert "# platforms: not read" in text.split("[[image]]")[1]
    assert 'reference = "docker.io/library/nginx:1.25"' in text.split("[[image]]")[1]
    assert parse_lock(text.encode()) == sorted_lock(images, {})


def test_the_text_of_pins() -> None:
    """The digests that `boltseal pin` wrote are a sorted list, one a line, and need version 2."""
    pins = [
        WrittenPin("k8s.yaml", "spec.containers[0].image", 2, digest(2), digest(9)),
        WrittenPin("compose.yaml", "services.web.image", 1, digest(1)),
    ]
    text = format_lock(sorted_lock([], {}, pins))

    assert text.partition("version")[2] == (
        f""" = 2

pins = [
  {{ file = "compose.yaml", at = "services.web.image", digest = "{digest(1)}" }},
  {{ file = "k8s.yaml", at = "spec.containers[0].image", number = 2, digest = "{digest(2)}", replaced = "{digest(9)}" }},
]
"""
    )


def test_the_text_of_what_is_rendered() -> None:
    """What is rendered is a sorted list, one a line, and needs version 3."""
    lock = sorted_lock([], {}, (), [Rendered("kustomize", "prod"), Rendered("compose", ".")])
    text = format_lock(lock)

    assert text.partition("version")[2] == (
        """ = 3

rendered = [
  { tool = "compose", path = "." },
  { tool = "kustomize", path = "prod" },
]
"""
    )
    assert parse_lock(text.encode()) == lock


def test_the_position_in_an_output_names_its_command() -> None:
    """An occurrence belongs to what was rendered if its position begins with that command."""
    prod = Rendered("kustomize", "prod")

    assert prod.has(Use("web.yaml", "kubectl kustomize prod: Deployment web"))
    assert not prod.has(Use("web.yaml", "kubectl kustomize prod2: Deployment web"))


def test_a_lock_without_newer_content_keeps_version_1() -> None:
    """A lock that needs nothing newer has version 1, so that an older boltseal reads it and no byte changes."""
    own = locked(f"app:1@{digest(2)}", 2)

    assert [lock_of(*images).version for images in ((), (locked("app:1"),), (locked("app:1"), own))] == [1, 1, 2]
