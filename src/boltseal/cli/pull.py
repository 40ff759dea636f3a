"""`boltseal pull`: pull images by their digests; keep the previous ones."""

from __future__ import annotations

from boltseal.cli.engine_options import HostOption
from boltseal.cli.kept_text import expired_fields, kept_fields, say_expired
from boltseal.cli.options import JsonOption
from boltseal.cli.output import CommandOutput, say
from boltseal.cli.progress import Progress
from boltseal.cli.project_options import AllowOption
from boltseal.cli.pull_options import (
    ComposeOption,
    CopyToOption,
    CountPullsOption,
    KeepForOption,
    KeepOption,
    ProjectOption,
    RefsArgument,
    ReplaceOption,
    ScrubOption,
)
from boltseal.cli.remote import takes_registry_options
from boltseal.commands.outcome import Outcome
from boltseal.commands.project_images import registry_filter
from boltseal.commands.pull import PullImagesRequest, PullRow, pull_images
from boltseal.commands.registry_access import RegistryOptions
from boltseal.commands.text import clean
from boltseal.host.pull import PullOutcome, PullResult


@takes_registry_options
def pull(
    refs: RefsArgument = None,
    compose: ComposeOption = None,
    project: ProjectOption = None,
    keep: KeepOption = None,
    keep_for: KeepForOption = None,
    scrub: ScrubOption = False,
    replace: ReplaceOption = False,
    copy_to: CopyToOption = None,
    host: HostOption = None,
    count_pulls: CountPullsOption = False,
    allow: AllowOption = None,
    *,
    access: RegistryOptions,
    as_json: JsonOption = False,
) -> None:
    """Pull images, and keep the previous ones before newer ones take their names.

    A tag is resolved by one HEAD request; an image that is present costs nothing more. A new one is pulled by its digest,
    verified, and gets its name last. The image that had the name is kept as NAME:boltseal-keep-DIGEST; `boltseal
    keep restore NAME` restores it. Images of a Compose file get their names when all have been pulled, or none does.

    With --replace an image whose files were changed on the disk is loaded again from the registry, with layers of its own.
    The new files are verified before they get the name. The changed image and its containers stay as evidence.

    Kept images stay until --keep or --keep-for releases them. Neither releases an image that runs, that a lock or a
    release refers to, or that is the only copy of one that ran here in the last 30 days.
    """  # fmt: skip
    with CommandOutput("pull", as_json=as_json) as output, Progress() as progress:
        request = PullImagesRequest(
            refs=tuple(refs or ()),
            compose=tuple(compose or ()),
            project=project,
            keep=keep,
            keep_for=keep_for,
            scrub=scrub,
            copy_to=copy_to,
            host=host,
            count_pulls=count_pulls,
            replace=replace,
        )
        allowed = registry_filter(access, allow or []) if compose else _any_registry
        output.outcome = pull_images(request, access, allowed, progress, lambda row: _print(output, row))


def _any_registry(_registry: str) -> bool:
    """Allow every registry that the user names on the command line."""
    return True


def _print(output: CommandOutput, row: PullRow) -> None:
    name = row.name.familiar()
    if row.pulled is not None:
        _print_pulled(output, row.pulled)
    elif row.arrived is not None:
        output.add(ref=str(row.name), status="arrived", reason=row.reason, digest=str(row.arrived.digest))
        say(clean(f"{name}: {row.reason}"))
    else:
        status = "refused" if row.outcome is Outcome.DIFFERS else "failed"
        output.add(ref=str(row.name), status=status, reason=row.reason)
        say(clean(f"boltseal: {row.reason if row.reason.startswith(name) else f'{name}: {row.reason}'}"))


def _print_pulled(output: CommandOutput, pulled: PullResult) -> None:
    name = pulled.name.familiar()
    output.add(
        ref=str(pulled.name),
        status=str(pulled.outcome),
        reason=pulled.trouble,
        digest=str(pulled.digest),
        image=str(pulled.image),
        proof=None if pulled.proof is None else str(pulled.proof),
        kept=kept_fields(pulled.kept),
        running=[kept_fields(each) for each in pulled.running],
        let_go=[expired_fields(each) for each in pulled.let_go],
    )
    output.print(clean(f"{pulled.outcome:<7} {name}  {pulled.digest}"))
    for each in pulled.running:
        was = each.digest or each.image
        say(clean(f"kept {was} as {each.keep_name.familiar()}: a container that was started as {name} runs on it"))
    if pulled.outcome is PullOutcome.REPLACED:
        say(
            clean(
                f"{name} is a copy with layers of its own (image {pulled.image}): create containers anew by this name. "
                "The digest and the former image ID still refer to the changed files"
            )
        )
    if pulled.kept is not None:
        was = pulled.kept.digest or pulled.kept.image
        keep = pulled.kept.keep_name.familiar()
        if pulled.outcome is PullOutcome.REPLACED:
            say(
                clean(f"kept the changed image {was} as {keep}, as evidence; do not start it, and remove it in the end")
            )
        else:
            say(clean(f"kept {was} as {keep}; back with: boltseal keep restore {name}"))
    say_expired(pulled.let_go)
    if pulled.trouble:
        say(clean(f"boltseal: kept images could not be checked: {pulled.trouble}"))
