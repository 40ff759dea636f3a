"""The requirements that the user names with --signed-by, the same ones as `require` of a `[[rule]]` has.

    --signed-by release.pub                                                          a public key
    --signed-by identity=release@acme.example,issuer=https://accounts.example.com,trusted_root=trusted_root.json
    --signed-by 'ca=acme-ca.pem,subject=C=US, O=acme.example'                        NAME=VALUE, separated by commas
    --signed-by '{ any_of = [{ key = "alice.pub" }, { key = "bob.pub" }] }'          tables as a rule has them

A value that begins with one of the names of such a table and `=` has NAME=VALUE pairs: in any order, each name once. A comma
inside a value stays there unless one of the names and `=` follow it. Files are relative to the current folder.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

from boltseal.errors import Invalid, quote
from boltseal.keyless.verifier import check_installed
from boltseal.policy.requirements import SINGLE_KEYS, Requirement, parse_requirement, parse_requirements, trusted_roots
from boltseal.signatures.certificate_chains import MAX_CRL_BYTES
from boltseal.signatures.trusted_root import MAX_TRUSTED_ROOT_BYTES

_PARTS: Final = re.compile(rf"(?:^|,)({'|'.join(SINGLE_KEYS)})=")
_MAX_FILE_BYTES: Final = max(MAX_TRUSTED_ROOT_BYTES, MAX_CRL_BYTES)


class SignerInvalid(Invalid):
    """A value of --signed-by that names no signer."""


def signed_by(values: Iterable[str]) -> tuple[Requirement, ...]:
    """Read the requirements. Raises: SignerInvalid, KeylessNotInstalled."""
    requirements = tuple(requirement for value in values for requirement in _requirements(value))
    check_installed(trusted_roots(requirements))
    return requirements


def _requirements(value: str) -> tuple[Requirement, ...]:
    where = f"--signed-by {quote(value)}"
    try:
        if value.lstrip().startswith("{"):
            return parse_requirements(_tables(value), _read)
        table = _pairs(value) if _PARTS.match(value) else {"key": value}
        return (parse_requirement(table, where, _read),)
    except Invalid as error:
        already = error.message.startswith(where)
        raise SignerInvalid(error.message if already else f"{where}: {error.message}") from error


def _tables(value: str) -> Any:
    expected = 'expected tables as a rule has them, such as { key = "release.pub" }'
    try:
        document = tomllib.loads(f"require = [{value}]")
    except tomllib.TOMLDecodeError as error:
        raise SignerInvalid(f"{expected}: {error}") from error
    if document.keys() != {"require"}:
        raise SignerInvalid(expected)
    return document["require"]


def _pairs(value: str) -> Mapping[str, str]:
    pieces = _PARTS.split(value)[1:]
    names, texts = pieces[0::2], pieces[1::2]
    for name in names:
        if names.count(name) > 1:
            raise SignerInvalid(f"{name} is there twice; repeat --signed-by for several signers")
    return dict(zip(names, texts, strict=True))


def _read(file: str) -> bytes:
    try:
        with Path(file).open("rb") as opened:
            return opened.read(_MAX_FILE_BYTES + 1)
    except OSError as error:
        raise SignerInvalid(f"{quote(file)} can't be read: {error.strerror}") from error
