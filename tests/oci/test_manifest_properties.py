"""Properties of every document: it is a manifest or one refusal, and all readers see the same one."""

from __future__ import annotations

import json
from typing import Any

import msgspec
from hypothesis import example, given
from hypothesis import strategies as st

from boltseal.errors import Invalid
from boltseal.oci.descriptor import DESCRIPTOR_KEYS
from boltseal.oci.digest import Digest
from boltseal.oci.manifest import MANIFEST_KEYS, Manifest, format_index, parse_manifest
from boltseal.oci.mediatype import DOCKER_LIST, DOCKER_MANIFEST, OCI_CONFIG, OCI_INDEX, OCI_MANIFEST

LAYER = "application/vnd.oci.image.layer.v1.tar"

texts = st.text(st.characters(codec="utf-8"), max_size=12)
notes = st.dictionaries(texts, texts, max_size=3)
digests = st.binary(max_size=8).map(Digest.of)
platforms = st.fixed_dictionaries(
    {"os": texts, "architecture": texts}, optional={"variant": texts, "os.features": st.lists(texts, max_size=2)}
)
descriptors = st.fixed_dictionaries(
    {
        "mediaType": st.sampled_from([LAYER, OCI_CONFIG, OCI_MANIFEST, DOCKER_MANIFEST, "text/x; a=b"]),
        "digest": digests.map(str),
        "size": st.integers(0, 2**63 - 1),
    },
    optional={
        "annotations": st.one_of(st.none(), notes),
        "urls": st.one_of(st.none(), st.lists(texts, max_size=2)),
        "platform": st.one_of(st.none(), platforms),
        "artifactType": st.sampled_from([None, "", "a/b"]),
        "x-unknown": texts,
    },
)
lists = st.one_of(st.none(), st.lists(descriptors, max_size=4))
common = {
    "annotations": st.one_of(st.none(), notes),
    "artifactType": st.sampled_from([None, "", "application/vnd.example"]),
    "subject": st.one_of(st.none(), descriptors),
    "x-unknown": st.recursive(
        st.one_of(st.none(), st.booleans(), st.floats(allow_nan=False, allow_infinity=False), texts),
        st.lists,
        max_leaves=4,
    ),
}
images = st.fixed_dictionaries(
    {
        "schemaVersion": st.just(2),
        "mediaType": st.sampled_from([OCI_MANIFEST, DOCKER_MANIFEST]),
        "config": descriptors,
        "layers": lists,
    },
    optional=common,
)
indexes = st.fixed_dictionaries(
    {"schemaVersion": st.just(2), "mediaType": st.sampled_from([OCI_INDEX, DOCKER_LIST]), "manifests": lists},
    optional=common,
)
documents = st.one_of(images, indexes)
serialised = st.builds(
    lambda document, indent, ascii_only: json.dumps(document, indent=indent, ensure_ascii=ascii_only).encode(),
    documents,
    st.sampled_from([None, 0, 3]),
    st.booleans(),
)


@given(documents)
def test_every_field_of_a_document_is_parsed(document: dict[str, Any]) -> None:
    """Descriptors are parsed in order with digest, size and type, and so are subject and annotations; null means
    absent."""
    manifest = parse_manifest(json.dumps(document).encode(), document["mediaType"])

    assert triples(manifest.layers) == descriptors_in(document.get("layers"))
    assert triples(manifest.manifests) == descriptors_in(document.get("manifests"))
    assert triples([manifest.config] if manifest.config else []) == descriptors_in(
        [document["config"]] if "config" in document else []
    )
    assert triples([manifest.subject] if manifest.subject else []) == descriptors_in(
        [document["subject"]] if document.get("subject") else []
    )
    assert manifest.annotations == (document.get("annotations") or {})
    assert {link.descriptor.digest for link in manifest.references()} == every_digest(manifest)


def triples(found: Any) -> list[tuple[str, str, int]]:
    return [(each.media_type, str(each.digest), each.size) for each in found]


def descriptors_in(found: list[dict[str, Any]] | None) -> list[tuple[str, str, int]]:
    return [(each["mediaType"], each["digest"], each["size"]) for each in found or []]


def every_digest(manifest: Manifest) -> set[Digest]:
    named = [*manifest.layers, *manifest.manifests, manifest.config, manifest.subject]
    return {each.digest for each in named if each is not None}


@given(serialised, st.data())
def test_damaged_documents_are_a_manifest_or_one_refusal(raw: bytes, data: st.DataObject) -> None:
    """However a document is damaged, the result is a manifest or Invalid."""
    at = data.draw(st.integers(0, len(raw)))
    cut = data.draw(st.integers(0, 4))
    noise = data.draw(
        st.one_of(st.binary(max_size=4), st.sampled_from([b"null", b"{}", b"[", b'"', b",", b"1e9", b"\\u0000"]))
    )
    outcome(raw[:at] + noise + raw[at + cut :], None)


@given(st.binary(max_size=64), st.one_of(st.none(), st.text(max_size=20)))
def test_any_bytes_under_any_header_are_a_manifest_or_one_refusal(raw: bytes, content_type: str | None) -> None:
    """Any body under any Content-Type gives a manifest or Invalid."""
    outcome(raw, content_type)


def outcome(raw: bytes, content_type: str | None) -> Manifest | str:
    """Return the manifest, or the error message, which must be short."""
    try:
        return parse_manifest(raw, content_type)
    except Invalid as refused:
        sentence = refused.message

    assert sentence.isprintable()
    assert 0 < len(sentence) < 700
    return sentence


# -- every reader sees the same accepted document

KEYS = sorted(MANIFEST_KEYS | DESCRIPTOR_KEYS)
pairs = st.tuples(
    st.sampled_from(KEYS + [key.upper() for key in KEYS] + ["layer\u017f", "x"]),
    st.one_of(
        st.none(), st.lists(descriptors, max_size=1), descriptors, st.sampled_from([OCI_MANIFEST, OCI_INDEX, 1, 2])
    ),
)


def first_wins(found: list[tuple[str, Any]]) -> dict[str, Any]:
    """Parse as a reader for which the first of two equal keys counts, and which accepts `Layers` for `layers`, as Go
    does."""
    known = {key.casefold(): key for key in KEYS}
    read: dict[str, Any] = {}
    for key, value in found:
        read.setdefault(known.get(key.casefold(), key), value)
    return read


@given(st.lists(pairs, max_size=3), documents)
@example([("layers", [])], {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": []})
@example([("MANIFESTS", [])], {"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": None, "layers": []})
def test_an_accepted_document_is_the_same_image_for_every_reader(
    more: list[tuple[str, Any]], document: dict[str, Any]
) -> None:
    """Readers that differ in repeated keys and case see the same image in every accepted document."""
    every = [*more, *document.items()]
    text = "{" + ",".join(f"{json.dumps(key)}:{json.dumps(value)}" for key, value in every) + "}"
    accepted = outcome(text.encode(), None)
    if isinstance(accepted, Manifest):
        last, first = json.loads(text), json.loads(text, object_pairs_hook=first_wins)

        assert {key: last.get(key) for key in MANIFEST_KEYS} == {key: first.get(key) for key in MANIFEST_KEYS}


@given(st.lists(st.tuples(digests, st.integers(0, 2**63 - 1), st.sampled_from([None, "a/b"]), notes), max_size=5))
def test_an_index_of_referrers_reads_back(rows: list[tuple[Digest, int, str | None, dict[str, str]]]) -> None:
    """An index that the referrers API returns is accepted by this registry's own parser, entry by entry."""

    class Row(msgspec.Struct):
        media_type: str
        digest: Digest
        size: int
        artifact_type: str | None
        annotations: dict[str, str]

    raw = format_index([Row(OCI_MANIFEST, *row) for row in rows])

    assert [
        (each.digest, each.size, each.artifact_type, each.annotations)
        for each in parse_manifest(raw, OCI_INDEX).manifests
    ] == rows
