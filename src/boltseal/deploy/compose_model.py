"""A project as Compose resolved it (`docker compose config --format json`), and the text that a release records. Pure.

Compose has read the files, overrides, profiles, `.env` and environment. Its output is self-contained: variables are filled
in, `$` is doubled, paths are absolute. A release is started from this text with three changes: each image becomes the exact
image to start, `build` is dropped, and files of secrets and configs become their recorded copies. A rollback starts an
older text.
"""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from boltseal.deploy.mounted_copies import CONTENT_FOLDER
from boltseal.deploy.releases import check_project
from boltseal.deploy.running_snapshot import merge_recipes
from boltseal.errors import BoltsealError, Invalid, quote
from boltseal.lockfile.document import LOCK_NAME, Lock, key_in
from boltseal.oci.digest import Digest
from boltseal.oci.reference import Reference

VARIABLES_KEY: Final = "x-boltseal-environment"
"""The extension field through which Compose prints the values of variables."""
MOUNTED_LABEL: Final = "dev.boltseal.mounted"
"""A label that earlier versions added to services with secrets and configs; it is removed from their texts."""
_CONTENT_NAME: Final = re.compile(r"[0-9a-f]{64}")
MAX_CONTAINERS: Final = 10_000
_SHARED: Final = ("networks", "volumes", "secrets", "configs")


class ModelInvalid(Invalid):
    """The output of `docker compose config` can't be used."""


class LockMismatch(Invalid):
    """The project's files and its lock disagree. Nothing was pulled or started."""


@dataclass(frozen=True, slots=True)
class ComposeService:
    """One service of a project.

    `image`: as written in the files; for a build, Compose's name for it. `wanted`: number of containers. `environment`:
    of its containers, None for a variable without a value. `volumes`: descriptions of named volumes and host folders,
    whose data a rollback does not bring back.
    """

    name: str
    image: Reference
    build: bool
    wanted: int
    environment: Mapping[str, str | None]
    volumes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ComposeModel:
    """A whole project. `document`: Compose's output, parsed."""

    project: str
    services: Mapping[str, ComposeService]
    document: Mapping[str, Any]

    @property
    def variables(self) -> tuple[str, ...]:
        """The variables whose values become secrets or configs when containers are created."""
        found = {
            each["environment"]
            for kind in ("secrets", "configs")
            for each in self.document.get(kind, {}).values()
            if isinstance(each, Mapping) and isinstance(each.get("environment"), str)
        }
        return tuple(sorted(found))

    def check_services(self, names: Sequence[str]) -> None:
        """Check that each name is a service of the project.

        Raises: ModelInvalid.
        """
        for name in names:
            if name not in self.services:
                known = ", ".join(sorted(self.services)[:20])
                raise ModelInvalid(f"{self.project} has no service {quote(name)}; it has {quote(known, 400)[1:-1]}")


def parse_model(raw: bytes) -> ComposeModel:
    """Parse the output of `docker compose config --format json`.

    Raises: ModelInvalid.
    """
    try:
        document = json.loads(raw)
        json.dumps(document, ensure_ascii=False).encode()  # a lone surrogate can't be encoded
    except (ValueError, RecursionError) as error:
        raise ModelInvalid(f"the output of `docker compose config` is not JSON: {quote(str(error))}") from error
    services = document.get("services") if isinstance(document, dict) else None
    if not isinstance(services, dict) or not isinstance(document.get("name"), str):
        raise ModelInvalid("the output of `docker compose config` has no services")
    for kind in _SHARED:
        entries = document.get(kind, {})
        if not isinstance(entries, dict) or not all(
            each is None or isinstance(each, dict) for each in entries.values()
        ):
            raise ModelInvalid(f"the output of `docker compose config` has malformed {kind}: expected a map of maps")
    if not services:
        raise ModelInvalid("the project has no enabled services; check its profiles")
    project = check_project(document["name"])
    try:
        found = {name: _service(project, name, definition) for name, definition in services.items()}
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise ModelInvalid(f"unknown form of `docker compose config` output: {quote(str(error))}") from error
    return ComposeModel(project, found, document)


def _service(project: str, name: str, definition: Mapping[str, Any]) -> ComposeService:
    build = bool(definition.get("build"))
    written = definition.get("image") or (f"{project}-{name}" if build else "")
    if not written:
        raise ModelInvalid(f"service {quote(name)} has neither an image nor a build")
    try:
        image = Reference.parse(str(written).replace("$$", "$"))
    except BoltsealError as error:
        raise ModelInvalid(f"service {quote(name)}: {error.message}") from error
    scale = definition.get("scale")
    replicas = (definition.get("deploy") or {}).get("replicas") if scale is None else scale
    wanted = 1 if replicas is None else int(replicas)
    if not 0 <= wanted <= MAX_CONTAINERS:
        raise ModelInvalid(f"service {quote(name)} wants {wanted} containers; expected 0 to {MAX_CONTAINERS}")
    environment = {
        key: None if value is None else str(value) for key, value in (definition.get("environment") or {}).items()
    }
    volumes = tuple(_volume(each) for each in definition.get("volumes") or () if each.get("type") in ("volume", "bind"))
    for kind in ("secrets", "configs"):
        if not all(isinstance(each.get("source"), str) for each in definition.get(kind) or ()):
            raise ModelInvalid(f"service {quote(name)} has malformed {kind}: expected a source for each")
    return ComposeService(name, image, build, wanted, environment, volumes)


def _volume(definition: Mapping[str, Any]) -> str:
    source, target = str(definition.get("source") or ""), str(definition.get("target") or "")
    where = source or "a volume without a name"
    return f"{where} at {target}"


def locked_digests(model: ComposeModel, lock: Lock | None) -> dict[str, Digest]:
    """Return the digest that each service must run, from the lock or the digest in its file.

    A locally built service is left out unless the lock or its file has a digest: see `unlocked_builds`.

    Raises: LockMismatch: with every image that is not in the lock, or that a file pins to another digest.
    """
    known = {} if lock is None else lock.by_reference()
    found: dict[str, Digest] = {}
    wrong: list[str] = []
    for name, service in sorted(model.services.items()):
        image = known.get(key_in(service.image, known))
        pinned = service.image.digest
        if service.build and pinned is None and (image is None or image.digest is None):
            continue
        if image is None and pinned is not None and lock is None:
            found[name] = pinned
        elif image is None:
            missing = "" if lock is None else f": it is not in {LOCK_NAME}"
            wrong.append(f"{name}: {service.image.familiar()}{missing}")
        elif image.digest is None:
            wrong.append(
                f"{name}: {service.image.familiar()}: {LOCK_NAME} has it as built here, but the service has no build"
            )
        elif pinned is not None and pinned != image.digest:
            wrong.append(f"{name}: the file pins {pinned.short}, {LOCK_NAME} has {image.digest.short}")
        else:
            found[name] = image.digest
    if wrong:
        shown = "; ".join(quote(each, 400)[1:-1] for each in wrong[:20])
        if lock is None:
            raise LockMismatch(
                f"there is no {LOCK_NAME}, and no digest in the files: {shown}. Run `boltseal lock` first"
            )
        raise LockMismatch(
            f"the files do not match the lock: {shown}. Update the lock with `boltseal lock` or `boltseal deploy --update`"
        )
    return found


def unlocked_builds(model: ComposeModel, lock: Lock | None, digests: Mapping[str, Digest]) -> dict[str, str]:
    """Return the locally built services without a locked digest, each with the reason. `digests`: of `locked_digests`."""
    known = {} if lock is None else lock.by_reference()
    found: dict[str, str] = {}
    for name, service in sorted(model.services.items()):
        if name in digests:
            continue
        if lock is None:
            found[name] = f"there is no {LOCK_NAME}"
        elif key_in(service.image, known) in known:
            found[name] = f"{LOCK_NAME} has it as built here"
        else:
            found[name] = f"it is not in {LOCK_NAME}"
    return found


def merge_services(new: ComposeModel, before: bytes | None, chosen: Sequence[str]) -> dict[str, Any]:
    """Return the project with the chosen services as they are now and all others as the running release has them.

    `new`: the chosen services and what they depend on. `before`: the text of the running release, None if none runs.
    """
    document = dict(copy.deepcopy(dict(new.document)))
    document.pop(VARIABLES_KEY, None)
    if not chosen or before is None:
        return document
    old = json.loads(before)
    chosen_names = set(document["services"])
    for kind in ("services", *_SHARED):
        both = {**old.get(kind, {}), **document.get(kind, {})}
        if both:
            document[kind] = both
    merge_recipes(document, old, chosen_names)
    return document


def mounted_files(document: Mapping[str, Any]) -> tuple[Path, ...]:
    """Return the files that become secrets or configs of a project."""
    found = {
        each["file"]
        for kind in ("secrets", "configs")
        for each in document.get(kind, {}).values()
        if isinstance(each, Mapping) and isinstance(each.get("file"), str)
    }
    return tuple(Path(each) for each in sorted(found))


def release_text(document: Mapping[str, Any], images: Mapping[str, str], copies: Mapping[str, str]) -> bytes:
    """Return the text that Compose starts a release from.

    `images`: by service. `copies`: the recorded copy of a file, by its path. Everything that Compose includes in its hash
    of a service stays as in the files, so that `docker compose up` with files that pin these images changes nothing: an
    image that is already written by this digest keeps its spelling, and no label is added.
    """
    made = copy.deepcopy(dict(document))
    for kind in ("secrets", "configs"):
        for each in made.get(kind, {}).values():
            if isinstance(each, dict) and each.get("file") in copies:
                each["file"] = copies[each["file"]]
    for name, image in images.items():
        service = made["services"][name]
        if not _names_the_same(service.get("image"), image):
            service["image"] = image.replace("$", "$$")
        for key in ("build", "pull_policy"):
            service.pop(key, None)
        labels = service.get("labels")
        if isinstance(labels, dict) and labels.pop(MOUNTED_LABEL, None) is not None and not labels:
            del service["labels"]
    return json.dumps(made, indent=1, sort_keys=True, ensure_ascii=False).encode() + b"\n"


def _names_the_same(written: object, image: str) -> bool:
    """Return whether a file's image is another spelling of `image`, by the same digest."""
    try:
        ours, given = Reference.parse(str(written).replace("$$", "$")), Reference.parse(image)
    except BoltsealError:
        return False
    if ours.name != given.name or ours.digest != given.digest:
        return False
    return ours.tag == given.tag or (ours.tag is None and ours.digest is not None)


def mounted_text(document: Mapping[str, Any], name: str, variables: Mapping[str, str]) -> str:
    """Return the secrets and configs of a service with their contents, to compare them; "" if it has none.

    Compose does not replace a container of which only these contents changed. Never show it: it contains secrets.
    """
    found = []
    service = document["services"].get(name) or {}
    for kind in ("secrets", "configs"):
        for use in service.get(kind) or ():
            source = use["source"]
            definition = document.get(kind, {}).get(source) or {}
            value = variables.get(str(definition.get("environment") or ""), "")
            found.append([kind, source, _same_anywhere(definition), value])
    return json.dumps(found, sort_keys=True) if found else ""


def variables_query(variables: Iterable[str]) -> bytes:
    """Return a Compose file that makes Compose print the values of these variables, interpolated by its own rules."""
    return json.dumps({VARIABLES_KEY: {name: f"${{{name}-}}" for name in variables}}).encode()


def _same_anywhere(definition: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a secret or config without the folder of its recorded copy, which differs between administrators."""
    path = Path(str(definition.get("file") or ""))
    return {**definition, "file": f"{CONTENT_FOLDER}/{path.name}"} if is_copy(path) else definition


def is_copy(path: Path) -> bool:
    """Return whether a path is that of a recorded copy, of this administrator or of another one."""
    return path.parent.name == CONTENT_FOLDER and _CONTENT_NAME.fullmatch(path.name) is not None


def with_copies(compose: bytes, located: Callable[[Path], Path]) -> bytes:
    """Return a release's text with other paths of its recorded copies. `located`: where this administrator mounts a copy from."""
    document = json.loads(compose)
    moved = {path: new for path in mounted_files(document) if is_copy(path) and (new := located(path)) != path}
    if not moved:
        return compose
    return release_text(document, {}, {str(path): str(new) for path, new in moved.items()})


def texts_query(texts: Sequence[str]) -> bytes:
    """Return a Compose file that makes Compose print these texts, interpolated by its own rules."""
    return json.dumps({VARIABLES_KEY: {str(number): text for number, text in enumerate(texts)}}).encode()


def parse_variables(raw: bytes) -> dict[str, str]:
    """Return the values that Compose printed for `variables_query`.

    Raises: ModelInvalid.
    """
    values = parse_model(raw).document.get(VARIABLES_KEY, {})
    if not isinstance(values, dict):
        raise ModelInvalid("the output of `docker compose config` lacks the values of the project's variables")
    return {str(name): str(value or "").replace("$$", "$") for name, value in values.items()}
