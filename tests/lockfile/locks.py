"""Locks for tests: small ones written by hand, and any by hypothesis."""

from __future__ import annotations

from hypothesis import strategies as st

from boltseal.lockfile.document import SECOND_US, Lock, LockedImage, LockedPlatform, Use, WrittenPin, sorted_lock
from boltseal.oci.digest import Digest
from boltseal.oci.reference import Reference

NOW_US = 1_795_543_200 * SECOND_US
"""2026-11-24T18:00:00Z."""
DAY_US = 86_400 * SECOND_US
INDEX = "application/vnd.oci.image.index.v1+json"
KEY = "registry.example.com+1a2b3c4d+AQIDBA=="


def digest(number: int) -> Digest:
    return Digest("sha256", f"{number:064x}")


def locked(name: str, number: int | None = 1, *platforms: tuple[str, int], seen_us: int = NOW_US) -> LockedImage:
    """Return an image locked to `digest(number)`; each platform has the manifest `number` and an image ID a hundred
    higher."""
    return LockedImage(
        Reference.parse(name),
        None if number is None else digest(number),
        seen_us,
        "" if number is None else INDEX,
        tuple(LockedPlatform(platform, digest(each), digest(each + 100)) for platform, each in platforms),
    )


texts = st.text(st.characters(codec="utf-8"), max_size=20)
digests = st.integers(0, 2**64).map(digest) | st.integers(0, 2**64).map(lambda n: Digest("sha512", f"{n:0128x}"))
references = st.one_of(
    st.builds(
        lambda name, tag: Reference.parse(f"{name}:{tag}"),
        st.sampled_from(["app", "docker.io/team/app", "localhost:5000/shop/app", "registry.example.com/a/b/c"]),
        st.from_regex(r"[a-zA-Z0-9_][a-zA-Z0-9._-]{0,5}", fullmatch=True),
    ),
    st.builds(lambda each: Reference.parse(f"ghcr.io/team/tool@{each}"), digests),
    st.builds(lambda each: Reference.parse(f"ghcr.io/team/tool:1.2@{each}"), digests),
)
pins = st.builds(WrittenPin, texts, texts, st.integers(1, 9), digests, st.none() | digests)
images = st.builds(
    lambda reference, found, seen, *more: LockedImage(reference, reference.digest or found, seen * SECOND_US, *more),
    references,
    st.none() | digests,
    st.integers(100_000, 4_000_000_000),
    texts,
    st.lists(st.builds(LockedPlatform, texts, digests, st.none() | digests), max_size=3).map(tuple),
    st.lists(texts, max_size=3).map(tuple),
    st.lists(st.builds(Use, texts, texts), max_size=3).map(tuple),
    st.none() | st.integers(0, 2**63 - 1),
)
locks = st.builds(
    sorted_lock,
    st.lists(images, max_size=4, unique_by=lambda image: image.reference),
    st.just({}) | st.just({"registry.example.com": KEY, "ghcr.io": KEY}),
    st.lists(pins, max_size=3, unique_by=lambda pin: pin.place),
)


def lock_of(*found: LockedImage) -> Lock:
    return sorted_lock(found, {})
