"""Where things are, as `Location` and `Link` say it.

Rules kept here: a location is relative, or begins with the configured `public_url`; nothing a client sends (a Host
or Forwarded header) ever gets into one.
"""

from __future__ import annotations

from boltseal.oci.digest import Digest
from boltseal.oci.reference import Repository
from boltseal.server.storage.blobs.protocol import UploadId


class Locations:
    """The URLs of one server."""

    def __init__(self, public_url: str | None) -> None:
        self._base = (public_url or "").rstrip("/")

    def manifest(self, repository: Repository, digest: Digest) -> str:
        """Where a manifest can be pulled from."""
        return f"{self._base}/v2/{repository}/manifests/{digest}"

    def blob(self, repository: Repository, digest: Digest) -> str:
        """Where a blob can be pulled from."""
        return f"{self._base}/v2/{repository}/blobs/{digest}"

    def upload(self, repository: Repository, upload: UploadId) -> str:
        """Where an upload goes on."""
        return f"{self._base}/v2/{repository}/blobs/uploads/{upload}"
