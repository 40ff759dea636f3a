"""The server's TLS certificate and key as files: whether they can be used, and whether they changed."""

from __future__ import annotations

import hashlib
import ssl
from pathlib import Path

from boltseal.errors import Invalid


def check_certificate(certificate: Path | None, key: Path | None) -> bytes:
    """Return a fingerprint of both files, empty if there are none. Invalid: the server can't use them."""
    if certificate is None and key is None:
        return b""
    if certificate is None or key is None:
        raise Invalid("TLS needs a certificate and its key: give both tls_cert and tls_key")
    try:
        # For an encrypted key OpenSSL would ask for the password on a terminal, which a server does not have.
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key, password=_none)
        return hashlib.sha256(certificate.read_bytes() + b"\0" + key.read_bytes()).digest()
    except ssl.SSLError as error:
        raise Invalid(
            f"{certificate} and {key} can't be served with ({error.reason or error}): expected a PEM certificate with "
            "its chain, and its private key without a password"
        ) from error
    except (OSError, ValueError) as error:
        raise Invalid(f"the certificate can't be read: {error}") from error


def _none() -> str:
    return ""
