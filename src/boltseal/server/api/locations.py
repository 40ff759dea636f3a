"""The URLs of `Location` headers.

A location is relative, or begins with the configured `public_url`. Nothing that a client sends (a Host or Forwarded
header) is used.
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
        """Return the URL of a manifest."""
        return f"{self._base}/v2/{repository}/manifests/{digest}"

    def blob(self, repository: Repository, digest: Digest) -> str:
        """Return the URL of a blob."""
        return f"{self._base}/v2/{repository}/blobs/{digest}"

    def upload(self, repository: Repository, upload: UploadId) -> str:
        """Return the URL of an upload session."""
        return f"{self._base}/v2/{repository}/blobs/uploads/{upload}"
