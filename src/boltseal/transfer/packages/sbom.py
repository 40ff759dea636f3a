"""Read an SBOM: SPDX 2 or CycloneDX as JSON, bare, in an in-toto statement, or in a DSSE envelope. Pure.

An SBOM is a claim of the one who attached it; signatures of envelopes are not verified here.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterator
from typing import Any, Final
from urllib.parse import unquote

from boltseal.oci.jsontext import decode
from boltseal.transfer.packages.package_list import Package, PackagesUnreadable, checked

MAX_SBOM_BYTES: Final = 128 * 1024 * 1024
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


def parse_sbom(raw: bytes) -> tuple[Package, ...]:
    """Return the packages of an SBOM. Raises: PackagesUnreadable."""
    document = _json(raw)
    if isinstance(document, dict) and isinstance(document.get("payload"), str):
        try:
            document = _json(base64.b64decode(document["payload"], validate=True))
        except (binascii.Error, ValueError) as error:
            raise PackagesUnreadable("the envelope's payload is not base64") from error
    if isinstance(document, dict) and isinstance(document.get("predicate"), dict):
        if not str(document.get("predicateType", "")).startswith(PREDICATES):
            raise PackagesUnreadable("the statement is no SBOM")
        document = document["predicate"]
    if not isinstance(document, dict):
        raise PackagesUnreadable("it is no JSON object")
    if document.get("bomFormat") == "CycloneDX":
        return checked(_cyclonedx(document.get("components"), 0))
    if isinstance(document.get("spdxVersion"), str):
        return checked(_spdx(document))
    raise PackagesUnreadable("it is neither SPDX 2 nor CycloneDX")


def _json(raw: bytes) -> Any:
    if len(raw) > MAX_SBOM_BYTES:
        raise PackagesUnreadable(f"it has more than {MAX_SBOM_BYTES} bytes")
    try:
        return decode(raw, dict[str, Any])
    except (ValueError, RecursionError) as error:
        raise PackagesUnreadable("it is no JSON object") from error


def _spdx(document: dict[str, Any]) -> Iterator[Package]:
    described = set(_texts(document.get("documentDescribes")))
    for each in _objects(document.get("relationships")):
        if each.get("relationshipType") == "DESCRIBES":
            described.add(_text(each.get("relatedSpdxElement")))
    for each in _objects(document.get("packages")):
        if _text(each.get("SPDXID")) in described or each.get("primaryPackagePurpose") == "CONTAINER":
            continue  # the image itself
        purls = [
            _text(one.get("referenceLocator"))
            for one in _objects(each.get("externalRefs"))
            if one.get("referenceType") == "purl"
        ]
        yield Package(_kind(purls), _text(each.get("name")), _text(each.get("versionInfo")))


def _cyclonedx(components: Any, depth: int) -> Iterator[Package]:
    for each in _objects(components):
        if each.get("type") in ("library", "application", "framework") and each.get("purl"):
            group = _text(each.get("group"))
            name = _text(each.get("name"))
            yield Package(
                _kind([_text(each.get("purl"))]), f"{group}/{name}" if group else name, _text(each.get("version"))
            )
        if each.get("components"):
            if depth == MAX_DEPTH:
                raise PackagesUnreadable(f"its components are nested more than {MAX_DEPTH} times")
            yield from _cyclonedx(each["components"], depth + 1)


def _kind(purls: list[str]) -> str:
    """Return the type of the first package URL, such as deb; "" without one."""
    found = _is_purl(unquote(purls[0])) if purls else None
    return "" if found is None else found[1].lower()


def _objects(value: Any) -> list[dict[str, Any]]:
    return [each for each in value if isinstance(each, dict)] if isinstance(value, list) else []


def _texts(value: Any) -> list[str]:
    return [each for each in value if isinstance(each, str)] if isinstance(value, list) else []


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""
