"""The table of file formats. To add one, write its module with a `READER`, and add it here.

A file's name decides before its content, and of several readers the first one in the table.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from boltseal.project.references import (
    actions,
    azure_pipelines,
    bake,
    bitbucket,
    circleci,
    compose,
    devcontainer,
    dockerfile,
    gitlab,
    helm,
    kubernetes,
    kustomize,
    nomad,
    quadlet,
    skaffold,
    woodpecker,
)
from boltseal.project.references.reader import FormatReader

READERS: Final[tuple[FormatReader, ...]] = (
    dockerfile.READER,
    compose.READER,
    kustomize.READER,
    kustomize.PATCH_READER,
    skaffold.READER,
    devcontainer.READER,
    quadlet.READER,
    bake.READER,
    bake.JSON_READER,
    nomad.READER,
    nomad.JSON_READER,
    circleci.READER,
    azure_pipelines.READER,
    woodpecker.READER,
    bitbucket.READER,
    actions.READER,
    kubernetes.READER,
    gitlab.READER,
    helm.READER,
)
BY_NAME: Final[Mapping[str, FormatReader]] = {reader.name: reader for reader in READERS}

is_nomad_job: Final = nomad.is_nomad_job
"""Whether a file is a Nomad job, which `boltseal deploy` refuses."""
