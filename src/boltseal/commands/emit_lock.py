"""`boltseal lock --emit`: generate files with the locked digests for Compose, kustomize, Helm or BuildKit. No registry is contacted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import NamedTuple

from boltseal.commands.outcome import Outcome
from boltseal.commands.project_images import OpenedProject, open_project, paths_in_project
from boltseal.errors import Invalid
from boltseal.lockfile.document import LOCK_NAME, key_in
from boltseal.oci.digest import Digest
from boltseal.project.generated_files import EMITTERS, other_emitters
from boltseal.project.image_references import ImageReference
from boltseal.project.lock_file import read_lock


class Emit(StrEnum):
    """The formats of generated files."""

    COMPOSE_OVERRIDE = "compose-override"
    KUSTOMIZE = "kustomize"
    HELM = "helm"
    SOURCE_POLICY = "buildkit-source-policy"


class EmitRow(NamedTuple):
    """An image reference that the generated file does not contain. `status`: not-locked or left-out."""

    status: str
    image_ref: ImageReference
    reason: str


@dataclass(frozen=True, slots=True)
class EmitReport:
    """The result of `lock --emit`.

    `text`: the generated file, None if it would leave a reference without its digest, or pin none at all. `others`: how many
    locked references it does not concern, by the format of `--emit` that pins them; "" for none.
    """

    outcome: Outcome
    opened: OpenedProject
    rows: tuple[EmitRow, ...] = ()
    text: str | None = None
    empty: bool = False
    others: Mapping[str, int] = field(default_factory=dict)


def emit_lock(project: Path, paths: tuple[str, ...], emit: Emit, *, allow_empty: bool = False) -> EmitReport:
    """Generate a file of a project's locked digests. Raises: Invalid, LockInvalid, ProjectInvalid."""
    opened = open_project(project, paths_in_project(project, paths))
    if opened.empty and not allow_empty:
        return EmitReport(Outcome.UNKNOWN, opened, empty=True)
    lock = read_lock(project)
    if lock is None:
        raise Invalid(f"--emit reads {LOCK_NAME}, which is not there: run `boltseal lock` first")
    known = lock.by_reference()
    digests: dict[ImageReference, Digest] = {}
    rows: list[EmitRow] = []
    for image_ref in opened.image_refs:
        image = None if image_ref.resolved is None else known.get(key_in(image_ref.resolved, known))
        if image_ref.image_id:
            continue
        if image is None:
            reason = image_ref.why or f"it is not in {LOCK_NAME}; add it with `boltseal lock`"
            rows.append(EmitRow("not-locked", image_ref, reason))
        elif image.digest is not None:
            digests[image_ref] = image.digest
    if rows or opened.problems:
        return EmitReport(Outcome.DIFFERS if rows else Outcome.UNKNOWN, opened, tuple(rows))
    others = other_emitters(emit, digests)
    if sum(others.values()) == len(digests) and not allow_empty:  # an empty file would look as if it pinned the images
        return EmitReport(Outcome.UNKNOWN, opened, others=others)
    emitted = EMITTERS[emit](digests)
    rows = [EmitRow("left-out", image_ref, reason) for image_ref, reason in emitted.left_out]
    return EmitReport(Outcome.HOLDS, opened, tuple(rows), emitted.text, others=others)
