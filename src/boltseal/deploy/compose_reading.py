"""Reads a project through Compose, with the values of variables that the resolved text does not contain."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from boltseal.deploy.compose_model import ComposeModel, parse_model, parse_variables, texts_query, variables_query
from boltseal.deploy.compose_program import Compose, ProjectFiles


@dataclass(frozen=True, slots=True)
class ComposeReading:
    """A project as Compose resolved it.

    `variables`: values that Compose needs beside the text when it creates containers. `built`: services whose images
    Compose built for this deploy (`--build`).
    """

    project: ProjectFiles
    model: ComposeModel
    variables: Mapping[str, str] = field(default_factory=dict, repr=False)
    built: frozenset[str] = frozenset()


async def read_project(compose: Compose, project: ProjectFiles, chosen: Sequence[str]) -> ComposeReading:
    """Return the project as Compose resolves it: the chosen services and their dependencies, or all enabled ones.

    Raises: ComposeRefused, ModelInvalid.
    """
    model = parse_model(await compose.read(project, chosen))
    model.check_services(chosen)
    if not model.variables:
        return ComposeReading(project, model)
    query = variables_query(model.variables)
    return ComposeReading(project, model, parse_variables(await _asked(compose, project, chosen, query)))


async def interpolated(compose: Compose, project: ProjectFiles, texts: Sequence[str]) -> Mapping[str, str]:
    """Return these texts of a project's files with the values of their variables. Raises: ComposeRefused, ModelInvalid."""
    if not texts:
        return {}
    values = parse_variables(await _asked(compose, project, (), texts_query(texts)))
    return {text: values.get(str(number), "") for number, text in enumerate(texts)}


async def _asked(compose: Compose, project: ProjectFiles, chosen: Sequence[str], query: bytes) -> bytes:
    """Return what Compose makes of the project with a further file."""
    with tempfile.TemporaryDirectory() as folder:
        query_file = Path(folder) / "query.json"
        query_file.write_bytes(query)
        return await compose.read(project, chosen, [query_file])
