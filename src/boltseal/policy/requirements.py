"""`require` of a `[[rule]]`: the evidence that an image needs before it gets a tag of the rule. Pure.

    require = [
        { key = "release.pub" },                                                a signature by this key
        { any_of = [{ key = "alice.pub" }, { key = "bob.pub" }] },              one of these
        { predicate = "slsaprovenance", key = "ci.pub", builder = "https://ci.example/builder" },
        { predicate = "cyclonedx", key = "ci.pub" },                            an attestation of this type, signed by this key
        { ca = "acme-ca.pem", subject = "..." },                                a signature of Notation (`notation_signers`)
        { identity = "...", issuer = "...", trusted_root = "root.json" },       a keyless signature (`keyless_signers`)
    ]

All requirements of the list must hold. An attestation needs a signer as well: any client that may push can write one without a signature. A signature
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
from boltseal.policy.keyless_signers import (
    KEYLESS_KEYS,
    NO_RESULTS,
    KeylessNotVerified,
    KeylessResults,
    KeylessSigner,
)
from boltseal.policy.notation_signers import CERTIFICATE_KEYS, CertifiedBy, NotationSignerInvalid, parse_certified
from boltseal.signatures.certificate_chains import Authorities
from boltseal.signatures.errors import SignatureInvalid
from boltseal.signatures.evidence import EvidenceLayer, verify_layer
from boltseal.signatures.public_keys import PublicKey, PublicKeyInvalid
from boltseal.signatures.signed_image import SignedImage, Statement
from boltseal.signatures.trusted_root import TrustedRoot, TrustedRootInvalid

MAX_REQUIREMENTS: Final = 16
MAX_FILE_NAME: Final = 4096

KeyReader = Callable[[str], bytes]
"""Reads the file of a public key, a trusted root, certificates or a CRL. Raises: Invalid, when there is none."""

PREDICATES: Final[Mapping[str, frozenset[str]]] = {
    "slsaprovenance": frozenset({"https://slsa.dev/provenance/v1", "https://slsa.dev/provenance/v0.2"}),
    "cyclonedx": frozenset({"https://cyclonedx.org/bom"}),
    "spdx": frozenset({"https://spdx.dev/Document"}),
    "vuln": frozenset({"https://cosign.sigstore.dev/attestation/vuln/v1"}),
}
"""The names of predicate types, as `cosign attest --type` has them."""

SINGLE_KEYS: Final = ("key", *KEYLESS_KEYS, "predicate", "builder", *CERTIFICATE_KEYS)
"""The keys of a table that names one signer."""
_KEYS: Final = (*SINGLE_KEYS, "any_of")


class RequirementInvalid(Invalid):
    """A requirement that can't be read. The server does not start."""


@dataclass(frozen=True, slots=True)
class TrustedKey:
    """A public key and the name of its file, without folders."""

    file: str
    key: PublicKey

    @property
    def name(self) -> str:
        """The file, for messages."""
        return self.file

    @property
    def cosign_option(self) -> str:
        """The option by which cosign signs with this key."""
        return f"--key {self.file.removesuffix('.pub') + '.key' if self.file.endswith('.pub') else 'KEY'}"

    def verify(self, layer: EvidenceLayer, image: SignedImage, _results: KeylessResults = NO_RESULTS) -> Statement:
        """Return what a layer says about an image, if this key signed it. Raises: SignatureInvalid."""
        return verify_layer(layer, image, self.key)

    def canonical(self) -> str:
        """Return the signer as text that changes when its meaning does."""
        return f"key {self.key.fingerprint}"

    def __str__(self) -> str:
        return f"{self.file} (sha256:{self.key.fingerprint[:12]})"


TrustedSigner = TrustedKey | KeylessSigner


@dataclass(frozen=True, slots=True)
class SignedBy:
    """A signature of the image by a signer."""

    signer: TrustedSigner

    @property
    def signer_name(self) -> str:
        """The signer, in the reason why its signature does not suffice."""
        return self.signer.name

    def verify(self, layer: EvidenceLayer, image: SignedImage, _now_us: int, keyless: KeylessResults) -> Statement:
        """Return what a layer says about an image, if the signer signed it. Raises: SignatureInvalid, KeylessNotVerified."""
        return self.signer.verify(layer, image, keyless)

    def signed_by(self, statement: Statement) -> str:
        """Return the name of the signer of a statement that `verify` returned."""
        return statement.holder or str(self.signer)

    def met_by(self, statement: Statement) -> bool:
        """Return whether a statement of the signer is what is required."""
        return statement.predicate_type is None

    def command(self, image: str) -> str:
        """Return the command that adds it."""
        return f"cosign sign {self.signer.cosign_option} {image}"

    def canonical(self) -> str:
        """Return the requirement as text that changes when its meaning does."""
        return self.signer.canonical()

    def __str__(self) -> str:
        return f"a signature by {self.signer}"


@dataclass(frozen=True, slots=True)
class AttestedBy:
    """An attestation of a type by a signer. `builder`: the builder that a provenance has to name; "" for any."""

    signer: TrustedSigner
    predicate: str
    builder: str = ""

    @property
    def signer_name(self) -> str:
        """The signer, in the reason why its signature does not suffice."""
        return self.signer.name

    def verify(self, layer: EvidenceLayer, image: SignedImage, _now_us: int, keyless: KeylessResults) -> Statement:
        """Return what a layer says about an image, if the signer signed it. Raises: SignatureInvalid, KeylessNotVerified."""
        return self.signer.verify(layer, image, keyless)

    def signed_by(self, statement: Statement) -> str:
        """Return the name of the signer of a statement that `verify` returned."""
        return statement.holder or str(self.signer)

    def met_by(self, statement: Statement) -> bool:
        """Return whether a statement of the signer is what is required."""
        types = PREDICATES.get(self.predicate, frozenset({self.predicate}))
        return statement.predicate_type in types and self.builder in ("", builder_of(statement))

    def command(self, image: str) -> str:
        """Return the command that adds it."""
        return f"cosign attest {self.signer.cosign_option} --type {self.predicate} --predicate FILE {image}"

    def canonical(self) -> str:
        """Return the requirement as text that changes when its meaning does."""
        return f"predicate {self.predicate} builder {self.builder} {self.signer.canonical()}"

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

    def __str__(self) -> str:
        return f"{self.what} (there is evidence, but {self.why})" if self.why else self.what


@dataclass(frozen=True, slots=True)
class EvidenceVerdict:
    """What was found. `missing`: the requirements that do not hold. `manifests`: the evidence that meets the others."""

    missing: tuple[MissingEvidence, ...] = ()
    manifests: tuple[Digest, ...] = ()


def judge_evidence(
    requirements: Sequence[Requirement],
    image: SignedImage,
    evidence: Sequence[StoredEvidence],
    now_us: int = 0,
    keyless: KeylessResults = NO_RESULTS,
) -> EvidenceVerdict:
    """Compare requirements with the evidence of an image. Every signature is verified; a layer that fails is no evidence.

    `now_us`: microseconds since 1970, for the validity of certificates. With 0 none is valid yet.
    `keyless`: the results for all keyless signatures among it, if a requirement needs them (`boltseal.keyless`).

    Raises: KeylessNotVerified: a requirement does not hold by what is verified, and a result that could meet it is missing.
    """
    missing: list[MissingEvidence] = []
    used: dict[Digest, None] = {}
    for requirement in requirements:
        why, doubt = "", None
        for alternative in _alternatives(requirement):
            found = _first_meeting(alternative, image, evidence, now_us, keyless)
            if isinstance(found, Digest):
                used[found] = None
                break
            if isinstance(found, KeylessNotVerified):
                doubt = doubt or found
            else:
                why = why or found
        else:
            if doubt is not None:
                raise doubt
            command = requirement.command(f"REGISTRY/{image.repository}@{image.digest}")
            missing.append(MissingEvidence(str(requirement), command, why))
    return EvidenceVerdict(tuple(missing), tuple(used))


def single_requirements(requirements: Sequence[Requirement]) -> tuple[SingleRequirement, ...]:
    """Return all requirements and alternatives of them, in order."""
    return tuple(single for each in requirements for single in _alternatives(each))


def trusted_roots(requirements: Sequence[Requirement]) -> tuple[TrustedRoot | Authorities, ...]:
    """Return what `boltseal.keyless` needs to verify for requirements, each once.

    Trusted roots of keyless signers, and authorities of time stamps; none where the requirements name neither.
    """
    found: dict[TrustedRoot | Authorities, None] = {}
    for each in single_requirements(requirements):
        if isinstance(each, CertifiedBy):
            root: TrustedRoot | Authorities | None = each.trusted.time_stamps
        else:
            root = each.signer.root if isinstance(each.signer, KeylessSigner) else None
        if root is not None:
            found[root] = None
    return tuple(found)


def _alternatives(requirement: Requirement) -> tuple[SingleRequirement, ...]:
    return requirement.alternatives if isinstance(requirement, AnyOf) else (requirement,)


def _first_meeting(
    requirement: SingleRequirement,
    image: SignedImage,
    evidence: Sequence[StoredEvidence],
    now_us: int,
    keyless: KeylessResults,
) -> Digest | str | KeylessNotVerified:
    """Return the manifest of the first layer that meets a requirement; else a layer that could, or why the first does not."""
    why, doubt = "", None
    for stored in evidence:
        for layer in stored.layers:
            try:
                statement = requirement.verify(layer, image, now_us, keyless)
            except SignatureInvalid as error:
                why = why or error.message
                continue
            except KeylessNotVerified as error:
                doubt = doubt or error
                continue
            if requirement.met_by(statement):
                return stored.manifest
            why = f"{requirement.signer_name} signed {_stated(statement)}"
    return doubt or why


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


def parse_requirements(value: object, read_key: KeyReader) -> tuple[Requirement, ...]:
    """Parse the value of `require`. `read_key` reads the files that it names. Raises: RequirementInvalid, with the position."""
    tables = enumerate(_tables(value, "require"))
    return tuple(parse_requirement(each, f"require[{number}]", read_key) for number, each in tables)


def parse_requirement(table: Mapping[str, Any], where: str, read_key: KeyReader) -> Requirement:
    """Parse one table of `require`. `where` names it in errors. Raises: RequirementInvalid."""
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
    signer = _signer(table, where, read_key)
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


def _signer(table: Mapping[str, Any], where: str, read_key: KeyReader) -> TrustedSigner:
    keyless = [name for name in KEYLESS_KEYS if name in table]
    if keyless and "key" in table:
        raise RequirementInvalid(
            f"{where}: key and {keyless[0]} exclude each other: a signature is by a key or an identity"
        )
    if "key" in table:
        return _read_key(table["key"], where, read_key)
    if not keyless:
        raise RequirementInvalid(
            f"{where}: key is missing: the file of the public key that must have signed; or identity, issuer and trusted_root"
        )
    missing = [name for name in KEYLESS_KEYS if name not in table]
    if missing:
        raise RequirementInvalid(
            f"{where}: {missing[0]} is missing; a keyless signature needs identity, issuer, and trusted_root: the file of a "
            "Sigstore trusted root"
        )
    try:
        root = TrustedRoot.parse(read_key(table["trusted_root"]))
        return KeylessSigner.parse(table["identity"], table["issuer"], root)
    except TrustedRootInvalid as error:
        raise RequirementInvalid(f"{where}: trusted_root {quote(table['trusted_root'])}: {error.message}") from error
    except Invalid as error:
        raise RequirementInvalid(f"{where}: {error.message}") from error


def _read_key(file: str, where: str, read_key: KeyReader) -> TrustedKey:
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
        if name not in _KEYS:
            near = difflib.get_close_matches(name, _KEYS, n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise RequirementInvalid(f"{where}: unknown key {quote(name)}{hint} (expected {', '.join(_KEYS)})")
