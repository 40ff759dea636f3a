"""The signers that the user names with --signed-by: public keys, and identities under a trusted root.

    --signed-by release.pub
    --signed-by identity=release@acme.example,issuer=https://accounts.example.com,trusted_root=trusted_root.json

A value that begins with one of the three names is an identity. Its parts can be in any order, and each is there once; a comma
inside a name stays there unless one of the names follows it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from boltseal.errors import Invalid, quote
from boltseal.keyless.verifier import check_installed
from boltseal.policy.keyless_signers import KEYLESS_KEYS, KeylessSigner
from boltseal.policy.requirements import TrustedKey, TrustedSigner
from boltseal.signatures.public_keys import PublicKey, PublicKeyInvalid
from boltseal.signatures.trusted_root import MAX_TRUSTED_ROOT_BYTES, TrustedRoot

_PARTS: Final = re.compile(rf"(?:^|,)({'|'.join(KEYLESS_KEYS)})=")


class SignerInvalid(Invalid):
    """A value of --signed-by that is no key and no identity."""


def trusted_signers(values: Iterable[str]) -> tuple[TrustedSigner, ...]:
    """Read the signers. Raises: PublicKeyInvalid, SignerInvalid, KeylessNotInstalled."""
    signers = tuple(_identity(value) if _PARTS.match(value) else _trusted_key(Path(value)) for value in values)
    check_installed(signer.root for signer in signers if isinstance(signer, KeylessSigner))
    return signers


def _trusted_key(path: Path) -> TrustedKey:
    try:
        return TrustedKey(path.name, PublicKey.parse(path.read_bytes()))
    except PublicKeyInvalid as error:
        raise PublicKeyInvalid(f"--signed-by {path}: {error.message}") from error
    except OSError as error:
        raise PublicKeyInvalid(f"--signed-by {path} can't be read: {error.strerror}") from error


def _identity(value: str) -> KeylessSigner:
    pieces = _PARTS.split(value)[1:]
    names, texts = pieces[0::2], pieces[1::2]
    if sorted(names) != sorted(KEYLESS_KEYS):
        raise SignerInvalid(
            f"--signed-by {quote(value)}: expected identity=NAME,issuer=URL,trusted_root=FILE, each of them once"
        )
    parts = dict(zip(names, texts, strict=True))
    file = Path(parts["trusted_root"])
    try:
        with file.open("rb") as opened:
            root = TrustedRoot.parse(opened.read(MAX_TRUSTED_ROOT_BYTES + 1))
        return KeylessSigner.parse(parts["identity"], parts["issuer"], root)
    except Invalid as error:
        raise SignerInvalid(f"--signed-by {quote(value)}: {error.message}") from error
    except OSError as error:
        raise SignerInvalid(f"--signed-by: the trusted root {file} can't be read: {error.strerror}") from error
