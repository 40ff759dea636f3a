"""Tags that no other build takes: how each scheme's words become a valid tag. Pure; time and numbers are passed in.

    describe   1.4.2-3-gab12cd34ef56 (git describe), with -dirty-<hash> where the files are not those of the commit
    date       20261124-180000, in UTC
    build      build-123, by the number that the pipeline gave
    content    id-<hash>, by the image's own digest
    input      in-<hash>, by everything that the build reads

A tag has at most 128 characters of [A-Za-z0-9_.-] and begins with none of `.` and `-`. The `+` of a version becomes
`_`, as Helm writes it; any other character that can't be becomes `-`.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from enum import StrEnum
from hashlib import sha256
from typing import Final

from boltseal.errors import Invalid, quote
from boltseal.lockfile.document import SECOND_US
from boltseal.oci.digest import Digest
from boltseal.oci.reference import MAX_TAG_BYTES, Tag

SHORT_HEX: Final = 20
"""80 bits: enough that no two builds of a repository ever meet by chance."""
_DIRTY_HEX: Final = 12
_is_bare_hash = re.compile(r"[0-9a-f]{7,64}").fullmatch


class Scheme(StrEnum):
    """What a new tag is made of."""

    DESCRIBE = "describe"
    DATE = "date"
    BUILD = "build"
    CONTENT = "content"
    INPUT = "input"


class NoTag(Invalid):
    """There is nothing that a tag could be made of."""


def as_tag(text: str) -> Tag:
    """The valid tag nearest to a text; one that is too long ends in a hash of all of it. NoTag where nothing is left."""
    mapped = re.sub(r"[^A-Za-z0-9_.-]", "-", text.replace("+", "_"), flags=re.ASCII).lstrip(".-")
    if not mapped:
        raise NoTag(f"no tag can be made of {quote(text)}; expected letters or digits in it")
    if len(mapped) > MAX_TAG_BYTES:
        ending = f"-{sha256(text.encode('utf-8', 'surrogateescape')).hexdigest()[:SHORT_HEX]}"
        mapped = mapped[: MAX_TAG_BYTES - len(ending)] + ending
    return Tag(mapped)


def describe_tag(described: str, dirt: str | None) -> Tag:
    """Of what `git describe` says, and a hash of the files that are not those of the commit."""
    named = f"g{described}" if _is_bare_hash(described) else described
    return as_tag(named if dirt is None else f"{named}-dirty-{dirt[:_DIRTY_HEX]}")


def date_tag(now_us: int) -> Tag:
    """Of a time, to the second."""
    return Tag(f"{datetime.fromtimestamp(now_us // SECOND_US, UTC):%Y%m%d-%H%M%S}")


def build_tag(number: str) -> Tag:
    """Of a pipeline's number."""
    return as_tag(f"build-{number}")


def content_tag(digest: Digest) -> Tag:
    """Of an image's digest. Not the `sha256-<hex>` of the signature tools, which means something else."""
    return Tag(f"id-{digest.hex[:SHORT_HEX]}")


def input_tag(hex_: str) -> Tag:
    """Of the hash of a build's inputs."""
    return Tag(f"in-{hex_[:SHORT_HEX]}")
