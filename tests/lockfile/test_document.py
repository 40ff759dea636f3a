"""The images of a lock, and the names under which they are found."""

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
    """A lock's name has the reference's tag, `latest` if it has nothing, or else its digest."""
    assert str(lock_key(Reference.parse(typed))) == key


def test_an_image_is_found_whatever_digest_a_file_has_beside_its_tag() -> None:
    """An image is found by its tag, whatever digest a file has beside it; the digests are then compared."""
    lock = lock_of(locked("nginx:1.25", 1), locked("nginx:1.26", 2))

    assert lock.find(Reference.parse(f"nginx:1.26@{digest(9)}")) == locked("nginx:1.26", 2)
    assert lock.find(Reference.parse("nginx:1.27")) is None


def test_the_digests_of_an_image_are_those_that_a_host_may_show() -> None:
    """An image's digests are those of index, manifests and configs, because engines report any of them."""
    image = locked("app:1", 1, ("linux/amd64", 2))

    assert image.digests == {digest(1), digest(2), digest(102)}
    assert not image.local_build


def test_a_local_build_has_no_digest() -> None:
    """A local build in a lock has no digest, because it can't be pulled."""
    image = locked("app:1", None)

    assert image.local_build
    assert image.digests == frozenset()


def test_an_image_is_named_by_tag_or_by_digest() -> None:
    """A locked image whose name has neither tag nor digest is invalid."""
    with pytest.raises(LockInvalid, match="can't be locked"):
        locked("app", 1)


def test_a_pin_that_differs_from_its_tags_entry_has_an_entry_of_its_own() -> None:
    """An entry with tag and digest is found for exactly this pin; every other pin of the tag is compared with the tag's."""
    own = locked(f"nginx:1.25@{digest(2)}", 2)
    lock = lock_of(locked("nginx:1.25", 1), own)
    known = lock.by_reference()

    for pin, entry in ((2, own), (1, locked("nginx:1.25", 1)), (9, locked("nginx:1.25", 1))):
        reference = Reference.parse(f"nginx:1.25@{digest(pin)}")
        assert lock.find(reference) == entry
        assert known[key_in(reference, known)] == entry
    assert lock.find(Reference.parse("nginx:1.25")) == locked("nginx:1.25", 1)


def test_a_digest_is_locked_to_itself() -> None:
    """A lock that maps a digest to another one is invalid."""
    with pytest.raises(LockInvalid, match="locked to another"):
        locked(f"app@{digest(1)}", 2)


def test_times_are_whole_seconds() -> None:
    """A lock's times are whole seconds, so that the written time is exact."""
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
def test_a_digest_without_a_tag_is_found_under_latest(typed: str, same: bool, key: str) -> None:
    """A digest without a tag is found under `latest`, unless the lock has the digest itself as a name."""
    alone = LockedImage(Reference.parse(f"redis@{digest(3)}"), digest(3), NOW_US)
    known = lock_of(locked("redis:latest", 1), alone).by_reference()

    assert str(key_in(Reference.parse(typed), known, same=same)) == key


def test_image_ids_are_listed_if_every_platform_has_one() -> None:
    """Image IDs are listed only if every platform has one, since an unknown one could be the host's."""
    whole = locked("app:1", 1, ("linux/amd64", 2), ("linux/arm64", 3))
    partly = replace(whole, platforms=(whole.platforms[0], LockedPlatform("linux/arm64", digest(3), None)))

    assert whole.image_ids == (digest(102), digest(103))
    assert (partly.image_ids, locked("app:1").image_ids) == ((), ())
