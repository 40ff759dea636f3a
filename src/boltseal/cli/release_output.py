"""Output of the commands that make, list and show releases."""

from __future__ import annotations

from boltseal.cli.output import CommandOutput, say
from boltseal.cli.table import print_table
from boltseal.commands.outcome import Outcome
from boltseal.commands.releases import ListedRelease, digest_text, image_text
from boltseal.commands.text import clean, counted
from boltseal.deploy.release_flow import DeployResult, ReleaseOutcome
from boltseal.deploy.releases import Release
from boltseal.lockfile.format import time_text


def print_release(output: CommandOutput, done: DeployResult) -> None:
    """Print the result of a deploy, rollback or resume, and set the outcome."""
    release, outcome = done.release, done.outcome
    failures = {} if outcome is None else {each.service: each for each in outcome.failures}
    if outcome is not None and not release.good:
        output.outcome = Outcome.DIFFERS
    output.add(
        ref=f"{release.project}/{release.number}",
        status="unchanged" if outcome is None else str(release.end),
        reason=release.reason,
        kind=release.kind,
        of=release.of,
        back=None if outcome is None else outcome.back,
    )
    for service in release.services:
        failure = failures.get(service.name)
        output.add(
            ref=service.image,
            status="unchanged" if outcome is None else str(service.state),
            reason=service.reason or (service.scrub if outcome is not None else done.scrubs.get(service.name, "")),
            service=service.name,
            digest=service.digest or None,
            image=service.image_id,
            pulled=service.name in done.pulled,
            log=[] if failure is None else list(failure.log),
        )
    if output.as_json:
        return
    if outcome is None:
        written = str(release.end) == "written"
        output.print(
            f"release {release.number} of {release.project} {'is written' if written else 'runs'} already: nothing was pulled, started or stopped"
        )
        for name, result in sorted(done.scrubs.items()):
            say(clean(f"{name}: {result}"))
    else:
        _print_outcome(output, done, outcome)


def _print_outcome(output: CommandOutput, done: DeployResult, outcome: ReleaseOutcome) -> None:
    release = done.release
    services = [each for each in release.services if not release.chosen or each.name in release.chosen]
    rows = [(each.name, each.state, clean(image_text(each.image, each.digest)), digest_text(each)) for each in services]
    print_table(("SERVICE", "STATE", "IMAGE", "DIGEST"), rows, whole=("SERVICE", "STATE", "DIGEST"))
    for service in services:
        if service.scrub:
            say(clean(f"{service.name}: {service.scrub}"))
    if done.abandoned is not None:
        say(f"release {done.abandoned} was unfinished; release {release.number} replaced it")
    failed = outcome.back is None and str(release.end) == "failed"
    for failure in outcome.failures:
        if not (failed and failure.reason in release.reason):  # the last line has it
            say(clean(f"boltseal: {failure.service or release.project}: {failure.reason}"))
        for line in failure.log:
            say(clean(f"    {failure.service} | {line}"))
    if outcome.back is not None:
        output.print(f"release {release.number} of {release.project} failed; release {outcome.back} runs again")
        if outcome.files and release.of is None:
            say(
                f"the project's files are still those of release {release.number}: mend them and deploy again, or restore those of "
                f"release {outcome.back} by `boltseal rollback {outcome.back} --restore-files`"
            )
    elif failed or release.end == "written":
        how = "failed" if failed else "is written, and Podman's generator reads it"
        output.print(clean(f"release {release.number} of {release.project} {how}: {release.reason}"))
    else:
        of = "" if release.of is None else f", as release {release.of} did"
        running = f"{counted(len(rows), 'service')}, healthy"
        output.print(f"release {release.number} of {release.project} runs{of}: {running}")


def release_fields(listed: ListedRelease) -> dict[str, object]:
    """Return a stored release for `--json`."""
    release = listed.release
    return {
        "ref": f"{release.project}/{release.number}",
        "status": release_end(release),
        "reason": release.reason,
        "runs": listed.current,
        "kind": release.kind,
        "of": release.of,
        "engine": release.engine or None,
        "started": time_text(release.started_us),
        "ended": None if release.ended_us is None else time_text(release.ended_us),
        "who": release.who,
        "revision": release.revision,
        "services": [
            {
                "service": each.name,
                "image": each.image,
                "digest": each.digest or None,
                "id": each.image_id,
                "state": str(each.state),
                "reason": each.reason,
            }
            for each in release.services
        ],
    }


def release_end(release: Release) -> str:
    """Return how a release ended, or the step at which it was left."""
    return str(release.end or f"unfinished: {release.step}")
