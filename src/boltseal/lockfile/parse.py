"""Parse the text of a lock, or report in one line what is wrong with it. The input is untrusted. Pure.

1. It is UTF-8 and TOML of a limited size, without a merge conflict.
2. Its version is known; a newer one is refused rather than read in part.
3. Every table has the required keys and no unknown ones; every value has the type of its key.
4. No reference and no place of a pin occurs twice, and none is locked to another digest than the one that it names.

A writer of the lock decides what is deployed, so changes to it must be reviewed. But a lock can't make boltseal
contact a host or run a program, or send control characters to the terminal.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final, NoReturn, TypeVar

from boltseal.errors import BoltsealError, quote
from boltseal.lockfile.document import (
    LOCK_NAME,
    RENDERERS,
    SECOND_US,
    VERSION,
    Lock,
    LockedImage,
    LockedPlatform,
    LockInvalid,
    Rendered,
    Use,
    WrittenPin,
    sorted_lock,
)
from boltseal.oci.digest import Digest
from boltseal.oci.reference import Reference

T = TypeVar("T")

MAX_LOCK_BYTES: Final = 32 * 1024 * 1024
MAX_TEXT: Final = 4096
_EARLIEST: Final = datetime(1970, 1, 2, tzinfo=UTC)

_CONFLICT: Final = re.compile(r"^(<{7}|>{7})(?: |$)", re.MULTILINE)
_is_key = re.compile(r"[^\s+]+\+[0-9a-f]{8}\+[A-Za-z0-9+/=]+").fullmatch

_IMAGE: Final = {
    "reference": str,
    "digest": str,
    "local_build": bool,
    "media_type": str,
    "first_seen": datetime,
    "entry": int,
    "written": list,
    "used": list,
    "platforms": list,
}
_USE: Final = {"file": str, "at": str}
_PLATFORM: Final = {"platform": str, "manifest": str, "image": str}
_PIN: Final = {"file": str, "at": str, "number": int, "digest": str, "replaced": str}
_RENDERED: Final = {"tool": str, "path": str}
_TABLES: Final = {
    1: {"keys", "image"},
    2: {"keys", "image", "pins"},
    3: {"keys", "image", "pins", "rendered"},
}
"""The top-level keys of each version."""
_TYPE_NAMES: Final = {
    str: "a text",
    bool: "true or false",
    int: "a whole number",
    datetime: "a time such as 2026-11-24T18:00:00Z",
    list: "a list",
    dict: "a table",
}


def parse_lock(raw: bytes) -> Lock:
    """Parse a lock. Raises: LockInvalid: the text is not a valid lock."""
    try:
        return _lock(_document(raw))
    except LockInvalid as error:
        raise LockInvalid(f"{LOCK_NAME}: {error.message}") from error


def _lock(document: dict[str, Any]) -> Lock:
    # 2
    if "version" not in document:
        _refuse("it has no version: the file may be empty or truncated; expected `version = 1`, `2` or `3`")
    version = document.pop("version")
    if type(version) is not int or version < 1:
        _refuse(f"version is {quote(str(version))}; expected 1 to {VERSION}")
    if version > VERSION:
        _refuse(f"it has version {version}, but this boltseal reads up to {VERSION}; use a newer boltseal")
    # 3
    unknown = set(document) - _TABLES[version]
    if unknown:
        _refuse(f"unknown key {quote(min(unknown))}")
    images = [*_each(document, "image", _image if version > 1 else _image_of_version_1)]
    pins = [*_each(document, "pins", _pin)]
    # 4
    seen: set[Reference] = set()
    for image in images:
        if image.reference in seen:
            _refuse(f"{image.reference} occurs twice; remove one of the two, or run `boltseal lock`")
        seen.add(image.reference)
    places = set()
    for pin in pins:
        if pin.place in places:
            _refuse(f"pins: {quote(pin.file)} has two at {quote(pin.at)}; remove one of them")
        places.add(pin.place)
    return sorted_lock(images, _keys(document.get("keys", {})), pins, _each(document, "rendered", _rendered))


def _document(raw: bytes) -> dict[str, Any]:
    if len(raw) > MAX_LOCK_BYTES:
        _refuse(f"it has {len(raw)} bytes; expected at most {MAX_LOCK_BYTES}")
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise LockInvalid(f"not UTF-8 at byte {error.start}") from error
    conflict = _CONFLICT.search(text)
    if conflict is not None:
        line = text.count("\n", 0, conflict.start()) + 1
        _refuse(
            f"line {line} is a merge conflict; run `boltseal lock --merge`, or keep one of the two sides and run `boltseal lock`"
        )
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise LockInvalid(f"not TOML: {quote(str(error), 200)[1:-1]}; restore it from version control") from error
    except (RecursionError, ValueError) as error:  # nested too deeply; an invalid date or number
        raise LockInvalid(f"not TOML: {type(error).__name__}") from error


def _each(document: Mapping[str, Any], key: str, parse: Callable[[Mapping[str, Any]], T]) -> Iterator[T]:
    for number, table in enumerate(_tables(document, key), 1):
        try:
            yield parse(table)
        except BoltsealError as error:
            raise LockInvalid(f"{key} {number}: {error.message}") from error


def _image_of_version_1(table: Mapping[str, Any]) -> LockedImage:
    image = _image(table)
    if image.own_pin:
        _refuse(f"{image.reference} has a tag and a digest, which needs version 2")
    return image


def _image(table: Mapping[str, Any]) -> LockedImage:
    _check(table, "", _IMAGE, ("reference", "first_seen"))
    local = table.get("local_build", False)
    if local == ("digest" in table):
        _refuse("expected either a digest or local_build = true")
    entry = table.get("entry")
    if entry is not None and not 0 <= entry < 2**63:
        _refuse(f"entry is {entry}; expected the index of a ledger entry")
    seen: datetime = table["first_seen"]
    if seen.tzinfo is None or seen.microsecond or seen < _EARLIEST:
        _refuse(f"first_seen is {seen}; expected {_TYPE_NAMES[datetime]}")
    return LockedImage(
        reference=Reference.parse(table["reference"]),
        digest=None if local else Digest.parse(table["digest"]),
        first_seen_us=round(seen.timestamp()) * SECOND_US,
        media_type=table.get("media_type", ""),
        platforms=tuple(_platform(each) for each in _tables(table, "platforms")),
        written=tuple(_texts(table.get("written", []), "written")),
        used=tuple(_use(each) for each in _tables(table, "used")),
        entry=entry,
    )


def _platform(table: Mapping[str, Any]) -> LockedPlatform:
    _check(table, "platforms: ", _PLATFORM, ("platform", "manifest"))
    image = table.get("image")
    return LockedPlatform(
        table["platform"], Digest.parse(table["manifest"]), None if image is None else Digest.parse(image)
    )


def _pin(table: Mapping[str, Any]) -> WrittenPin:
    _check(table, "", _PIN, ("file", "at", "digest"))
    number, replaced = table.get("number", 1), table.get("replaced")
    if not 1 <= number < 2**31:
        _refuse(f"number is {number}; expected 1 or more")
    return WrittenPin(
        table["file"],
        table["at"],
        number,
        Digest.parse(table["digest"]),
        None if replaced is None else Digest.parse(replaced),
    )


def _rendered(table: Mapping[str, Any]) -> Rendered:
    _check(table, "", _RENDERED, tuple(_RENDERED))
    if table["tool"] not in RENDERERS:
        _refuse(f"tool is {quote(table['tool'])}; expected one of {', '.join(RENDERERS)}")
    return Rendered(table["tool"], table["path"])


def _use(table: Mapping[str, Any]) -> Use:
    _check(table, "used: ", _USE, tuple(_USE))
    return Use(table["file"], table["at"])


def _keys(table: Any) -> dict[str, str]:
    if not isinstance(table, dict):
        _refuse("keys is not a table; expected [keys]")
    for name, key in table.items():
        if not isinstance(key, str) or len(key) > MAX_TEXT or _is_key(key) is None:
            _refuse(f"keys: {quote(name)} is not a ledger key; expected NAME+ID+KEY")
    return table


def _tables(table: Mapping[str, Any], key: str) -> Sequence[Mapping[str, Any]]:
    found = table.get(key, [])
    if not isinstance(found, list) or not all(isinstance(each, dict) for each in found):
        _refuse(f"{key} is not a list of tables")
    return found


def _check(table: Mapping[str, Any], where: str, known: Mapping[str, type], needed: Sequence[str]) -> None:
    for key, value in table.items():
        expected = known.get(key)
        if expected is None:
            _refuse(f"{where}unknown key {quote(key)}; known keys: {', '.join(known)}")
        if type(value) is not expected:
            _refuse(f"{where}{key} is {quote(str(value))}; expected {_TYPE_NAMES[expected]}")
        if isinstance(value, str):
            _texts([value], f"{where}{key}")
    missing = [key for key in needed if key not in table]
    if missing:
        _refuse(f"{where}{missing[0]} is missing")


def _texts(values: Sequence[Any], where: str) -> Sequence[str]:
    for value in values:
        if not isinstance(value, str) or len(value) > MAX_TEXT:
            _refuse(f"{where} is {quote(str(value))}; expected a text of at most {MAX_TEXT} characters")
    return values


def _refuse(what: str) -> NoReturn:
    raise LockInvalid(what)
