"""Read the manifests of a project, and set every image in them to its digest in the lock. The files are not changed.

    a folder with a kustomization    what `kubectl kustomize` prints of it, without a network
    another folder                   its files *.yaml, *.yml and *.json, as `kubectl apply -f` takes them
    a file, or - for standard input  as it is: the output of `helm template`, for example

Images are found by the reader that `lock` and `pin` use. A deploy is refused if one of them has no digest.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from boltseal.deploy.compose_model import LockMismatch
from boltseal.deploy.kube.manifest_objects import ManifestInvalid, parse_objects
from boltseal.errors import Invalid, NotFound, quote
from boltseal.lockfile.document import LOCK_NAME, Lock, key_in
from boltseal.oci.digest import Digest
from boltseal.project.edits import pin_text
from boltseal.project.image_references import ImageReference
from boltseal.project.references.kubernetes import read_kubernetes
from boltseal.project.references.kustomize import KUSTOMIZATION_NAMES
from boltseal.project.references.yaml_nodes import compose
from boltseal.project.rendering.tool_runs import absolute_folders, run_tool, tool_environment
from boltseal.project.source_files import SourceFile, Unreadable

MAX_BYTES: Final = 16 * 1024 * 1024
STDIN: Final = "-"
_NAMES: Final = (".yaml", ".yml", ".json")
_MAX_LISTED: Final = 20


@dataclass(frozen=True, slots=True)
class Manifests:
    """The text of a project's manifests. `files`: those that were read, by path; `kustomizations`: folders that were rendered."""

    texts: tuple[SourceFile, ...]
    files: Mapping[str, bytes] = field(default_factory=dict)
    kustomizations: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class PinnedImage:
    """An image of the manifests: as written, and as it is applied."""

    written: str
    digest: Digest


@dataclass(frozen=True, slots=True)
class PinnedManifests:
    """The objects of a project with every image by digest. `images`: by the text of their reference in the objects."""

    documents: tuple[dict[str, Any], ...]
    images: Mapping[str, PinnedImage]


def read_manifests(
    root: Path, named: Sequence[str], stdin: Callable[[], bytes], environment: Mapping[str, str]
) -> Manifests:
    """Read the manifests in these files and folders; default: the kustomization in `root`.

    Raises: NotFound, Invalid: a path; NotRendered.
    """
    texts: list[SourceFile] = []
    files: dict[str, bytes] = {}
    rendered: list[str] = []
    if not named and not _has_kustomization(root):
        raise NotFound(
            f"{root} has no kustomization.yaml; name the manifests by --file (a file, a folder, or - for standard input)"
        )
    for name in named or (".",):
        path = root / name
        if name == STDIN:
            texts.append(_source("standard input", stdin()))
        elif path.is_dir() and _has_kustomization(path):
            texts.append(_source(f"{name}/kustomization", _kustomized(path, environment)))
            rendered.append(name)
        elif path.is_dir():
            found = sorted(each for each in path.iterdir() if each.suffix in _NAMES and each.is_file())
            if not found:
                raise NotFound(f"{path} has no kustomization and no file *.yaml, *.yml or *.json")
            files |= {os.path.relpath(each, root): _content(each) for each in found}
        else:
            files[os.path.relpath(path, root)] = _content(path)
    texts += [_source(name, raw) for name, raw in files.items()]
    return Manifests(tuple(texts), files, tuple(rendered))


def _has_kustomization(folder: Path) -> bool:
    return any((folder / name).is_file() for name in KUSTOMIZATION_NAMES)


def _content(path: Path) -> bytes:
    try:
        with path.open("rb") as opened:
            return opened.read(MAX_BYTES + 1)
    except FileNotFoundError as error:
        raise Invalid(
            f"{path} is not there; --file names a manifest, a folder of manifests or of a kustomization"
        ) from error
    except OSError as error:
        raise Invalid(f"{path} can't be read: {error.strerror}") from error


def _source(name: str, raw: bytes) -> SourceFile:
    if len(raw) > MAX_BYTES:
        raise ManifestInvalid(f"{name} is too large (expected at most {MAX_BYTES} bytes)")
    try:
        return SourceFile.of(name, raw)
    except Unreadable as error:
        raise ManifestInvalid(str(error.problem)) from error


def _kustomized(folder: Path, environment: Mapping[str, str]) -> bytes:
    path = environment.get("PATH", os.defpath)
    with tempfile.TemporaryDirectory(prefix="boltseal-render-") as scratch:
        own = tool_environment(Path(os.path.realpath(scratch)), path, scratch)
        words = ["kubectl", "kustomize", "."]
        if shutil.which("kubectl", path=absolute_folders(path)) is None:
            raise NotFound("kubectl is not installed; deploying to a cluster needs it")
        return run_tool(words, folder, own)


def pinned(manifests: Manifests, lock: Lock | None, crds: Mapping[str, Sequence[str]]) -> PinnedManifests:
    """Return the objects of the manifests with every image by its digest in the lock, else by that in the files.

    `crds`: paths to images in custom resources, by kind (`[pin.crds]`).
    Raises: ManifestInvalid; LockMismatch: an image has no digest, or files and lock have different ones.
    """
    documents: list[dict[str, Any]] = []
    images: dict[str, PinnedImage] = {}
    wrong: list[str] = []
    for source in manifests.texts:
        try:
            found = read_kubernetes(source, compose(source), crds)
        except Unreadable as error:
            raise ManifestInvalid(str(error.problem)) from error
        wrong += [str(each) for each in found.problems]
        digests: dict[ImageReference, Digest] = {}
        for image_ref in found.image_refs:
            digest = _digest(image_ref, lock)
            if isinstance(digest, str):
                wrong.append(f"{source.path}:{image_ref.line}: {quote(image_ref.written, 200)[1:-1]}: {digest}")
            else:
                digests[image_ref] = digest
        text = _with_digests(source, digests, crds)
        documents += parse_objects(text)
        for image_ref, digest in digests.items():
            whole = image_ref.written if image_ref.pinned else f"{image_ref.written}@{digest}"
            images[whole] = PinnedImage(image_ref.written, digest)
    if wrong:
        more = f"; and {len(wrong) - _MAX_LISTED} more" if len(wrong) > _MAX_LISTED else ""
        raise LockMismatch(
            f"{'; '.join(wrong[:_MAX_LISTED])}{more}. Nothing was applied; `boltseal lock` locks what the files name"
        )
    if not documents:
        raise ManifestInvalid("the manifests contain no object; nothing was applied")
    return PinnedManifests(tuple(documents), images)


def _digest(image_ref: ImageReference, lock: Lock | None) -> Digest | str:
    """Return the digest of a reference, or why it has none that can be used."""
    if image_ref.resolved is None:
        return image_ref.why or "is not a valid reference"
    known = {} if lock is None else lock.by_reference()
    image = known.get(key_in(image_ref.resolved, known))
    if image is None and image_ref.pinned is None:
        return f"is not in {LOCK_NAME}" if lock is not None else f"is not pinned, and there is no {LOCK_NAME}"
    if image is None:
        return image_ref.pinned or "is not pinned"
    if image.digest is None:
        return f"{LOCK_NAME} has it as a local build; a cluster needs an image of a registry"
    if image_ref.pinned not in (None, image.digest):
        return f"{LOCK_NAME} has another digest (got {image_ref.pinned}, expected {image.digest})"
    if image_ref.pinned is None and image_ref.edit_range is None:
        return image_ref.override_only or "a digest can't be written there"
    return image.digest


def _with_digests(
    source: SourceFile, digests: Mapping[ImageReference, Digest], crds: Mapping[str, Sequence[str]]
) -> str:
    """Return the text with these digests written behind their references. Raises: ManifestInvalid: that changed another one."""
    wanted = {
        each.edit_range: digest
        for each, digest in digests.items()
        if each.edit_range is not None and each.pinned is None
    }
    parts, end = list[str](), 0
    for edit_range in sorted(wanted):
        parts += (source.text[end : edit_range.start], pin_text(edit_range, wanted[edit_range]))
        end = edit_range.end
    after = source.with_text("".join((*parts, source.text[end:])))
    found = read_kubernetes(after, compose(after), crds)
    now = {each.where: each.pinned for each in found.image_refs}
    for image_ref, digest in digests.items():
        if image_ref.where in now and now[image_ref.where] != digest:
            raise ManifestInvalid(
                f"{source.path}:{image_ref.line}: the digest of {quote(image_ref.written)} could not be set"
            )
    return after.text
