"""A project as Compose resolved it (`docker compose config --format json`), and what is made of it to be recorded. Pure.

Compose has read the files, overrides, profiles, `.env` and environment; what it prints says the same when Compose reads it
again, wherever and whenever that is: variables are filled in, `$` is doubled, paths are absolute. A release is started
from this text, with three things replaced: each image by what is to be started, `build` by nothing, and the files of
secrets and configs by their recorded copies. So to go back is to start an older text.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from boltseal.deploy.releases import check_project
from boltseal.errors import BoltsealError, Invalid, quote
from boltseal.lockfile.document import LOCK_NAME, Lock, key_in
from boltseal.oci.digest import Digest
from boltseal.oci.reference import Reference

VARIABLES_KEY: Final = "x-boltseal-environment"
"""The extension by which Compose is asked what it makes of variables."""
MOUNTED_LABEL: Final = "dev.boltseal.mounted"
"""The label that changes with what is in a service's secrets and configs."""
MAX_CONTAINERS: Final = 10_000
_SHARED: Final = ("networks", "volumes", "secrets", "configs")


class ModelInvalid(Invalid):
    """Compose's own reading of a project that can't be used."""


class LockMismatch(Invalid):
    """The files and the lock do not say the same. Nothing was pulled or started."""


@dataclass(frozen=True, slots=True)
class ComposeService:
    """One service. `image`: as the files have it, of a build Compose's own name for it; `wanted`: how many containers.

    `environment`: what its containers get, None for a variable that has no value. `volumes`: where data is that a
    rollback does not bring back: named volumes and folders of the host, in words.
    """

    name: str
    image: Reference
    build: bool
    wanted: int
    environment: Mapping[str, str | None]
    volumes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ComposeModel:
    """A whole project. `document` is what Compose printed, to be handed back to it."""

    project: str
    services: Mapping[str, ComposeService]
    document: Mapping[str, Any]

    @property
    def variables(self) -> tuple[str, ...]:
        """Variables whose values become secrets or configs when containers are made."""
        found = {
            each["environment"]
            for kind in ("secrets", "configs")
            for each in self.document.get(kind, {}).values()
            if isinstance(each, Mapping) and isinstance(each.get("environment"), str)
        }
        return tuple(sorted(found))

    def only(self, names: Sequence[str]) -> None:
        """Refuse a name that is no service of the project. ModelInvalid."""
        for name in names:
            if name not in self.services:
                known = ", ".join(sorted(self.services)[:20])
                raise ModelInvalid(f"{self.project} has no service {quote(name)}; it has {quote(known, 400)[1:-1]}")


def parse_model(raw: bytes) -> ComposeModel:
    """What Compose printed. ModelInvalid."""
    try:
        document = json.loads(raw)
        json.dumps(document, ensure_ascii=False).encode()  # half a surrogate pair can't be written down
    except (ValueError, RecursionError) as error:
        raise ModelInvalid(f"Compose's reading of the project is no JSON: {quote(str(error))}") from error
    services = document.get("services") if isinstance(document, dict) else None
    if not isinstance(services, dict) or not isinstance(document.get("name"), str):
        raise ModelInvalid("Compose's reading of the project has no services")
    for kind in _SHARED:
        said = document.get(kind, {})
        if not isinstance(said, dict) or not all(each is None or isinstance(each, dict) for each in said.values()):
            raise ModelInvalid(f"Compose's reading of the project has odd {kind}")
    if not services:
        raise ModelInvalid("the project has no services that are enabled; see its profiles")
    project = check_project(document["name"])
    try:
        found = {name: _service(project, name, said) for name, said in services.items()}
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise ModelInvalid(f"Compose's reading of the project is of an unknown form: {quote(str(error))}") from error
    return ComposeModel(project, found, document)


def _service(project: str, name: str, said: Mapping[str, Any]) -> ComposeService:
    build = bool(said.get("build"))
    written = said.get("image") or (f"{project}-{name}" if build else "")
    if not written:
        raise ModelInvalid(f"service {quote(name)} has neither an image nor a build")
    try:
        image = Reference.parse(str(written).replace("$$", "$"))
    except BoltsealError as error:
        raise ModelInvalid(f"service {quote(name)}: {error.message}") from error
    scale = said.get("scale")
    replicas = (said.get("deploy") or {}).get("replicas") if scale is None else scale
    wanted = 1 if replicas is None else int(replicas)
    if not 0 <= wanted <= MAX_CONTAINERS:
        raise ModelInvalid(f"service {quote(name)} wants {wanted} containers; expected 0 to {MAX_CONTAINERS}")
    environment = {key: None if value is None else str(value) for key, value in (said.get("environment") or {}).items()}
    volumes = tuple(_volume(each) for each in said.get("volumes") or () if each.get("type") in ("volume", "bind"))
    for kind in ("secrets", "configs"):
        if not all(isinstance(each.get("source"), str) for each in said.get(kind) or ()):
            raise ModelInvalid(f"service {quote(name)} has odd {kind}")
    return ComposeService(name, image, build, wanted, environment, volumes)


def _volume(said: Mapping[str, Any]) -> str:
    source, target = str(said.get("source") or ""), str(said.get("target") or "")
    where = source or "a volume without a name"
    return f"{where} at {target}"


def locked_digests(model: ComposeModel, lock: Lock | None) -> dict[str, Digest]:
    """What each service has to be, by the lock, or by the digest in its file. LockMismatch.

    A service that is built here is left out, unless the lock or its file has a digest: see `unlocked_builds`.

    All that is wrong is told at once: a file that pins something else than the lock says, and what no lock knows.
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
            missing = f"{LOCK_NAME} is not there" if lock is None else f"it is not in {LOCK_NAME}"
            wrong.append(f"{name}: {service.image.familiar()}: {missing}")
        elif image.digest is None:
            wrong.append(f"{name}: {service.image.familiar()}: {LOCK_NAME} says that it is built here, and it is not")
        elif pinned is not None and pinned != image.digest:
            wrong.append(f"{name}: the file pins {pinned.short}, {LOCK_NAME} says {image.digest.short}")
        else:
            found[name] = image.digest
    if wrong:
        shown = "; ".join(quote(each, 400)[1:-1] for each in wrong[:20])
        raise LockMismatch(
            f"the files are not as locked: {shown}. Lock what is new with `boltseal lock`, or `boltseal deploy --update`"
        )
    return found


def unlocked_builds(model: ComposeModel, lock: Lock | None, digests: Mapping[str, Digest]) -> dict[str, str]:
    """Services that are built here and that no digest is locked for, each with the reason. `digests`: of `locked_digests`."""
    known = {} if lock is None else lock.by_reference()
    found: dict[str, str] = {}
    for name, service in sorted(model.services.items()):
        if name in digests:
            continue
        if lock is None:
            found[name] = f"{LOCK_NAME} is not there"
        elif key_in(service.image, known) in known:
            found[name] = f"{LOCK_NAME} says that it is built here"
        else:
            found[name] = f"it is not in {LOCK_NAME}"
    return found


def merge_services(new: ComposeModel, before: bytes | None, chosen: Sequence[str]) -> dict[str, Any]:
    """The whole project after some services of it were chosen: those as they are now, all others as they were.

    `new` has what was chosen and what it depends on. `before`: the text of the release that runs, None where none does.
    """
    document = dict(copy.deepcopy(dict(new.document)))
    document.pop(VARIABLES_KEY, None)
    if not chosen or before is None:
        return document
    old = json.loads(before)
    for kind in ("services", *_SHARED):
        both = {**old.get(kind, {}), **document.get(kind, {})}
        if both:
            document[kind] = both
    return document


def mounted_files(document: Mapping[str, Any]) -> tuple[Path, ...]:
    """Files that become secrets or configs of a project."""
    found = {
        each["file"]
        for kind in ("secrets", "configs")
        for each in document.get(kind, {}).values()
        if isinstance(each, Mapping) and isinstance(each.get("file"), str)
    }
    return tuple(Path(each) for each in sorted(found))


def release_text(
    document: Mapping[str, Any],
    images: Mapping[str, str],
    copies: Mapping[str, str],
    mark: Callable[[str], str],
    variables: Mapping[str, str],
) -> bytes:
    """The text that Compose is given. `images`: by service; `copies`: the recorded copy of a file, by its path.

    Compose does not start a service anew when only what is in a secret or config has changed. A service that has some
    gets a label with `mark` (an HMAC) of what they are, so that it does.
    """
    made = copy.deepcopy(dict(document))
    for kind in ("secrets", "configs"):
        for each in made.get(kind, {}).values():
            if isinstance(each, dict) and each.get("file") in copies:
                each["file"] = copies[each["file"]]
    for name, image in images.items():
        service = made["services"][name]
        service["image"] = image.replace("$", "$$")
        for key in ("build", "pull_policy", "develop"):
            service.pop(key, None)
        mounted = _mounted(made, service, variables)
        if mounted:
            service["labels"] = {**_labels(service), MOUNTED_LABEL: mark(mounted)}
    return json.dumps(made, indent=1, sort_keys=True, ensure_ascii=False).encode() + b"\n"


def _mounted(document: Mapping[str, Any], service: Mapping[str, Any], variables: Mapping[str, str]) -> str:
    """The secrets and configs of a service and what is in them, as one text."""
    found = []
    for kind in ("secrets", "configs"):
        for use in service.get(kind) or ():
            source = use["source"]
            said = document.get(kind, {}).get(source) or {}
            found.append([kind, source, said, variables.get(str(said.get("environment") or ""), "")])
    return json.dumps(found, sort_keys=True) if found else ""


def _labels(service: Mapping[str, Any]) -> dict[str, Any]:
    said = service.get("labels") or {}
    return {key: value for key, value in said.items() if key != MOUNTED_LABEL} if isinstance(said, Mapping) else {}


def variables_query(variables: Iterable[str]) -> bytes:
    """A Compose file that has Compose say what these variables are, as it fills them in itself."""
    return json.dumps({VARIABLES_KEY: {name: f"${{{name}-}}" for name in variables}}).encode()


def parse_variables(raw: bytes) -> dict[str, str]:
    """What Compose said to `variables_query`. ModelInvalid."""
    said = parse_model(raw).document.get(VARIABLES_KEY, {})
    if not isinstance(said, dict):
        raise ModelInvalid("Compose does not say what the project's variables are")
    return {str(name): str(value or "").replace("$$", "$") for name, value in said.items()}
