"""`boltseal unseal`: let a sealed tag be deleted. Its name stays bound to its digest all the same."""

from __future__ import annotations

from typing import TYPE_CHECKING

from boltseal.cli.answer import Answer, print_line, say
from boltseal.cli.onstore import NotOurs, RefArgument, admin, given_reason, local_reference, on_store
from boltseal.cli.options import ConfigOption, DataOption, JsonOption, ReasonOption, settings_of

if TYPE_CHECKING:
    from boltseal.app import Store
    from boltseal.oci.digest import Digest
    from boltseal.registry.tags import Standing


def unseal(
    ref: RefArgument,
    reason: ReasonOption,
    config: ConfigOption = None,
    data: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """Lift a sealed tag's protection against deletion. It still can't move, and can only come back as it was."""
    with Answer("unseal", as_json=as_json) as answer:
        reason = given_reason(reason)
        settings = settings_of(config, data=data)
        reference, _ = local_reference(ref, settings)
        tag = reference.tag
        if tag is None:
            raise NotOurs(f"only a tag can be unsealed, such as {reference.name}:1.4.2")

        async def call(store: Store) -> tuple[Standing, Digest]:
            standing = await store.registry.seals.unseal(reference.repository, tag, admin(), reason)
            return standing, (await store.registry.pulls.manifest(reference.repository, tag)).digest

        standing, digest = on_store(settings, call)
        status = "unsealed" if standing.changed else "unchanged"
        answer.add(ref=str(reference), status=status, digest=str(digest), entry=standing.entry_index)
        if not as_json:
            print_line(f"{reference}@{digest}")
            how = "may be deleted now" if standing.changed else "could be deleted already"
            say(f"{reference} {how}; the name stays bound to this digest (ledger entry {standing.entry_index})")
