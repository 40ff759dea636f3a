"""What changed between two releases of a project. Pure: of their records and texts alone.

Values of the environment are compared by their HMACs and never shown.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from boltseal.deploy.compose_model import MOUNTED_LABEL
from boltseal.deploy.release_store import ReleaseContents
from boltseal.deploy.releases import Release, ReleasedService
from boltseal.oci.annotations import BASE_DIGEST, BASE_NAME

_SEPARATE: Final = ("image", "environment", "build")


@dataclass(frozen=True, slots=True)
class ReleaseChange:
    """One change. `service`: "" for the project as a whole; `what`: such as `image` or `label org...`; "" for nothing."""

    service: str
    what: str
    before: str
    after: str


def changes(
    before: Release, after: Release, was: ReleaseContents | None, is_: ReleaseContents | None
) -> tuple[ReleaseChange, ...]:
    """All changes, by service. `was`, `is_`: their texts, None where only the record is kept: then fewer are known."""
    found: list[ReleaseChange] = []
    if before.revision != after.revision:
        found.append(ReleaseChange("", "revision", before.revision, after.revision))
    names = sorted({each.name for each in (*before.services, *after.services)})
    documents = (_services(was), _services(is_))
    for name in names:
        old, new = before.service(name), after.service(name)
        if old is None or new is None:
            found.append(ReleaseChange(name, "service", "" if old is None else "there", "" if new is None else "there"))
            continue
        found += _service(old, new)
        if was is not None and is_ is not None:
            found += _settings(name, documents[0].get(name, {}), documents[1].get(name, {}))
    if was is not None and is_ is not None:
        found += _files(was.files, is_.files)
    return tuple(found)


def _service(old: ReleasedService, new: ReleasedService) -> list[ReleaseChange]:
    name, found = new.name, []
    if old.image != new.image:
        found.append(ReleaseChange(name, "image", old.image, new.image))
    if (old.digest, old.image_id) != (new.digest, new.image_id):
        found.append(ReleaseChange(name, "digest", old.digest or old.image_id, new.digest or new.image_id))
    if old.containers != new.containers:
        found.append(ReleaseChange(name, "containers", str(old.containers), str(new.containers)))
    for key in sorted({*old.labels, *new.labels}):
        before, after = old.labels.get(key, ""), new.labels.get(key, "")
        if before != after:
            what = {BASE_NAME: "base", BASE_DIGEST: "base digest"}.get(key, f"label {key}")
            found.append(ReleaseChange(name, what, before, after))
    for key in sorted({*old.environment, *new.environment}):
        was, now = old.environment.get(key), new.environment.get(key)
        if was != now:
            words = ("" if was is None else "set", "" if now is None else "set")
            if was is not None and now is not None:
                words = ("one value", "another value")
            found.append(ReleaseChange(name, f"environment {key}", *words))
    return found


def _services(contents: ReleaseContents | None) -> Mapping[str, Any]:
    if contents is None:
        return {}
    found = json.loads(contents.compose).get("services", {})
    return found if isinstance(found, dict) else {}


def _settings(name: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> list[ReleaseChange]:
    """Everything else that Compose is told of a service, by its key."""
    old, new = dict(old), dict(new)
    marks = []
    for side in (old, new):
        labels = dict(side.get("labels") or {})
        marks.append(labels.pop(MOUNTED_LABEL, ""))
        side["labels"] = labels
    found = []
    if marks[0] != marks[1]:
        words = ("one text" if marks[0] else "", "another text" if marks[1] else "")
        found.append(ReleaseChange(name, "secrets and configs", *words))
    keys = [key for key in sorted({*old, *new} - set(_SEPARATE)) if old.get(key) != new.get(key)]
    return [*found, *(ReleaseChange(name, key, _text(old.get(key)), _text(new.get(key))) for key in keys)]


def _files(old: Mapping[str, bytes], new: Mapping[str, bytes]) -> list[ReleaseChange]:
    found = []
    for path in sorted({*old, *new}):
        if old.get(path) != new.get(path):
            words = ("" if path not in old else "there", "" if path not in new else "there")
            if path in old and path in new:
                words = ("one text", "another text")
            found.append(ReleaseChange("", f"file {path}", *words))
    return found


def _text(value: object) -> str:
    return "" if value is None else json.dumps(value, sort_keys=True)
