"""Each signature and attestation of an image with its verdict, as `inspect --signed-by` prints it: a table, or JSON."""

from __future__ import annotations

from typing import Any, Final

from boltseal.cli.output import CommandOutput
from boltseal.cli.table import print_table
from boltseal.commands.inspect import VerifiedEvidence
from boltseal.commands.outcome import Outcome
from boltseal.errors import quote
from boltseal.policy.evidence_findings import EvidenceFinding, Verdict
from boltseal.policy.requirements import PREDICATES

_COLUMNS: Final = ("VERDICT", "KIND", "SIGNER OR REASON", "TIME", "DIGEST")
_VERDICTS: Final = {
    Verdict.VERIFIED: "verified",
    Verdict.NOT_VERIFIED: "not verified",
    Verdict.UNKNOWN: "could not check",
}
_NAMES: Final = {uri: name for name, uris in PREDICATES.items() for uri in uris}
_TEXT: Final = 400


def evidence_json(evidence: VerifiedEvidence | None) -> dict[str, Any]:
    """Return the fields of the result in `--json`; none without --signed-by."""
    if evidence is None:
        return {}
    findings = [
        {
            "digest": str(each.manifest),
            "media_type": each.media_type,
            "status": str(each.verdict),
            "kind": each.kind or None,
            "signer": each.signer or None,
            "time": _time(each),
            "time_from": None if each.time is None else str(each.time.source),
            "predicate_type": each.predicate_type,
            "builder": each.builder or None,
            "reason": each.why or None,
        }
        for each in evidence.findings
    ]
    return {"evidence": findings, "missing": [each.what for each in evidence.missing]}


def print_evidence(output: CommandOutput, evidence: VerifiedEvidence) -> None:
    """Print the table, and what is missing; the outcome becomes DIFFERS or UNKNOWN accordingly."""
    if evidence.findings and not output.as_json:
        output.print("")
        print_table(_COLUMNS, [_row(each) for each in evidence.findings], whole=("VERDICT",))
    for each in evidence.missing:
        output.print(f"missing     {_clean(each.what)}")
    if evidence.missing:
        output.outcome = output.outcome.worse(Outcome.DIFFERS)
    if evidence.unknown is not None:
        output.could_not_check(evidence.unknown)


def _row(each: EvidenceFinding) -> tuple[str, ...]:
    at = "" if each.time is None else f"{_time(each)} ({each.time.source})"
    return (_VERDICTS[each.verdict], _kind(each), _clean(each.signer or each.why), at, str(each.manifest))


def _kind(each: EvidenceFinding) -> str:
    builder = f" of builder {_clean(each.builder)}" if each.builder else ""
    predicate = each.predicate_type or ""
    kind = f"{_clean(each.format)} {each.kind} {_clean(_NAMES.get(predicate, predicate))}"
    return " ".join(kind.split()) + builder


def _time(each: EvidenceFinding) -> str | None:
    return None if each.time is None else f"{each.time.at:%Y-%m-%dT%H:%M:%SZ}"


def _clean(text: str) -> str:
    """Return text that a signer wrote with control characters escaped, cut."""
    return quote(text, _TEXT)[1:-1]
