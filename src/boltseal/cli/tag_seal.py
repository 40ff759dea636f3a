"""`boltseal tag seal`: seal a mutable tag at its current digest."""

from __future__ import annotations

from boltseal.cli.options import JsonOption, ReasonOption, RefArgument
from boltseal.cli.output import CommandOutput
from boltseal.cli.tag_target import TagTarget, takes_tag_target


@takes_tag_target
def tag_seal(
    ref: RefArgument,
    reason: ReasonOption,
    *,
    target: TagTarget,
    as_json: JsonOption = False,
) -> None:
    """Seal a mutable tag at its current digest: it can never move again. Works while the server runs."""
    with CommandOutput("tag-seal", as_json=as_json) as output:
        done = target.changes("tag seal").seal(ref, reason)
        status = "sealed" if done.changed else "unchanged"
        output.add(ref=str(done.reference), status=status, digest=str(done.digest), entry=done.entry_index)
        output.print(f"{done.reference}@{done.digest}")
        state = "is sealed now, kept permanently" if done.changed else "was sealed already, kept permanently"
        output.say(f"{done.reference} {state} (ledger entry {done.entry_index})")
