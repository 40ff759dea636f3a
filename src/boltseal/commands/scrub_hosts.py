"""Verify images on other hosts, where boltseal is installed, by ssh. A host that can't be reached hides no other's results."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from boltseal.commands.client_context import ClientContext
from boltseal.commands.outcome import Outcome
from boltseal.commands.scrub_answers import HostAnswer, Question, read_answer
from boltseal.commands.scrub_hosts_request import ScrubHostsRequest
from boltseal.commands.scrub_metrics import SUBJECTS, ScrubRun, write_metrics
from boltseal.commands.text import clean
from boltseal.engines.address import EngineAddress
from boltseal.engines.ssh_command import RemoteAnswer, run_there, ssh_host
from boltseal.errors import BoltsealError, Unavailable

AT_ONCE: Final = 16
MAX_ANSWER_BYTES: Final = 32 * 1024 * 1024
_NOT_FOUND: Final = 127


@dataclass(frozen=True, slots=True)
class HostResult:
    """The answer of one host. `host`: its address; `duration_s`: how long it took."""

    host: str
    answer: HostAnswer
    duration_s: float


@dataclass(frozen=True, slots=True)
class HostResults:
    """The results of all hosts, in the order in which they were named. `problem`: why the metrics could not be written."""

    hosts: Sequence[HostResult]
    problem: str = ""


def scrub_hosts(request: ScrubHostsRequest, client: ClientContext, done: Callable[[int, int], None]) -> HostResults:
    """Verify images on all hosts, and write the metrics of the run. `done`: hosts ended, and all.

    Raises: EngineAddressInvalid: before any host is asked.
    """
    addresses = {str(address): address for address in map(ssh_host, request.hosts)}
    found = asyncio.run(_scrub_all(list(addresses.values()), request, done))
    file, kind = request.scrub.metrics, request.scrub.kind
    if file is None:
        return HostResults(found)
    now_s = client.now_s()
    return HostResults(found, write_metrics(file, [_run_of(each, kind, now_s) for each in found]))


def _run_of(found: HostResult, kind: str, now_s: int) -> ScrubRun:
    results = [(row.get("what", ""), row["status"]) for row in found.answer.results]
    known = tuple((what, status) for what, status in results if what in SUBJECTS)
    return ScrubRun(kind, now_s, found.duration_s, found.answer.outcome is Outcome.HOLDS, known, host=found.host)


async def _scrub_all(
    addresses: Sequence[EngineAddress], request: ScrubHostsRequest, done: Callable[[int, int], None]
) -> list[HostResult]:
    places, ended = asyncio.Semaphore(AT_ONCE), 0

    async def scrub_host(address: EngineAddress) -> HostResult:
        nonlocal ended
        async with places:
            result = await _scrub_one(address, request)
        ended += 1
        done(ended, len(addresses))
        return result

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(scrub_host(each)) for each in addresses]
    return [each.result() for each in tasks]


async def _scrub_one(address: EngineAddress, request: ScrubHostsRequest) -> HostResult:
    began_s = time.monotonic()
    try:
        answer = await run_there(address, request.program, max_bytes=MAX_ANSWER_BYTES, timeout_s=request.timeout_s)
        found = await asyncio.to_thread(_read, answer, request)  # a long answer must not delay other hosts
    except BoltsealError as error:
        found = HostAnswer(Outcome.UNKNOWN, problems=(error.message,))
    return HostResult(str(address), found, time.monotonic() - began_s)


def _read(answer: RemoteAnswer, request: ScrubHostsRequest) -> HostAnswer:
    """Raises: AnswerMalformed, Unavailable."""
    if not answer.out.strip():
        remedy = "; install boltseal there, in the PATH of the login" if answer.code == _NOT_FOUND else ""
        why = clean(answer.last_error) or "it gives no reason"
        raise Unavailable(f"boltseal scrub there ended with exit code {answer.code}: {why}{remedy}")
    wanted = request.scrub
    asked = Question(
        wanted.images,
        expected=wanted.expectations.expect is not None,
        content=wanted.kind == "full",
        complete=wanted.complete,
        allow_empty=wanted.allow_empty,
    )
    return read_answer(answer.out, answer.code, asked)
