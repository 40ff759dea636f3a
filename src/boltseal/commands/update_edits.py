"""The edits of `boltseal update` in a project's files: new tags, and with them the digests that `boltseal pin` wrote.

A digest is ours if the lock records it (`project.written_pins`). A service that has any other digest is not updated.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from boltseal.commands.project_images import OpenedProject
from boltseal.deploy.compose_model import ComposeService
from boltseal.deploy.update_plan import UpdateStep
from boltseal.errors import Unavailable
from boltseal.lockfile.document import Lock, Use
from boltseal.oci.digest import Digest
from boltseal.oci.reference import Reference
from boltseal.project.edits import FileEdit
from boltseal.project.image_references import ImageReference
from boltseal.project.retag import NewImage, retag
from boltseal.project.written_pins import pins_updated, valid_pins


@dataclass(frozen=True, slots=True)
class UpdateEdits:
    """What an update writes. `paths` of `files` are relative to the lock's folder. `lock`: with the new digests recorded as ours.

    `left`: files outside the update that have the former digest of an updated floating tag.
    """

    files: tuple[FileEdit, ...]
    lock: Lock
    left: tuple[str, ...] = ()


def without_own_pins(
    services: Iterable[ComposeService], opened: OpenedProject, lock: Lock
) -> tuple[ComposeService, ...]:
    """Return the services; those whose digest `boltseal pin` wrote, in every file that has one for them, without it."""
    written = valid_pins(opened.image_refs, lock)

    def ours(service: ComposeService) -> bool:
        where = f"services.{service.name}.image"
        pinned = [each for each in opened.image_refs if each.where == where and each.pinned is not None]
        return any(each.resolved == service.image for each in pinned) and all(each in written for each in pinned)

    return tuple(replace(each, image=each.image.by_tag) if ours(each) else each for each in services)


def update_edits(opened: OpenedProject, lock: Lock, steps: Sequence[UpdateStep]) -> UpdateEdits:
    """Return the edits that make the files and the lock's records follow these steps.

    `opened`: the Compose files of the update, in the lock's folder. Raises: Unavailable: with the first reason.
    """
    written = valid_pins(opened.image_refs, lock)
    new = _new_images(opened, written, steps)
    edited = retag(opened.asked, opened.found, new)
    for refusal in edited.refusals:
        raise Unavailable(f"{refusal.image_ref.path}:{refusal.image_ref.line}: {refusal.reason}; nothing was written")
    digests = {image_ref: digest for image_ref, (_, digest) in new.items() if digest is not None and image_ref.pinned}
    retagged = {image_ref for image_ref, (tag, _) in new.items() if tag is not None}
    pins = pins_updated(lock, opened.image_refs, digests, retagged)
    return UpdateEdits(edited.changes, replace(lock, pins=pins), _left(opened, lock, steps))


def _new_images(
    opened: OpenedProject, written: Collection[ImageReference], steps: Sequence[UpdateStep]
) -> dict[ImageReference, NewImage]:
    """Return what each reference gets that the steps change. Raises: Unavailable: a version's place was not found."""
    by_place = {f"services.{step.service}.image": step for step in steps}
    floating = {step.image: step.to for step in steps if step.tag is None}
    found: dict[ImageReference, NewImage] = {}
    for image_ref in opened.found.image_refs:
        if image_ref.resolved is None:
            continue
        image, step = image_ref.resolved.by_tag, by_place.get(image_ref.where)
        editable = image_ref.pinned is None or image_ref in written
        if step is not None and step.tag is not None and image == step.image and editable:
            found[image_ref] = NewImage(step.tag, step.to)
        elif image_ref in written and image in floating:  # also where no service of the update uses it
            found[image_ref] = NewImage(None, floating[image])
    places = {image_ref.where for image_ref in found}
    missing = [step for where, step in by_place.items() if step.tag is not None and where not in places]
    if missing:
        names = ", ".join(f"{step.service}: {step.image.familiar()}" for step in missing)
        raise Unavailable(f"{names}: not found in the files, perhaps by a variable of the shell; nothing was written")
    return found


def _left(opened: OpenedProject, lock: Lock, steps: Sequence[UpdateStep]) -> tuple[str, ...]:
    """Return the files that were not read and in which `boltseal pin` wrote the former digest of a floating tag."""
    entries: Mapping[Reference, Digest | None] = {step.image: step.to for step in steps if step.tag is None}
    uses = {use for each in lock.images if each.reference in entries for use in each.used}
    return tuple(sorted({pin.file for pin in lock.pins if opened.outside(pin.file) and Use(pin.file, pin.at) in uses}))
