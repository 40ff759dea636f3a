"""When a signature tool's tag may move: only to a manifest that still contains all of what it means now.

cosign rewrites its `.sig` and `.att` tags with one more layer each time; a referrers fallback tag is an index that
gains an entry. So an append-only tag grows and never forgets.
"""

from __future__ import annotations

from boltseal.oci.manifest import Manifest


def extends(old: Manifest, new: Manifest) -> bool:
    """Whether `new` contains every layer (image) or entry (index) of `old`, and is of the same form."""
    if old.is_index != new.is_index:
        return False
    if old.is_index:
        return {item.digest for item in old.manifests} <= {item.digest for item in new.manifests}
    return {item.digest for item in old.layers} <= {item.digest for item in new.layers}
