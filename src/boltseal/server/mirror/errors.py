"""Maps failures of an upstream to errors for clients of the mirror. Only upstream's "not found" is a miss.

An upstream's 401 must not become ours, or clients would send us their login again. A 400 or 409 of upstream, or an
unreadable answer, is no mistake of our client.
"""

from __future__ import annotations

from boltseal.client.errors import RemoteNotFound, RemoteRefused, RemoteUnauthenticated
from boltseal.client.ssrf_guard import LoginNotSent
from boltseal.errors import BoltsealError, Denied, Invalid, Unavailable
from boltseal.server.registry.pulls import BlobUnknown, ManifestUnknown, RepositoryUnknown
from boltseal.server.storage.blobs.protocol import UploadUnknown


class UpstreamFailed(Unavailable):
    """Upstream did not answer as a registry does."""


def client_error(error: BoltsealError, miss: type[ManifestUnknown | BlobUnknown | RepositoryUnknown]) -> BoltsealError:
    """Return the error to raise for the client. `miss`: the class to use if upstream does not have the content."""
    match error:
        case RemoteNotFound():
            return miss(error.message)
        case LoginNotSent():
            return Denied(error.message)
        case RemoteUnauthenticated():  # drop its advice to log in, which is for direct clients of upstream
            reason = error.message.partition(";")[0]
            return Denied(f"{reason}; it does not exist, or the mirror's login may not read it")
        case Invalid() | RemoteRefused() | UploadUnknown():
            return UpstreamFailed(error.message)
        case _:
            return error
