"""`boltseal ledger recover`: recover a ledger that is behind its signed state, or whose clock was wrong."""

from __future__ import annotations

from boltseal.cli.ledger_recover_options import (
    AcceptLossOption,
    ClockOption,
    ReasonOption,
    RestoreTagsOption,
    SourceOption,
)
from boltseal.cli.options import ConfigOption, DataOption, JsonOption, ObservationsOption
from boltseal.cli.output import CommandOutput
from boltseal.cli.remote import takes_registry_options
from boltseal.cli.server_options import store_settings
from boltseal.commands.registry_access import RegistryOptions
from boltseal.commands.text import counted
from boltseal.server.commands.ledger import RecoverRequest, confirm_clock, recover_ledger
from boltseal.server.settings import Settings


@takes_registry_options
def ledger_recover(
    source: SourceOption = None,
    accept_loss: AcceptLossOption = False,
    restore_tags: RestoreTagsOption = False,
    clock: ClockOption = False,
    reason: ReasonOption = "",
    observations: ObservationsOption = False,
    *,
    access: RegistryOptions,
    config: ConfigOption = None,
    data: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """Recover a ledger that is behind its signed state or differs from the tags, accept a loss, or confirm the clock.

    With --from the missing entries are copied from there, if they are the ones that were signed. With --accept-loss
    tags that were sealed in lost entries are free again, and clients that pinned the ledger's key need the new one. A
    running server accepts writes again by itself. With --restore-tags the tags are set to what the ledger says,
    after all of its entries were checked, and printed after the key. With --observations it recovers the log of observations; a tag whose
    last observation is lost is served with the digest of the one before.

    While the clock cannot be right, a server writes nothing: the clock is behind the ledger's last entry, or it stepped
    forward by more than an hour while the server ran. If the clock is right, --clock lets writing go on; where the last
    entry is from the future, an entry of kind "recovered" lets time step back. Nothing is lost, origin and key stay.
    """
    if clock:
        _confirm(
            store_settings(config, data), RecoverRequest(source, accept_loss, clock, reason, observations), as_json
        )
        return
    with CommandOutput("ledger-recover", as_json=as_json) as output:
        request = RecoverRequest(source, accept_loss, clock, reason, observations, restore_tags)
        done = recover_ledger(store_settings(config, data), request, access)
        status = "tags restored" if restore_tags else "brought back" if source is not None else "loss accepted"
        tags = {"tags": list(done.tags)} if restore_tags else {}
        output.add(ref=done.origin, status=status, key=done.key, entries=done.brought, **tags)
        output.print(done.key)
        if restore_tags:
            for tag in done.tags:
                output.print(tag)
            output.say(f"{counted(done.brought, 'tag', 'tags')} restored; the tags say what the ledger says")
        elif source is None:
            output.say(f"the ledger continues as {done.origin}; give its new key to clients that pinned the old one")
            if done.opens:
                output.say(
                    "warning: the folder of keys was lost, and there are no users: a users' file in it was lost too; the next start "
                    "serves every client without a login; add users first with `boltseal admin user add NAME`"
                )
        else:
            restored = f"{counted(done.brought, 'entry', 'entries')} restored, and the tags match them"
            output.say(
                restored if observations else f"{restored}; push the blobs again that `boltseal admin fsck` reports"
            )


def _confirm(settings: Settings, request: RecoverRequest, as_json: bool) -> None:
    with CommandOutput("ledger-recover", as_json=as_json) as output:
        done = confirm_clock(settings, request.reason)
        output.add(
            ref=done.key.origin,
            status="clock confirmed",
            key=str(done.key.key),
            stepped_back=list(done.stepped_back),
        )
        for name in done.stepped_back:
            output.say(f"the {name} had entries from the future; an entry of kind recovered lets its time step back")
        if done.doubt is None:
            output.say("the clock is confirmed, and a running server writes again")
        else:
            output.say(f"the clock is confirmed, but nothing is written, because the ledger is in doubt: {done.doubt}")
