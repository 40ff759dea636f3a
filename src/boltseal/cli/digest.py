"""`boltseal digest`: print the digest that a tag resolves to."""

from __future__ import annotations

from boltseal.cli.options import JsonOption
from boltseal.cli.output import CommandOutput
from boltseal.cli.remote import (
    RemoteRefArgument,
    pull_limit_text,
    takes_registry_options,
)
from boltseal.commands.digest import resolve_digest
from boltseal.commands.registry_access import RegistryOptions
from boltseal.oci.reference import Reference


@takes_registry_options
def digest(
    ref: RemoteRefArgument,
    *,
    access: RegistryOptions,
    as_json: JsonOption = False,
) -> None:
    """Print the digest that a tag resolves to, at any registry.

    Sends one HEAD request; on Docker Hub it does not count as a pull.
    """
    with CommandOutput("digest", as_json=as_json) as output:
        found = resolve_digest(Reference.parse(ref), access)
        resolved = found.resolved
        output.add(
            ref=str(found.reference),
            status="present",
            digest=str(resolved.digest),
            media_type=resolved.media_type,
            size=None if resolved.size < 0 else resolved.size,
        )
        output.print(str(resolved.digest))
        if found.pull_limit is not None:
            output.say(pull_limit_text(found.reference.registry, found.pull_limit))
