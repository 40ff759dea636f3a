"""Where things are, as `Location` and `Link` say it, and whose names a request means (`?ns=`).

Rules kept here: a location is relative, or begins with the configured `public_url`; nothing a client sends (a Host
or Forwarded header) ever gets into one. A namespace that is not ours is refused, because our repository of the
same name is another image.
"""

from __future__ import annotations

from urllib.parse import urlsplit

from boltseal.api.query import Query
from boltseal.errors import ErrorCode, Invalid, NotFound, quote
from boltseal.oci.digest import Digest
from boltseal.oci.reference import Repository
from boltseal.storage.blobs import UploadId


class NamespaceUnknown(NotFound):
    """A pull on behalf of a registry that this one is no mirror of."""

    code = ErrorCode.NAME_UNKNOWN


class NamespaceRefused(Invalid):
    """A write on behalf of another registry."""

    code = ErrorCode.UNSUPPORTED


class Locations:
    """The URLs of one server."""

    def __init__(self, public_url: str | None) -> None:
        self._base = (public_url or "").rstrip("/")
        self._authority = urlsplit(self._base).netloc.lower()

    def manifest(self, repository: Repository, digest: Digest) -> str:
        """Where a manifest can be pulled from."""
        return f"{self._base}/v2/{repository}/manifests/{digest}"

    def blob(self, repository: Repository, digest: Digest) -> str:
        """Where a blob can be pulled from."""
        return f"{self._base}/v2/{repository}/blobs/{digest}"

    def upload(self, repository: Repository, upload: UploadId) -> str:
        """Where an upload goes on."""
        return f"{self._base}/v2/{repository}/blobs/uploads/{upload}"

    def refuse_other_namespaces(self, query: Query, *, writes: bool) -> None:
        """Unless `ns` is absent or our own public name: NamespaceUnknown on reads, NamespaceRefused on writes."""
        namespace = query.one("ns")
        if namespace is None or (self._authority and namespace.lower() == self._authority):
            return
        if writes:
            raise NamespaceRefused(f"ns={quote(namespace)} is for pulls through a mirror; push to that registry itself")
        raise NamespaceUnknown(f"this registry serves no images of {quote(namespace)}; it has no such upstream")
