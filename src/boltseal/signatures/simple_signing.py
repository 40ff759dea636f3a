"""cosign's signature tags: `sha256-<hex>.sig` resolves to an image manifest, and each of its layers is one signature.

    layer: mediaType    application/vnd.dev.cosign.simplesigning.v1+json
           annotations  dev.cosignproject.cosign/signature = base64 of the signature over the layer's bytes
    bytes: {"critical": {"identity": {"docker-reference": "registry.example/shop/app"},
                         "image": {"docker-manifest-digest": "sha256:..."},
                         "type": "cosign container image signature"}, "optional": {...}}

Source: cosign `specs/SIGNATURE_SPEC.md`. Annotations such as `by=builder` are in `optional`: signed, and without a meaning
here. Certificates and log entries in other annotations are ignored, since the given key is trusted without them. Pure.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from boltseal.errors import BoltsealError, quote
from boltseal.oci.base64_text import decode_base64
from boltseal.oci.reference import Reference
from boltseal.signatures.errors import SignatureInvalid
from boltseal.signatures.public_keys import PublicKey
from boltseal.signatures.signed_image import SignedImage, Statement
from boltseal.signatures.strict_json import parse_strict

SIMPLE_SIGNING: Final = "application/vnd.dev.cosign.simplesigning.v1+json"
SIGNATURE_ANNOTATION: Final = "dev.cosignproject.cosign/signature"
MAX_PAYLOAD_BYTES: Final = 64 * 1024

_TYPE: Final = "cosign container image signature"


class _Identity(msgspec.Struct, rename="kebab"):
    docker_reference: str


class _Image(msgspec.Struct, rename="kebab"):
    docker_manifest_digest: str


class _Critical(msgspec.Struct):
    identity: _Identity
    image: _Image
    type: str


class _Payload(msgspec.Struct):
    critical: _Critical
    optional: dict[str, Any] | None = None


def verify_simple_signing(payload: bytes, signature: str, image: SignedImage, key: PublicKey) -> Statement:
    """Verify one layer of a signature tag. `signature`: its annotation.

    1. The payload has at most MAX_PAYLOAD_BYTES bytes, and the signature is base64.
    2. It is the key's signature of exactly these bytes. Before that nothing in the payload is read.
    3. The payload is strict JSON of cosign's type.
    4. It names the image's digest.
    5. It names the image's repository, on whatever host: a signature for another repository is not one for this.

    Raises: SignatureInvalid at the first step that fails.
    """
    # 1
    if len(payload) > MAX_PAYLOAD_BYTES:
        raise SignatureInvalid(f"the signed payload has {len(payload)} bytes; at most {MAX_PAYLOAD_BYTES} are read")
    value = decode_base64(signature)
    if value is None:
        raise SignatureInvalid(f"the annotation {SIGNATURE_ANNOTATION} is not base64")
    # 2
    if not key.verifies(value, payload):
        raise SignatureInvalid("the signature is by another key, or the payload was changed")
    # 3
    critical = parse_strict(payload, _Payload, "the signed payload", MAX_PAYLOAD_BYTES).critical
    if critical.type != _TYPE:
        raise SignatureInvalid(f"the payload is of type {quote(critical.type)}; expected {quote(_TYPE)}")
    # 4
    if critical.image.docker_manifest_digest != str(image.digest):
        raise SignatureInvalid(
            f"the signature is of {quote(critical.image.docker_manifest_digest)}; expected {image.digest}"
        )
    # 5
    named = critical.identity.docker_reference
    try:
        repository = Reference.parse(named).repository
    except BoltsealError as error:
        raise SignatureInvalid(f"the signature names {quote(named)}, which is no repository") from error
    if repository != image.repository:
        raise SignatureInvalid(f"the signature is for repository {repository}; expected {image.repository}")
    return Statement(key)
