"""How an upstream's failures are told to a client of ours. Only what upstream calls "not found" is a miss.

An upstream's 401 must not look like ours, or clients would send their login for us once more; and what it calls our
mistake (400, 409), or what of it can't be read, is none of the client's.
"""

from __future__ import annotations

from boltseal.client.errors import RemoteNotFound, RemoteRefused, RemoteUnauthenticated
from boltseal.client.ssrf_guard import LoginNotSent
from boltseal.errors import BoltsealError, Denied, Invalid, Unavailable
from boltseal.server.registry.pulls import BlobUnknown, ManifestUnknown, RepositoryUnknown
from boltseal.server.storage.blobs.protocol import UploadUnknown


class UpstreamWantsLogin(Denied):
    """Upstream shows this to nobody without a login, or not to ours."""


class UpstreamFailed(Unavailable):
    """Upstream did not do what a registry does."""


def told(error: BoltsealError, miss: type[ManifestUnknown | BlobUnknown | RepositoryUnknown]) -> BoltsealError:
    """The error as our client shall hear it. `miss`: what was asked for, if upstream has none."""
    match error:
        case RemoteNotFound():
            return miss(error.message)
        case LoginNotSent():
            return UpstreamWantsLogin(error.message)
        case RemoteUnauthenticated():  # its advice, to log in, is for who asks upstream themselves
            reason = error.message.partition(";")[0]
            return UpstreamWantsLogin(f"{reason}; it is not there, or not for the login of this mirror there")
        case Invalid() | RemoteRefused() | UploadUnknown():
            return UpstreamFailed(error.message)
        case _:
            return error
