"""`boltseal tag unseal`: allow a sealed tag's deletion."""

from __future__ import annotations

from boltseal.cli.options import JsonOption, ReasonOption, RefArgument
from boltseal.cli.output import CommandOutput
from boltseal.cli.tag_target import TagTarget, takes_tag_target


@takes_tag_target
def tag_unseal(
    ref: RefArgument,
    reason: ReasonOption,
    *,
    target: TagTarget,
    as_json: JsonOption = False,
) -> None:
    """Lift a sealed tag's protection against deletion.

    The tag still cannot move. After a deletion it can return only with the same digest. Works while the server runs.
    """
    with CommandOutput("tag-unseal", as_json=as_json) as output:
        done = target.changes("tag unseal").unseal(ref, reason)
        status = "unsealed" if done.changed else "unchanged"
        output.add(ref=str(done.reference), status=status, digest=str(done.digest), entry=done.entry_index)
        output.print(f"{done.reference}@{done.digest}")
        state = (
            "may be deleted now; it can return only with this digest"
            if done.changed
            else "could be deleted already; it can return only with this digest"
        )
        output.say(f"{done.reference} {state} (ledger entry {done.entry_index})")
