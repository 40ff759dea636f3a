"""Decides which image each unit of a project runs, by which digest, and which units can't be deployed. Pure.

A drop-in file sets `Image=` of a `.container`, or of the `.image` that a `.container` names. Refused, since a digest would not decide what runs:

- `AutoUpdate=`: Podman would replace the image beside boltseal. So would its label.
- `.kube` (its images are in its YAML), `.build` and units that use one, `Rootfs=`, archives and other transports, specifiers and variables.
- `.volume` with an image: Podman does not change a volume that exists. `.image` with `ImageTag=` or `AllTags=`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from boltseal.deploy.compose_model import LockMismatch
from boltseal.deploy.quadlet.drop_ins import drop_in_text
from boltseal.deploy.quadlet.generator import GeneratedService, tokens_differ
from boltseal.deploy.quadlet.unit_folders import ProjectUnits, UnitsInvalid
from boltseal.errors import BoltsealError, quote
from boltseal.lockfile.document import LOCK_NAME, Lock, key_in
from boltseal.oci.digest import Digest
from boltseal.oci.reference import Reference

_TRANSPORT: Final = re.compile(r"(?:containers-storage|dir|docker-archive|docker-daemon|oci|oci-archive|ostree):")
_AUTO_UPDATE: Final = re.compile(r"io\.containers\.autoupdate=[\"']?(?!disabled)")
_DOCKER: Final = "docker://"
_is_unit = re.compile(r"[A-Za-z0-9:_.\\@-]+\.(?:container|image)", re.ASCII).fullmatch
_MAX_LISTED: Final = 20
_REFUSED_KINDS: Final = {
    "kube": "the images of a .kube are in its YAML; pin those by `boltseal pin`, and keep the unit in another folder",
    "build": "an image that is built here has no digest of a registry; push it, and name it in the unit",
}


@dataclass(frozen=True, slots=True)
class UnitImage:
    """The image of a `.container` or `.image` unit. `written`: as the generator says; `by`: the unit that gets the drop-in file."""

    unit: str
    written: str
    by: str
    reference: Reference
    digest: Digest


def unit_images(
    project: ProjectUnits, services: Mapping[str, GeneratedService], lock: Lock | None
) -> tuple[UnitImage, ...]:
    """Return the images of a project's units, each with its digest in the lock, else that in the unit.

    Raises: UnitsInvalid: a unit can't be deployed; LockMismatch: an image has no digest, or unit and lock have different ones.
    """
    refused, unlocked, found = list[str](), list[str](), list[UnitImage]()
    for unit in project.units:
        why = _refusal(unit, services)
        if why is not None:
            refused.append(f"{unit}: {why}")
            continue
        named = _named_unit(unit, services)
        section = "X-Image" if named.endswith(".image") else "X-Container"
        if not named.endswith((".image", ".container")):
            continue  # a pod, a network or a volume has no image
        written = services[named].value(section, "Image")
        try:
            reference = Reference.parse(written.removeprefix(_DOCKER))
            digest = _digest(reference, lock)
        except BoltsealError as error:
            (unlocked if isinstance(error, LockMismatch) else refused).append(f"{unit}: {error.message}")
        else:
            found.append(UnitImage(unit, written, project.templates.get(named, named), reference, digest))
    if refused:
        raise UnitsInvalid(f"{_listed(refused)}. Nothing was changed")
    if unlocked:
        raise LockMismatch(f"{_listed(unlocked)}. Nothing was changed; `boltseal lock` locks what the units name")
    if not found:
        raise UnitsInvalid(f"{project.root} has no unit with an image. Nothing was changed")
    return tuple(found)


def _listed(lines: list[str]) -> str:
    more = f"; and {len(lines) - _MAX_LISTED} more" if len(lines) > _MAX_LISTED else ""
    return quote("; ".join(lines[:_MAX_LISTED]), 4000)[1:-1] + more


def _named_unit(unit: str, services: Mapping[str, GeneratedService]) -> str:
    """Return the unit that sets the image of a unit: an `.image` that it names, else itself."""
    written = services[unit].value("X-Container", "Image")
    return written if unit.endswith(".container") and written.endswith(".image") else unit


def _refusal(unit: str, services: Mapping[str, GeneratedService]) -> str | None:
    """Return why a unit can't be deployed, None if it can."""
    service, suffix = services[unit], unit.rpartition(".")[2]
    if suffix in _REFUSED_KINDS:
        return _REFUSED_KINDS[suffix]
    if suffix == "container":
        return _container_refusal(service, services)
    if suffix == "volume":
        if not service.value("X-Volume", "Image"):
            return None
        return "Podman does not change the image of a volume that exists; keep the unit in another folder"
    if suffix == "image":
        for key in ("ImageTag", "AllTags"):
            if service.value("X-Image", key) not in ("", "false"):
                return f"{key}= gives containers another name than Image=; remove it"
        return _image_refusal(service.value("X-Image", "Image"))
    return None


def _container_refusal(service: GeneratedService, services: Mapping[str, GeneratedService]) -> str | None:
    # In the command that starts it: Label= may have escapes, and PodmanArgs= adds labels as well.
    started = service.values("Service", "ExecStart")
    if service.value("X-Container", "AutoUpdate") or any(_AUTO_UPDATE.search(each) for each in started):
        return (
            "Podman's auto-update follows the tag, and a release is one digest; remove AutoUpdate= (or the label "
            "io.containers.autoupdate), and take new versions by `boltseal lock --update` and `boltseal deploy --quadlet`"
        )
    if service.value("X-Container", "Rootfs"):
        return "Rootfs= has no digest; name an image of a registry"
    written = service.value("X-Container", "Image")
    if written.endswith(".image"):
        return None if written in services else f"names {written}, which is not in this folder"
    return _image_refusal(written)


def _image_refusal(written: str) -> str | None:
    if written.endswith(".build"):
        return f"names {written}: an image that is built here has no digest of a registry"
    if _TRANSPORT.match(written):
        return f"{written} is not in a registry"
    for sign, what in (("%", "specifiers of systemd"), ("$", "variables"), ("\\", "escapes")):
        if sign in written:
            return f"{what} are not evaluated in Image= (got {written}); write the image"
    return None


def _digest(reference: Reference, lock: Lock | None) -> Digest:
    """Return the digest of an image. Raises: LockMismatch."""
    known = {} if lock is None else lock.by_reference()
    image = known.get(key_in(reference, known))
    if image is not None and image.digest is None:
        raise LockMismatch(f"{reference}: {LOCK_NAME} has it as a local build")
    if image is None or image.digest is None:
        if reference.digest is None:
            raise LockMismatch(
                f"{reference} is not in {LOCK_NAME}"
                if lock
                else f"{reference} is not pinned, and there is no {LOCK_NAME}"
            )
        return reference.digest
    if reference.digest not in (None, image.digest):
        raise LockMismatch(
            f"{reference}: {LOCK_NAME} has another digest (got {reference.digest}, expected {image.digest})"
        )
    return image.digest


def drop_ins_of(images: Mapping[str, str], setters: Mapping[str, str]) -> dict[str, str]:
    """Return the drop-in files of a release by unit. `images`: what each unit runs; `setters`: the unit that sets it.

    Raises: UnitsInvalid: instances of one template would have different images; the record of a release has no units or images there,
    so that a drop-in file would be elsewhere, or have other lines.
    """
    found: dict[str, str] = {}
    for unit, image in images.items():
        setter = setters.get(unit, "")
        if _is_unit(setter) is None or not _is_image(image):
            raise UnitsInvalid(
                f"the release has no valid image of {quote(unit)} (got {quote(image, 300)} by {quote(setter)}, expected an image's name by a "
                ".container or .image unit); its record was changed; nothing was written"
            )
        text = drop_in_text(setter, image)
        if found.setdefault(setter, text) != text:
            raise UnitsInvalid(f"{unit} and others have their image from {setter}, but not the same one")
    return found


def _is_image(text: str) -> bool:
    try:
        Reference.parse(text)
    except BoltsealError:
        return False
    return True


def check_only_images(
    before: Mapping[str, GeneratedService],
    after: Mapping[str, GeneratedService],
    images: Mapping[str, str],
    written: Mapping[str, str],
) -> None:
    """Check that drop-in files change nothing but images, and that every container is started by its own.

    `before`, `after`: the services by unit, as the generator makes them without and with the drop-in files. `images`: what each
    unit runs; `written`: as its unit says. Raises: UnitsInvalid.
    """
    if before.keys() != after.keys():
        raise UnitsInvalid("the drop-in files would add or remove units; nothing was changed")
    changed = {**{written[unit]: image for unit, image in images.items()}}
    for unit, old in before.items():
        new, image = after[unit], images.get(unit)
        if old.name != new.name:
            raise UnitsInvalid(f"{unit}: the drop-in file would rename {old.name} to {new.name}; nothing was changed")
        lines = list(_without_image(new.lines, image))
        differs = tokens_differ(list(_without_image(old.lines, image)), lines, changed)
        if differs is not None:
            raise UnitsInvalid(
                f"{unit}: the drop-in file would change more than the image (got {quote(differs, 300)}); nothing was changed"
            )
        if image is not None and not any(image in each.split(" ") for each in lines if each.startswith("ExecStart=")):
            raise UnitsInvalid(
                f"{unit}: a drop-in file does not decide its image (expected {image} in ExecStart=); another drop-in file or "
                "this version of Podman prevents it. Nothing was changed"
            )


def _without_image(lines: tuple[str, ...], image: str | None) -> Iterator[str]:
    """Yield lines without the one that sets this image."""
    for line in lines:
        if image is None or line != f"Image={image}":
            yield line
