"""The link by which a known forge shows the commits between two revisions of a source. Pure.

Source and revision are labels, which the image's publisher chose. A link is made only for the forges below, by a path of
plain characters and two hexadecimal revisions; anything else has no link.
"""

from __future__ import annotations

import re
from typing import Final

_FORGES: Final = {
    "github.com": "https://github.com/{path}/compare/{old}...{new}",
    "gitlab.com": "https://gitlab.com/{path}/-/compare/{old}...{new}",
    "codeberg.org": "https://codeberg.org/{path}/compare/{old}...{new}",
    "gitea.com": "https://gitea.com/{path}/compare/{old}...{new}",
    "bitbucket.org": "https://bitbucket.org/{path}/branches/compare/{new}..{old}",
}
FORGES: Final = tuple(_FORGES)
_source = re.compile(
    r"(?:https://|git@|ssh://git@)(?P<host>[a-z.]{1,40})[/:](?P<path>[A-Za-z0-9_.-]{1,100}(?:/[A-Za-z0-9_.-]{1,100}){1,9})",
    re.ASCII,
).fullmatch
_revision = re.compile(r"[0-9a-f]{7,64}", re.ASCII).fullmatch


def compare_link(source: str, old: str, new: str) -> str | None:
    """Return the link to the commits between two revisions; None if the source or a revision is not of a known form."""
    found = _source(source.removesuffix("/").removesuffix(".git"))
    if found is None or found["host"] not in _FORGES or not _revision(old) or not _revision(new):
        return None
    if any(part in (".", "..") for part in found["path"].split("/")):
        return None
    return _FORGES[found["host"]].format(path=found["path"], old=old, new=new)
