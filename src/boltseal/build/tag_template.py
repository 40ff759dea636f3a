"""Make unique tags for builds, one function for each scheme. Pure; the caller passes time and numbers.

    describe   1.4.2-3-gab12cd34ef56 (git describe), with -dirty-<hash> if there are uncommitted changes
    date       20261124-180000, in UTC
    build      build-123, from the number of the pipeline run; build-ci-123 where each workflow is counted by itself
    content    id-<hash>, from the image's digest
    input      in-<hash>, from the hash of the build's inputs
    revision   1.4.2.1, the next rebuild of a sealed 1.4.2 (`policy.tag_revisions`)

A tag has at most 128 characters of [A-Za-z0-9_.-] and does not begin with `.` or `-`. The `+` of a version becomes `_`, as
in Helm; any other invalid character becomes `-`.
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
"""80 bits, so that two builds of a repository do not collide by chance."""
_DIRTY_HEX: Final = 12
_is_bare_hash = re.compile(r"[0-9a-f]{7,64}").fullmatch


class Scheme(StrEnum):
    """The source of a new tag."""

    DESCRIBE = "describe"
    DATE = "date"
    BUILD = "build"
    CONTENT = "content"
    INPUT = "input"
    REVISION = "revision"


class NoTag(Invalid):
    """No valid tag can be made from a text."""


def as_tag(text: str) -> Tag:
    """Convert a text to a valid tag. A tag that would be too long is cut and ends in a hash of the text. Raises: NoTag."""
    mapped = re.sub(r"[^A-Za-z0-9_.-]", "-", text.replace("+", "_"), flags=re.ASCII).lstrip(".-")
    if not mapped:
        raise NoTag(f"no tag can be made of {quote(text)}; expected letters or digits in it")
    if len(mapped) > MAX_TAG_BYTES:
        ending = f"-{sha256(text.encode('utf-8', 'surrogateescape')).hexdigest()[:SHORT_HEX]}"
        mapped = mapped[: MAX_TAG_BYTES - len(ending)] + ending
    return Tag(mapped)


def describe_tag(described: str, dirt: str | None) -> Tag:
    """Return the tag for the output of `git describe`, and a hash of uncommitted changes (None without any)."""
    named = f"g{described}" if _is_bare_hash(described) else described
    return as_tag(named if dirt is None else f"{named}-dirty-{dirt[:_DIRTY_HEX]}")


def date_tag(now_us: int) -> Tag:
    """Return the tag for a time (microseconds since the epoch), in seconds."""
    return Tag(f"{datetime.fromtimestamp(now_us // SECOND_US, UTC):%Y%m%d-%H%M%S}")


def build_tag(number: str) -> Tag:
    """Return the tag for the number of a pipeline run."""
    return as_tag(f"build-{number}")


def content_tag(digest: Digest) -> Tag:
    """Return the tag for an image's digest. It differs from `sha256-<hex>`, which signature tools use for other content."""
    return Tag(f"id-{digest.hex[:SHORT_HEX]}")


def input_tag(hex_: str) -> Tag:
    """Return the tag for the hash of a build's inputs (`input_hash`, in hex)."""
    return Tag(f"in-{hex_[:SHORT_HEX]}")
