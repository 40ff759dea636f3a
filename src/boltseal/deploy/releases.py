"""What a release is, and the one form in which it is written down. Pure.

A release is one attempt to make a project run as its files say: recorded before anything is touched, and told to its end.
Its steps, in this order; a process that dies leaves the release at the step it was in:

    recorded    every image is here and held; files, environment and images are written down; what runs is as it was
    starting    Compose has been asked; some services may be old and some new
    waiting     every service was started anew; whether they are healthy is not known yet
    returning   it failed; the release before it is being put back

and its ends:

    healthy     it runs
    put-back    it failed, and the release before it runs again
    failed      it failed, and nothing could be put back; `reason` says why
    abandoned   it was left unfinished, and another release was started after it
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence
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
_LAST_US: Final = 253_402_300_799_999_999  # the end of the year 9999
_PROJECT: Final = re.compile(r"[a-z0-9][a-z0-9_-]{0,254}")  # as Compose has it


class ReleaseInvalid(Invalid):
    """A project or a number that is no release's."""


class ReleaseUnreadable(Unavailable):
    """A record on this host that can't be read, or is not one of ours."""


class ReleaseKind(StrEnum):
    """Why there is a release."""

    DEPLOY = "deploy"
    UPDATE = "update"
    ROLLBACK = "rollback"


class ReleaseStep(StrEnum):
    """How far it is; see the module's text."""

    RECORDED = "recorded"
    STARTING = "starting"
    WAITING = "waiting"
    RETURNING = "returning"
    ENDED = "ended"


class ReleaseEnd(StrEnum):
    """How it ended; see the module's text."""

    HEALTHY = "healthy"
    PUT_BACK = "put-back"
    FAILED = "failed"
    ABANDONED = "abandoned"


class ServiceState(StrEnum):
    """Where one service is.

    `completed`: a job that has ended with 0, and that is not run again when its release comes back (see `jobs`).
    `unchanged`: it runs as it should already, and was not touched.
    """

    PLANNED = "planned"
    STARTED = "started"
    HEALTHY = "healthy"
    COMPLETED = "completed"
    FAILED = "failed"
    PUT_BACK = "put-back"
    UNCHANGED = "unchanged"


class ReleasedService(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One service of a release.

    `image`: as the files write it; `digest`: what a registry knows it by, "" for a local build; `image_id`: what the
    engine calls it; `started_as`: what Compose is told; `config_hash`: what Compose made of its part of the files, known
    once it runs. `containers`: how many it is to have. `environment`: an HMAC for the value of each variable, under a key
    that never leaves the host. `labels`: of the image. `scrub`: what `scrub` said of it.
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
    """One release. `services`: all that the project has then; `chosen`: those that it started, empty for all.

    `engine`: the one that it runs on, as `EngineAddress.key` has it. `of`: the release that a rollback goes back to. `previous`: the healthy one that ran before, which is put back. Times
    in microseconds since 1970. `files`: the project's own files by their path in it, and the name that each is kept under.
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

    @property
    def unfinished(self) -> bool:
        """Whether it was left at a step."""
        return self.step is not ReleaseStep.ENDED

    @property
    def good(self) -> bool:
        """Whether it ran, so that it can be gone back to."""
        return self.end is ReleaseEnd.HEALTHY

    @property
    def to_start(self) -> tuple[str, ...]:
        """The services that it starts: those chosen, or all; without jobs that have completed and are not run again."""
        return tuple(
            each.name
            for each in self.services
            if each.state is not ServiceState.COMPLETED and (not self.chosen or each.name in self.chosen)
        )

    def service(self, name: str) -> ReleasedService | None:
        """One service by its name."""
        return next((each for each in self.services if each.name == name), None)

    def with_services(self, services: Iterable[ReleasedService]) -> Release:
        """The release with these in place of those of the same name."""
        new = {each.name: each for each in services}
        return msgspec.structs.replace(self, services=tuple(new.get(each.name, each) for each in self.services))

    def at(self, step: ReleaseStep, state: ServiceState | None = None) -> Release:
        """The release one step on; `state`: of the services that it starts."""
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
        """The release at its end."""
        return msgspec.structs.replace(
            self, step=ReleaseStep.ENDED, end=end, ended_us=now_us, reason=reason or self.reason
        )


def parse_release(raw: bytes) -> Release:
    """A release as `format_release` wrote it. ReleaseUnreadable."""
    try:
        release = msgspec.json.decode(raw, type=Release)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise ReleaseUnreadable(f"a release's record can't be read: {quote(str(error), 200)[1:-1]}") from error
    if release.format != FORMAT:
        raise ReleaseUnreadable(
            f"a release's record has format {release.format}; this boltseal reads {FORMAT}: use the newer one"
        )
    try:
        _check(release)
    except BoltsealError as error:
        raise ReleaseUnreadable(f"a release's record can't be right: {error.message}") from error
    return release


def _check(release: Release) -> None:
    """Everything that is done with a record later has to be possible. Invalid."""
    check_project(release.project)
    if not 0 < release.number <= MAX_NUMBER:
        raise ReleaseInvalid(f"{release.number} is no number of a release; expected 1 to {MAX_NUMBER}")
    for time_us in (release.started_us, release.ended_us or 0):
        if not 0 <= time_us <= _LAST_US:
            raise ReleaseInvalid(f"{time_us} is no time; expected microseconds since 1970")
    for each in release.services:
        Reference.parse(each.image)
        Digest.parse(each.image_id)
        if each.digest:
            Digest.parse(each.digest)
    for name, kept in release.files.items():
        if ".." in PurePosixPath(name).parts or "\0" in name or not (kept.isascii() and kept.isdigit()):
            raise ReleaseInvalid(
                f"{quote(name)} is no file of a project, or {quote(kept)} no name that it is kept under"
            )
    if (release.step is ReleaseStep.ENDED) != (release.end is not None):
        raise ReleaseInvalid("it has an end and goes on, or it has ended and does not say how")


class _RecordedService(msgspec.Struct):
    """What is relied on of a service's text."""

    image: str
    labels: dict[str, Any] | None = None
    secrets: list[dict[str, Any]] | None = None
    configs: list[dict[str, Any]] | None = None


class _RecordedText(msgspec.Struct):
    """What is relied on of the text that Compose is given."""

    name: str
    services: dict[str, _RecordedService]
    networks: dict[str, Any] = {}
    volumes: dict[str, Any] = {}
    secrets: dict[str, dict[str, Any] | None] = {}
    configs: dict[str, dict[str, Any] | None] = {}


def check_contents(release: Release, compose: bytes, environment: bytes) -> None:
    """Whether these can be the text and the variables of a release, so that it can be started again. ReleaseUnreadable."""
    try:
        text = msgspec.json.decode(compose, type=_RecordedText)
        msgspec.json.decode(environment, type=dict[str, str])
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise ReleaseUnreadable(f"it is not what was recorded: {quote(str(error), 200)[1:-1]}") from error
    missing = [each.name for each in release.services if each.name not in text.services]
    if missing:
        raise ReleaseUnreadable(f"it is not what was recorded: it has no service {quote(missing[0])}")


def format_release(release: Release) -> bytes:
    """The one form: JSON, a line for each value, so that people can read it."""
    return msgspec.json.format(msgspec.json.encode(release)) + b"\n"


def check_project(name: str) -> str:
    """A project's name, as Compose allows it. ReleaseInvalid."""
    if _PROJECT.fullmatch(name) is None:
        raise ReleaseInvalid(
            f"{quote(name)} is no name of a project; expected lower-case letters, digits, - and _, such as shop"
        )
    return name


def last_good(releases: Sequence[Release], before: int | None = None) -> Release | None:
    """The newest release that ran; `before`: only older ones than this number."""
    good = [each for each in releases if each.good and (before is None or each.number < before)]
    return max(good, key=lambda each: each.number, default=None)


def unreplaced_releases(releases: Sequence[Release]) -> list[Release]:
    """Releases after the last one that ran whose containers may be there still: none was put in their place."""
    last = last_good(releases)
    return [
        each for each in releases if (last is None or each.number > last.number) and each.end is not ReleaseEnd.PUT_BACK
    ]


def removed_services(releases: Sequence[Release], names: Collection[str]) -> tuple[str, ...]:
    """Services that may have containers and are none of `names`: of the last release that ran, and of what was left since."""
    last, left = last_good(releases), unreplaced_releases(releases)
    known = [service.name for each in (*(() if last is None else (last,)), *left) for service in each.services]
    known += [name for each in left for name in each.removed]
    return tuple(dict.fromkeys(name for name in known if name not in names))


def rollback_target(releases: Sequence[Release]) -> Release | None:
    """What `rollback` without a number means: what ran before what runs now.

    A rollback is a release too: after "5, then back to 4" what runs is 4 again, and before it ran what ran before 4.
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
