"""Compares two releases of a project by their records and texts. Pure.

Values of the environment are compared by their HMACs and never shown.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from boltseal.deploy.compose_model import MOUNTED_LABEL, mounted_text
from boltseal.deploy.kube.object_diff import changed_paths, objects_by_name
from boltseal.deploy.releases import Release, ReleaseContents, ReleasedService
from boltseal.oci.annotations import BASE_DIGEST, BASE_NAME

_SEPARATE: Final = ("image", "environment", "build")


@dataclass(frozen=True, slots=True)
class ReleaseChange:
    """A change between two releases.

    `service`: "" for the whole project; `what`: such as `image` or `label org...`; `before`, `after`: "" if absent.
    """

    service: str
    what: str
    before: str
    after: str


def changes(
    before: Release, after: Release, contents_before: ReleaseContents | None, contents_after: ReleaseContents | None
) -> tuple[ReleaseChange, ...]:
    """Return all changes, by service.

    `contents_before`, `contents_after`: the releases' texts; None where only the record is left.
    """
    found: list[ReleaseChange] = []
    if before.revision != after.revision:
        found.append(ReleaseChange("", "revision", before.revision, after.revision))
    names = sorted({each.name for each in (*before.services, *after.services)})
    documents = (_services(contents_before), _services(contents_after))
    for name in names:
        old, new = before.service(name), after.service(name)
        if old is None or new is None:
            found.append(
                ReleaseChange(name, "service", "" if old is None else "present", "" if new is None else "present")
            )
            continue
        found += _service_changes(old, new)
        if contents_before is not None and contents_after is not None and not (before.objects or after.objects):
            mounted = (_mounted(contents_before, name), _mounted(contents_after, name))
            found += _setting_changes(name, documents[0].get(name, {}), documents[1].get(name, {}), mounted)
    if contents_before is not None and contents_after is not None:
        if before.objects and after.objects:
            found += _object_changes(contents_before, contents_after)
        found += _file_changes(contents_before.files, contents_after.files)
    return tuple(found)


def _service_changes(old: ReleasedService, new: ReleasedService) -> list[ReleaseChange]:
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
        contents_before, now = old.environment.get(key), new.environment.get(key)
        if contents_before != now:
            words = ("" if contents_before is None else "set", "" if now is None else "set")
            if contents_before is not None and now is not None:
                words = ("set", "changed")
            found.append(ReleaseChange(name, f"environment {key}", *words))
    return found


def _object_changes(before: ReleaseContents, after: ReleaseContents) -> list[ReleaseChange]:
    """Return the changes of the objects of a cluster; those of images are among the changes of services."""
    old, new = (objects_by_name(json.loads(each.compose)["items"]) for each in (before, after))
    found = []
    for name in sorted({*old, *new}):
        if name not in old or name not in new:
            found.append(ReleaseChange(name, "object", *("present" if name in each else "" for each in (old, new))))
        else:
            changed = changed_paths(old[name], new[name])
            found += [ReleaseChange(name, *each) for each in changed if not each[0].endswith("].image")]
    return found


def _services(contents: ReleaseContents | None) -> Mapping[str, Any]:
    if contents is None:
        return {}
    found = json.loads(contents.compose).get("services", {})
    return found if isinstance(found, dict) else {}


def _mounted(contents: ReleaseContents, name: str) -> str:
    """Return a service's secrets and configs with their contents, only to compare them."""
    return mounted_text(json.loads(contents.compose), name, json.loads(contents.environment))


def _setting_changes(
    name: str, old: Mapping[str, Any], new: Mapping[str, Any], mounted: tuple[str, str]
) -> list[ReleaseChange]:
    """Return the changes of all other keys of a service in the Compose text. `mounted`: of `_mounted`, before and after."""
    old, new = dict(old), dict(new)
    for side in (old, new):
        side["labels"] = {key: each for key, each in (side.get("labels") or {}).items() if key != MOUNTED_LABEL}
    found = []
    if mounted[0] != mounted[1]:
        words = ("present" if mounted[0] else "", ("changed" if mounted[0] else "present") if mounted[1] else "")
        found.append(ReleaseChange(name, "secrets and configs", *words))
    keys = [key for key in sorted({*old, *new} - set(_SEPARATE)) if old.get(key) != new.get(key)]
    return [*found, *(ReleaseChange(name, key, _text(old.get(key)), _text(new.get(key))) for key in keys)]


def _file_changes(old: Mapping[str, bytes], new: Mapping[str, bytes]) -> list[ReleaseChange]:
    found = []
    for path in sorted({*old, *new}):
        if old.get(path) != new.get(path):
            words = ("" if path not in old else "present", "" if path not in new else "present")
            if path in old and path in new:
                words = ("present", "changed")
            found.append(ReleaseChange("", f"file {path}", *words))
    return found


def _text(value: object) -> str:
    return "" if value is None else json.dumps(value, sort_keys=True)
