"""Keys of annotations and labels by which images say where they came from (image-spec "annotations.md").

They are said, not shown: whoever made the image wrote them.
"""

from __future__ import annotations

from typing import Final

CREATED: Final = "org.opencontainers.image.created"
"""A time of RFC 3339."""
REVISION: Final = "org.opencontainers.image.revision"
SOURCE: Final = "org.opencontainers.image.source"
VERSION: Final = "org.opencontainers.image.version"
BASE_NAME: Final = "org.opencontainers.image.base.name"
"""The base as the Dockerfile names it, with the registry."""
BASE_DIGEST: Final = "org.opencontainers.image.base.digest"
"""Of the base's manifest or index."""
REF_NAME: Final = "org.opencontainers.image.ref.name"
"""What an entry of an `index.json` is called; in an archive of Docker the tag alone."""
CONTAINERD_NAME: Final = "io.containerd.image.name"
"""The whole name of an entry in an archive that containerd or Docker made."""
