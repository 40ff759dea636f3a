"""A project as Compose reads it, with the values of variables that Compose needs beside the text."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from boltseal.deploy.compose_model import Model, asked, asking, parse_model
from boltseal.deploy.compose_program import Compose, ProjectFiles


@dataclass(frozen=True, slots=True)
class Read:
    """A project as Compose reads it. `variables`: values that Compose needs beside the text, when it makes containers.

    `built`: services whose images Compose has built for this deploy (`--build`).
    """

    project: ProjectFiles
    model: Model
    variables: Mapping[str, str] = field(default_factory=dict, repr=False)
    built: frozenset[str] = frozenset()


async def read_project(compose: Compose, project: ProjectFiles, chosen: Sequence[str]) -> Read:
    """The project as Compose reads it: these services and what they depend on, or all that are enabled. ComposeRefused."""
    model = parse_model(await compose.read(project, chosen))
    model.only(chosen)
    if not model.variables:
        return Read(project, model)
    with tempfile.TemporaryDirectory() as folder:
        more = Path(folder) / "asked.json"
        more.write_bytes(asking(model.variables))
        return Read(project, model, asked(await compose.read(project, chosen, [more])))
