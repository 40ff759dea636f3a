"""`boltseal tag purge`: delete an image and its blobs, sealed or not."""

from __future__ import annotations

from collections.abc import Iterator

from boltseal.cli.confirmation import DryRunOption, YesOption, confirmed
from boltseal.cli.options import JsonOption, ReasonOption, RefArgument
from boltseal.cli.output import CommandOutput
from boltseal.cli.tag_target import TagTarget, takes_tag_target
from boltseal.commands.outcome import Outcome
from boltseal.commands.tag_changes import PurgeResult
from boltseal.commands.text import counted


@takes_tag_target
def tag_purge(
    ref: RefArgument,
    reason: ReasonOption,
    dry_run: DryRunOption = False,
    yes: YesOption = False,
    *,
    target: TagTarget,
    as_json: JsonOption = False,
) -> None:
    """Delete an image, all of its tags and every blob that nothing else references, sealed or not: for a leaked secret.

    Other tags that resolve to the same image are deleted too. The tags can come back only with the same digest. boltseal
    lists everything first and asks; without a terminal it needs --yes. Works while the server runs.
    """
    with CommandOutput("tag-purge", as_json=as_json) as output:
        changes = target.changes("tag purge")
        plan = changes.plan_purge(ref, reason)
        if dry_run:
            _show(output, plan, planned=True)
            return
        if not confirmed("Delete all of this?", _listed(plan), yes=yes, required=True):
            output.outcome = Outcome.DIFFERS
            output.say("nothing was deleted")
            return
        _show(output, changes.purge(ref, reason, plan), planned=False)


def _listed(plan: PurgeResult) -> Iterator[str]:
    """Yield what would be deleted, the other tags of the image first."""
    for also in plan.also:
        yield f"also deletes the tag {also}, which resolves to the same image"
    for row in plan.rows:
        if row.status == "removed":
            yield f"deletes {row.ref}"


def _show(output: CommandOutput, result: PurgeResult, *, planned: bool) -> None:
    would = "would be " if planned else ""
    for row in result.rows:
        digest = {"digest": str(row.digest)} if row.status == "purged" else {}
        status = row.status if row.status == "kept" else f"{would}{row.status}"
        output.add(ref=row.ref, status=status, reason=row.reason, **digest)
        output.print(f"{status}  {row.ref}")
    kept = [row for row in result.rows if row.status == "kept"]
    for row in kept:
        output.say(f"{row.digest} stays: {row.reason}")
    removed = f"{counted(result.manifests, 'manifest')} and {counted(result.blobs, 'blob')} {would}removed"
    hint = "; if a kept part has the secret, purge that too" if kept else ""
    output.say(f"{removed}; its tags can return only with the same digest{hint}")
