"""Find the rule that applies to a tag. Pure.

The user's rules apply in order, then the built-in ones; the last of these seals every tag and keeps its bytes for ever. The
decision is made anew for every push. `seal` combines it with the present state of the tag: a floating tag may become sealed,
never the reverse.
"""

from __future__ import annotations

from dataclasses import dataclass

from boltseal.oci.digest import SHA256, SHA512, Digest
from boltseal.policy.rules import BUILT_IN_DEFAULT, BUILT_IN_FLOATING, BUILT_IN_SIGNATURES, Keep, Mode, Rule, RuleSet


@dataclass(frozen=True, slots=True)
class Decision:
    """The rule that applies to a tag published now."""

    rule: Rule

    @property
    def mode(self) -> Mode:
        """Whether the tag is sealed, floating or append-only."""
        return self.rule.mode

    @property
    def keep(self) -> Keep:
        """How long the tag's bytes are kept after it is sealed."""
        return self.rule.keep

    @property
    def why(self) -> str:
        """The rule as a text, for `boltseal admin rules test` and for refusals."""
        if self.rule.number:
            return f"rule {self.rule.number} ({self.rule})"
        if self.rule is BUILT_IN_DEFAULT:
            return "no rule matches; by default a tag is sealed and kept for ever"
        return f"built-in rule ({self.rule})"


def decide(rules: RuleSet, repository: str, tag: str) -> Decision:
    """Return the first rule that matches a tag. The last built-in rule matches every tag."""
    for rule in rules.user:
        if rule.matches(repository, tag):
            return Decision(rule)
    floating = BUILT_IN_FLOATING.get(tag)
    if floating is not None:
        return Decision(floating)
    return Decision(BUILT_IN_SIGNATURES if BUILT_IN_SIGNATURES.tag.matches(tag) else BUILT_IN_DEFAULT)


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
