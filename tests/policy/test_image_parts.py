"""Which manifests are parts of an image that a client pushes under its tag."""

from __future__ import annotations

import json
from typing import Any

import pytest

from boltseal.oci.digest import Digest
from boltseal.oci.manifest import Manifest, parse_manifest
from boltseal.oci.mediatype import DOCKER_MANIFEST, OCI_CONFIG, OCI_EMPTY, OCI_INDEX, OCI_MANIFEST
from boltseal.policy.image_parts import ATTESTATION, IN_TOTO, is_attestation, lists, platform_of

LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"
CHILD = Digest.of(b"child")


def image(*layers: str, config: str = OCI_CONFIG, **more: Any) -> Manifest:
    described = [{"mediaType": each, "digest": str(Digest.of(each.encode())), "size": 1} for each in (config, *layers)]
    body = {"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": described[0], "layers": described[1:], **more}
    return parse_manifest(json.dumps(body).encode(), OCI_MANIFEST)


def index(media_type: str = OCI_MANIFEST) -> Manifest:
    body = {"schemaVersion": 2, "manifests": [{"mediaType": media_type, "digest": str(CHILD), "size": 9}]}
    return parse_manifest(json.dumps(body).encode(), OCI_INDEX)


@pytest.mark.parametrize(
    ("manifest", "expected"),
    [
        (image(IN_TOTO), True),
        (image(IN_TOTO, IN_TOTO), True),
        (image("text/plain", config=OCI_EMPTY, artifactType=ATTESTATION), True),
        (image(), False),
        (image(LAYER), False),
        (image(IN_TOTO, LAYER), False),
        (image(IN_TOTO, config=OCI_EMPTY), False),
        (image(IN_TOTO, artifactType="application/vnd.example"), False),
        (index(), False),
    ],
)
def test_an_attestation_is_what_buildkit_writes(manifest: Manifest, *, expected: bool) -> None:
    """All layers are in-toto statements beside the config of an image, or the artifact type says so; nothing else is one."""

    assert is_attestation(manifest) is expected


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (b'{"os":"linux","architecture":"amd64","config":{}}', "linux/amd64"),
        (b'{"os":"linux","architecture":"arm64","variant":"v8"}', "linux/arm64/v8"),
        (b'{"os":"linux"}', ""),
        (b'{"architecture":"amd64"}', ""),
        (b'{"os":1,"architecture":"amd64"}', ""),
        (b'{"os":"linux","architecture":"' + b"a" * 64 + b'"}', ""),
        (b'{"os":"linux","architecture":"\\u202e"}', ""),
        (b'{"os":"linux","architecture":"a\\nb"}', ""),
        (b"\xff", ""),
        (b"layer", ""),
    ],
)
def test_the_platform_is_what_the_config_states(config: bytes, expected: str) -> None:
    """The platform recorded in the ledger is that of the config, and empty if it is missing or not printable."""

    assert platform_of(config) == expected


@pytest.mark.parametrize(
    ("found", "digest", "media_type", "expected"),
    [
        (index(), CHILD, OCI_MANIFEST, True),
        (index(), Digest.of(b"other"), OCI_MANIFEST, False),
        (index(), CHILD, DOCKER_MANIFEST, False),
        (image(LAYER), Digest.of(LAYER.encode()), LAYER, False),
    ],
)
def test_an_index_lists_a_manifest_by_digest_and_media_type(
    found: Manifest, digest: Digest, media_type: str, *, expected: bool
) -> None:
    """An index that lists the same bytes under another media type lists another manifest; layers are not listed."""

    assert lists(found, digest, media_type) is expected
