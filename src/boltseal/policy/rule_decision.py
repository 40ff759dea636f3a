"""Which rule decides about a name, and why.

The user's rules in their order, then the built-in ones, then: sealed, kept for ever. Every accepted push asks
this anew; what a name already is (a floating tag may become sealed, never the other way) is judged elsewhere.
"""

from __future__ import annotations

from dataclasses import dataclass

from boltseal.oci.digest import SHA256, SHA512, Digest
from boltseal.policy.rules import BUILT_IN_DEFAULT, BUILT_IN_FLOATING, BUILT_IN_SIGNATURES, Keep, Mode, Rule, RuleSet


@dataclass(frozen=True, slots=True)
class Decision:
    """What holds for a name published now, and the rule that says so."""

    rule: Rule

    @property
    def mode(self) -> Mode:
        """Sealed, floating or append-only."""
        return self.rule.mode

    @property
    def keep(self) -> Keep:
        """How long its bytes are kept once it is sealed."""
        return self.rule.keep

    @property
    def why(self) -> str:
        """The rule in words, for `boltseal rules test` and for refusals."""
        if self.rule.number:
            return f"rule {self.rule.number} ({self.rule})"
        if self.rule is BUILT_IN_DEFAULT:
            return "no rule matches, and what no rule matches is sealed and kept for ever"
        return f"built-in rule ({self.rule})"


def decide(rules: RuleSet, repository: str, tag: str) -> Decision:
    """The first rule that matches the name. There always is one: the last built-in rule matches every name."""
    for rule in rules.user:
        if rule.matches(repository, tag):
            return Decision(rule)
    floating = BUILT_IN_FLOATING.get(tag)
    if floating is not None:
        return Decision(floating)
    return Decision(BUILT_IN_SIGNATURES if BUILT_IN_SIGNATURES.tag.matches(tag) else BUILT_IN_DEFAULT)


def signature_subject(tag: str) -> Digest | None:
    """The digest that a signature tool's tag speaks of: of `sha256-<64 hex>.sig`, sha256:<64 hex>.

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
