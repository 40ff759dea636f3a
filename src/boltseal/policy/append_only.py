"""Decide whether an append-only tag may move: only to a manifest that contains all content of the present one. Pure.

cosign rewrites its `.sig` and `.att` tags with one more layer each time; a referrers fallback tag is an index that gains an
entry. So an append-only tag may gain content, and never lose any. The whole descriptor must stay, not only its digest: the
signature is in an annotation of its layer, and the layer's bytes contain only the signed payload.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from boltseal.oci.descriptor import Descriptor
from boltseal.oci.digest import Digest
from boltseal.oci.manifest import Manifest


def extends(old: Manifest, new: Manifest) -> bool:
    """Return whether `new` contains every layer (image) or entry (index) of `old`, unchanged, and is of the same form.

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
