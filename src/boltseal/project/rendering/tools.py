"""What can be rendered in a project, and with which command.

- kustomize: each kustomization that no other one names, except components.
- Helm: each chart with its own values, except libraries and the charts below another chart's `charts/`.
- Docker Compose: the default files of each folder (`compose.yaml` and its override), with all profiles, and each Compose
  file that is given by its path.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

from boltseal.errors import quote
from boltseal.lockfile.document import Rendered
from boltseal.project.image_references import COMPOSE_NAMES, Format, ScanResult
from boltseal.project.references.kustomize import KUSTOMIZATION_NAMES
from boltseal.project.references.kustomize_names import deployed_kustomizations
from boltseal.project.references.yaml_nodes import compose, pairs, text_of
from boltseal.project.rendering.printed_images import Printed
from boltseal.project.rendering.tool_runs import (
    NotRendered,
    RunningTools,
    absolute_folders,
    run_tool,
    tool_environment,
)
from boltseal.project.source_files import ProjectTree, Unreadable

_CHART: Final = "Chart.yaml"
_OVERLAY: Final = "overlay"  # a kustomization of our own, which asks for the file of each resource


def renderable(project: ProjectTree, found: ScanResult, named: Sequence[str]) -> list[Rendered]:
    """Return what can be rendered among the files of a scan. `named`: the files that were given by their paths."""
    return sorted({*_kustomizations(project, found), *_charts(project), *_compose_projects(found, named)})


def render(
    each: Rendered, project: ProjectTree, environment: Mapping[str, str], running: RunningTools | None = None
) -> Printed:
    """Return what a tool prints. `environment`: the user's, for PATH and DOCKER_CONFIG. `running`: knows the tool.

    Raises: NotRendered.
    """
    name = each.path
    try:
        inside = project.name(Path(name))
    except Unreadable as error:
        raise NotRendered(str(error)) from error
    at = project.root / inside
    if not at.exists():
        raise NotRendered("is not there any more; `boltseal lock --render` renders what is there")
    _check_links(each.tool, at, project)
    path = absolute_folders(environment.get("PATH", os.defpath))
    docker_config = environment.get("DOCKER_CONFIG") or str(Path(environment.get("HOME", "/")) / ".docker")
    with tempfile.TemporaryDirectory(prefix="boltseal-render-") as scratch:
        home = Path(os.path.realpath(scratch))
        own = tool_environment(home, path, docker_config)
        words = _command(each.tool, at, home, path)
        text = run_tool(words, at if at.is_dir() else at.parent, own, running=running)
        return Printed(text, str(project.root), str(home / _OVERLAY))


def _command(tool: str, at: Path, home: Path, path: str) -> list[str]:
    if tool == "kustomize":
        overlay = home / _OVERLAY
        overlay.mkdir()
        base = os.path.relpath(at, overlay)
        (overlay / "kustomization.yaml").write_text(f'resources: ["{base}"]\nbuildMetadata: [originAnnotations]\n')
        if shutil.which("kubectl", path=path) is None and shutil.which("kustomize", path=path) is not None:
            return ["kustomize", "build", str(overlay)]
        return [_installed("kubectl", path), "kustomize", str(overlay)]
    if tool == "helm":
        return [_installed("helm", path), "template", "release-name", str(at)]
    files = [] if at.is_dir() else ["--file", at.name]
    program = ["docker-compose"] if shutil.which("docker", path=path) is None else ["docker", "compose"]
    _installed(program[0], path)
    return [*program, *files, "--profile", "*", "config", "--format", "json"]


def _check_links(tool: str, at: Path, project: ProjectTree) -> None:
    """Check that no link makes a tool read a file outside of the project: its text could become the name of an image.

    Helm follows the links in a chart, and Compose that of `.env`; kustomize refuses such files. Raises: NotRendered.
    """
    links: Iterator[Path] = iter(())
    if tool == "compose":
        links = iter([(at if at.is_dir() else at.parent) / ".env"])
    elif tool == "helm":
        links = (Path(parent, name) for parent, folders, names in os.walk(at) for name in (*folders, *names))
    for link in links:
        if link.is_symlink():
            try:
                project.name(link)
            except Unreadable as error:
                raise NotRendered(f"{quote(os.path.relpath(link, project.root))} {error}") from error


def _installed(program: str, path: str) -> str:
    if shutil.which(program, path=path) is None:
        raise NotRendered(f"{program} is not installed")
    return program


def _kustomizations(project: ProjectTree, found: ScanResult) -> Iterator[Rendered]:
    paths = [name for name in project.texts() if name.rpartition("/")[2] in KUSTOMIZATION_NAMES]
    for path in deployed_kustomizations(project, paths, found):
        yield Rendered("kustomize", path.rpartition("/")[0] or ".")


def _charts(project: ProjectTree) -> Iterator[Rendered]:
    for name, source in project.texts().items():
        if name.rpartition("/")[2] != _CHART:
            continue
        folder = name.rpartition("/")[0]
        above = folder.split("/charts/")[0] if "/charts/" in folder else ""
        try:
            keys = [pairs(document) for document in compose(source)]
        except Unreadable:
            continue  # a template of a chart; the scan reports what it names
        library = any(text_of(each.get("type")) == "library" for each in keys)
        if not library and not (above and project.has(f"{above}/{_CHART}")):
            yield Rendered("helm", folder or ".")


def _compose_projects(found: ScanResult, named: Sequence[str]) -> Iterator[Rendered]:
    for path in {each.path for each in found.image_refs if each.format == Format.COMPOSE}:
        folder, _, name = path.rpartition("/")
        if name in COMPOSE_NAMES:
            yield Rendered("compose", folder or ".")
        elif path in named:
            yield Rendered("compose", path)
