"""What the verbs on releases share when they tell of them: which project is meant, who is at work, how one ended."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from boltseal.cli.answer import CommandOutput, Outcome, clean, counted, print_line, print_table, say
from boltseal.errors import BoltsealError

if TYPE_CHECKING:
    from boltseal.deploy.deployer import DeployedBy
    from boltseal.deploy.release_flow import DeployResult
    from boltseal.deploy.release_store import ReleaseFolder
    from boltseal.deploy.releases import Release, ReleasedService, ReleaseKind

_MOST_VOLUMES = 5


def by_whom(folder: Path, kind: ReleaseKind) -> DeployedBy:
    """Who deploys from which revision; "" outside of git."""
    from boltseal.build.git_state import GitFailed, NotGit, git_state
    from boltseal.config import operator
    from boltseal.deploy.deployer import DeployedBy

    try:
        state = git_state(folder)
        revision = state.described if state.dirt is None else f"{state.described}, changed"
    except (NotGit, GitFailed):
        revision = ""
    return DeployedBy(operator(), revision, kind)


def release_folder(name: str, engine: str = "") -> ReleaseFolder:
    """The releases of a project, of one engine or of all. ReleaseInvalid."""
    from boltseal.config import state_folder
    from boltseal.deploy.release_store import ReleaseFolder

    return ReleaseFolder(state_folder(), name, engine=engine)


def say_left(release: Release) -> None:
    """How to go on with a release that was left unfinished."""
    from boltseal.cli.onhost import engine_address

    if release.unfinished:
        there = "" if release.engine in ("", engine_address().key) else f" --host {release.engine}"
        which = f"--project {release.project}{there}"
        say(
            f"release {release.number} of {release.project} was left {release.step}: `boltseal deploy --resume {which}` goes "
            f"on, `boltseal rollback {which}` goes back"
        )


def tell_release(answer: CommandOutput, done: DeployResult, host: str | None) -> None:
    """What a deploy, rollback or resume came to; sets the outcome, and tells the user's receivers. `host`: None for here."""
    from boltseal.deploy.releases import ReleaseEnd

    release, outcome = done.release, done.outcome
    failures = {} if outcome is None else {each.service: each for each in outcome.failures}
    if outcome is not None and release.end is not ReleaseEnd.HEALTHY:
        answer.outcome = Outcome.DIFFERS
    status = "unchanged" if outcome is None else str(release.end)
    answer.add(
        ref=f"{release.project}/{release.number}",
        status=status,
        reason=release.reason,
        kind=release.kind,
        of=release.of,
        back=None if outcome is None else outcome.back,
    )
    for service in release.services:
        failure = failures.get(service.name)
        answer.add(
            ref=service.image,
            status="unchanged" if outcome is None else str(service.state),
            reason=service.reason or service.scrub,
            service=service.name,
            digest=service.digest or None,
            image=service.image_id,
            pulled=service.name in done.pulled,
            log=[] if failure is None else list(failure.log),
        )
    if not answer.as_json:
        _print(done, status)
    if outcome is not None:
        _notify(release, host)


def _notify(release: Release, host: str | None) -> None:
    """Tell whoever the user has configured. It has happened: trouble with that changes nothing of how the verb ends."""
    import platform

    from boltseal.cli.remote import client_context
    from boltseal.commands.notifications import Notifications
    from boltseal.events import ReleaseDone, ReleaseFailed

    named = (release.project, release.number, host or platform.node() or "here")
    images = tuple(f"{each.image}@{each.digest}" if each.digest else each.image for each in release.services)
    event = ReleaseDone(*named, images) if release.good else ReleaseFailed(*named, release.reason)
    try:
        notifications = Notifications.of_user(client_context())
        notifications.put_now([event])
    except BoltsealError as error:
        say(clean(f"boltseal: nobody is told of this release: {error.message}"))
        return
    notifications.deliver()


def _print(done: DeployResult, status: str) -> None:
    release, outcome = done.release, done.outcome
    if outcome is None:
        print_line(
            f"release {release.number} of {release.project} runs already: nothing was pulled, started or stopped"
        )
        return
    rows = [
        (each.name, each.state, each.image, shown_digest(each))
        for each in release.services
        if not release.chosen or each.name in release.chosen
    ]
    print_table(("SERVICE", "STATE", "IMAGE", "DIGEST"), rows, whole=("SERVICE", "STATE", "DIGEST"))
    for service in release.services:
        if service.scrub and (not release.chosen or service.name in release.chosen):
            say(clean(f"{service.name}: {service.scrub}"))
    if done.given_up is not None:
        say(f"release {done.given_up} had been left unfinished; release {release.number} took over")
    for failure in outcome.failures:
        say(clean(f"boltseal: {failure.service or release.project}: {failure.reason}"))
        for line in failure.log:
            say(clean(f"    {failure.service} | {line}"))
    if outcome.back is not None:
        print_line(f"release {release.number} of {release.project} failed; release {outcome.back} runs again")
    elif status == "failed":
        print_line(clean(f"release {release.number} of {release.project} failed: {release.reason}"))
    else:
        of = "" if release.of is None else f", as release {release.of} did"
        print_line(f"release {release.number} of {release.project} runs{of}: {counted(len(rows), 'service')}, healthy")


def shown_digest(service: ReleasedService) -> str:
    """What a service's image is: the registry's digest, or the ID of a local build."""
    return (service.digest or service.image_id)[:19] + ("" if service.digest else " (local)")


def tell_back(answer: CommandOutput, folder: ReleaseFolder, done: DeployResult, *, restore: bool) -> None:
    """After a rollback: what it does not bring back, and what the project's own files say now."""
    from boltseal.deploy.source_snapshot import differing, put_files_back, with_lock

    release = done.release
    if answer.outcome is not Outcome.HOLDS:
        return
    for service in release.services if done.outcome is not None else ():
        for volume in service.volumes[:_MOST_VOLUMES]:
            say(clean(f"data stays as it is: {service.name} has {volume}"))
    root, contents = Path(release.directory), folder.contents(release.number)
    files = with_lock(root, contents.files, contents.lock)
    changed = differing(root, files)
    if changed and restore:
        put_files_back(root, files, changed)
        say(clean(f"put back as they were: {', '.join(changed)}"))
    elif changed:
        say(
            clean(
                f"the project's files say something else than what runs ({', '.join(changed[:5])}): the next deploy goes "
                f"forward again, unless you mend them, or put them back: `boltseal rollback {release.number} --project "
                f"{release.project} --restore-files`"
            )
        )
