"""The public keys that the user names with --signed-by."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from boltseal.policy.requirements import TrustedKey
from boltseal.signatures.public_keys import PublicKey, PublicKeyInvalid


def trusted_keys(paths: Iterable[Path]) -> tuple[TrustedKey, ...]:
    """Read the files of public keys. Raises: PublicKeyInvalid."""
    return tuple(_trusted_key(path) for path in paths)


def _trusted_key(path: Path) -> TrustedKey:
    try:
        return TrustedKey(path.name, PublicKey.parse(path.read_bytes()))
    except PublicKeyInvalid as error:
        raise PublicKeyInvalid(f"--signed-by {path}: {error.message}") from error
    except OSError as error:
        raise PublicKeyInvalid(f"--signed-by {path} can't be read: {error.strerror}") from error
