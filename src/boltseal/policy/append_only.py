"""When an append-only tag may move: only to a manifest that still contains all of what it means now.

cosign rewrites its `.sig` and `.att` tags with one more layer each time; a referrers fallback tag is an index that
gains an entry. So an append-only tag grows and never forgets. What must stay is the whole descriptor, not only its
digest: the signature itself stands in an annotation of its layer, and the layer's bytes say no more than what was
signed.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from boltseal.oci.descriptor import Descriptor
from boltseal.oci.digest import Digest
from boltseal.oci.manifest import Manifest


def extends(old: Manifest, new: Manifest) -> bool:
    """Whether `new` contains every layer (image) or entry (index) of `old`, unchanged, and is of the same form.

    Order and repetition don't matter, and neither do the config and the manifest's own annotations, which the tools
    write anew each time.
    """
    if old.is_index != new.is_index:
        return False
    return _contains(new.manifests, old.manifests) if old.is_index else _contains(new.layers, old.layers)


def _contains(held: Sequence[Descriptor], wanted: Sequence[Descriptor]) -> bool:
    by_digest: defaultdict[Digest, list[Descriptor]] = defaultdict(list)
    for descriptor in held:
        by_digest[descriptor.digest].append(descriptor)
    return all(descriptor in by_digest.get(descriptor.digest, ()) for descriptor in wanted)
