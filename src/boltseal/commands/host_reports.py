"""Send the report of this host to a registry. A failure is part of the result of sending, never of the command's own."""

from __future__ import annotations

import platform
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Final

import msgspec

from boltseal.client.errors import RemoteMismatch
from boltseal.commands.admin_connection import AdminConnection
from boltseal.commands.client_context import ClientContext
from boltseal.commands.registry_access import RegistryOptions
from boltseal.commands.registry_tags import registry_of
from boltseal.commands.text import clean
from boltseal.engines.address import EngineAddress
from boltseal.errors import BoltsealError, Invalid, Unavailable
from boltseal.lockfile.format import time_text
from boltseal.oci.digest import Digest
from boltseal.policy.durations import UNITS_US, Duration
from boltseal.policy.host_report import (
    DEFAULT_EVERY_S,
    MAX_DIGESTS,
    MAX_IMAGES,
    MAX_TEXT,
    VERSION,
    ReportDocument,
    ReportedImage,
    check_host_name,
    default_host_name,
    parse_report,
)

ANSWER_S: Final = 30.0
_MACHINE_ID: Final = (Path("/etc/machine-id"), Path("/var/lib/dbus/machine-id"))


@dataclass(frozen=True, slots=True)
class ReportOptions:
    """The options of a command that reports. `to`: the registry, None for none; `name`: of the host; `every`: the schedule."""

    to: str | None = None
    name: str | None = None
    every: Duration | None = None

    def __post_init__(self) -> None:
        if self.name is not None:
            check_host_name(self.name)
        if self.to is not None:
            registry_of(self.to)


@dataclass(frozen=True, slots=True)
class ReportTarget:
    """Where a report goes, the name of its host, and how many seconds are between two of them."""

    registry: str
    host: str
    every_s: int | None


@dataclass(frozen=True, slots=True)
class SentReport:
    """How the sending of a report ended. `received`: when the registry stored it, ISO 8601; None with `error`.

    `left_out`: images that did not fit into the report.
    """

    target: ReportTarget
    received: str | None = None
    error: BoltsealError | None = None
    left_out: int = 0


class _Accepted(msgspec.Struct):
    host: str
    received: str


def report_target(
    options: ReportOptions, client: ClientContext, address: EngineAddress | None = None, *, configured: bool = False
) -> ReportTarget | None:
    """Return where this run reports, None for nowhere. `address`: of the engine, None for this machine's stores.

    `configured`: whether `report` of the user's settings counts without an option.

    Raises: Invalid: the engine is of another machine, whose name is not known; ProjectInvalid.
    """
    named = options.to if options.to is not None or not configured else client.settings.report
    if named is None:
        if options.name is not None or options.every is not None:
            raise Invalid("--report-as and --report-every need --report")
        return None
    name = options.name
    if name is None and address is not None and address.scheme != "unix":
        problem = f"{address} is an engine of another machine; name that host with --report-as"
        if options.to is None:  # a setting does not refuse what the command is for
            client.notice(f"boltseal: not reported to {named}: {problem}")
            return None
        raise Invalid(problem)
    every_s = DEFAULT_EVERY_S if options.every is None else options.every.us // UNITS_US["s"]
    return ReportTarget(registry_of(named), name or client.settings.report_as or own_host_name(), every_s)


def own_host_name() -> str:
    """Return the name by which this machine reports unless it has chosen one. Raises: Unavailable: its machine ID can't be read."""
    for file in _MACHINE_ID:
        try:
            return default_host_name(platform.node(), file.read_text(encoding="ascii").strip())
        except FileNotFoundError:
            continue
        except (OSError, ValueError) as error:
            raise Unavailable(f"{file} can't be read: {error}; name this host with --report-as") from error
    return default_host_name(platform.node(), "")


def send_report(
    options: RegistryOptions, target: ReportTarget, fields: dict[str, Any], left_out: int = 0
) -> SentReport:
    """Send a report, and return how that ended. `fields`: those of `ReportDocument` that the command knows."""
    try:
        document = ReportDocument(
            v=VERSION,
            host=target.host,
            registry=target.registry,
            time=time_text(options.client.now_us()),
            every_s=target.every_s,
            **fields,
        )
        parse_report(document)
        answer = AdminConnection(options, target.registry, answer_s=ANSWER_S).ask(
            lambda client: client.change(
                "reports",
                f"the report of host {target.host}",
                msgspec.to_builtins(document),
                _Accepted,
                advice="the next report replaces it",
            )
        )
        if answer.host != target.host:
            raise RemoteMismatch(f"{target.registry} stored the report for another host than {target.host}")
    except BoltsealError as error:
        return SentReport(target, error=error, left_out=left_out)
    return SentReport(target, answer.received, left_out=left_out)


def short(text: str, most: int = MAX_TEXT) -> str:
    """Return text for a report: on one line, without control characters, cut."""
    return clean(text)[:most]


def fitting(images: Iterable[ReportedImage]) -> tuple[list[ReportedImage], int]:
    """Return the images of a report, distinct ones first if there are too many, and how many do not fit."""
    every = list(images)
    if len(every) <= MAX_IMAGES:
        return every, 0
    first: dict[tuple[str, ...], ReportedImage] = {}
    again = [each for each in every if first.setdefault(tuple(each.digests), each) is not each]
    return list(islice([*first.values(), *again], MAX_IMAGES)), len(every) - MAX_IMAGES


def some_digests(digests: Iterable[Digest], last: Iterable[Digest] = ()) -> list[str]:
    """Return as many digests of an image as a report takes. `last`: those that are never left out, such as of its configuration."""
    never = list(dict.fromkeys(map(str, last)))[:MAX_DIGESTS]
    others = [text for text in dict.fromkeys(map(str, digests)) if text not in never]
    return [*others[: MAX_DIGESTS - len(never)], *never]
