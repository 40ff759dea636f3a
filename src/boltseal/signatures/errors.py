"""The one error of all verifications. Pure."""

from __future__ import annotations

from boltseal.errors import Invalid


class SignatureInvalid(Invalid):
    """A signature or attestation that can't be read, or says nothing about this image under this key. None of it was used."""
