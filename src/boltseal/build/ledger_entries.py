"""The `built` ledger entry: what is recorded about a build, and how an equal build is found. Pure.

base.name, base.digest   the base image of the last stage: its tag, and the digest that the tag resolved to; `scratch` for none
inputs                   the hash of everything that the build read (`input_hash`)
bases                    every image reference of the Dockerfile, as JSON: {"node:16.13": "sha256:...", ...}
builder, platform        the program that built the image, and the platform that it was built for
revision.of              the sealed tag that this is a rebuild of, if any
base.was                 what the base's tag, or its former revision, resolved to for the build before it, if that was another
                         digest; of a rebased image, its former base
rebased.from             the image whose base was replaced; then there are no `inputs`
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
    rebuilt: Mapping[str, str] | None = None,
) -> dict[str, str]:
    """Return the `extra` of a `built` entry. `bases`: digests by image reference as written. `rebuilt`: keys of a revision.

    More than `MAX_BASES_BYTES` of `bases` are left out; the hash of the inputs still covers them.
    """
    found = {"inputs": inputs, "builder": builder, BUILT_NAME: SCRATCH}
    if base is not None:
        reference, digest = base
        found |= {BUILT_NAME: str(reference.by_tag), BUILT_DIGEST: str(digest)}
    listed = json.dumps({written: str(digest) for written, digest in sorted(bases.items())}, separators=(",", ":"))
    if len(listed) <= MAX_BASES_BYTES:
        found["bases"] = listed
    if platform is not None:
        found["platform"] = platform
    return found | dict(rebuilt or {})


def rebased_extra(base: Reference, digest: Digest, former_base: Digest, image: Digest) -> dict[str, str]:
    """Return the `extra` of the `built` entry of a rebased image. `base`, `digest`: its base now; `image`: it was before."""
    return {
        BUILT_NAME: str(base.by_tag),
        BUILT_DIGEST: str(digest),
        "base.was": str(former_base),
        "rebased.from": str(image),
        "builder": "boltseal rebase",
    }


def same_build(entries: Iterable[Entry], inputs: str) -> Entry | None:
    """Return the newest `built` entry with this hash of inputs; None without one. `entries`: the oldest first."""
    found = [entry for entry in entries if entry.kind is EntryKind.BUILT and entry.extra.get("inputs") == inputs]
    return found[-1] if found else None
