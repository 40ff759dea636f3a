"""What a host reports to a registry: what runs there, what `scrub` found, how a deploy ended. Pure.

`boltseal ps`, `scrub` and `deploy` send a `ReportDocument` as JSON; the admin API takes it. It is hostile until
`parse_report` has checked it: sizes, names, times and digests. All of it is a claim of its sender, and no more.

A report names images, never environment variables, arguments or labels of containers. A registry reads it to show what
runs where, and to keep what runs: a report can prevent that cleanup deletes an image, and never permits it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta

from boltseal.errors import Invalid, quote
from boltseal.oci.digest import Digest
from boltseal.oci.jsontext import DigestText, TimeText
from boltseal.oci.reference import Reference
from boltseal.policy.durations import UNITS_US

VERSION: Final = 1
MAX_REPORT_BYTES: Final = 2 * 1024 * 1024
MAX_IMAGES: Final = 1000
"""Containers, findings or services of one report."""
MAX_DIGESTS: Final = 6
"""Digests of one image: of its configuration, its manifest, and its indexes at some registries."""
MAX_TEXT: Final = 300
MIN_EVERY_S: Final = 60
MAX_EVERY_S: Final = 366 * 24 * 3600
DEFAULT_EVERY_S: Final = 24 * 3600
_TIMES: Final = frozenset({"time", "since", "started", "ended"})
_HOST: Final = re.compile(r"[a-z0-9](?:[a-z0-9._-]{0,98}[a-z0-9])?")


class ReportInvalid(Invalid):
    """A report that no host of this version sends."""


class ReportKind(StrEnum):
    """The command that reports."""

    PS = "ps"
    SCRUB = "scrub"
    DEPLOY = "deploy"


class ReportOutcome(StrEnum):
    """How the command ended, as its `--json` has it."""

    HOLDS = "holds"
    DIFFERS = "differs"
    UNKNOWN = "unknown"


RUNNING_KINDS: Final = (ReportKind.PS, ReportKind.DEPLOY)
"""The reports whose images run. A scrub reports findings: images that are on the disk."""

_Short = Annotated[str, Meta(max_length=100)]
_Text = Annotated[str, Meta(max_length=MAX_TEXT)]
_Count = Annotated[int, Meta(ge=0, le=2**31 - 1)]
_Interval = Annotated[int, Meta(ge=MIN_EVERY_S, le=MAX_EVERY_S)]


class ReportedImage(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An image of a report: of a running container, of a finding, or of a service of a release."""

    reference: Annotated[str, Meta(max_length=512, description="As the host names the image.")]
    digests: Annotated[
        list[DigestText],
        Meta(max_length=MAX_DIGESTS, description="Of the image that runs, the one of its registry first."),
    ]
    locked: Annotated[DigestText | None, Meta(description="The digest in the lock of the project.")] = None
    status: Annotated[_Short, Meta(description="The result of the comparison, as the command's `--json` has it.")] = ""
    state: Annotated[_Short, Meta(description="The state of the container.")] = ""
    project: _Text = ""
    service: _Text = ""
    name: Annotated[_Text, Meta(description="The container, or the image as `scrub` names it.")] = ""
    since: Annotated[TimeText | None, Meta(description="When the container was started.")] = None
    reason: _Text = ""


class ReportCounts(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How many images were checked, by result."""

    holds: _Count = 0
    differs: _Count = 0
    unknown: _Count = 0


class ReportedRelease(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A release and how it ended."""

    number: _Count
    end: Annotated[_Short, Meta(description="`healthy`, or how it failed, as `boltseal release ls --json` has it.")]
    kind: _Short
    by: Annotated[_Text, Meta(description="The user who deployed.")]
    started: TimeText
    ended: TimeText | None
    reason: _Text = ""


class ReportDocument(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A report as JSON. `v`: the version of this format."""

    v: Literal[1]
    kind: ReportKind
    host: Annotated[str, Meta(max_length=100, description="The name of the host, which it keeps.")]
    registry: Annotated[
        str,
        Meta(max_length=255, description="The registry's address as image references of this host have it."),
    ]
    subject: Annotated[
        _Text,
        Meta(
            description="What the report is about: of `ps` the engine, of `scrub` the kind of run and its stores, of `deploy` the "
            "project. A report replaces the one before with the same host, kind and subject."
        ),
    ]
    time: TimeText
    every_s: Annotated[
        _Interval | None,
        Meta(description="Seconds until the next report; null: it has no schedule."),
    ]
    complete: Annotated[
        bool, Meta(description="Whether `images` are all. If not, the images of the reports before are kept too.")
    ]
    outcome: ReportOutcome
    counts: ReportCounts
    images: Annotated[list[ReportedImage], Meta(max_length=MAX_IMAGES)]
    release: Annotated[ReportedRelease | None, Meta(description="Of `deploy` only.")] = None


@dataclass(frozen=True, slots=True)
class HostImage:
    """An image of a report. `repository`: as the registry names it, "" for an image without a name; `tag` "": none."""

    repository: str
    tag: str
    digests: tuple[Digest, ...]
    shown: ReportedImage


@dataclass(frozen=True, slots=True)
class HostReport:
    """A report whose parts were checked. Made by `parse_report`."""

    document: ReportDocument
    images: tuple[HostImage, ...]


def parse_report(document: ReportDocument) -> HostReport:
    """Check a report. Raises: ReportInvalid: names the first fault."""
    check_host_name(document.host)
    if (document.kind is ReportKind.DEPLOY) != (document.release is not None):
        raise ReportInvalid(f"a report of {document.kind} has {'no' if document.release is None else 'a'} release")
    for each in (document, *document.images, *([] if document.release is None else [document.release])):
        _check_texts(each)
    return HostReport(document, tuple(_image(each, document.registry) for each in document.images))


def check_host_name(name: str) -> str:
    """Return a name of a host. Raises: ReportInvalid."""
    if _HOST.fullmatch(name) is None:
        raise ReportInvalid(
            f"{quote(name)} is not a name of a host; expected at most 100 of a-z, 0-9, `.`, `_` and `-`, such as web-1"
        )
    return name


def reported_name(node: str) -> str:
    """Return the name by which a host is reported that has this name elsewhere: as a node, or in an engine's address."""
    return re.sub(r"[^a-z0-9._-]+", "-", node.lower())[:80].strip("._-") or "host"


def default_host_name(node: str, machine_id: str) -> str:
    """Return the name of a host that has chosen none: its node name and, if it has a machine ID, eight digits made from it.

    Machines may have the same node name, and copies of an image of a machine often do. A machine ID is confidential
    (machine-id(5)), so it is hashed with a word of our own.
    """
    name = reported_name(node)
    if not machine_id:
        return name
    return f"{name}-{Digest.of(f'boltseal host {machine_id}'.encode()).hex[:8]}"


def due_us(received_us: int, every_s: int | None) -> int | None:
    """Return when a host counts as stopped: a quarter of its interval after the next report was due. None: it has no interval."""
    return None if every_s is None else received_us + every_s * UNITS_US["s"] * 5 // 4


def repository_here(reference: str, registry: str) -> tuple[str, str]:
    """Return the repository, as the registry that a host reports to names it, and the tag of an image reference.

    A repository of another registry has that registry in front, as the ones of a mirror have. ("", ""): it is no reference.
    """
    try:
        parsed = Reference.parse(reference)
    except Invalid:
        return "", ""
    repository = parsed.repository if parsed.registry == registry else parsed.name
    return str.__str__(repository), "" if parsed.tag is None else str.__str__(parsed.tag)


def _image(shown: ReportedImage, registry: str) -> HostImage:
    repository, tag = repository_here(shown.reference, registry)
    digests = tuple(dict.fromkeys(map(Digest.parse, shown.digests)))
    return HostImage(repository, tag, digests, shown)


def _check_texts(value: msgspec.Struct) -> None:
    for name in value.__struct_fields__:
        text = getattr(value, name)
        if isinstance(text, str) and not text.isprintable():
            raise ReportInvalid(f"{name} of the report is {quote(text)}; expected printable characters")
        if name in _TIMES and text is not None and not _is_time(text):
            raise ReportInvalid(f"{name} of the report is {quote(text)}; expected a time of the calendar")


def _is_time(text: str) -> bool:
    try:
        datetime.fromisoformat(text)
    except ValueError:
        return False
    return True
