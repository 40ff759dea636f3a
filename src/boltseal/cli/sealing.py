"""What `boltseal seal` and `boltseal unseal` share: one change of one tag's seal, and how it is told."""

from __future__ import annotations

from typing import TYPE_CHECKING

from boltseal.cli.answer import CommandOutput, print_line, say
from boltseal.cli.onstore import NotOurs, admin, local_reference, on_store

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from boltseal.oci.digest import Digest
    from boltseal.oci.reference import Repository, Tag
    from boltseal.server.auth.actor import Actor
    from boltseal.server.registry.models import EntryResult
    from boltseal.server.registry.seals import Seals
    from boltseal.server.settings import Settings
    from boltseal.server.store_factory import OpenStore

    Change = Callable[[Seals, Repository, Tag, Actor, str], Awaitable[EntryResult]]


def change_seal(
    answer: CommandOutput, settings: Settings, ref: str, reason: str, change: Change, *, done: str, new: str, same: str
) -> None:
    """Change the seal of the tag that `ref` names, and say how it stands then. NotOurs, and what the change raises.

    `done`: what the tag is afterwards, in a word. `new` and `same`: that in a sentence, where it was not so before and
    where it was.
    """
    reference, _ = local_reference(ref, settings)
    tag = reference.tag
    if tag is None:
        raise NotOurs(f"only a tag can be {done}, such as {reference.name}:1.4.2")

    async def call(store: OpenStore) -> tuple[EntryResult, Digest]:
        standing = await change(store.registry.seals, reference.repository, tag, admin(), reason)
        return standing, (await store.registry.pulls.manifest(reference.repository, tag)).digest

    standing, digest = on_store(settings, call)
    status = done if standing.changed else "unchanged"
    answer.add(ref=str(reference), status=status, digest=str(digest), entry=standing.entry_index)
    if not answer.as_json:
        print_line(f"{reference}@{digest}")
        say(f"{reference} {new if standing.changed else same} (ledger entry {standing.entry_index})")
