"""Recognize upstream tags that look like a release, for which a move is an alarm. Pure.

An upstream does not say which of its tags are immutable. By the custom of publishers:

- a release has three or more numeric parts (`1.4.2`, `v2.0.0-alpine`), or a date, a hash or a build number in it;
- `3`, `1.25`, `1.25-alpine` and words move on to the next release.
"""

from __future__ import annotations

import re

from boltseal.oci.reference import Tag

_is_three_parts = re.compile(r"(?:^|[^0-9a-z])v?[0-9]+(?:\.[0-9]+){2,}", re.IGNORECASE).search
_is_date = re.compile(
    r"(?:^|[^0-9])(?:19|20)[0-9]{2}[-.]?(?:0[1-9]|1[0-2])[-.]?(?:0[1-9]|[12][0-9]|3[01])(?![0-9])"
).search
_is_hash = re.compile(
    r"(?:^|[^0-9a-z])(?:g|sha-?)?(?=[0-9a-f]*[0-9])(?=[0-9a-f]*[a-f])[0-9a-f]{7,64}(?![0-9a-z])"
).search
_is_build = re.compile(r"(?:^|[^0-9a-z])(?:b|r|build|run|ci)[-.]?[0-9]+(?![0-9a-z])|^[0-9]{5,}$", re.IGNORECASE).search


def has_date(tag: Tag) -> bool:
    """Return whether a tag has a date in it, such as `bookworm-20240513`."""
    return _is_date(tag) is not None


def looks_like_release(tag: Tag) -> bool:
    """Return whether a tag names a release by custom, so that its publisher should never move it."""
    return any(looks(tag) for looks in (_is_three_parts, _is_date, _is_hash, _is_build))
