"""Which images are not judged by their base: `[outdated] ignore`, of a user and of a server. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from fnmatch import fnmatchcase

from boltseal.oci.reference import Reference


def is_ignored(globs: Iterable[str], image: Reference) -> bool:
    """Return whether a glob matches an image by its repository or whole name, with or without its tag; `*` matches `/`."""
    tag = f":{image.tag}" if image.tag is not None else ""
    names = (image.repository, f"{image.repository}{tag}", image.name, f"{image.name}{tag}")
    return any(fnmatchcase(name, glob) for glob in globs for name in names)
