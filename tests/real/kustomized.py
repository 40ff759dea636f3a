"""What `kubectl kustomize` builds from the files of packaging."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from tests.docs.pages import ROOT
from tests.real.tools import run

BASE = ROOT / "packaging/kubernetes"
IMAGE = "registry.example.com/boltseal"


def built(folder: Path) -> dict[str, dict[str, Any]]:
    """Return what `kubectl kustomize` builds from a folder, by kind."""
    documents = list(yaml.safe_load_all(run("kubectl", "kustomize", folder).checked()))
    found = {document["kind"]: document for document in documents}
    assert len(found) == len(documents)
    return found
