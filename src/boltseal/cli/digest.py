"""`boltseal digest`: what a tag means now, at any registry, without pulling anything."""

from __future__ import annotations

from typing import TYPE_CHECKING

from boltseal.cli.answer import CommandOutput, print_line, say
from boltseal.cli.options import JsonOption
from boltseal.cli.remote import (
    AnonymousOption,
    CaFileOption,
    PlainHttpOption,
    RegistryOptions,
    RemoteRefArgument,
    StrictOption,
    ask_followed,
    named,
    quota_in_words,
    remote_reference,
)

if TYPE_CHECKING:
    from boltseal.client.pull_limit import PullLimit
    from boltseal.client.registry_client import Resolved
    from boltseal.client.transport import Transport


def digest(
    ref: RemoteRefArgument,
    plain_http: PlainHttpOption = False,
    ca_file: CaFileOption = None,
    anonymous: AnonymousOption = False,
    strict: StrictOption = False,
    as_json: JsonOption = False,
) -> None:
    """Say which digest a tag means now, at any registry. One HEAD: on Docker Hub it does not count as a pull."""
    with CommandOutput("digest", as_json=as_json) as answer:
        reference = remote_reference(ref)

        async def resolve(transport: Transport) -> tuple[Resolved, PullLimit | None]:
            from boltseal.client.registry_client import RegistryClient

            client = RegistryClient(transport, reference.registry)
            found = await client.resolve(reference.repository, named(reference))
            return found, transport.quotas.get(reference.registry)

        found, quota = ask_followed(
            RegistryOptions(plain_http, ca_file, anonymous, strict), [reference.registry], resolve
        )
        answer.add(
            ref=str(reference),
            status="present",
            digest=str(found.digest),
            media_type=found.media_type,
            size=None if found.size < 0 else found.size,
        )
        if not as_json:
            print_line(str(found.digest))
            if quota is not None:
                say(quota_in_words(reference.registry, quota))
