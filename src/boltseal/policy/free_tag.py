"""Suggest a free tag in a refusal: the last number of the version plus one. Pure.

A tag without an obvious next version (a name, a date, a hash) gets no suggestion.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from boltseal.oci.reference import MAX_TAG_BYTES

_VERSION = re.compile(r"((?:[A-Za-z]+[-_.])*[A-Za-z]*)((?:[0-9]+\.)*)([0-9]+)([-_.].*)?", re.ASCII | re.DOTALL)
_DATE = re.compile(r"(?<![0-9])[0-9]{4}-[0-9]{2}(?![0-9])", re.ASCII)


def next_free(tag: str, taken: Callable[[str], bool]) -> str | None:
    """Return the next version after `tag`; None when there is no obvious one or it is not free.

    `taken(name)` is true for tags that exist and for tombstones. The last numeric part before the suffix is increased:
    1.4.2 becomes 1.4.3, v1.4.2-alpine3.20 becomes v1.4.3-alpine3.20, build-007 becomes build-008.
    """
    match = _VERSION.fullmatch(tag)
    if match is None or _DATE.search(tag):
        return None
    prefix, leading, last, suffix = match.groups(default="")
    candidate = f"{prefix}{leading}{str(int(last) + 1).zfill(len(last))}{suffix}"
    if len(candidate) > MAX_TAG_BYTES or taken(candidate):
        return None
    return candidate
