"""`boltseal seal`: bind a floating tag to what it means now, for ever."""

from __future__ import annotations

from typing import TYPE_CHECKING

from boltseal.cli.answer import Answer, print_line, say
from boltseal.cli.onstore import NotOurs, RefArgument, admin, given_reason, local_reference, on_store
from boltseal.cli.options import ConfigOption, DataOption, JsonOption, ReasonOption, settings_of

if TYPE_CHECKING:
    from boltseal.app import Store
    from boltseal.oci.digest import Digest
    from boltseal.registry.tags import Standing


def seal(
    ref: RefArgument,
    reason: ReasonOption,
    config: ConfigOption = None,
    data: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """Seal a tag that floats, at what it means now. It can never move again. Works beside a running server."""
    with Answer("seal", as_json=as_json) as answer:
        reason = given_reason(reason)
        settings = settings_of(config, data=data)
        reference, _ = local_reference(ref, settings)
        tag = reference.tag
        if tag is None:
            raise NotOurs(f"only a tag can be sealed, such as {reference.name}:1.4.2; a digest can't move anyway")

        async def call(store: Store) -> tuple[Standing, Digest]:
            standing = await store.registry.seals.seal(reference.repository, tag, admin(), reason)
            return standing, (await store.registry.pulls.manifest(reference.repository, tag)).digest

        standing, digest = on_store(settings, call)
        status = "sealed" if standing.changed else "unchanged"
        answer.add(ref=str(reference), status=status, digest=str(digest), entry=standing.entry_index)
        if not as_json:
            print_line(f"{reference}@{digest}")
            how = "sealed now" if standing.changed else "was sealed already"
            say(f"{reference} {how}, kept for ever (ledger entry {standing.entry_index})")
