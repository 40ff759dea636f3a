"""Parsing manifests: their content, and documents that are invalid or ambiguous."""

import base64
import json
from collections.abc import Mapping
from typing import Any

import pytest

from boltseal.errors import ErrorCode, Invalid, http_answer
from boltseal.oci.descriptor import Descriptor
from boltseal.oci.digest import Digest
from boltseal.oci.manifest import MAX_DESCRIPTORS, LinkKind, Manifest, ManifestInvalid, format_index, parse_manifest
from boltseal.oci.mediatype import (
    DOCKER_CONFIG,
    DOCKER_LIST,
    DOCKER_MANIFEST,
    MANIFEST_TYPES,
    OCI_CONFIG,
    OCI_EMPTY,
    OCI_INDEX,
    OCI_MANIFEST,
)
from boltseal.oci.platform import Platform

LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"
FOREIGN = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"


def named(content: str, media_type: str = LAYER, **more: Any) -> dict[str, Any]:
    """Return a descriptor of this content, as JSON has it."""
    data = content.encode()
    return {"mediaType": media_type, "digest": str(Digest.of(data)), "size": len(data), **more}


def image(**changes: Any) -> dict[str, Any]:
    """Return an OCI image of one layer with these keys changed."""
    return {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": named("{}", OCI_CONFIG),
        "layers": [named("layer")],
        **changes,
    }


def index(**changes: Any) -> dict[str, Any]:
    """Return an OCI index of one image with these keys changed."""
    return {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [named("child", OCI_MANIFEST)], **changes}


def without(document: Mapping[str, Any], *keys: str) -> dict[str, Any]:
    """Return the document without these keys."""
    return {key: value for key, value in document.items() if key not in keys}


def parse(document: Mapping[str, Any], content_type: str | None = None) -> Manifest:
    """Parse this JSON as a manifest."""
    return parse_manifest(json.dumps(document).encode(), content_type)


def test_an_image_has_its_config_and_layers_and_its_bytes() -> None:
    """Config and layers of an image are parsed, and `raw` has the received bytes."""
    raw = json.dumps(image(annotations={"a": "b"}), indent=3).encode()
    manifest = parse_manifest(raw, OCI_MANIFEST)

    assert manifest.raw is raw
    assert (manifest.media_type, manifest.is_index) == (OCI_MANIFEST, False)
    assert manifest.config == Descriptor(OCI_CONFIG, Digest.of(b"{}"), 2)
    assert manifest.layers == (Descriptor(LAYER, Digest.of(b"layer"), 5),)
    assert manifest.manifests == ()
    assert manifest.subject is None
    assert manifest.annotations == {"a": "b"}


def test_an_index_has_its_children_with_their_platforms() -> None:
    """An index has its children with their platforms; an entry without one is for any platform."""
    arm = {"os": "linux", "architecture": "arm64", "variant": "v8", "os.version": "10.0", "os.features": ["win32k"]}
    manifest = parse(
        index(
            manifests=[
                named("arm", OCI_MANIFEST, platform=arm),
                named("any", OCI_MANIFEST),
                named("odd", OCI_MANIFEST, platform={"os": None, "architecture": "unknown"}),
            ]
        )
    )

    assert manifest.is_index
    assert manifest.config is None
    assert [child.platform for child in manifest.manifests] == [
        Platform("linux", "arm64", "v8", "10.0", ("win32k",)),
        None,
        Platform(architecture="unknown"),
    ]
    assert str(manifest.manifests[0].platform) == "linux/arm64/v8"


@pytest.mark.parametrize(
    ("document", "media_type"),
    [
        (image(mediaType=DOCKER_MANIFEST, config=named("{}", DOCKER_CONFIG)), DOCKER_MANIFEST),
        (index(mediaType=DOCKER_LIST), DOCKER_LIST),
    ],
)
def test_docker_schema_2_is_read_like_oci(document: dict[str, Any], media_type: str) -> None:
    """Docker's media types of schema 2 are parsed like the OCI types of image and index."""
    assert parse(document, media_type).media_type == media_type


@pytest.mark.parametrize("empty", [[], None])
def test_an_empty_list_and_null_are_no_layers(empty: list[None] | None) -> None:
    """An empty layer list and null, which Go writes for it, are accepted as no layers."""
    assert parse(image(layers=empty)).layers == ()
    assert parse(index(manifests=empty)).manifests == ()


def test_null_is_accepted_as_absent() -> None:
    """null, which Go writes for an absent value, is accepted for optional fields."""
    manifest = parse(
        image(
            subject=None,
            annotations=None,
            artifactType=None,
            layers=[named("layer", urls=None, annotations=None, data=None, artifactType=None, platform=None)],
        )
    )

    assert manifest.subject is None
    assert manifest.annotations == {}
    assert manifest.layers == (Descriptor(LAYER, Digest.of(b"layer"), 5),)


def test_unknown_fields_are_ignored() -> None:
    """Unknown fields are kept in the bytes and change no parsed value."""
    extended = image(
        extra={"layers": [1], "Layers": {}},
        layers=[named("layer", extra=[None])],
        annotations={"Size": "1", "size": "2"},
    )

    assert parse(extended).layers == parse(image()).layers


@pytest.mark.parametrize(
    ("document", "artifact_type"),
    [
        (image(artifactType="application/vnd.example.sbom"), "application/vnd.example.sbom"),
        (image(), OCI_CONFIG),
        (image(artifactType=""), OCI_CONFIG),
        (image(config=named("{}", "application/vnd.example.config+json")), "application/vnd.example.config+json"),
        (image(config=named("{}", OCI_EMPTY), artifactType="text/x.y"), "text/x.y"),
        (index(artifactType="application/vnd.example.set"), "application/vnd.example.set"),
        (index(), None),
    ],
)
def test_the_artifact_type_is_what_referrers_show(document: dict[str, Any], artifact_type: str | None) -> None:
    """The artifact type is the manifest's own, or else an image's config media type; an index may have none."""
    assert parse(document).artifact_type == artifact_type


def test_references_lists_every_link_once_with_its_kind() -> None:
    """`references` lists config, layers and subject of an image once each, with their kinds."""
    manifest = parse(image(layers=[named("one"), named("two"), named("one")], subject=named("subject", OCI_MANIFEST)))

    assert [(link.kind, link.descriptor.digest) for link in manifest.references()] == [
        (LinkKind.CONFIG, Digest.of(b"{}")),
        (LinkKind.LAYER, Digest.of(b"one")),
        (LinkKind.LAYER, Digest.of(b"two")),
        (LinkKind.SUBJECT, Digest.of(b"subject")),
    ]


def test_one_digest_may_be_referenced_in_two_kinds() -> None:
    """An artifact whose config and only layer are the empty `{}` references it in both kinds."""
    manifest = parse(image(config=named("{}", OCI_EMPTY), layers=[named("{}", OCI_EMPTY)]))

    assert [link.kind for link in manifest.references()] == [LinkKind.CONFIG, LinkKind.LAYER]


def test_an_index_entry_of_another_type_is_a_blob() -> None:
    """An entry of an index with another type than a manifest's is a blob, as in BuildKit's caches."""
    manifest = parse(
        index(
            manifests=[
                named("child", DOCKER_MANIFEST),
                named("cache"),
                named("cfg", "application/vnd.buildkit.cacheconfig.v0"),
            ]
        )
    )

    assert [link.kind for link in manifest.references()] == [LinkKind.CHILD, LinkKind.LAYER, LinkKind.LAYER]


def test_foreign_layers_are_recognised() -> None:
    """Layers that may not be redistributed, or that list other URLs, need not be in the registry."""
    manifest = parse(
        image(
            layers=[named("foreign", FOREIGN), named("elsewhere", urls=["https://example.com/layer"]), named("here")],
        )
    )

    assert [link.kind for link in manifest.references() if "layer" in link.kind] == [
        LinkKind.FOREIGN_LAYER,
        LinkKind.FOREIGN_LAYER,
        LinkKind.LAYER,
    ]


def test_a_descriptor_may_carry_its_content() -> None:
    """A descriptor's `data` with the bytes of its digest is accepted, as ORAS writes it for `{}`."""
    manifest = parse(image(config=named("{}", OCI_EMPTY, data="e30="), layers=[named("", data="")]))

    assert manifest.config == Descriptor(OCI_EMPTY, Digest.of(b"{}"), 2)


@pytest.mark.parametrize(
    ("data", "says"),
    [
        ("e34=", r"layers\[0\]: data is not the content"),
        (base64.b64encode(b"{} ").decode(), r"layers\[0\]: data is not the content.* holds 3 bytes"),
        ("e30", "data is not base64"),
        ("e30=\n", "data is not base64"),
        ("é", "data is not base64"),
    ],
)
def test_data_with_another_digest_is_refused(data: str, says: str) -> None:
    """A descriptor whose `data` does not have its digest is refused, since clients may use it unverified."""
    with pytest.raises(ManifestInvalid, match=says):
        parse(image(layers=[named("{}", data=data)]))


# -- the media type


@pytest.mark.parametrize("document", [image(), index()])
def test_the_type_may_come_from_the_header_or_the_document_or_both(document: dict[str, Any]) -> None:
    """Content-Type alone, mediaType alone, or both alike, with parameters and in any case, give one type."""
    media_type = document["mediaType"]
    documents = [
        parse(document, None),
        parse(document, media_type),
        parse(document, f"{media_type.upper()}; charset=utf-8"),
        parse(without(document, "mediaType"), media_type),
        parse({**document, "mediaType": None}, media_type),
        parse({**document, "mediaType": ""}, media_type),
    ]

    assert {way.media_type for way in documents} == {media_type}


@pytest.mark.parametrize(
    ("document", "content_type", "says"),
    [
        (image(), OCI_INDEX, "they must be equal"),
        (image(), DOCKER_MANIFEST, "they must be equal"),
        (without(image(), "mediaType"), None, "neither Content-Type nor mediaType"),
        (without(image(), "mediaType"), DOCKER_MANIFEST, "must have it as its mediaType"),
        (without(index(), "mediaType"), DOCKER_LIST, "must have it as its mediaType"),
        (image(), "application/json", 'Content-Type "application/json" is not a manifest this registry can check'),
        (image(), "application/vnd.oci.artifact.manifest.v1+json", "an OCI image manifest with an artifactType"),
        (image(), OCI_CONFIG, "accepted are application/vnd.oci.image.manifest"),
        (image(mediaType="application/vnd.oci.artifact.manifest.v1+json"), None, "mediaType .* is not a manifest"),
        (image(mediaType=OCI_MANIFEST.upper()), OCI_MANIFEST, "mediaType .* is not a manifest"),
        (image(mediaType=f"{OCI_MANIFEST};a=b"), OCI_MANIFEST, "mediaType .* is not a manifest"),
        (image(mediaType=7), OCI_MANIFEST, r"Expected str \| null, got int - at \$.mediaType"),
        (image(), "application/vnd.docker.distribution.manifest.v1+prettyjws", "schema 1 is not supported"),
        ({"schemaVersion": 1, "name": "a", "fsLayers": [], "history": []}, None, "schema 1 is not supported"),
        (image(schemaVersion=1), OCI_MANIFEST, "schema 1 is not supported"),
        (image(schemaVersion=3), OCI_MANIFEST, "schemaVersion is 3; expected 2"),
        (image(schemaVersion="2"), OCI_MANIFEST, "Expected int, got str"),
        (image(schemaVersion=2.0), OCI_MANIFEST, "Expected int, got float"),
        (image(schemaVersion=True), OCI_MANIFEST, "Expected int, got bool"),
        (without(image(), "schemaVersion"), OCI_MANIFEST, "missing required field schemaVersion"),
    ],
)
def test_a_missing_contradictory_or_unknown_type_is_refused(
    document: dict[str, Any], content_type: str | None, says: str
) -> None:
    """A missing, contradicting or unknown type is refused with a list of the accepted types."""
    with pytest.raises(ManifestInvalid, match=says):
        parse(document, content_type)


# -- ambiguous documents


@pytest.mark.parametrize(
    ("document", "says"),
    [
        (image(manifests=[]), "has manifests, but its type .* is an image"),
        (image(manifests=None), "has manifests, but its type .* is an image"),
        (index(layers=[]), "has layers, but its type .* is an index"),
        (index(config=None), "has config, but its type .* is an index"),
        (image(fsLayers=[]), "fsLayers"),
        (without(image(), "layers"), "has no layers"),
        (without(image(), "config"), "has no config"),
        (image(config=None), "config is null"),
        (without(index(), "manifests"), "has no manifests"),
    ],
)
def test_a_document_that_is_image_and_index_or_neither_is_refused(document: dict[str, Any], says: str) -> None:
    """CVE-2021-41190: a document that some readers take for an image and others for an index is refused."""
    with pytest.raises(ManifestInvalid, match=says):
        parse(document)


def test_an_image_pushed_as_an_index_is_refused() -> None:
    """A document without mediaType has the type in Content-Type, and is refused if its fields differ."""
    with pytest.raises(ManifestInvalid, match="has config, but its type"):
        parse(without(image(), "mediaType"), OCI_INDEX)


@pytest.mark.parametrize(
    "text",
    [
        '{"schemaVersion":2,"layers":[],"layers":[]}',
        '{"schemaVersion":2,"mediaType":"a","mediaType":"a"}',
        '{"schemaVersion":2,"layers":[{"mediaType":"a/b","size":1,"digest":"x","digest":"y"}]}',
        '{"schemaVersion":2,"annotations":{"a":"1","a":"2"}}',
        '{"schemaVersion":2,"x":[{"y":{"z":1,"z":1}}]}',
        '{"schemaVersion":2,"layers":[],"l\\u0061yers":[]}',
    ],
)
def test_a_repeated_key_is_refused(text: str) -> None:
    """A document with a repeated key is refused, since readers differ in which one counts."""
    with pytest.raises(ManifestInvalid, match="twice in one object"):
        parse_manifest(text.encode(), OCI_MANIFEST)


@pytest.mark.parametrize(
    ("document", "says"),
    [
        (image(Manifests=[]), 'the key "Manifests", which some readers take for manifests'),
        (image(LAYERS=[]), "take for layers"),
        ({**image(), "layer\u017f": []}, "take for layers"),
        (image(MediaType=OCI_INDEX), "take for mediaType"),
        (image(FSLayers=[]), "take for fsLayers"),
        (image(config=named("{}", OCI_CONFIG, Digest="x")), "take for digest"),
        (image(subject=named("{}", OCI_CONFIG, SIZE=1)), "take for size"),
        (image(layers=[named("a"), named("b", Urls=[])]), "take for urls"),
        (index(manifests=[named("a", OCI_MANIFEST, Data="")]), "take for data"),
        (index(manifests=[named("a", OCI_MANIFEST, platform={"OS": "linux"})]), "take for os"),
    ],
)
def test_a_key_in_another_case_is_refused(document: dict[str, Any], says: str) -> None:
    """`Layers` is refused, because Go reads it as `layers` and Python does not."""
    with pytest.raises(ManifestInvalid, match=says):
        parse(document)


# -- descriptors


@pytest.mark.parametrize(
    ("descriptor", "says"),
    [
        ({}, "missing required field mediaType"),
        (without(named("a"), "digest"), "missing required field digest"),
        (without(named("a"), "size"), "missing required field size"),
        (named("a", size=-1), r"Expected int >= 0 - at \$.layers\[0\].size"),
        (named("a", size=1.0), "Expected int, got float"),
        (named("a", size=1e3), "Expected int, got float"),
        (named("a", size="1"), "Expected int, got str"),
        (named("a", size=None), "Expected int, got null"),
        (named("a", size=2**63), "Expected int <="),
        (named("a", size=10**30), "Expected int"),
        (named("a", digest="sha256:baddigeststring"), r"layers\[0\]: a sha256 digest has 64"),
        (named("a", digest="latest"), r"layers\[0\]: .* is not a digest"),
        (named("a", digest=f"sha384:{'0' * 96}"), r"layers\[0\]: .* is not supported"),
        (named("a", digest=None), "Expected str, got null"),
        (named("a", ""), r'layers\[0\]: mediaType "" is not a media type'),
        (named("a", "tar"), r'layers\[0\]: mediaType "tar" is not a media type'),
        (named("a", "text/plain\n"), "is not a media type"),
        (named("a", artifactType="x"), "artifactType"),
        (named("a", urls="https://x"), "Expected array"),
        (named("a", urls=[1]), "Expected str"),
        (named("a", annotations={"a": 1}), "Expected str"),
        (named("a", annotations={"a": None}), "Expected str"),
        (named("a", annotations=[]), "Expected object"),
        (named("a", platform="linux"), "Expected object"),
        (named("a", platform={"os": 1}), "Expected str"),
        (None, "Expected object, got null"),
        ([], "Expected object, got array"),
        ("x", "Expected object, got str"),
    ],
)
def test_an_invalid_descriptor_is_refused_with_its_position(descriptor: Any, says: str) -> None:
    """An invalid descriptor is refused with its position, expected and received values."""
    with pytest.raises(ManifestInvalid, match=says):
        parse(image(layers=[descriptor]))


@pytest.mark.parametrize(
    ("document", "says"),
    [
        (image(config=named("a", "x")), "^config: mediaType"),
        (image(subject=named("a", "x")), "^subject: mediaType"),
        (image(layers=[named("a"), named("b", "x")]), r"^layers\[1\]: mediaType"),
        (index(manifests=[named("b", "x")]), r"^manifests\[0\]: mediaType"),
        (image(artifactType="x"), "^artifactType"),
        (image(annotations={"a": 1}), "Expected str"),
        (image(layers={}), "Expected array"),
    ],
)
def test_the_message_names_the_position(document: dict[str, Any], says: str) -> None:
    """An error has the position of the fault in the document."""
    with pytest.raises(ManifestInvalid, match=says):
        parse(document)


def test_media_types_of_descriptors_may_have_parameters() -> None:
    """Any media type of a descriptor is accepted, with parameters as well."""
    assert (
        parse(image(layers=[named("a", "text/plain; charset=utf-8")])).layers[0].media_type
        == "text/plain; charset=utf-8"
    )


def test_sha512_descriptors_are_read() -> None:
    """Descriptors with sha512 digests are parsed."""
    digest = str(Digest.of(b"a", "sha512"))

    assert str(parse(image(layers=[named("a", digest=digest)])).layers[0].digest) == digest


def test_more_descriptors_than_an_image_can_have_are_refused() -> None:
    """More descriptors than the limit are refused with the limit in the message."""
    full = index(manifests=[named("a", OCI_MANIFEST)] * MAX_DESCRIPTORS)
    over = index(manifests=[named("a", OCI_MANIFEST)] * (MAX_DESCRIPTORS + 1))

    assert len(parse(full).manifests) == MAX_DESCRIPTORS
    with pytest.raises(ManifestInvalid, match="names 10001 things; the limit is 10000"):
        parse(over)


# -- bytes

BEGIN = b'{"schemaVersion":2,"x":'
MANY = 4 * 1024 * 1024


@pytest.mark.parametrize(
    ("raw", "says"),
    [
        (b"", "not valid"),
        (b" ", "not valid"),
        (b"null", "Expected object, got null"),
        (b"[]", "Expected object, got array"),
        (b'"x"', "Expected object, got str"),
        (b"{", "not valid"),
        (b"{}", "missing required field schemaVersion"),
        (BEGIN + b"1} x", "trailing characters"),
        (BEGIN + b"1,}", "trailing comma"),
        (BEGIN + b"NaN}", "malformed"),
        (BEGIN + b"-Infinity}", "malformed"),
        (BEGIN + b"01}", "malformed"),
        (BEGIN + b"'a'}", "malformed"),
        (BEGIN + b'"\n"}', "malformed"),
        (b'{"schemaVersion":2,"annotations":{"a":"\\ud800"}}', "not valid"),
        (b"\xef\xbb\xbf" + BEGIN + b"1}", "byte order mark"),
        ((BEGIN + b"1}").decode().encode("utf-16"), "not UTF-8 at byte 0"),
        (BEGIN + b'"\xff"}', "not UTF-8 at byte 24"),
        (BEGIN + b'"\xed\xa0\x80"}', "not UTF-8"),
        (b"\x00" * 64, "malformed"),
        (BEGIN + b"[" * 100_000, "nested too deeply"),
        (BEGIN + b"[" * 100_000 + b"]" * 100_000 + b"}", "nested too deeply"),
        (BEGIN + b'{"a":' * 50_000, "nested too deeply"),
        (BEGIN + b"[" * 100 + b"]" * 100 + b"}", "nested too deeply; at most 100 levels"),
        (BEGIN + b'{"a":' * 100 + b"0" + b"}" * 101, "nested too deeply; at most 100 levels"),
        (b"[" * MANY, "brackets, commas and colons"),
        (b'{"a":' * (MANY // 5), "brackets, commas and colons"),
        (BEGIN + b"[" + b"{}," * (MANY // 3) + b"0]}", "brackets, commas and colons"),
        (BEGIN + b"[" + b"0," * (MANY // 2) + b"0]}", "brackets, commas and colons"),
        (BEGIN + b"9" * MANY + b"}", "thousands of digits"),
        (b" " * MANY, "not valid"),
        (b'{"schemaVersion":' + b"9" * 30 + b"}", "schemaVersion is 9999999999"),
        (b'{"schemaVersion":' + b"9" * 5000 + b"}", "not valid|thousands of digits"),
    ],
    ids=lambda value: repr(value[:40]) if isinstance(value, bytes) else None,
)
def test_hostile_bytes_are_refused_with_one_sentence(raw: bytes, says: str) -> None:
    """Broken, foreign, deep and huge documents are ManifestInvalid with one short, printable line."""
    with pytest.raises(ManifestInvalid, match=says) as refused:
        parse_manifest(raw, OCI_MANIFEST)

    assert http_answer(refused.value).status == 400
    assert http_answer(refused.value).code is ErrorCode.MANIFEST_INVALID
    assert refused.value.message.isprintable()
    assert len(refused.value.message) < 400


def test_a_hundred_levels_and_many_brackets_are_read() -> None:
    """A hundred levels of nesting, and many brackets side by side, are accepted under every Python."""
    deep: Any = 0
    for _ in range(99):
        deep = [deep]

    assert parse(image(x=deep)).layers == parse(image()).layers
    assert parse(image(x=[[]] * 1000)).layers == parse(image()).layers


@pytest.mark.parametrize("content_type", ["", "x", "a/b/c", f"{OCI_MANIFEST}, {OCI_INDEX}"])
def test_a_malformed_content_type_is_refused(content_type: str) -> None:
    """A malformed Content-Type is refused, and not treated as missing."""
    with pytest.raises(Invalid, match="is not a media type"):
        parse(image(), content_type)


def test_every_accepted_type_is_named_in_the_refusal() -> None:
    """The refusal of an unknown type lists all accepted types."""
    with pytest.raises(ManifestInvalid) as refused:
        parse(image(), "text/plain")

    assert all(media_type in refused.value.message for media_type in MANIFEST_TYPES)


# -- the index of the referrers API


def test_an_index_of_nothing_is_still_an_index() -> None:
    """An index without entries, as the referrers API returns for an unknown digest, has [] and never null."""
    raw = format_index([])

    assert json.loads(raw) == {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": []}
    assert parse_manifest(raw, OCI_INDEX).manifests == ()


def test_an_index_has_the_fields_of_each_row() -> None:
    """artifactType and annotations of an index's rows are written only if present."""
    digest = Digest.of(b"a")
    rows = [
        Descriptor(OCI_MANIFEST, digest, 1),
        Descriptor(OCI_INDEX, digest, 2, annotations={"k": "v"}, artifact_type="a/b"),
    ]
    raw = format_index(rows)

    assert json.loads(raw)["manifests"] == [
        {"mediaType": OCI_MANIFEST, "digest": str(digest), "size": 1},
        {"mediaType": OCI_INDEX, "digest": str(digest), "size": 2, "artifactType": "a/b", "annotations": {"k": "v"}},
    ]
    assert parse_manifest(raw, OCI_INDEX).manifests == tuple(rows)
