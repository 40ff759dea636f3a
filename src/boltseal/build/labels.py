"""Labels that record the origin of an image (image-spec "annotations.md"), and flags of `docker build` for them. Pure."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Final

from boltseal.build.git_state import GitState
from boltseal.lockfile.document import SECOND_US
from boltseal.oci.annotations import BASE_DIGEST, BASE_NAME, CREATED, REVISION, SOURCE, VERSION
from boltseal.oci.digest import Digest
from boltseal.oci.reference import Reference

REBASED_FROM: Final = "boltseal.rebased-from"
"""A label: the digest of the image whose base `boltseal rebase` replaced."""


def labels_of(
    git: GitState | None, version: str, created_us: int, base: tuple[Reference, Digest] | None
) -> dict[str, str]:
    """Return the known labels, by full name. `-dirty` follows the revision when there are uncommitted changes."""
    found = {CREATED: f"{datetime.fromtimestamp(created_us // SECOND_US, UTC):%Y-%m-%dT%H:%M:%SZ}"}
    if git is not None:
        found[REVISION] = git.revision if git.dirt is None else f"{git.revision}-dirty"
        found[SOURCE] = git.source
    found[VERSION] = version
    if base is not None:
        reference, digest = base
        found[BASE_NAME] = str(Reference(reference.registry, reference.repository, reference.tag))
        found[BASE_DIGEST] = str(digest)
    return {name: value for name, value in sorted(found.items()) if value}


def as_flags(labels: Mapping[str, str], *, annotations: bool) -> Iterator[str]:
    """Yield a `--label` flag for each label, quoted for a shell. `annotations`: also yield buildx's `--annotation` flags."""
    for name, value in labels.items():
        pair = shlex.quote(f"{name}={value}")
        yield f"--label {pair}"
        if annotations:
            yield f"--annotation {pair}"
