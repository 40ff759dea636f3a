"""How a Content-Type header is parsed, and which layers are foreign."""

import pytest

from boltseal.oci.mediatype import (
    INDEX_TYPES,
    MANIFEST_TYPES,
    OCI_MANIFEST,
    MediaTypeInvalid,
    is_foreign_layer,
    is_media_type,
    parse_content_type,
)


def test_no_header_is_no_media_type() -> None:
    """A missing Content-Type header gives no media type, since clients need not send one."""
    assert parse_content_type(None) is None


@pytest.mark.parametrize(
    "header",
    [
        OCI_MANIFEST,
        f"{OCI_MANIFEST}; charset=utf-8",
        f"{OCI_MANIFEST};charset=utf-8;x=y",
        f" \t{OCI_MANIFEST} ;",
        OCI_MANIFEST.upper(),
    ],
)
def test_parameters_spaces_and_case_do_not_matter(header: str) -> None:
    """Parameters and spaces of a Content-Type are dropped, and case does not matter."""
    assert parse_content_type(header) == OCI_MANIFEST


@pytest.mark.parametrize(
    "header",
    [
        "",
        " ",
        ";",
        "json",
        "application/",
        "/json",
        "application/json/x",
        "application / json",
        "*/*",
        "application/*",
        f"{OCI_MANIFEST}, text/plain",
        "application/json\r\nX-Evil: 1",
        "application/jsön",
        "application/" + "a" * 128,
        "\x00/\x00",
    ],
)
def test_malformed_media_types_are_refused(header: str) -> None:
    """Garbage, wildcards and lists in Content-Type are refused with one line."""
    with pytest.raises(MediaTypeInvalid, match="is not a media type"):
        parse_content_type(header)


def test_the_four_manifest_types_are_media_types_and_two_are_indexes() -> None:
    """OCI and Docker each have one type for an image and one for an index."""
    assert len(MANIFEST_TYPES) == 4
    assert len(INDEX_TYPES) == 2
    assert all(is_media_type(media_type) for media_type in MANIFEST_TYPES)


@pytest.mark.parametrize(
    ("media_type", "foreign"),
    [
        ("application/vnd.docker.image.rootfs.foreign.diff.tar.gzip", True),
        ("application/vnd.oci.image.layer.nondistributable.v1.tar+zstd", True),
        ("application/vnd.oci.image.layer.v1.tar+gzip", False),
        ("application/vnd.docker.image.rootfs.diff.tar.gzip", False),
    ],
)
def test_layers_that_may_not_be_redistributed_are_foreign(media_type: str, foreign: bool) -> None:
    """Layers of the non-distributable types are foreign: a registry need not have them."""
    assert is_foreign_layer(media_type) is foreign
