"""Files that hold digests without a touch on the project's own: a Compose override, a kustomize component, a BuildKit policy. Pure.

Each is made of sites and the digests that they shall have. What such a file can't say is left out, and told.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Final

from boltseal.errors import Invalid
from boltseal.oci.digest import Digest
from boltseal.oci.reference import Reference
from boltseal.project.image_references import Format, ImageReference

_SERVICE: Final = re.compile(r"services\.(.*(?<!\]))\.image", re.DOTALL)  # a hook's image stands behind `pre_start[0]`
_HEAD: Final = "# Written by boltseal of boltseal.lock; write it anew when the lock changes.\n"


class SeveralFolders(Invalid):
    """Compose files of several folders, which are several projects to Compose: an override is for one."""


@dataclass(frozen=True, slots=True)
class Emitted:
    """The file's text, and the sites of its format that it does not hold, each with the reason."""

    text: str
    left_out: tuple[tuple[ImageReference, str], ...] = ()


def compose_override(digests: Mapping[ImageReference, Digest]) -> Emitted:
    """`services.*.image` for `docker compose -f compose.yaml -f FILE`. SeveralFolders."""
    image_refs = _of(digests, Format.COMPOSE)
    folders = sorted({image_ref.path.rpartition("/")[0] or "." for image_ref in image_refs})
    if len(folders) > 1:
        raise SeveralFolders(f"Compose files lie in {', '.join(folders)}; name the files of one project")
    services: defaultdict[str, set[str]] = defaultdict(set)
    left: list[tuple[ImageReference, str]] = []
    for image_ref in image_refs:
        service = _SERVICE.fullmatch(image_ref.where)
        if service is None:
            left.append((image_ref, "an override holds the images of services only"))
        elif image_ref.build:
            left.append((image_ref, "it is built here"))
        else:
            services[service[1]].add(_pinned(image_ref, digests[image_ref]))
    lines = [f"{_HEAD}services:"]
    for name, images in sorted(services.items()):
        if len(images) > 1:
            left += [
                (image_ref, "its files name several images for it")
                for image_ref in image_refs
                if image_ref.where == f"services.{name}.image"
            ]
        else:
            lines.append(f"  {_text(name)}:\n    image: {_text(*images)}")
    if len(lines) == 1:
        lines[0] += " {}"
    return Emitted("\n".join(lines) + "\n", tuple(left))


def kustomize_component(digests: Mapping[ImageReference, Digest]) -> Emitted:
    """A component whose `images` give each name of the manifests its tag and digest."""
    image_refs = _of(digests, Format.KUBERNETES)
    by_name: defaultdict[str, set[tuple[str, str]]] = defaultdict(set)
    for image_ref in image_refs:
        if image_ref.resolved is not None:
            by_name[_name(image_ref)].add((image_ref.resolved.tag or "latest", str(digests[image_ref])))
    lines = [f"{_HEAD}apiVersion: kustomize.config.k8s.io/v1alpha1", "kind: Component", "images:"]
    left: list[tuple[ImageReference, str]] = []
    for name, meant in sorted(by_name.items()):
        if len(meant) > 1:
            several = "kustomize knows images by their name alone, and the manifests use several tags of it"
            left += [(image_ref, several) for image_ref in image_refs if _name(image_ref) == name]
        else:
            ((tag, digest),) = meant
            lines.append(f"  - name: {_text(name)}\n    newTag: {_text(f'{tag}@{digest}')}")
    if len(lines) == 3:
        lines[2] = "images: []"
    return Emitted("\n".join(lines) + "\n", tuple(left))


def source_policy(digests: Mapping[ImageReference, Digest]) -> Emitted:
    """A BuildKit source policy (`EXPERIMENTAL_BUILDKIT_SOURCE_POLICY`): every FROM, `--from` and syntax by its digest."""
    meant: defaultdict[Reference, set[Digest]] = defaultdict(set)
    image_refs = [
        image_ref for image_ref in digests if image_ref.format is Format.DOCKERFILE or ".build." in image_ref.where
    ]
    for image_ref in image_refs:
        if image_ref.resolved is not None:
            meant[image_ref.resolved.by_tag].add(digests[image_ref])
    left = tuple(
        (image_ref, "its files want several digests for it")
        for image_ref in image_refs
        if image_ref.resolved is not None and len(meant[image_ref.resolved.by_tag]) > 1
    )
    rules = [
        {
            "action": "CONVERT",
            "selector": {"identifier": f"docker-image://{reference}"},
            "updates": {"identifier": f"docker-image://{replace(reference, digest=next(iter(wanted)))}"},
        }
        for reference, wanted in sorted(meant.items(), key=lambda pair: str(pair[0]))
        if len(wanted) == 1
    ]
    return Emitted(json.dumps({"rules": rules}, indent=2) + "\n", left)


EMITTERS: Final[Mapping[str, Callable[[Mapping[ImageReference, Digest]], Emitted]]] = {
    "compose-override": compose_override,
    "kustomize": kustomize_component,
    "buildkit-source-policy": source_policy,
}
"""By the word of `boltseal lock --emit`."""
EMITTER_BY_FORMAT: Final[Mapping[Format, str]] = {
    Format.COMPOSE: "compose-override",
    Format.DOCKERFILE: "buildkit-source-policy",
    Format.KUBERNETES: "kustomize",
}
"""Which of them holds references of a format."""


def _of(digests: Iterable[ImageReference], kind: Format) -> list[ImageReference]:
    return [image_ref for image_ref in digests if image_ref.format is kind]


def _name(image_ref: ImageReference) -> str:
    """The name by which kustomize knows an image: as the manifest writes it, without tag and digest."""
    tag = None if image_ref.resolved is None else image_ref.resolved.tag
    return image_ref.written.partition("@")[0].removesuffix(f":{tag}")


def _pinned(image_ref: ImageReference, digest: Digest) -> str:
    if image_ref.resolved is None:
        raise AssertionError("only what was resolved has a digest")
    return replace(image_ref.resolved, digest=digest).familiar()


def _text(text: str) -> str:
    return json.dumps(text)  # also YAML, whatever the text
