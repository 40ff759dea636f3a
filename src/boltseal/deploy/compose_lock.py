"""Image references of a project for the lock, with services' images as Compose resolved them. Pure.

A scan of the files knows `.env` and the defaults of variables. Compose also knows the environment, `--env-file` and the
overrides that were named, so its value for a service replaces the scan's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from boltseal.deploy.compose_model import ComposeModel
from boltseal.project.image_references import Format, ImageReference, Span


def with_compose_images(
    references: Sequence[ImageReference], model: ComposeModel, root: Path, file: Path
) -> tuple[ImageReference, ...]:
    """Return the references with each service's image as Compose resolved it, and one more per service that the scan missed."""
    services = {f"services.{name}.image": service for name, service in model.services.items()}
    result: list[ImageReference] = []
    seen: set[str] = set()
    for reference in references:
        service = services.get(reference.where) if reference.format is Format.COMPOSE else None
        if service is None:
            result.append(reference)
        else:
            seen.add(reference.where)
            result.append(replace(reference, resolved=service.image, why=None, build=service.build))
    path = file.relative_to(root).as_posix() if file.is_relative_to(root) else file.name
    for where, service in services.items():
        if where not in seen:
            written = service.image.familiar()
            result.append(
                ImageReference(path, Format.COMPOSE, where, 1, Span(0, 0), written, service.image, build=service.build)
            )
    return tuple(result)
