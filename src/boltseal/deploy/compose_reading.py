"""A project as Compose reads it, with the values of variables that Compose needs beside the text."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from boltseal.deploy.compose_model import ComposeModel, parse_model, parse_variables, variables_query
from boltseal.deploy.compose_program import Compose, ProjectFiles


@dataclass(frozen=True, slots=True)
class ComposeReading:
    """A project as Compose reads it. `variables`: values that Compose needs beside the text, when it makes containers.

    `built`: services whose images Compose has built for this deploy (`--build`).
    """

    project: ProjectFiles
    model: ComposeModel
    variables: Mapping[str, str] = field(default_factory=dict, repr=False)
    built: frozenset[str] = frozenset()


async def read_project(compose: Compose, project: ProjectFiles, chosen: Sequence[str]) -> ComposeReading:
    """The project as Compose reads it: these services and what they depend on, or all that are enabled. ComposeRefused."""
    model = parse_model(await compose.read(project, chosen))
    model.only(chosen)
    if not model.variables:
        return ComposeReading(project, model)
    with tempfile.TemporaryDirectory() as folder:
        more = Path(folder) / "asked.json"
        more.write_bytes(variables_query(model.variables))
        return ComposeReading(project, model, parse_variables(await compose.read(project, chosen, [more])))
