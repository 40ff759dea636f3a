"""Keys of annotations and labels that state the origin of an image (image-spec "annotations.md").

They are claims without proof: the publisher of the image wrote them.
"""

from __future__ import annotations

from typing import Final

CREATED: Final = "org.opencontainers.image.created"
"""Time of the build, as in RFC 3339."""
REVISION: Final = "org.opencontainers.image.revision"
SOURCE: Final = "org.opencontainers.image.source"
VERSION: Final = "org.opencontainers.image.version"
BASE_NAME: Final = "org.opencontainers.image.base.name"
"""Reference of the base image, with the registry."""
BASE_DIGEST: Final = "org.opencontainers.image.base.digest"
"""Digest of the base image's manifest or index."""
REF_NAME: Final = "org.opencontainers.image.ref.name"
"""Name of an entry in `index.json`; in an archive of Docker only the tag."""
CONTAINERD_NAME: Final = "io.containerd.image.name"
"""Full reference of an entry in an archive that containerd or Docker wrote."""
