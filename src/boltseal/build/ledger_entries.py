"""The `built` entry of an image: what is written down when it was built, and how the same build is found again. Pure.

base.name, base.digest   the image under the last stage, by the tag's name and what that meant; `scratch` for none
inputs                   the hash of everything that the build read (`inputs`)
bases                    every image that the Dockerfile names, as JSON: {"node:16.13": "sha256:...", ...}
builder, platform        what built it, for what
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Final

from boltseal.ledger.entry import Entry, EntryKind
from boltseal.oci.digest import Digest
from boltseal.oci.reference import Reference
from boltseal.project.bases.base_claims import BUILT_DIGEST, BUILT_NAME, SCRATCH

MAX_BASES_BYTES: Final = 6000


def built_extra(
    base: tuple[Reference, Digest] | None,
    inputs: str,
    bases: Mapping[str, Digest],
    builder: str,
    platform: str | None,
) -> dict[str, str]:
    """What an entry says. `bases`: by the text as written; too many of them are left out, and the hash still covers them."""
    found = {"inputs": inputs, "builder": builder, BUILT_NAME: SCRATCH}
    if base is not None:
        reference, digest = base
        found |= {BUILT_NAME: str(reference.by_tag), BUILT_DIGEST: str(digest)}
    listed = json.dumps({written: str(digest) for written, digest in sorted(bases.items())}, separators=(",", ":"))
    if len(listed) <= MAX_BASES_BYTES:
        found["bases"] = listed
    if platform is not None:
        found["platform"] = platform
    return found


def same_build(entries: Iterable[Entry], inputs: str) -> Entry | None:
    """The newest entry of an image that was built of the same inputs, the oldest first; None where there is none."""
    found = [entry for entry in entries if entry.kind is EntryKind.BUILT and entry.extra.get("inputs") == inputs]
    return found[-1] if found else None
