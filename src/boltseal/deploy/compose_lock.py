"""What a lock is made of when Compose has read the project: its services' images as Compose fills them in. Pure.

A scan of the files knows `.env` and the defaults of variables; Compose also knows the environment, `--env-file` and which
overrides were named. What it says of a service wins over what the scan says of the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from boltseal.deploy.compose_model import ComposeModel
from boltseal.project.image_references import Format, ImageReference


def with_compose_images(
    sites: Sequence[ImageReference], model: ComposeModel, root: Path, file: Path
) -> tuple[ImageReference, ...]:
    """The sites with each service's image as Compose has it; one more for a service that the scan does not know."""
    wanted = {f"services.{name}.image": service for name, service in model.services.items()}
    found: list[ImageReference] = []
    known: set[str] = set()
    for site in sites:
        service = wanted.get(site.where) if site.format is Format.COMPOSE else None
        if service is None:
            found.append(site)
        else:
            known.add(site.where)
            found.append(replace(site, resolved=service.image, why=None, build=service.build))
    path = file.relative_to(root).as_posix() if file.is_relative_to(root) else file.name
    for where, service in wanted.items():
        if where not in known:
            written = service.image.familiar()
            found.append(
                ImageReference(path, Format.COMPOSE, where, 1, (0, 0), written, service.image, build=service.build)
            )
    return tuple(found)
