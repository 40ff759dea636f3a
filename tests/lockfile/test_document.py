"""What a lock's image is, and under which name it stands."""

from __future__ import annotations

from dataclasses import replace

import pytest

from boltseal.lockfile.document import LockedImage, LockedPlatform, LockInvalid, key_in, lock_key
from boltseal.oci.reference import Reference
from tests.lockfile.locks import NOW_US, digest, lock_of, locked


@pytest.mark.parametrize(
    ("typed", "key"),
    [
        ("nginx:1.25", "docker.io/library/nginx:1.25"),
        (f"nginx:1.25@{digest(1)}", "docker.io/library/nginx:1.25"),
        ("nginx", "docker.io/library/nginx:latest"),
        (f"nginx@{digest(1)}", f"docker.io/library/nginx@{digest(1)}"),
    ],
)
def test_the_name_of_a_reference_in_a_lock(typed: str, key: str) -> None:
    """By its tag where it has one, `latest` where it has nothing, else by digest."""
    assert str(lock_key(Reference.parse(typed))) == key


def test_an_image_is_found_whatever_digest_a_file_has_beside_its_tag() -> None:
    """The lock records what the tag resolves to; the file's digest is compared with it."""
    lock = lock_of(locked("nginx:1.25", 1), locked("nginx:1.26", 2))

    assert lock.find(Reference.parse(f"nginx:1.26@{digest(9)}")) == locked("nginx:1.26", 2)
    assert lock.find(Reference.parse("nginx:1.27")) is None


def test_the_digests_of_an_image_are_those_that_a_host_may_show() -> None:
    """Engines report index, manifest or config, each by its own custom."""
    image = locked("app:1", 1, ("linux/amd64", 2))

    assert image.digests == {digest(1), digest(2), digest(102)}
    assert not image.local_build


def test_a_local_build_has_no_digest() -> None:
    """A local build cannot be pulled."""
    image = locked("app:1", None)

    assert image.local_build
    assert image.digests == frozenset()


def test_an_image_is_named_by_tag_or_by_digest() -> None:
    """With both there would be two statements, with neither none."""
    for name in ("app", f"app:1@{digest(1)}"):
        with pytest.raises(LockInvalid, match="can't be locked"):
            locked(name, 1)


def test_a_digest_is_locked_to_itself() -> None:
    """A lock that maps a digest to another one is invalid."""
    with pytest.raises(LockInvalid, match="locked to another"):
        locked(f"app@{digest(1)}", 2)


def test_times_are_whole_seconds() -> None:
    """The written time is the exact time of the lock."""
    with pytest.raises(LockInvalid, match="whole seconds"):
        LockedImage(Reference.parse("app:1"), digest(1), NOW_US + 1)


@pytest.mark.parametrize(
    ("typed", "same", "key"),
    [
        ("nginx:1.25", False, "docker.io/library/nginx:1.25"),
        (f"redis@{digest(1)}", False, "docker.io/library/redis:latest"),
        (f"redis@{digest(1)}", True, "docker.io/library/redis:latest"),
        (f"redis@{digest(2)}", False, "docker.io/library/redis:latest"),
        (f"redis@{digest(2)}", True, f"docker.io/library/redis@{digest(2)}"),
        (f"redis@{digest(3)}", False, f"docker.io/library/redis@{digest(3)}"),
        (f"other@{digest(1)}", False, f"docker.io/library/other@{digest(1)}"),
    ],
)
def test_a_digest_that_stands_alone_goes_by_latest_where_the_lock_has_that(typed: str, same: bool, key: str) -> None:
    """It is what is left of a name without a tag that was pinned; what the lock has by the digest itself stays that."""
    alone = LockedImage(Reference.parse(f"redis@{digest(3)}"), digest(3), NOW_US)
    known = lock_of(locked("redis:latest", 1), alone).by_reference()

    assert str(key_in(Reference.parse(typed), known, same=same)) == key


def test_image_ids_are_listed_if_every_platform_has_one() -> None:
    """If one ID is unknown, a host's image may be that one, so the other IDs prove no difference."""
    whole = locked("app:1", 1, ("linux/amd64", 2), ("linux/arm64", 3))
    partly = replace(whole, platforms=(whole.platforms[0], LockedPlatform("linux/arm64", digest(3), None)))

    assert whole.image_ids == (digest(102), digest(103))
    assert (partly.image_ids, locked("app:1").image_ids) == ((), ())
