"""`boltseal outdated`: which images stand on an old base, since when, and what is different now."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from boltseal.cli.answer import CommandOutput, print_wrapped, say
from boltseal.cli.onbases import Aim, Left, inferred, looking, wanted_of
from boltseal.cli.onproject import AllowOption, whom_to_ask
from boltseal.cli.onrebuild import ask_for, end_on_sigterm, rebuilders, tell_asked, tell_log
from boltseal.cli.options import AllowEmptyOption, JsonOption, PlatformsOption
from boltseal.cli.progress import Progress, size_text
from boltseal.cli.remote import AnonymousOption, CaFileOption, PlainHttpOption, pull_limit_text, registry_options
from boltseal.commands.outcome import Outcome
from boltseal.commands.registry_access import ask
from boltseal.commands.text import clean

if TYPE_CHECKING:
    from boltseal.client.transport import Transport
    from boltseal.project.bases.base_scan import BaseReport
    from boltseal.project.bases.changes import BaseChanges, Layers
    from boltseal.project.bases.freshness import BaseVerdict
    from boltseal.project.bases.rebuild_requests import RebuildResult

MAX_SETTINGS = 10
"""How many settings of a base that are different are named; `--json` has all of them."""


DockerfileOption = Annotated[
    Path | None,
    typer.Option(
        "--dockerfile", metavar="FILE", show_default=False, help="What images that say nothing were built of."
    ),
]


def outdated(
    images: Annotated[
        list[str] | None,
        typer.Argument(metavar="[IMAGE]...", show_default=False, help="Images of any registry, by tag or digest."),
    ] = None,
    registry: Annotated[
        str | None, typer.Option("--registry", metavar="HOST", show_default=False, help="Every tag of a registry.")
    ] = None,
    compose: Annotated[
        Path | None, typer.Option("--compose", metavar="FILE", show_default=False, help="The images of a Compose file.")
    ] = None,
    lock: Annotated[
        Path | None, typer.Option("--lock", metavar="FILE", show_default=False, help="What a boltseal.lock names.")
    ] = None,
    running: Annotated[bool, typer.Option("--running", help="What runs on this host's engine, or --host's.")] = False,
    host: Annotated[
        str | None,
        typer.Option("--host", metavar="ADDRESS", show_default=False, help="running: unix://, tcp:// or ssh://."),
    ] = None,
    dockerfile: DockerfileOption = None,
    base: Annotated[
        str | None,
        typer.Option("--base", metavar="REF", show_default=False, help="On what images that say nothing stand."),
    ] = None,
    platform: PlatformsOption = None,
    window: Annotated[
        int,
        typer.Option(
            "--window", metavar="SECONDS", min=0, help="A base that was asked for within so long is not asked again."
        ),
    ] = 900,
    rebuild: Annotated[
        bool, typer.Option("--rebuild", help="Ask for rebuilds, as [[on_outdated]] of your own configuration says.")
    ] = False,
    log: Annotated[bool, typer.Option("--log", help="Which rebuilds were asked for, and what came of them.")] = False,
    verbose: Annotated[bool, typer.Option("-v", "--verbose", help="Also say why an image is current.")] = False,
    allow_empty: AllowEmptyOption = False,
    allow: AllowOption = None,
    plain_http: PlainHttpOption = False,
    ca_file: CaFileOption = None,
    anonymous: AnonymousOption = False,
    as_json: JsonOption = False,
) -> None:
    """Say which images stand on a base whose tag means another image by now.

    For each: its base, and how that is known (recorded at build, proven by layers, inferred); since when and by how many
    moves it is behind; what is different. A base costs one HEAD, however many images stand on it; no pull while nothing
    moved. What changed only for other platforms than the image's is not outdated.

    Exit code 1: one is outdated; 3: of one it could not be told, or there was no image.
    """
    with CommandOutput("outdated", as_json=as_json) as answer:
        aim = Aim(images or [], registry, compose, lock, running, host, platform or [])
        reach = registry_options(plain_http, ca_file, anonymous)
        if log:
            tell_log(answer, aim, reach)
            return
        aim.check()
        claim = inferred(dockerfile, base)
        told: list[BaseReport] = []
        asked: list[RebuildResult] = []
        left: list[Left] = []
        builders = rebuilders(rebuild)

        async def run(transport: Transport) -> list[str]:
            wanted, without = await wanted_of(aim, transport, claim, whom_to_ask(reach, allow or []))
            left.extend(without)
            with Progress() as progress:
                async with looking(
                    reach,
                    transport,
                    [*(allow or []), *{one.reference.registry for one in wanted}],
                    window_s=window,
                    tell=lambda done, all_: progress("images", done, all_),
                ) as looker:
                    told.extend(await looker.look(wanted))
                    if builders is not None:
                        end_on_sigterm()
                        asked.extend(await ask_for(builders, looker, wanted, told))
            return [pull_limit_text(name, quota) for name, quota in sorted(transport.quotas.items())]

        import asyncio

        try:
            quotas = ask(reach, _registries(aim), run)
        except asyncio.CancelledError:  # by SIGTERM: it ends as by Ctrl-C
            raise KeyboardInterrupt from None
        _tell_all(answer, aim, told, left, verbose=verbose)
        if not answer.results and not allow_empty:
            answer.nothing_to_check(f"found 0 images in {aim.source}", "check the arguments")
        tell_asked(answer, asked)
        for line in quotas:
            say(line)


def _tell_all(answer: CommandOutput, aim: Aim, told: list[BaseReport], left: list[Left], *, verbose: bool) -> None:
    answers, artifacts = _images(told, aim)
    answer.outcome = _outcome(answers, left)
    for one in answers:
        _tell(answer, one, verbose=verbose)
    for name, reason in left:
        answer.add(ref=name, status="cannot tell", reason=reason)
        _print(answer, "cannot tell", name, [("why", reason)])
    _summary(answers, left, artifacts)


def _registries(aim: Aim) -> set[str]:
    from boltseal.oci.reference import Reference

    found = {Reference.parse(text).registry for text in aim.images}
    return found | ({aim.registry} if aim.registry is not None else set())


def _images(told: list[BaseReport], aim: Aim) -> tuple[list[BaseReport], int]:
    """Without what is no image at all, where nobody named it; and how many of these there are."""
    from boltseal.project.bases.image_facts import NotAnImage

    if aim.registry is None:
        return told, 0
    images = [one for one in told if not isinstance(one.error, NotAnImage)]
    return images, len(told) - len(images)


def _outcome(answers: list[BaseReport], left: list[Left]) -> Outcome:
    from boltseal.project.bases.freshness import BaseStatus

    found = {one.verdict.status for one in answers}
    if BaseStatus.OUTDATED in found:
        return Outcome.DIFFERS
    return Outcome.UNKNOWN if BaseStatus.UNKNOWN in found or left else Outcome.HOLDS


def _tell(answer: CommandOutput, one: BaseReport, *, verbose: bool) -> None:
    from boltseal.project.bases.freshness import BaseStatus

    verdict = one.verdict
    answer.add(
        ref=one.wanted.name,
        digest=None if one.digest is None else str(one.digest),
        **fields(verdict),
        platforms=[fields(each) for each in one.verdicts] if len(one.verdicts) > 1 else [],
    )
    quiet = verdict.status in (BaseStatus.CURRENT, BaseStatus.NO_BASE) and not verbose
    _print(answer, verdict.status, one.wanted.name, () if quiet else _lines(verdict, one))


def _print(answer: CommandOutput, status: str, name: str, lines: Iterable[tuple[str, str]]) -> None:
    if answer.as_json:
        return
    print_wrapped(f"{status:<12} ", clean(name))
    for what, text in lines:
        print_wrapped(f"{what:<10}", clean(text), indent=13)


def fields(verdict: BaseVerdict) -> dict[str, Any]:
    """A verdict for `--json`."""
    from boltseal.ledger.entry import format_time

    claim = verdict.claim
    return {
        "status": str(verdict.status),
        "reason": verdict.reason,
        "platform": verdict.platform,
        "base": None if claim is None or claim.base is None else str(claim.base),
        "how": None if claim is None else str(claim.how),
        "by": None if claim is None else str(claim.by),
        "built_on": None if verdict.built_on is None else str(verdict.built_on),
        "means": None if verdict.now is None else str(verdict.now),
        "behind": verdict.behind,
        "behind_exact": verdict.exact,
        "since": None if verdict.since_us is None else format_time(verdict.since_us),
        "changes": None if verdict.changes is None else _changed(verdict.changes),
    }


def _changed(changes: BaseChanges) -> dict[str, Any]:
    def layers(some: Layers) -> dict[str, Any]:
        return {"layers": some.number, "size": some.size_bytes}

    labels = {one.what: {"was": one.was, "now": one.now} for one in (changes.version, changes.revision) if one}
    settings = {one.what: {"was": one.was, "now": one.now} for one in changes.settings}
    return {"removed": layers(changes.removed), "added": layers(changes.added), "settings": settings, "labels": labels}


def _lines(verdict: BaseVerdict, one: BaseReport) -> Iterator[tuple[str, str]]:
    """The story of one image, a fact in each: what it is about, and the fact."""
    claim = verdict.claim
    if claim is not None and claim.base is not None:
        yield "base", f"{claim.base} ({claim.how}: {claim.by})"
    yield "why", verdict.reason
    if verdict.status == "outdated" and verdict.now is not None:
        was = f"{verdict.built_on.short} -> " if verdict.built_on is not None else ""
        yield "moved", f"{was}{verdict.now.short}{_since(verdict)}"
    if verdict.changes is not None:
        yield "changed", _in_words(verdict.changes)
    if len(one.verdicts) > 1:
        yield "for", ", ".join(f"{each.platform}: {each.status}" for each in one.verdicts)


def _since(verdict: BaseVerdict) -> str:
    from boltseal.ledger.entry import format_time

    moves = "1 move" if verdict.behind == 1 else f"{verdict.behind} moves"
    behind = f", {'' if verdict.exact else 'at least '}{moves} behind"
    since = (
        "" if verdict.since_us is None else f", seen since {format_time(verdict.since_us)[:16].replace('T', ' ')} UTC"
    )
    return since + behind


def _in_words(changes: BaseChanges) -> str:
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


def _summary(answers: list[BaseReport], left: list[Left], artifacts: int) -> None:
    from collections import Counter

    counts = Counter(str(one.verdict.status) for one in answers)
    counts["cannot tell"] += len(left)
    told = ", ".join(f"{number} {status}" for status, number in sorted(counts.items()) if number)
    number = len(answers) + len(left)
    more = f"; {artifacts} more are no images (signatures, SBOMs, ...)" if artifacts else ""
    say(f"{number} {'image' if number == 1 else 'images'}{': ' if told else ''}{told}{more}")
