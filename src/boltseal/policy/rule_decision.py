"""Find the rule that applies to a tag. Pure.

The user's rules apply in order, then the built-in ones; the last of these seals every tag and keeps its bytes for ever. The
decision is made anew for every push. `seal` combines it with the present state of the tag: a floating tag may become sealed,
never the reverse.
"""

from __future__ import annotations

from boltseal.oci.digest import SHA256, SHA512, Digest
from boltseal.policy.rules import BUILT_IN_DEFAULT, BUILT_IN_FLOATING, BUILT_IN_SIGNATURES, Rule, RuleSet


def decide(rules: RuleSet, repository: str, tag: str) -> Rule:
    """Return the first rule that matches a tag. The last built-in rule matches every tag."""
    for rule in rules.user:
        if rule.matches(repository, tag):
            return rule
    floating = BUILT_IN_FLOATING.get(tag)
    if floating is not None:
        return floating
    return BUILT_IN_SIGNATURES if BUILT_IN_SIGNATURES.tag.matches(tag) else BUILT_IN_DEFAULT


def signature_subject(tag: str) -> Digest | None:
    """Return the digest in a signature tool's tag: sha256:<64 hex> for `sha256-<64 hex>.sig`.

    None for every other tag. Also of the referrers fallback tag of the distribution spec, which has no suffix.
    """
    algorithm, hex_ = _spoken_of(tag)
    return Digest(algorithm, hex_) if algorithm == SHA256 else None


def sha512_beginning(tag: str) -> str | None:
    """Return the first 64 of 128 digits of the sha512 digest that a signature tag names (docs/adr/0008); else None."""
    algorithm, hex_ = _spoken_of(tag)
    return f"{algorithm}:{hex_}" if algorithm == SHA512 else None


def _spoken_of(tag: str) -> tuple[str, str]:
    if not BUILT_IN_SIGNATURES.tag.matches(tag):
        return "", ""
    algorithm, _, rest = tag.partition("-")
    return algorithm, rest.partition(".")[0]
