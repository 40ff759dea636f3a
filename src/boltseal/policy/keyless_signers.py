"""Signers without a key: an identity that an issuer vouches for, as a requirement names it. Pure.

    { identity = "https://github.com/acme/app/.github/workflows/release.yml@refs/tags/*",
      issuer = "https://token.actions.githubusercontent.com", trusted_root = "trusted_root.json" }

`identity` is a glob over the whole name in the certificate (`*` stops at `/`), `issuer` is compared literally. The trusted root
belongs to the signer: the same identity under another root is another signer.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Final, NamedTuple

from boltseal.errors import Invalid, Unavailable, quote
from boltseal.policy.globs import Glob, GlobInvalid, parse_claim_glob
from boltseal.signatures.errors import SignatureInvalid
from boltseal.signatures.evidence import EvidenceLayer
from boltseal.signatures.keyless_bundle import (
    RefusedBundle,
    VerifiedBundle,
    unverified_payload,
    verify_keyless_bundle,
)
from boltseal.signatures.signed_image import SignedImage, Statement
from boltseal.signatures.sigstore_bundle import BUNDLE
from boltseal.signatures.time_stamps import RefusedStamp, VerifiedStamp
from boltseal.signatures.trusted_root import TrustedRoot

KEYLESS_KEYS: Final = ("identity", "issuer", "trusted_root")
MAX_TEXT: Final = 512


class KeylessSignerInvalid(Invalid):
    """An identity or an issuer that can't be read."""


class KeylessNotVerified(Unavailable):
    """A keyless signature or a time stamp was not verified, so that nothing is known about it. That is no refusal, and never a pass."""


class CheckedBundle(NamedTuple):
    """Names one verification: the sha256 of the trusted root and of the bundle, as 64 hex digits each.

    Of a time stamp: the fingerprint of its trusted authorities, and the sha256 of the envelope of Notation that has it.
    """

    root: str
    bundle: str


KeylessResult = VerifiedBundle | RefusedBundle | VerifiedStamp | RefusedStamp
KeylessResults = Mapping[CheckedBundle, KeylessResult]
"""What `boltseal.keyless` found out about the bundles and the time stamps of an image."""

NO_RESULTS: Final[KeylessResults] = {}


@dataclass(frozen=True, slots=True)
class KeylessSigner:
    """An identity of an issuer, under a trusted root. Made by `parse`."""

    identity: Glob
    issuer: str
    root: TrustedRoot

    @classmethod
    def parse(cls, identity: str, issuer: str, root: TrustedRoot) -> KeylessSigner:
        """Parse an identity and its issuer. Raises: KeylessSignerInvalid."""
        try:
            glob = parse_claim_glob(identity)
        except GlobInvalid as error:
            raise KeylessSignerInvalid(f"identity {quote(identity)}: {error.message}") from error
        if not identity.strip("*?"):
            raise KeylessSignerInvalid(
                f"identity {quote(identity)} is everyone that the issuer knows; expected a name, or the beginning of names"
            )
        if not issuer.startswith("https://") or not issuer.isprintable() or len(issuer) > MAX_TEXT:
            raise KeylessSignerInvalid(
                f"issuer {quote(issuer)}; expected the address of an OpenID Connect issuer, which begins with https://"
            )
        return cls(glob, issuer, root)

    @property
    def name(self) -> str:
        """The identity, for messages."""
        return str(self.identity)

    @property
    def cosign_option(self) -> str:
        """The option by which cosign signs so. A user logs in at the issuer; a pipeline has a token."""
        return "--new-bundle-format"

    def verify(self, layer: EvidenceLayer, image: SignedImage, results: KeylessResults) -> Statement:
        """Return what a layer says about an image, if this identity signed it.

        Raises:
            SignatureInvalid: it did not, or the layer is no keyless signature.
            KeylessNotVerified: `results` has nothing about this layer.
        """
        if layer.media_type != BUNDLE:
            raise SignatureInvalid(
                f"a layer of type {quote(layer.media_type)} is no keyless signature of a known format"
            )
        unverified_payload(layer.raw)
        found = results.get(CheckedBundle(self.root.fingerprint, sha256(layer.raw).hexdigest()))
        if not isinstance(found, VerifiedBundle | RefusedBundle):
            raise KeylessNotVerified("a keyless signature was not verified; try again")
        return verify_keyless_bundle(layer.raw, image, found, self.identity.matches, self.issuer)

    def canonical(self) -> str:
        """Return the signer as text that changes when its meaning does."""
        return f"identity {self.identity} issuer {self.issuer} root {self.root.fingerprint}"

    def __str__(self) -> str:
        return f"{self.identity} of {self.issuer}"
