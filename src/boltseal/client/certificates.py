"""TLS trust of one registry: its certificate authorities and client certificate, where docker and podman keep them.

    certs.d/HOST[:PORT]/*.crt           certificate authorities of the registry, in PEM, besides the system's
    certs.d/HOST[:PORT]/NAME.cert       a client certificate, in PEM
    certs.d/HOST[:PORT]/NAME.key        its key, not encrypted

Several folders `certs.d` are searched. The first one with a folder for the registry is used, and no other, as skopeo and
podman do. A folder that the user may not enter is skipped, as they do; so it appears in the error if the registry's
certificate is not trusted. A file in the folder that can't be read is an error. A `.crt` without a PEM certificate is
ignored, as docker does, and appears in that error too.

The authorities are trusted for this registry only, with its token service and its redirects; the client certificate is
only for the registry's own host. (OpenSSL offers one certificate per connection: the first by name.)
"""

from __future__ import annotations

import os
import re
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

from boltseal.client.config_files import FileUnusable, read_file, shown
from boltseal.errors import Invalid

MAX_FILES: Final = 1000

_PEM: Final = re.compile(rb"-----BEGIN CERTIFICATE-----[^-]+-----END CERTIFICATE-----")


class AuthorityInvalid(Invalid):
    """A file contains no CA certificate."""


class ClientCertificateInvalid(FileUnusable):
    """A client certificate without its key or the reverse, or a pair that can't be used."""


class KeyPair(NamedTuple):
    """Files of a client certificate and its key."""

    cert: Path
    key: Path


@dataclass(frozen=True, slots=True)
class RegistryCertificates:
    """Certificates of one registry. `authorities`: in PEM. `notes`: what was skipped or ignored while looking, and why.

    `searched`: the folders in which the registry's authorities belong.
    """

    authorities: tuple[str, ...] = ()
    client: KeyPair | None = None
    ca_file: Path | None = None
    searched: tuple[Path, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def empty(self) -> bool:
        """Return whether there is nothing to add to the defaults."""
        return not self.authorities and self.client is None and self.ca_file is None

    def advice(self) -> str:
        """Return what to do if the registry's certificate is not trusted; "" if no file of the user was searched."""
        if self.ca_file is not None:
            return f"no authority in {shown(self.ca_file)} signed it"
        if not self.searched:
            return ""
        advice = (
            "if it has a certificate authority of its own, use --ca-file FILE or ca_file in [[client.registry]], or put the "
            f"authority's .crt in {shown(self.searched[0])}"
        )
        return "; ".join([advice, *self.notes])


def find_certificates(folders: Sequence[Path], registry: str) -> RegistryCertificates:
    """Return the certificates of a registry (`localhost:5000`) in the first folder that has some.

    Raises: FileUnusable, ClientCertificateInvalid.
    """
    searched = tuple(folder / registry for folder in folders)
    notes: list[str] = []
    for folder in searched:
        try:
            names = sorted(os.listdir(folder))  # noqa: PTH208 - names only
        except FileNotFoundError:
            continue
        except PermissionError:
            notes.append(f"{shown(folder)} was not searched: Permission denied")
            continue
        except OSError as error:
            raise FileUnusable(f"{shown(folder)} can't be read: {error.strerror}") from error
        if len(names) > MAX_FILES:
            raise FileUnusable(f"{shown(folder)} can't be read: it has more than {MAX_FILES} files")
        authorities = _authorities([folder / name for name in names if name.endswith(".crt")], notes)
        return RegistryCertificates(authorities, _pair(folder, names), None, searched, tuple(notes))
    return RegistryCertificates(searched=searched, notes=tuple(notes))


def tls_context(ca_file: Path | None, own: RegistryCertificates | None = None, *, home: bool = True) -> ssl.SSLContext:
    """Return a TLS context with the system's CAs, those of a file of the user, and those of a registry.

    `home`: for the registry's own host, which gets its client certificate. Raises: AuthorityInvalid,
    ClientCertificateInvalid.
    """
    context = ssl.create_default_context()
    for file in (ca_file, None if own is None else own.ca_file):
        if file is None:
            continue
        try:
            context.load_verify_locations(file)
        except OSError as error:  # ssl.SSLError is one
            reason = error.strerror if not isinstance(error, ssl.SSLError) else "the file has no PEM certificate"
            raise AuthorityInvalid(f"{file}: {reason}; expected a CA certificate") from error
    for pem in () if own is None else own.authorities:
        context.load_verify_locations(cadata=pem)
    if own is not None and own.client is not None and home:
        _load_pair(context, own.client)
    return context


def no_trust() -> ssl.SSLContext:
    """Return a TLS context that trusts no certificate, for connections without TLS."""
    return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


def _authorities(files: Sequence[Path], notes: list[str]) -> tuple[str, ...]:
    found = []
    for file in files:
        raw = read_file(file)
        if raw is None:  # a dangling link, or removed meanwhile
            continue
        usable = [
            block for block in (match[0].decode("ascii", "replace") for match in _PEM.finditer(raw)) if _loads(block)
        ]
        found += usable
        if not usable:
            notes.append(f"{shown(file)} was ignored: it has no PEM certificate")
    return tuple(found)


def _loads(pem: str) -> bool:
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cadata=pem)
    except (ssl.SSLError, ValueError):  # ValueError: not ASCII
        return False
    return True


def _pair(folder: Path, names: Sequence[str]) -> KeyPair | None:
    """Return the first client certificate of a folder. Raises: ClientCertificateInvalid: a part of a pair is missing."""
    for ending, other, what in ((".cert", ".key", "key"), (".key", ".cert", "client certificate")):
        for name in names:
            if name.endswith(ending) and (missing := name.removesuffix(ending) + other) not in names:
                raise ClientCertificateInvalid(
                    f"{shown(folder / name)} has no {what}: {missing} is missing beside it"
                    + ("; the name of a CA certificate ends in .crt" if ending == ".cert" else "")
                )
    for name in names:
        if name.endswith(".cert"):
            pair = KeyPair(folder / name, folder / f"{name.removesuffix('.cert')}.key")
            for file in pair:
                if read_file(file) is None:
                    raise FileUnusable(f"{shown(file)} can't be read: No such file or directory")
            return pair
    return None


def _load_pair(context: ssl.SSLContext, pair: KeyPair) -> None:
    def no_passphrase() -> str:
        raise ClientCertificateInvalid(f"{shown(pair.key)} is encrypted; expected a key without a passphrase")

    try:
        context.load_cert_chain(pair.cert, pair.key, no_passphrase)
    except OSError as error:  # ssl.SSLError is one
        reason = getattr(error, "reason", None) or error.strerror or "unknown reason"
        raise ClientCertificateInvalid(
            f"{shown(pair.cert)} and {shown(pair.key)} are not a client certificate and its key in PEM: {reason}"
        ) from error
