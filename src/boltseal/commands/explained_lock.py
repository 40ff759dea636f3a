"""Explain what changed between two locks: images under the same reference, and references with another tag."""

from __future__ import annotations

from boltseal.client.transport import Transport
from boltseal.commands.explained_changes import Explanation, ImageChange, explain_changes
from boltseal.commands.registry_access import RegistryOptions, ask
from boltseal.lockfile.document import Lock, LockedImage
from boltseal.oci.digest import Digest
from boltseal.oci.reference import Reference


def explain_lock(old: Lock, new: Lock, options: RegistryOptions) -> tuple[Explanation, ...]:
    """Return the explained changes of a lock. Raises: LedgerBroken, StateUnusable."""
    changes = lock_changes(old, new)
    if not changes:
        return ()

    async def run(transport: Transport) -> tuple[Explanation, ...]:
        return tuple(await explain_changes(changes, transport, options))

    return ask(options, {each.new.registry for each in changes}, run)


def lock_changes(old: Lock, new: Lock) -> list[ImageChange]:
    """Return the changes between two locks.

    A reference of the new lock alone replaces the one reference of its repository that only the old lock has; without such
    a one, or with several, it has no earlier image.
    """
    before, after = ({each.reference: each for each in lock.images} for lock in (old, new))
    gone = [each for reference, each in before.items() if reference not in after and each.digest is not None]
    found = []
    for reference, image in after.items():
        if image.digest is None:
            continue
        was = before.get(reference)
        if was is None:
            replaced = [each for each in gone if each.reference.name == reference.name]
            was = replaced[0] if len(replaced) == 1 else None
        if was is None or was.digest != image.digest:
            found.append(_change(was, image, image.digest, reference))
    return found


def _change(was: LockedImage | None, image: LockedImage, digest: Digest, reference: Reference) -> ImageChange:
    places = tuple(dict.fromkeys(use.file for use in image.used))
    old = reference if was is None else was.reference
    return ImageChange(places, old.by_tag, None if was is None else was.digest, reference.by_tag, digest)
