"""`require` of a `[[rule]]`: the evidence that an image needs before it gets a tag of the rule. Pure.

    require = [
        { key = "release.pub" },                                                a signature by this key
        { any_of = [{ key = "alice.pub" }, { key = "bob.pub" }] },              one of these
        { predicate = "slsaprovenance", key = "ci.pub", builder = "https://ci.example/builder" },
        { predicate = "cyclonedx", key = "ci.pub" },                            an attestation of this type, signed by this key
        { ca = "acme-ca.pem", subject = "..." },                                a signature of Notation (`notation_signers`)
    ]

All requirements of the list must hold. An attestation needs a key as well: any client that may push can write one without a signature. A signature
is no attestation, and an attestation is no signature (docs/adr/0081). `parse_requirements` is the only way from a
configuration to requirements; `judge_evidence` compares them with what the repository has.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from boltseal.errors import Invalid, quote
from boltseal.oci.digest import Digest
from boltseal.policy.notation_signers import CERTIFICATE_KEYS, CertifiedBy, NotationSignerInvalid, parse_certified
from boltseal.signatures.errors import SignatureInvalid
from boltseal.signatures.evidence import EvidenceLayer, verify_layer
from boltseal.signatures.public_keys import PublicKey, PublicKeyInvalid
from boltseal.signatures.signed_image import SignedImage, Statement

MAX_REQUIREMENTS: Final = 16
MAX_FILE_NAME: Final = 4096

KeyReader = Callable[[str], bytes]
"""Reads the file of a public key, certificates or a CRL. Raises: Invalid, when there is none."""

PREDICATES: Final[Mapping[str, frozenset[str]]] = {
    "slsaprovenance": frozenset({"https://slsa.dev/provenance/v1", "https://slsa.dev/provenance/v0.2"}),
    "cyclonedx": frozenset({"https://cyclonedx.org/bom"}),
    "spdx": frozenset({"https://spdx.dev/Document"}),
    "vuln": frozenset({"https://cosign.sigstore.dev/attestation/vuln/v1"}),
}
"""The names of predicate types, as `cosign attest --type` has them."""

_KEYS: Final = ("key", "predicate", "builder", *CERTIFICATE_KEYS, "any_of")


class RequirementInvalid(Invalid):
    """A requirement that can't be read. The server does not start."""


@dataclass(frozen=True, slots=True)
class TrustedKey:
    """A public key and the name of its file, without folders."""

    file: str
    key: PublicKey

    def __str__(self) -> str:
        return f"{self.file} (sha256:{self.key.fingerprint[:12]})"


@dataclass(frozen=True, slots=True)
class SignedBy:
    """A signature of the image by a key."""

    signer: TrustedKey

    @property
    def signer_name(self) -> str:
        """The signer, in the reason why its signature does not suffice."""
        return self.signer.file

    def verify(self, layer: EvidenceLayer, image: SignedImage, _now_us: int) -> Statement:
        """Return what a layer says about an image, if the signer signed it. Raises: SignatureInvalid."""
        return verify_layer(layer, image, self.signer.key)

    def met_by(self, statement: Statement) -> bool:
        """Return whether a statement of the signer is what is required."""
        return statement.predicate_type is None

    def command(self, image: str) -> str:
        """Return the command that adds it."""
        return f"cosign sign --key {_private(self.signer)} {image}"

    def canonical(self) -> str:
        """Return the requirement as text that changes when its meaning does."""
        return f"key {self.signer.key.fingerprint}"

    def __str__(self) -> str:
        return f"a signature by {self.signer}"


@dataclass(frozen=True, slots=True)
class AttestedBy:
    """An attestation of a type, signed by a key. `builder`: the builder that a provenance has to name; "" for any."""

    signer: TrustedKey
    predicate: str
    builder: str = ""

    @property
    def signer_name(self) -> str:
        """The signer, in the reason why its signature does not suffice."""
        return self.signer.file

    def verify(self, layer: EvidenceLayer, image: SignedImage, _now_us: int) -> Statement:
        """Return what a layer says about an image, if the signer signed it. Raises: SignatureInvalid."""
        return verify_layer(layer, image, self.signer.key)

    def met_by(self, statement: Statement) -> bool:
        """Return whether a statement of the signer is what is required."""
        types = PREDICATES.get(self.predicate, frozenset({self.predicate}))
        return statement.predicate_type in types and self.builder in ("", builder_of(statement))

    def command(self, image: str) -> str:
        """Return the command that adds it."""
        return f"cosign attest --key {_private(self.signer)} --type {self.predicate} --predicate FILE {image}"

    def canonical(self) -> str:
        """Return the requirement as text that changes when its meaning does."""
        return f"predicate {self.predicate} builder {self.builder} key {self.signer.key.fingerprint}"

    def __str__(self) -> str:
        builder = f" of builder {self.builder}" if self.builder else ""
        return f"an attestation {self.predicate}{builder} signed by {self.signer}"


SingleRequirement = SignedBy | AttestedBy | CertifiedBy


@dataclass(frozen=True, slots=True)
class AnyOf:
    """One of several requirements."""

    alternatives: tuple[SingleRequirement, ...]

    def command(self, image: str) -> str:
        """Return the command that adds the first alternative."""
        return self.alternatives[0].command(image)

    def canonical(self) -> str:
        """Return the requirement as text that changes when its meaning does."""
        return f"any of [{', '.join(each.canonical() for each in self.alternatives)}]"

    def __str__(self) -> str:
        return " or ".join(map(str, self.alternatives))


Requirement = SingleRequirement | AnyOf


@dataclass(frozen=True, slots=True)
class StoredEvidence:
    """A manifest of signatures or attestations of an image, and its layers of known formats."""

    manifest: Digest
    layers: tuple[EvidenceLayer, ...]


@dataclass(frozen=True, slots=True)
class MissingEvidence:
    """A requirement that does not hold. `why`: the reason why the evidence that there is does not meet it; "" without any."""

    what: str
    command: str
    why: str


@dataclass(frozen=True, slots=True)
class EvidenceVerdict:
    """What was found. `missing`: the requirements that do not hold. `manifests`: the evidence that meets the others."""

    missing: tuple[MissingEvidence, ...] = ()
    manifests: tuple[Digest, ...] = ()


def judge_evidence(
    requirements: Sequence[Requirement], image: SignedImage, evidence: Sequence[StoredEvidence], now_us: int = 0
) -> EvidenceVerdict:
    """Compare requirements with the evidence of an image. Every signature is verified; a layer that fails is no evidence.

    `now_us`: microseconds since 1970, for the validity of certificates. With 0 none is valid yet.
    """
    missing: list[MissingEvidence] = []
    used: dict[Digest, None] = {}
    for requirement in requirements:
        alternatives = requirement.alternatives if isinstance(requirement, AnyOf) else (requirement,)
        why = ""
        for alternative in alternatives:
            found = _first_meeting(alternative, image, evidence, now_us)
            if isinstance(found, Digest):
                used[found] = None
                break
            why = why or found
        else:
            command = requirement.command(f"REGISTRY/{image.repository}@{image.digest}")
            missing.append(MissingEvidence(str(requirement), command, why))
    return EvidenceVerdict(tuple(missing), tuple(used))


def _first_meeting(
    requirement: SingleRequirement, image: SignedImage, evidence: Sequence[StoredEvidence], now_us: int
) -> Digest | str:
    """Return the manifest of the first layer that meets a requirement; else why the first layer does not."""
    why = ""
    for stored in evidence:
        for layer in stored.layers:
            try:
                statement = requirement.verify(layer, image, now_us)
            except SignatureInvalid as error:
                why = why or error.message
                continue
            if requirement.met_by(statement):
                return stored.manifest
            why = f"{requirement.signer_name} signed {_stated(statement)}"
    return why


def _stated(statement: Statement) -> str:
    if statement.predicate_type is None:
        return "the image only"
    builder = builder_of(statement)
    return f"an attestation of type {quote(statement.predicate_type)}" + (
        f" of builder {quote(builder)}" if builder else ""
    )


def builder_of(statement: Statement) -> str:
    """Return the builder that a provenance names, else "": in version 1 `runDetails.builder.id`, in version 0.2 `builder.id`."""
    found: Any = statement.predicate
    path = ("builder", "id") if "builder" in statement.predicate else ("runDetails", "builder", "id")
    for key in path:
        found = found.get(key) if isinstance(found, Mapping) else None
    return found if isinstance(found, str) else ""


def _private(signer: TrustedKey) -> str:
    return "KEY" if not signer.file.endswith(".pub") else signer.file.removesuffix(".pub") + ".key"


def parse_requirements(value: object, read_key: KeyReader) -> tuple[Requirement, ...]:
    """Parse the value of `require`. `read_key` reads the files that it names. Raises: RequirementInvalid, with the position."""
    return tuple(_parse(each, f"require[{number}]", read_key) for number, each in enumerate(_tables(value, "require")))


def _parse(table: Mapping[str, Any], where: str, read_key: KeyReader) -> Requirement:
    if "any_of" not in table:
        return _parse_single(table, where, read_key)
    _check_keys(table, where)
    if len(table) > 1:
        raise RequirementInvalid(f"{where}: any_of stands alone; write other requirements beside it, in the list")
    inside = f"{where}.any_of"
    return AnyOf(
        tuple(
            _parse_single(each, f"{inside}[{number}]", read_key)
            for number, each in enumerate(_tables(table["any_of"], inside))
        )
    )


def _parse_single(table: Mapping[str, Any], where: str, read_key: KeyReader) -> SingleRequirement:
    _check_keys(table, where)
    if "any_of" in table:
        raise RequirementInvalid(f"{where}: any_of inside any_of; list the alternatives in one")
    for name, text in table.items():
        if not isinstance(text, str) or not text or len(text) > MAX_FILE_NAME or not text.isprintable():
            raise RequirementInvalid(f"{where}: {name} must be a text of printable characters")
    if any(name in table for name in CERTIFICATE_KEYS):
        try:
            return parse_certified(table, read_key)
        except NotationSignerInvalid as error:
            raise RequirementInvalid(f"{where}: {error.message}") from error
    if "key" not in table:
        raise RequirementInvalid(f"{where}: key is missing: the file of the public key that must have signed")
    signer = _read(table["key"], where, read_key)
    predicate, builder = table.get("predicate", ""), table.get("builder", "")
    if not predicate:
        if builder:
            raise RequirementInvalid(f"{where}: builder needs a predicate that names it, such as slsaprovenance")
        return SignedBy(signer)
    if predicate not in PREDICATES and "://" not in predicate:
        raise RequirementInvalid(
            f"{where}: predicate is {quote(predicate)}; expected one of {', '.join(PREDICATES)}, or a URI"
        )
    return AttestedBy(signer, predicate, builder)


def _read(file: str, where: str, read_key: KeyReader) -> TrustedKey:
    try:
        key = PublicKey.parse(read_key(file))
    except PublicKeyInvalid as error:
        raise RequirementInvalid(f"{where}: key {quote(file)}: {error.message}") from error
    except Invalid as error:
        raise RequirementInvalid(f"{where}: {error.message}") from error
    return TrustedKey(file.rpartition("/")[2], key)


def _tables(value: object, where: str) -> Sequence[Mapping[str, Any]]:
    if not isinstance(value, list) or not all(isinstance(each, dict) for each in value):
        raise RequirementInvalid(f'{where} must be a list of tables, such as [{{ key = "release.pub" }}]')
    if not 0 < len(value) <= MAX_REQUIREMENTS:
        raise RequirementInvalid(f"{where} has {len(value)} entries; expected 1 to {MAX_REQUIREMENTS}")
    return value


def _check_keys(table: Mapping[str, Any], where: str) -> None:
    for name in table:
        if name in ("identity", "issuer"):
            raise RequirementInvalid(f"{where}: {name} needs keyless signatures, which are not verified yet; use a key")
        if name not in _KEYS:
            near = difflib.get_close_matches(name, _KEYS, n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise RequirementInvalid(f"{where}: unknown key {quote(name)}{hint} (expected {', '.join(_KEYS)})")
