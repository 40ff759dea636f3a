"""Read an SBOM: SPDX 2 or CycloneDX as JSON, bare, in an in-toto statement, or in a DSSE envelope. Pure.

An SBOM is a claim of the one who attached it; signatures of envelopes are not verified here. Memory is bounded: of the
document only the fields below become values (the lists of files are most of an SBOM), and the number of its objects is limited.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterator, Sequence
from typing import Final
from urllib.parse import unquote

import msgspec

from boltseal.oci.jsontext import decode
from boltseal.transfer.packages.package_list import Package, PackagesUnreadable, checked

MAX_SBOM_BYTES: Final = 128 * 1024 * 1024
MAX_OBJECTS: Final = 1_000_000
"""Maximum number of `{` in an SBOM: an empty object is two bytes, and a value of a hundred."""
MAX_DESCRIBED_BYTES: Final = 1024 * 1024
MAX_DEPTH: Final = 20
MEDIA_TYPES: Final = frozenset(
    {
        "application/spdx+json",
        "text/spdx+json",
        "application/vnd.cyclonedx+json",
        "application/vnd.in-toto+json",
        "application/vnd.dsse.envelope.v1+json",
        "application/vnd.syft+json",
    }
)
"""Media types of layers and artifacts that may be an SBOM; the content decides."""
PREDICATES: Final = ("https://spdx.dev/Document", "https://cyclonedx.org/bom")
_is_purl = re.compile(r"pkg:([a-zA-Z][a-zA-Z0-9.+-]*)/.*").fullmatch


class _ExternalRef(msgspec.Struct, gc=False):
    reference_type: str = msgspec.field(default="", name="referenceType")
    locator: str = msgspec.field(default="", name="referenceLocator")


class _SpdxPackage(msgspec.Struct):
    id: str = msgspec.field(default="", name="SPDXID")
    name: str = ""
    version: str | None = msgspec.field(default=None, name="versionInfo")
    purpose: str = msgspec.field(default="", name="primaryPackagePurpose")
    refs: list[_ExternalRef] | None = msgspec.field(default=None, name="externalRefs")


class _Relationship(msgspec.Struct, gc=False):
    kind: str = msgspec.field(default="", name="relationshipType")
    related: str = msgspec.field(default="", name="relatedSpdxElement")


class _Component(msgspec.Struct):
    type: str = ""
    group: str | None = None
    name: str | None = None
    version: str | None = None
    purl: str | None = None
    components: list[_Component] | None = None


class _Document(msgspec.Struct):
    """An envelope, a statement or an SBOM: what the fields say."""

    payload: str | None = None
    predicate_type: str | None = msgspec.field(default=None, name="predicateType")
    predicate: msgspec.Raw = msgspec.Raw(b"{}")
    bom_format: str | None = msgspec.field(default=None, name="bomFormat")
    spdx_version: str | None = msgspec.field(default=None, name="spdxVersion")
    described: msgspec.Raw = msgspec.field(default=msgspec.Raw(b"[]"), name="documentDescribes")
    relationships: list[_Relationship] | None = None
    packages: list[_SpdxPackage] | None = None
    components: list[_Component] | None = None


def parse_sbom(raw: bytes | bytearray) -> tuple[Package, ...]:
    """Return the packages of an SBOM. Raises: PackagesUnreadable."""
    document = _document(raw)
    if document.payload is not None:
        try:
            document = _document(base64.b64decode(document.payload, validate=True))
        except (binascii.Error, ValueError) as error:
            raise PackagesUnreadable("the envelope's payload is not base64") from error
    if document.predicate_type is not None:
        if not document.predicate_type.startswith(PREDICATES):
            raise PackagesUnreadable("the statement is no SBOM")
        document = _decoded(document.predicate)
    if document.bom_format == "CycloneDX":
        return checked(_cyclonedx(document.components, 0))
    if document.spdx_version is not None:
        return checked(_spdx(document))
    raise PackagesUnreadable("it is neither SPDX 2 nor CycloneDX")


def _document(raw: bytes | bytearray) -> _Document:
    if len(raw) > MAX_SBOM_BYTES:
        raise PackagesUnreadable(f"it has more than {MAX_SBOM_BYTES} bytes")
    if raw.count(b"{") > MAX_OBJECTS:
        raise PackagesUnreadable(f"it has more than {MAX_OBJECTS} objects")
    return _decoded(raw)


def _decoded(raw: bytes | bytearray | msgspec.Raw) -> _Document:
    try:
        return decode(raw, _Document)
    except ValueError as error:
        raise PackagesUnreadable(f"it is no JSON object of an SBOM: {error}") from error


def _spdx(document: _Document) -> Iterator[Package]:
    described = {each.related for each in document.relationships or () if each.kind == "DESCRIBES"}
    described.update(_described(document.described))
    for each in document.packages or ():
        if each.id in described or each.purpose == "CONTAINER":
            continue  # the image itself
        purls = [ref.locator for ref in each.refs or () if ref.reference_type == "purl"]
        yield Package(_kind(purls), each.name, each.version or "")


def _described(raw: msgspec.Raw) -> Sequence[str]:
    if memoryview(raw).nbytes > MAX_DESCRIBED_BYTES:
        raise PackagesUnreadable(f"it describes more than {MAX_DESCRIBED_BYTES} bytes of elements")
    try:
        return decode(raw, list[str])
    except ValueError as error:
        raise PackagesUnreadable(f"its documentDescribes can't be read: {error}") from error


def _cyclonedx(components: Sequence[_Component] | None, depth: int) -> Iterator[Package]:
    for each in components or ():
        if each.type in ("library", "application", "framework") and each.purl:
            name = each.name or ""
            yield Package(_kind([each.purl]), f"{each.group}/{name}" if each.group else name, each.version or "")
        if each.components:
            if depth == MAX_DEPTH:
                raise PackagesUnreadable(f"its components are nested more than {MAX_DEPTH} times")
            yield from _cyclonedx(each.components, depth + 1)


def _kind(purls: list[str]) -> str:
    """Return the type of the first package URL, such as deb; "" without one."""
    found = _is_purl(unquote(purls[0])) if purls else None
    return "" if found is None else found[1].lower()
