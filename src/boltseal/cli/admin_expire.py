"""`boltseal admin expire`: delete sealed tags whose retention time is over."""

from __future__ import annotations

from boltseal.cli.confirmation import DryRunOption, YesOption, confirmed, on_terminal
from boltseal.cli.options import ConfigOption, DataOption, JsonOption
from boltseal.cli.output import CommandOutput
from boltseal.cli.server_options import store_settings
from boltseal.commands.outcome import Outcome
from boltseal.commands.text import counted
from boltseal.server.commands.data_folder import local_admin, on_store
from boltseal.server.registry.seal_results import Expiry
from boltseal.server.settings import Settings


def admin_expire(
    dry_run: DryRunOption = False,
    yes: YesOption = False,
    config: ConfigOption = None,
    data: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """Delete the sealed tags whose `keep` (such as "365d") is over, for example by cron before `boltseal admin gc`.

    A tag whose image runs on a host, by its report of any age, stays. The tags can return only with the same digest. Their images stay pullable until they are deleted. On a terminal it lists
    the tags and asks, unless --yes is given.
    """
    with CommandOutput("admin-expire", as_json=as_json) as output:
        settings = store_settings(config, data)
        if not dry_run and not yes and on_terminal():
            planned = [f"{repository}:{tag}" for repository, tag in _expire(settings, dry_run=True).expired]
            if planned and not confirmed(f"Delete {counted(len(planned), 'tag')}?", planned, yes=yes):
                output.outcome = Outcome.DIFFERS
                output.say("nothing was deleted")
                return
        _show(output, _expire(settings, dry_run=dry_run), "would expire" if dry_run else "expired")


def _expire(settings: Settings, *, dry_run: bool) -> Expiry:
    return on_store(settings, lambda store: store.registry.seals.expire(local_admin(), dry_run=dry_run))


def _show(output: CommandOutput, found: Expiry, status: str) -> None:
    for repository, tag in found.expired:
        output.add(ref=f"{repository}:{tag}", status=status)
        output.print(f"{repository}:{tag}")
    for repository, tag, reason in found.kept:
        output.add(ref=f"{repository}:{tag}", status="kept", reason=reason)
        output.say(f"{repository}:{tag} stays: {reason}")
    tags = found.expired
    output.say(f"{counted(len(tags), 'tag')} {status}{'; they can return only with the same digest' if tags else ''}")
