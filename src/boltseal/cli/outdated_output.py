"""Output of `boltseal outdated`: the images and their bases, requested rebuilds, and the log of rebuilds."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from typing import Any, Final

from boltseal.cli.explained_bases_text import explained_of, markdown_lines, print_explained
from boltseal.cli.output import CommandOutput, print_wrapped, say
from boltseal.cli.progress import size_text
from boltseal.commands.base_change import ExplainedBase
from boltseal.commands.outdated import OutdatedReport
from boltseal.commands.rebuild_log import RebuildRecord
from boltseal.commands.text import clean, counted
from boltseal.ledger.entry import format_time
from boltseal.ledger.tag_intervals import moment
from boltseal.lockfile.compare import age
from boltseal.policy.release_tags import looks_like_release
from boltseal.project.bases.base_claims import ClaimSource
from boltseal.project.bases.base_report import BaseReport
from boltseal.project.bases.changes import BaseChanges, LayerCount
from boltseal.project.bases.freshness import BaseStatus, BaseVerdict
from boltseal.project.bases.rebuild_requests import MAY_MOVE, RebuildResult

_RESULTS: Final = (BaseStatus.CURRENT, BaseStatus.NO_BASE, BaseStatus.IGNORED, BaseStatus.SUPERSEDED)
_WITHOUT_SOURCES: Final = frozenset(
    {ClaimSource.ANNOTATION, ClaimSource.PROVENANCE, ClaimSource.LABEL, ClaimSource.LAYERS}
)
"""How the base of an image is known whose Dockerfile is not."""
_DIGEST: Final = re.compile(r"@(?=[a-z0-9]+:[0-9a-f]{64})")
"""Before a digest, which gets a line of its own: beside a name it would not fit."""
MAX_SETTINGS: Final = 10
"""How many changed settings of a base are printed; `--json` has all of them."""


def print_report(output: CommandOutput, report: OutdatedReport, *, verbose: bool, markdown: bool = False) -> None:
    """Print a scan. `verbose`: also why an image is current. `markdown`: as Markdown instead of text."""
    output.outcome = report.outcome
    as_text = not (output.as_json or markdown)
    for image in report.reports:
        explained = explained_of(image, report)
        _add_image(output, image, explained)
        if as_text:
            quiet = image.verdict.status in _RESULTS and not verbose
            details = _brief(image) if quiet else _details(image.verdict, image, report.now_us)
            _print_image(image.verdict.status, image.wanted.name, details)
            print_explained(explained)
    for name, reason in report.left_out:
        output.add(ref=name, status="cannot tell", reason=reason)
        if as_text:
            _print_image("cannot tell", name, [("why", reason)])
    if markdown:
        for line in markdown_lines(report):
            output.print(line)
    _print_summary(report)


def _brief(report: BaseReport) -> Iterator[tuple[str, str]]:
    """Yield what is always printed below an image that is neither outdated nor unknown."""
    if report.verdict.status is BaseStatus.SUPERSEDED:
        yield "why", report.verdict.reason


def _add_image(output: CommandOutput, report: BaseReport, explained: Mapping[str, ExplainedBase]) -> None:
    verdict = report.verdict
    output.add(
        ref=report.wanted.name,
        digest=None if report.digest is None else str(report.digest),
        **_fields(verdict),
        **_explanation(explained.get(verdict.platform)),
        runs_on=list(report.wanted.runs_on),
        rebuild_first=list(verdict.rebuild_first),
        ancestors=[_fields(each) for each in verdict.ancestors],
        platforms=[_fields(each) | _explanation(explained.get(each.platform)) for each in report.verdicts]
        if len(report.verdicts) > 1
        else [],
    )


def _explanation(explained: ExplainedBase | None) -> dict[str, Any]:
    return {} if explained is None else {"explanation": explained.as_json()}


def _print_image(status: str, name: str, details: Iterable[tuple[str, str]]) -> None:
    first, *digests = _DIGEST.split(clean(name))
    print_wrapped(f"{status:<12} ", first)
    for each in digests:
        print_wrapped("", each, indent=4)
    for label, text in details:
        print_wrapped(f"{label:<10}", clean(text), indent=13)


def _fields(verdict: BaseVerdict) -> dict[str, Any]:
    claim = verdict.claim
    return {
        "status": str(verdict.status),
        "reason": verdict.reason,
        "platform": verdict.platform,
        "base": None if claim is None or claim.base is None else str(claim.base),
        "how": None if claim is None else str(claim.kind),
        "by": None if claim is None else str(claim.source),
        "evidence": verdict.evidence or None,
        "built_on": None if verdict.built_on is None else str(verdict.built_on),
        "resolves_to": None if verdict.now is None else str(verdict.now),
        "newer_revision": None if verdict.newer is None else str(verdict.newer),
        "behind": verdict.behind,
        "behind_exact": verdict.exact,
        "expect": None if verdict.expect is None else str(verdict.expect),
        "since": None if verdict.since_us is None else format_time(verdict.since_us),
        "changes": None if verdict.changes is None else _change_fields(verdict.changes),
    }


def _change_fields(changes: BaseChanges) -> dict[str, Any]:
    def layers(some: LayerCount) -> dict[str, Any]:
        return {"layers": some.number, "size": some.size_bytes}

    labels = {one.what: {"was": one.was, "now": one.now} for one in (changes.version, changes.revision) if one}
    settings = {one.what: {"was": one.was, "now": one.now} for one in changes.settings}
    return {"removed": layers(changes.removed), "added": layers(changes.added), "settings": settings, "labels": labels}


def _details(verdict: BaseVerdict, report: BaseReport, now_us: int) -> Iterator[tuple[str, str]]:
    """Yield what is printed below an image, each with its label."""
    if report.wanted.runs_on:
        yield "runs on", ", ".join(report.wanted.runs_on)
    yield from _base_details(verdict)
    if verdict.ancestors:
        yield "chain", _chain_text(verdict, report, now_us)
    yield "why", verdict.reason
    for each in (verdict, *verdict.ancestors):
        if each.is_alarm and each.claim is not None:
            yield (
                "alarm",
                f"{each.claim.base} should never move: review its new image before you build on it; {MAY_MOVE}",
            )
    yield from _ancestor_details(verdict)
    if verdict.newer is not None:
        yield "newer", str(verdict.newer)
    elif verdict.status == "outdated" and verdict.now is not None and not verdict.rebuild_first:
        if verdict.built_on is not None:
            yield "was", str(verdict.built_on)
        yield "now", f"{verdict.now}{_since(verdict)}"
    if verdict.changes is not None:
        yield "changed", _changes_text(verdict.changes)
    if len(report.verdicts) > 1:
        yield "for", ", ".join(f"{each.platform}: {each.status}" for each in report.verdicts)


def _base_details(verdict: BaseVerdict) -> Iterator[tuple[str, str]]:
    claim = verdict.claim
    if claim is not None and claim.base is not None:
        yield "base", f"{claim.base} ({claim.kind}: {claim.source})"
        if claim.source in (ClaimSource.LAYERS, ClaimSource.CAME_WITH):
            yield "evidence", verdict.evidence


def _ancestor_details(verdict: BaseVerdict) -> Iterator[tuple[str, str]]:
    if verdict.rebuild_first:
        yield (
            "rebuild",
            f"{', '.join(verdict.rebuild_first)} first, then this image: a rebuild of it alone changes nothing",
        )
    for each in verdict.ancestors:
        if each.changes is not None and each.claim is not None:
            yield "changed", f"{each.claim.base}: {_changes_text(each.changes)}"


def _chain_text(verdict: BaseVerdict, report: BaseReport, now_us: int) -> str:
    """Return the image and its ancestors, with what has moved."""
    parts = [report.wanted.reference.familiar()]
    direct = verdict if not verdict.rebuild_first else replace(verdict, status=BaseStatus.CURRENT)
    for each in (direct, *verdict.ancestors):
        if each.claim is None or each.claim.base is None:
            break
        if each.newer is not None:
            parts.append(f"{each.claim.base.familiar()} (newer revision: {each.newer.tag})")
            continue
        moved = f" (moved{'' if each.since_us is None else f' {age(each.since_us, now_us)} ago'})"
        parts.append(f"{each.claim.base.familiar()}{moved if each.status is BaseStatus.OUTDATED else ''}")
    return " <- ".join(parts)


def _since(verdict: BaseVerdict) -> str:
    moves = "1 move" if verdict.behind == 1 else f"{verdict.behind} moves"
    behind = f", {'' if verdict.exact else 'at least '}{moves} behind"
    since = "" if verdict.since_us is None else f", seen since {moment(verdict.since_us)}"
    return since + behind


def _changes_text(changes: BaseChanges) -> str:
    parts = [
        f"{what} {some.number} {'layer' if some.number == 1 else 'layers'}"
        + (f" ({size_text(some.size_bytes)})" if some.size_bytes is not None else "")
        for what, some in (("lost", changes.removed), ("got", changes.added))
        if some.number
    ]
    parts += [one.what for one in changes.settings[:MAX_SETTINGS]]
    if len(changes.settings) > MAX_SETTINGS:
        parts.append(f"{len(changes.settings) - MAX_SETTINGS} more settings")
    parts += [
        f"{one.what} {one.was or 'none'} -> {one.now or 'none'}" for one in (changes.version, changes.revision) if one
    ]
    return "; ".join(parts) or "nothing that an image built on it would notice"


def _print_summary(report: OutdatedReport) -> None:
    counts = Counter(str(one.verdict.status) for one in report.reports)
    counts["cannot tell"] += len(report.left_out)
    numbers = ", ".join(f"{number} {status}" for status, number in sorted(counts.items()) if number)
    artifacts = f"; {report.artifacts} more are no images (signatures, SBOMs, ...)" if report.artifacts else ""
    total = counted(len(report.reports) + len(report.left_out), "image")
    say(f"{total}{': ' if numbers else ''}{numbers}{artifacts}")
    for hint in islice(_rebase_hints(report), 1):
        say(clean(f"boltseal: {hint}"))


def _rebase_hints(report: OutdatedReport) -> Iterator[str]:
    """Yield how to put an image on its new base, for outdated ones of which no Dockerfile is known."""
    for image in report.reports:
        verdict = image.verdict
        claim = verdict.claim
        if verdict.status is not BaseStatus.OUTDATED or verdict.rebuild_first or claim is None or claim.base is None:
            continue
        if verdict.built_on is not None and claim.source in _WITHOUT_SOURCES:
            onto = claim.base if verdict.newer is None else verdict.newer.by_tag
            tag = image.wanted.reference.tag
            scheme = " --scheme revision" if tag is not None and looks_like_release(tag) else ""
            yield f"rebuild it; without its sources: boltseal rebase {image.wanted.name} --onto {onto}{scheme} --dry-run"


def print_rebuilds(output: CommandOutput, rebuilds: Iterable[RebuildResult]) -> None:
    """Print the result of each requested rebuild."""
    for one in rebuilds:
        due = one.due
        output.add(
            ref=str(due.image),
            status=f"rebuild {one.outcome}",
            reason=one.summary,
            base=str(due.base),
            resolves_to=str(due.now),
            tries=one.tries,
        )
        if not output.as_json:
            print_wrapped(f"rebuild {one.outcome:<6}  ", clean(f"{due.image}: {one.summary}"))
        if one.recorded:
            say(clean(f"boltseal: {due.image}: the ledger does not record it: {one.recorded}"))


def print_log(output: CommandOutput, records: Sequence[RebuildRecord]) -> None:
    """Print the rebuilds that were requested before."""
    for one in records:
        output.add(
            ref=one.image, status=one.outcome, reason=one.reason, time=one.time, base=one.base, resolves_to=one.digest
        )
        if output.as_json:
            continue
        print_wrapped(f"{one.time[:19]}Z  ", clean(f"{one.outcome:<7} {one.image}"))
        reason = f": {one.reason}" if one.reason else ""
        print_wrapped("for ", clean(f"{one.base} at {one.digest}{reason}"), indent=22)
    say(counted(len(records), "rebuild request"))
