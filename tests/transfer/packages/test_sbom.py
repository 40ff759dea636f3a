"""SBOMs of images: SPDX and CycloneDX, bare, in statements and in envelopes."""

from __future__ import annotations

import base64
import json
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from boltseal.transfer.packages.package_list import Package, PackagesUnreadable
from boltseal.transfer.packages.sbom import parse_sbom
from tests.packaged_images import cyclonedx, spdx


def statement(document: bytes, predicate: str = "https://spdx.dev/Document") -> bytes:
    """Return an in-toto statement with a document."""
    return json.dumps({"_type": "x", "predicateType": predicate, "predicate": json.loads(document)}).encode()


def envelope(payload: bytes) -> bytes:
    """Return a DSSE envelope with a payload."""
    return json.dumps({"payloadType": "x", "payload": base64.b64encode(payload).decode(), "signatures": []}).encode()


@pytest.mark.parametrize("wrap", [bytes, statement, lambda raw: envelope(statement(raw))])
def test_spdx_is_read_in_each_wrapping(wrap: object) -> None:
    """SPDX is read bare, in BuildKit's statement, and in a signed envelope, without the package of the image itself."""
    assert callable(wrap)
    assert parse_sbom(wrap(spdx(left="1.3.0", right="2.0"))) == (
        Package("npm", "left", "1.3.0"),
        Package("npm", "right", "2.0"),
    )


def test_cyclonedx_is_read_with_nested_components() -> None:
    """CycloneDX is read with its nested components, and without files and the operating system."""
    document = json.loads(cyclonedx(zlib="1.3"))
    document["components"] += [
        {"type": "operating-system", "name": "debian", "version": "12"},
        {"type": "application", "name": "top", "version": "1", "purl": "pkg:npm/top@1", "components": [
            {"type": "library", "group": "org", "name": "in", "version": "2", "purl": "pkg:maven/org/in@2"}]},
    ]  # fmt: skip

    assert parse_sbom(json.dumps(document).encode()) == (
        Package("maven", "org/in", "2"),
        Package("npm", "top", "1"),
        Package("deb", "zlib", "1.3"),
    )


def test_components_that_are_nested_too_deeply_are_reported() -> None:
    """Components nested more deeply than they are read make the SBOM unreadable, and not a shorter list."""
    component: dict[str, object] = {"type": "library", "name": "in", "version": "1", "purl": "pkg:npm/in@1"}
    for _ in range(21):
        component = {"type": "application", "components": [component]}

    with pytest.raises(PackagesUnreadable, match="nested more than 20 times"):
        parse_sbom(json.dumps({"bomFormat": "CycloneDX", "components": [component]}).encode())


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"[]",
        b"{}",
        b'{"a":' * 3000,
        b'{"payload": "%"}',
        statement(b"{}", "https://slsa.dev/provenance/v1"),
        b'{"bomFormat": "SPDX"}',
    ],
)
def test_what_is_no_sbom_is_reported(raw: bytes) -> None:
    """A document that is no SBOM is an error, and not an empty list."""
    with pytest.raises(PackagesUnreadable):
        parse_sbom(raw)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3),
    max_leaves=5,
)


@given(st.sampled_from(["packages", "components", "documentDescribes", "relationships"]), json_values)
def test_any_value_in_an_sbom_is_a_list_or_an_error(key: str, value: object) -> None:
    """A value that is no list of the expected kind is an error, not an empty list, and no other exception."""
    document = {"spdxVersion": "SPDX-2.3", "bomFormat": "CycloneDX" if key == "components" else "", key: value}
    raw = json.dumps(document).encode()
    texts = key == "documentDescribes" and isinstance(value, list) and all(isinstance(each, str) for each in value)
    if value == [] or texts or (value is None and key != "documentDescribes"):
        assert parse_sbom(raw) == ()
    else:
        with pytest.raises(PackagesUnreadable):
            parse_sbom(raw)


def test_only_packages_of_an_sbom_are_values_in_memory() -> None:
    """The lists of files, which are most of an SBOM, are read without an object for each."""
    files = [
        {"fileName": f"/usr/lib/file-{n}", "checksums": [{"algorithm": "SHA1", "checksumValue": "0" * 40}]}
        for n in range(50_000)
    ]
    document = {**json.loads(spdx(left="1.3.0")), "files": files}
    for raw in (json.dumps(document).encode(), statement(json.dumps(document).encode())):
        tracemalloc.start()
        found = parse_sbom(raw)
        _, peak_bytes = tracemalloc.get_traced_memory()
        tracemalloc.stop()

        assert found == (Package("npm", "left", "1.3.0"),)
        assert peak_bytes < 2 * len(raw)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b'{"spdxVersion": "SPDX-2.3", "packages": [%s{}]}' % (b"{}," * 1_000_000), "more than 1000000 objects"),
        (b'{"spdxVersion": "SPDX-2.3", "documentDescribes": ["a"%s]}' % (b',"a"' * 300_000), "more than 1048576 bytes"),
    ],
)
def test_an_sbom_of_many_small_values_is_refused(text: bytes, words: str) -> None:
    """An SBOM of values that are small in the text and large in memory is refused before they are made."""
    tracemalloc.start()
    with pytest.raises(PackagesUnreadable, match=words):
        parse_sbom(text)
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert peak_bytes < 2 * len(text)
