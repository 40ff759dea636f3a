"""`boltseal admin expire`: delete sealed tags whose retention time is over."""

from __future__ import annotations

from boltseal.cli.confirmation import DryRunOption, YesOption, confirmed, on_terminal
from boltseal.cli.options import JsonOption
from boltseal.cli.output import CommandOutput
from boltseal.cli.tag_target import TagTarget, takes_tag_target
from boltseal.commands.expiry import OverdueTagInfo
from boltseal.commands.outcome import Outcome
from boltseal.commands.text import counted


@takes_tag_target
def admin_expire(
    dry_run: DryRunOption = False,
    yes: YesOption = False,
    *,
    target: TagTarget,
    as_json: JsonOption = False,
) -> None:
    """Delete the sealed tags whose `keep` (such as "365d") is over, for example by cron before `boltseal admin gc`.

    A tag whose image runs on a host, by its report of any age, stays. The tags can return only with the same digest. Their images stay pullable until they are deleted. On a terminal it lists
    the tags and asks, unless --yes is given.
    """
    with CommandOutput("admin-expire", as_json=as_json) as output:
        expiry = target.expiry("admin expire")
        if not dry_run and not yes and on_terminal():
            planned = [each.ref for each in expiry.expire(dry_run=True) if not each.kept]
            if planned and not confirmed(f"Delete {counted(len(planned), 'tag')}?", planned, yes=yes):
                output.outcome = Outcome.DIFFERS
                output.say("nothing was deleted")
                return
        _show(output, expiry.expire(dry_run=dry_run), "would expire" if dry_run else "expired")


def _show(output: CommandOutput, found: list[OverdueTagInfo], status: str) -> None:
    gone = [each for each in found if not each.kept]
    for each in gone:
        output.add(ref=each.ref, status=status)
        output.print(each.ref)
    for each in found:
        if each.kept:
            output.add(ref=each.ref, status="kept", reason=each.kept)
            output.say(f"{each.ref} stays: {each.kept}")
    output.say(f"{counted(len(gone), 'tag')} {status}{'; they can return only with the same digest' if gone else ''}")
