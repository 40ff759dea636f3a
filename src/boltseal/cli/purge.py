"""`boltseal purge`: remove an image that must not exist, bytes included. Its names stay bound."""

from __future__ import annotations

from boltseal.cli.answer import CommandOutput, counted, print_line, say
from boltseal.cli.onstore import RefArgument, admin, given_reason, local_reference, on_store
from boltseal.cli.options import ConfigOption, DataOption, JsonOption, ReasonOption, settings_of


def purge(
    ref: RefArgument,
    reason: ReasonOption,
    config: ConfigOption = None,
    data: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """Remove an image, its tags and every byte that nothing else needs, sealed or not: for a leaked secret.

    The names can come back only with the same digest. Works beside a running server.
    """
    with CommandOutput("purge", as_json=as_json) as answer:
        reason = given_reason(reason)
        settings = settings_of(config, data=data)
        reference, named = local_reference(ref, settings)
        purged = on_store(
            settings, lambda store: store.registry.seals.purge(reference.repository, named, admin(), reason)
        )
        name = reference.name
        host = name.partition("/")[0]
        for tag in purged.tags:
            answer.add(ref=f"{name}:{tag}", status="purged", reason=reason, digest=str(purged.digest))
        for digest in (*purged.manifests, *purged.blobs):
            answer.add(ref=f"{name}@{digest}", status="removed", reason=reason)
        for digest, why in purged.kept:
            answer.add(ref=f"{name}@{digest}", status="kept", reason=why)
        for repository, digest, why in purged.elsewhere:
            answer.add(ref=f"{host}/{repository}@{digest}", status="kept", reason=why)
        if not as_json:
            for result in answer.results:
                print_line(f"{result['status']}  {result['ref']}")
            kept = [*purged.kept, *((digest, why) for _, digest, why in purged.elsewhere)]
            for digest, why in kept:
                say(f"{digest.short} stays: {why}")
            gone = f"{counted(len(purged.manifests), 'manifest')} and {counted(len(purged.blobs), 'blob')} removed"
            say(f"{gone}; tags stay bound{'' if not kept else '; if a secret is in what stays, purge that too'}")
