"""Release records: their values, and their JSON form on disk. Pure.

A release is one attempt to make a project run as its files say. It is recorded before anything is touched. Its steps, in
order; an interrupted process leaves the release at its current step:

    recorded    images are on the host and protected; files, environment and images are recorded; nothing is changed
    starting    Compose is starting services; some may be old and some new
    waiting     all services were started; their health is not known yet
    returning   it failed; the previous release is being restored

and its ends:

    healthy     it runs
    put-back    it failed, and the previous release runs again
    written     its drop-in files are in place, and nothing was started (`--no-start`); only of Quadlet units
    failed      it failed, and no release could be restored; `reason` explains it
    abandoned   it was left unfinished, and a later release replaced it
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import PurePosixPath
from typing import Any, Final

import msgspec

from boltseal.errors import BoltsealError, Invalid, Unavailable, quote
from boltseal.oci.digest import Digest
from boltseal.oci.reference import Reference

FORMAT: Final = 1
MAX_RECORD_BYTES: Final = 4 * 1024 * 1024
MAX_NUMBER: Final = 999_999_999
CLUSTER_KEY: Final = "kube:"
"""How `Release.engine` of a release on a cluster begins; context and namespace follow: kube:CONTEXT/NAMESPACE."""
_LAST_US: Final = 253_402_300_799_999_999  # end of the year 9999
_PROJECT: Final = re.compile(r"[a-z0-9][a-z0-9_-]{0,254}")  # Compose's rule


class ReleaseInvalid(Invalid):
    """An invalid project name, release number, or field of a record."""


class ReleaseUnreadable(Unavailable):
    """A release's record or contents can't be read or are malformed."""


class ReleaseKind(StrEnum):
    """The command that created a release. `found`: containers that ran without a release, recorded before a deploy."""

    DEPLOY = "deploy"
    UPDATE = "update"
    ROLLBACK = "rollback"
    FOUND = "found"


class ReleaseStep(StrEnum):
    """The current step of a release; see the module's docstring."""

    RECORDED = "recorded"
    STARTING = "starting"
    WAITING = "waiting"
    RETURNING = "returning"
    ENDED = "ended"


class ReleaseEnd(StrEnum):
    """How a release ended; see the module's docstring."""

    HEALTHY = "healthy"
    WRITTEN = "written"
    PUT_BACK = "put-back"
    FAILED = "failed"
    ABANDONED = "abandoned"


class ServiceState(StrEnum):
    """The state of one service of a release.

    `completed`: a job that exited with 0 and is not run again by a rollback (see `jobs`). `unchanged`: it already ran as
    wanted and was not touched.
    """

    PLANNED = "planned"
    STARTED = "started"
    HEALTHY = "healthy"
    COMPLETED = "completed"
    FAILED = "failed"
    PUT_BACK = "put-back"
    UNCHANGED = "unchanged"


class ObjectState(StrEnum):
    """The state of an object of a cluster in a release. `left`: another manager has it, so that it was not removed."""

    PLANNED = "planned"
    APPLIED = "applied"
    REMOVING = "removing"
    REMOVED = "removed"
    LEFT = "left"


class ReleasedObject(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """An object of a release on a Kubernetes cluster. `created`: a release of this project created the object of this `uid`."""

    api_version: str
    kind: str
    namespace: str = ""
    name: str
    uid: str = ""
    created: bool = False
    state: ObjectState = ObjectState.PLANNED


class ReleasedService(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One service of a release.

    `image`: as written in the files. `digest`: in the registry, "" for a local build. `image_id`: in the engine.
    `started_as`: the image name given to Compose. `config_hash`: Compose's hash of the service's definition, known once it
    runs. `containers`: the number it must have. `environment`: an HMAC of each variable's value, under a key that never
    leaves the host. `labels`: of the image. `scrub`: the result of scrubbing the image.
    """

    name: str
    image: str
    digest: str = ""
    image_id: str = ""
    started_as: str = ""
    config_hash: str = ""
    containers: int = 1
    state: ServiceState = ServiceState.PLANNED
    reason: str = ""
    scrub: str = ""
    volumes: tuple[str, ...] = ()
    environment: dict[str, str] = {}
    labels: dict[str, str] = {}


class Release(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One release. `services`: all services of the project; `chosen`: those that it starts, empty for all.

    `engine`: the `EngineAddress.key` of the engine it runs on. `of`: the release that a rollback restores. `previous`: the
    healthy release before it, which is restored if this one fails. Times are microseconds since 1970. `files`: the name
    that earlier versions stored each of the project's own files under, by its path in the project. `before`: the IDs of the
    project's containers when the release began. `hold`: whether it is a rollback whose hold no person has ended: see
    `holds`. `objects`: on a Kubernetes cluster those that it applies, and those of former releases that it removes. `unit_folder`:
    of Quadlet units, Podman's folder with the link to the drop-in files.
    """

    format: int = FORMAT
    project: str
    number: int
    kind: ReleaseKind
    directory: str
    engine: str = ""
    started_us: int
    who: str
    revision: str = ""
    of: int | None = None
    previous: int | None = None
    step: ReleaseStep = ReleaseStep.RECORDED
    end: ReleaseEnd | None = None
    ended_us: int | None = None
    reason: str = ""
    services: tuple[ReleasedService, ...] = ()
    chosen: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    files: dict[str, str] = {}
    hold: bool = False
    before: tuple[str, ...] = ()
    objects: tuple[ReleasedObject, ...] = ()
    unit_folder: str = ""

    @property
    def unfinished(self) -> bool:
        """Whether it has not ended."""
        return self.step is not ReleaseStep.ENDED

    @property
    def on_cluster(self) -> bool:
        """Whether it runs on a Kubernetes cluster."""
        return self.engine.startswith(CLUSTER_KEY)

    @property
    def good(self) -> bool:
        """Whether it became healthy, or was written as asked, so that a rollback can restore it."""
        return self.end in (ReleaseEnd.HEALTHY, ReleaseEnd.WRITTEN)

    @property
    def to_start(self) -> tuple[str, ...]:
        """The services that it starts: the chosen ones, or all; without completed jobs."""
        return tuple(
            each.name
            for each in self.services
            if each.state is not ServiceState.COMPLETED and (not self.chosen or each.name in self.chosen)
        )

    def service(self, name: str) -> ReleasedService | None:
        """Return one service by its name."""
        return next((each for each in self.services if each.name == name), None)

    def with_services(self, services: Iterable[ReleasedService]) -> Release:
        """Return the release with services replaced by these, by name."""
        new = {each.name: each for each in services}
        return msgspec.structs.replace(self, services=tuple(new.get(each.name, each) for each in self.services))

    def at(self, step: ReleaseStep, state: ServiceState | None = None) -> Release:
        """Return the release at another step. `state`: the new state of the services that it starts."""
        moved = msgspec.structs.replace(self, step=step)
        if state is None:
            return moved
        started = [each for each in self.services if each.name in self.to_start]
        return moved.with_services(
            msgspec.structs.replace(each, state=state)
            for each in started
            if each.state not in (ServiceState.FAILED, ServiceState.UNCHANGED)
        )

    def ended(self, end: ReleaseEnd, now_us: int, reason: str = "") -> Release:
        """Return the release as ended."""
        return msgspec.structs.replace(
            self, step=ReleaseStep.ENDED, end=end, ended_us=now_us, reason=reason or self.reason
        )


@dataclass(frozen=True, slots=True)
class ReleaseContents:
    """The files of a release: see `release_store`. Only the images in `compose` change later, to copies that can be started.

    `files`: by their path in the project. `modes`: of those of them that are settings, as they are restored. `outside`: files and
    folders that services mount and that are not part of the release, with the reason. See `settings_files`. `owners`: user and
    group of the files that become secrets or configs.
    """

    compose: bytes
    environment: bytes = b"{}"
    files: Mapping[str, bytes] = field(default_factory=dict)
    lock: bytes | None = None
    outside: tuple[str, ...] = ()
    modes: Mapping[str, int] = field(default_factory=dict)
    owners: Mapping[str, tuple[int, int]] = field(default_factory=dict)


def parse_release(raw: bytes) -> Release:
    """Parse a record that `format_release` wrote.

    Raises: ReleaseUnreadable.
    """
    try:
        release = msgspec.json.decode(raw, type=Release)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise ReleaseUnreadable(f"could not parse the release's record: {quote(str(error), 200)[1:-1]}") from error
    if release.format != FORMAT:
        raise ReleaseUnreadable(
            f"unknown format of the release's record (got {release.format}, expected {FORMAT}); use a newer boltseal"
        )
    check_release(release)
    return release


def check_release(release: Release) -> None:
    """Check the fields of a record that later code relies on.

    Raises: ReleaseUnreadable.
    """
    try:
        _check(release)
    except BoltsealError as error:
        raise ReleaseUnreadable(f"invalid release record: {error.message}") from error


def _check(release: Release) -> None:
    """Check the fields that later code relies on.

    Raises: Invalid.
    """
    check_project(release.project)
    first = 0 if release.kind is ReleaseKind.FOUND else 1
    if not first <= release.number <= MAX_NUMBER:
        raise ReleaseInvalid(f"invalid release number (got {release.number}, expected {first} to {MAX_NUMBER})")
    for time_us in (release.started_us, release.ended_us or 0):
        if not 0 <= time_us <= _LAST_US:
            raise ReleaseInvalid(f"invalid time (got {time_us}, expected microseconds since 1970)")
    for each in release.services:
        Reference.parse(each.image)
        Digest.parse(each.image_id)
        if each.digest:
            Digest.parse(each.digest)
    for name, kept in release.files.items():
        if ".." in PurePosixPath(name).parts or "\0" in name or not (kept.isascii() and kept.isdigit()):
            raise ReleaseInvalid(
                f"invalid recorded file (got path {quote(name)} stored as {quote(kept)}, expected a number as stored name)"
            )
    if (release.step is ReleaseStep.ENDED) != (release.end is not None):
        raise ReleaseInvalid("the record has an end without the step `ended`, or that step without an end")


class _RecordedService(msgspec.Struct):
    """The fields of a recorded service that later code relies on."""

    image: str
    labels: dict[str, Any] | None = None
    secrets: list[dict[str, Any]] | None = None
    configs: list[dict[str, Any]] | None = None


class _RecordedText(msgspec.Struct):
    """The fields of the recorded Compose text that later code relies on."""

    name: str
    services: dict[str, _RecordedService]
    networks: dict[str, Any] = {}
    volumes: dict[str, Any] = {}
    secrets: dict[str, dict[str, Any] | None] = {}
    configs: dict[str, dict[str, Any] | None] = {}


class _RecordedMetadata(msgspec.Struct):
    name: str
    namespace: str = ""


class _RecordedObject(msgspec.Struct):
    """The fields of a recorded object of a cluster that later code relies on."""

    apiVersion: str  # noqa: N815 - the key of the document
    kind: str
    metadata: _RecordedMetadata


class _RecordedList(msgspec.Struct):
    items: list[_RecordedObject]


def _check_objects(release: Release, text: _RecordedList) -> None:
    """Check that the record has every object of the text. Raises: ReleaseUnreadable."""
    known = {(each.api_version, each.kind, each.namespace, each.name) for each in release.objects}
    for each in text.items:
        if (each.apiVersion, each.kind, each.metadata.namespace, each.metadata.name) not in known:
            raise ReleaseUnreadable(
                f"the content is not what was recorded: the record has no {quote(f'{each.kind}/{each.metadata.name}')}"
            )


def check_contents(release: Release, compose: bytes, environment: bytes) -> None:
    """Check that text and variables fit a release, so that it can be started again.

    Raises: ReleaseUnreadable.
    """
    try:
        if release.objects:
            _check_objects(release, msgspec.json.decode(compose, type=_RecordedList))
            return
        text = msgspec.json.decode(compose, type=_RecordedText)
        msgspec.json.decode(environment, type=dict[str, str])
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise ReleaseUnreadable(f"the content is not what was recorded: {quote(str(error), 200)[1:-1]}") from error
    missing = [each.name for each in release.services if each.name not in text.services]
    if missing:
        raise ReleaseUnreadable(f"the content is not what was recorded: it has no service {quote(missing[0])}")


def format_release(release: Release) -> bytes:
    """Return the record as indented JSON, which people can read."""
    return msgspec.json.format(msgspec.json.encode(release)) + b"\n"


def check_project(name: str) -> str:
    """Return a project's name if Compose allows it.

    Raises: ReleaseInvalid.
    """
    if _PROJECT.fullmatch(name) is None:
        raise ReleaseInvalid(
            f"invalid project name (got {quote(name)}, expected lower-case letters, digits, - and _, such as shop)"
        )
    return name


def check_kind(releases: Sequence[Release], project: str, *, units: bool = True) -> None:
    """Check that a project's releases are those of units, or of Compose. Raises: ReleaseInvalid."""
    other = next((each for each in releases if bool(each.unit_folder) != units), None)
    if other is None:
        return
    if units:
        raise ReleaseInvalid(
            f"{project} is a project of Compose on this engine (release {other.number}); name another one by --project-name"
        )
    raise ReleaseInvalid(
        f"{project} is a project of Quadlet units on this engine (release {other.number}); use --quadlet, or name another one by --project-name"
    )


def last_good(releases: Sequence[Release], before: int | None = None) -> Release | None:
    """Return the newest healthy release. `before`: only consider releases older than this number."""
    good = [each for each in releases if each.good and (before is None or each.number < before)]
    return max(good, key=lambda each: each.number, default=None)


def unreplaced_releases(releases: Sequence[Release]) -> list[Release]:
    """Return the releases after the last healthy one whose containers may still exist, as no release replaced them."""
    last = last_good(releases)
    return [
        each for each in releases if (last is None or each.number > last.number) and each.end is not ReleaseEnd.PUT_BACK
    ]


def removed_services(releases: Sequence[Release], names: Collection[str]) -> tuple[str, ...]:
    """Return services not in `names` that may still have containers: of the last healthy release and unreplaced later ones."""
    last, left = last_good(releases), unreplaced_releases(releases)
    known = [service.name for each in (*(() if last is None else (last,)), *left) for service in each.services]
    known += [name for each in left for name in each.removed]
    return tuple(dict.fromkeys(name for name in known if name not in names))


def rollback_to(releases: Sequence[Release], number: int | None) -> Release | None:
    """Return the release that a rollback restores: `number`, or the one of `rollback_target`; None if there is none."""
    if number is None:
        return rollback_target(releases)
    return next((each for each in releases if each.number == number), None)


def rollback_target(releases: Sequence[Release]) -> Release | None:
    """Return the release that `rollback` without a number restores: the one that ran before the running one.

    A rollback is a release too. After "5, then back to 4" release 4 runs again, so the target is the one before 4.
    """
    unfinished = [each for each in releases if each.unfinished]
    if unfinished:
        return last_good(releases)
    now = last_good(releases)
    if now is None:
        return None
    by_number = {each.number: each for each in releases}
    origin = now
    while origin.of is not None and origin.of in by_number and origin.of < origin.number:
        origin = by_number[origin.of]
    return last_good(releases, before=origin.number)
