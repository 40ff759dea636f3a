"""Deploy a project to several hosts, or roll it back there, and go back on all of them if one fails.

    1. Check every host. If one can't be used, nothing is touched.
    2. Record the run on this machine (`deploy.host_run_file`).
    3. Deploy to one host after the other, or to several at once; with a canary the first ones are watched before the others begin.
    4. If one fails: record that the run goes back, and go back on every host that the run changed.
    5. Remove the record, unless a host could not go back.

The rules are in `deploy.host_run`. An interrupted run leaves its record, and `resume_on_hosts` continues it.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any, Final

import msgspec

from boltseal.commands.deploy import DeployOptions, deploy_project, resume, roll_back
from boltseal.commands.each_host import on_each
from boltseal.commands.host_checks import (
    CheckedHosts,
    HostsProject,
    check_deploy,
    check_reachable,
    check_rollback,
    options_for,
)
from boltseal.commands.outcome import Outcome
from boltseal.commands.releases import release_folder
from boltseal.commands.text import clean, counted
from boltseal.config import operator
from boltseal.deploy.health_wait import ProjectHealth, expected_services
from boltseal.deploy.holds import without_hold
from boltseal.deploy.host_run import HostRun, HostStep, way_back
from boltseal.deploy.host_run_file import HostRunFile, RecordedFiles, RecordedHost, RecordedRun
from boltseal.deploy.release_flow import DeployResult
from boltseal.deploy.releases import Release, ReleaseEnd
from boltseal.engines.api import connected
from boltseal.errors import BoltsealError, Invalid, NotFound
from boltseal.lockfile.format import time_text

_SHOWN: Final = 5


class HostEnd(StrEnum):
    """How a run ended on a host.

    `refused`: nothing was changed there. `stays`: it should go back, but nothing ran there before. `unknown`: it could not be
    asked, so that it may not have gone back.
    """

    RUNS = "runs"
    UNCHANGED = "unchanged"
    REFUSED = "refused"
    PUT_BACK = "put-back"
    WENT_BACK = "went-back"
    STAYS = "stays"
    FAILED = "failed"
    UNKNOWN = "unknown"
    NOT_BEGUN = "not-begun"


_SETTLED: Final = frozenset(HostEnd) - {HostEnd.FAILED, HostEnd.UNKNOWN}
_OUTCOMES: Final = {HostEnd.RUNS: Outcome.HOLDS, HostEnd.UNCHANGED: Outcome.HOLDS, HostEnd.NOT_BEGUN: Outcome.HOLDS}


@dataclass(frozen=True, slots=True)
class HostResult:
    """The result of one host. `done`: of its deploy; `back`: of going back; `error`: why it could not be tried, or asked.

    `runs`: the release that runs there, if it is known.
    """

    host: str
    end: HostEnd
    reason: str = ""
    done: DeployResult | None = None
    back: DeployResult | None = None
    error: BoltsealError | None = None
    runs: int | None = None

    @property
    def outcome(self) -> Outcome:
        """HOLDS if the host is as asked for, or was not begun because of another one."""
        if self.error is not None and self.end in (HostEnd.REFUSED, HostEnd.UNKNOWN):
            return Outcome.of_error(self.error)
        return _OUTCOMES.get(self.end, Outcome.DIFFERS)


@dataclass(frozen=True, slots=True)
class HostsResult:
    """The results of a run, in the order of its hosts. `command`: continues the run; "" if it has ended.

    `failed`: an earlier process found that the run failed, and this one only went back.
    """

    project: str
    hosts: tuple[HostResult, ...]
    command: str = ""
    failed: bool = False

    @property
    def outcome(self) -> Outcome:
        """The worst outcome of a host; DIFFERS if the run failed before it was continued."""
        found = Outcome.worst(each.outcome for each in self.hosts)
        return Outcome.DIFFERS if self.failed else found


@dataclass(frozen=True, slots=True)
class HostsRequest:
    """A run over several hosts. `words`: the options that named them, for the command that continues.

    `at_once`: how many hosts at the same time. `canary`: how many are watched for `canary_s` before the others begin.
    """

    options: DeployOptions
    hosts: tuple[str, ...]
    words: str
    at_once: int = 1
    canary: int = 0
    canary_s: float = 0.0


def deploy_to_hosts(request: HostsRequest, wanted: HostsProject) -> HostsResult:
    """Deploy a project to several hosts as locked. Raises: as `check_deploy`; AnotherDeploys; Invalid: of the canary."""
    _check_canary(request)
    checked = check_deploy(request.options, request.hosts, wanted)
    if checked.wrong:
        return _refused(request, "", checked)
    project = next(each.project.folder.project for each in checked.ready if each.project is not None)
    record = _new_record(request, project, checked)
    record = msgspec.structs.replace(
        record,
        files=RecordedFiles.of(wanted.named),
        services=wanted.services,
        allow=wanted.allow,
        anyway=wanted.anyway,
    )
    return _Run(request, project, _deploys(checked, wanted), wanted.services).begun(record)


def roll_back_hosts(request: HostsRequest, project: str) -> HostsResult:
    """Deploy the release that ran before again, on several hosts. Raises: as `deploy_to_hosts`."""
    _check_canary(request)
    checked = check_rollback(request.options, request.hosts, project)
    if checked.wrong:
        return _refused(request, project, checked)
    record = _new_record(request, project, checked)
    return _Run(request, project, _rollbacks(request, record)).begun(record)


def resume_on_hosts(request: HostsRequest, project: str) -> HostsResult:
    """Continue the run over these hosts that was left unfinished, or go on going back.

    Raises: NotFound: there is none; Invalid: it was over other hosts; and as `deploy_to_hosts`.
    """
    file = HostRunFile(request.options.client.state_folder, project)
    with file.running():
        record = file.read()
        if record is None:
            raise NotFound(
                f"{project} has no unfinished run over several hosts on this machine; see `boltseal release ls`"
            )
        recorded = tuple(each.host for each in record.hosts)
        if set(recorded) != set(request.hosts):
            raise Invalid(
                f"the unfinished run of {project} is over other hosts (got {', '.join(request.hosts[:_SHOWN])}, expected "
                f"{', '.join(recorded[:_SHOWN])}); name all of its hosts"
            )
        request = replace(
            request, hosts=recorded, at_once=record.at_once, canary=record.canary, canary_s=record.canary_s
        )
        if record.back:
            nothing = _Run(request, project, _rollbacks(request, record))
            return nothing.returned(file, record, recorded, {})
        if record.files is None:
            checked = check_reachable(request.options, recorded, project)
            call = _rollbacks(request, record)
        else:
            wanted = HostsProject(record.files.named(), record.services, record.allow, record.anyway)
            checked = check_deploy(request.options, recorded, wanted, record)
            call = _deploys(checked, wanted)
        if checked.wrong:
            return replace(_refused(request, project, checked), command=_command(request, project))
        return _Run(request, project, call, record.services).run(file, record, resumed=True)


def _check_canary(request: HostsRequest) -> None:
    if request.canary >= len(request.hosts):
        raise Invalid(
            f"--canary is for the first of several hosts (got {request.canary} of {counted(len(request.hosts), 'host')}, expected "
            f"less than {len(request.hosts)})"
        )


def _deploys(checked: CheckedHosts, wanted: HostsProject) -> Callable[[str], DeployResult]:
    opened = {each.host: each.project for each in checked.ready if each.project is not None}
    continued = {each.host for each in checked.ready if each.continued}

    def call(host: str) -> DeployResult:
        project = opened[host]
        if host in continued:
            return resume(project.options, project.folder.project)
        return deploy_project(project, update=False, build=False, anyway=wanted.anyway)

    return call


def _rollbacks(request: HostsRequest, record: RecordedRun) -> Callable[[str], DeployResult]:
    def call(host: str) -> DeployResult:
        return roll_back(options_for(request.options, host), record.project, record.host(host).to).done

    return call


def _new_record(request: HostsRequest, project: str, checked: CheckedHosts) -> RecordedRun:
    return RecordedRun(
        project=project,
        who=operator(),
        started_us=request.options.client.now_us(),
        hosts=tuple(RecordedHost(host=each.host, mark=each.mark, to=each.to) for each in checked.ready),
        at_once=request.at_once,
        canary=request.canary,
        canary_s=request.canary_s,
    )


def _refused(request: HostsRequest, project: str, checked: CheckedHosts) -> HostsResult:
    """Return the result of a run of which no host was begun, because some can't be used."""
    why = f"{next(iter(checked.wrong))} can't be used; nothing was touched"
    return HostsResult(
        project,
        tuple(
            HostResult(each, HostEnd.REFUSED, checked.wrong[each].message, error=checked.wrong[each])
            if each in checked.wrong
            else HostResult(each, HostEnd.NOT_BEGUN, why)
            for each in request.hosts
        ),
    )


def _command(request: HostsRequest, project: str) -> str:
    return f"boltseal deploy --resume --project-name {project} {request.words}"


@dataclass(frozen=True, slots=True)
class _Run:
    """A run over several hosts. `call`: what is done on each; `services`: to which it is restricted, empty for all."""

    request: HostsRequest
    project: str
    call: Callable[[str], DeployResult]
    services: tuple[str, ...] = ()

    def begun(self, record: RecordedRun) -> HostsResult:
        """Record a new run, and run it."""
        file = HostRunFile(self.request.options.client.state_folder, self.project)
        with file.running():
            former = file.read()
            if former is not None:
                self._notice(
                    f"boltseal: the {former.command} to {counted(len(former.hosts), 'host')} of "
                    f"{time_text(former.started_us)} was unfinished; this one replaces it"
                )
            return self.run(file, file.write(record), resumed=False)

    def run(self, file: HostRunFile, record: RecordedRun, *, resumed: bool) -> HostsResult:
        """Do steps 3 to 5. `resumed`: also hosts that are not begun now may have been changed by this run."""
        with self._saying_how_to_continue():
            run, results = self._forward()
            if not run.failed:
                file.remove()
                return HostsResult(self.project, tuple(results[each] for each in self.request.hosts))
            record = file.write(msgspec.structs.replace(record, back=True))
            to_undo = tuple(reversed(self.request.hosts)) if resumed else run.to_undo
            return self.returned(file, record, to_undo, results)

    def returned(
        self, file: HostRunFile, record: RecordedRun, to_undo: Sequence[str], results: Mapping[str, HostResult]
    ) -> HostsResult:
        """Do steps 4 and 5: go back on these hosts. `results`: of the hosts so far."""
        failed = [each for each, result in results.items() if result.end not in (HostEnd.RUNS, HostEnd.UNCHANGED)]
        why = f"{failed[0]} failed" if failed else f"the {record.command} to several hosts failed"
        with self._saying_how_to_continue():
            returned = on_each(
                to_undo,
                self.request.at_once,
                lambda host: self._go_back(record, host, results.get(host), why),
            )
        ends = {**results, **{each.host: each for each in returned}}
        found = tuple(ends.get(each) or HostResult(each, HostEnd.NOT_BEGUN, why) for each in self.request.hosts)
        unsettled = [each for each in returned if each.end not in _SETTLED and not _failed_alone(each)]
        if unsettled:
            return HostsResult(self.project, found, _command(self.request, self.project), failed=not results)
        file.remove()
        return HostsResult(self.project, found, failed=not results)

    def _forward(self) -> tuple[HostRun, dict[str, HostResult]]:
        """Do step 3."""
        request = self.request
        run, results = HostRun(request.hosts, request.at_once, request.canary), dict[str, HostResult]()
        under_way: dict[Future[HostResult], str] = {}
        with _Here() if request.at_once == 1 else ThreadPoolExecutor(request.at_once) as pool:
            while True:
                if run.to_watch:
                    failing = self._watched([results[each] for each in run.canary_hosts])
                    results |= {each.host: each for each in failing}
                    run = replace(run, watched=True)
                    for each in failing:
                        run = run.at(each.host, HostStep.FAILED)
                for host in run.next:
                    run = run.at(host, HostStep.UNDER_WAY)
                    self._notice(f"{host}: host {request.hosts.index(host) + 1} of {len(request.hosts)}")
                    under_way[pool.submit(contextvars.copy_context().run, self._on_host, host)] = host
                if not under_way:
                    return run, results
                for done in wait(under_way, return_when=FIRST_COMPLETED).done:
                    result = results[under_way.pop(done)] = done.result()
                    good = result.end in (HostEnd.RUNS, HostEnd.UNCHANGED)
                    run = run.at(result.host, HostStep.ENDED if good else HostStep.FAILED)

    def _on_host(self, host: str) -> HostResult:
        try:
            done = self.call(host)
        except BoltsealError as error:
            return HostResult(host, HostEnd.REFUSED, error.message, error=error)
        release = done.release
        if done.outcome is None:
            return HostResult(host, HostEnd.UNCHANGED, done=done, runs=release.number)
        if release.good:
            return HostResult(host, HostEnd.RUNS, done=done, runs=release.number)
        end = HostEnd.PUT_BACK if release.end is ReleaseEnd.PUT_BACK else HostEnd.FAILED
        return HostResult(host, end, release.reason, done=done, runs=done.outcome.back)

    def _watched(self, canaries: Sequence[HostResult]) -> list[HostResult]:
        """Watch the canary hosts; return those that did not stay healthy, or could not be asked."""
        for_s = self.request.canary_s
        self._notice(f"watching {', '.join(each.host for each in canaries)} for {for_s:g} s")

        async def watch_all() -> list[str | BoltsealError]:
            releases = [(each.host, each.done.release) for each in canaries if each.done is not None]
            return list(await asyncio.gather(*(self._watch(host, release, for_s) for host, release in releases)))

        failing = []
        for each, found in zip(canaries, asyncio.run(watch_all()), strict=True):
            if isinstance(found, BoltsealError):
                reason = f"could not be watched: {found.message}"
                failing.append(replace(each, end=HostEnd.UNKNOWN, reason=reason, error=found))
            elif found:
                failing.append(replace(each, end=HostEnd.FAILED, reason=f"did not stay healthy: {found}"))
        return failing

    async def _watch(self, host: str, release: Release, for_s: float) -> str | BoltsealError:
        try:
            async with connected(self.request.options.client.engine_address(host)) as engine:
                health = ProjectHealth(engine, self.project, self._notice)
                expected = expected_services(msgspec.structs.replace(release, chosen=self.services))
                failing = await health.watch(expected, for_s)
        except BoltsealError as error:
            return error
        return "; ".join(f"{name}: {each.reason}" for name, each in failing.items())

    def _go_back(self, record: RecordedRun, host: str, result: HostResult | None, why: str) -> HostResult:
        """Go back on one host if the run changed it, and return its new result."""
        result = result or HostResult(host, HostEnd.NOT_BEGUN, "what ran before the run runs there")
        changed = result.end in (HostEnd.RUNS, HostEnd.UNCHANGED, HostEnd.NOT_BEGUN)
        reason = why if changed else result.reason
        options = options_for(self.request.options, host)
        try:
            folder = release_folder(options.client, self.project, host, "rollback")
            with folder.deploying():
                way = way_back(folder.all(), record.host(host).mark, (record.who, operator()))
            if way is None:
                return replace(result, end=HostEnd.REFUSED) if result.end is HostEnd.UNKNOWN else result
            if way.other is not None:
                reason = f"{reason}; {way.other.who} has deployed release {way.other.number} there since then"
                runs = None if way.other.unfinished else way.other.number
                return replace(result, end=HostEnd.STAYS, reason=reason, runs=runs)
            if way.to is None:
                reason = f"{reason}; nothing ran there before"
                return replace(result, end=HostEnd.STAYS, reason=reason)
            back = roll_back(options, self.project, way.to, hold=False).done
            if back.outcome is not None and not back.release.good:
                failed = f"{reason}; it could not go back to release {way.to}: {back.release.reason}"
                return replace(result, end=HostEnd.FAILED, reason=failed, back=back, runs=back.outcome.back)
            with folder.deploying():
                for number in way.holds:
                    folder.write(without_hold(folder.read(number)))
        except BoltsealError as error:
            lost = f"{reason}; could not check whether it runs what ran before: {error.message}"
            return replace(result, end=HostEnd.UNKNOWN, reason=lost, error=error, runs=None)
        return replace(result, end=HostEnd.WENT_BACK, reason=reason, back=back, runs=way.to)

    @contextmanager
    def _saying_how_to_continue(self) -> Iterator[None]:
        try:
            yield
        except KeyboardInterrupt:
            self._notice(
                f"boltseal: the run over {counted(len(self.request.hosts), 'host')} was left unfinished: "
                f"`{_command(self.request, self.project)}` continues it"
            )
            raise

    def _notice(self, line: str) -> None:
        self.request.options.client.notice(clean(line))


def _failed_alone(result: HostResult) -> bool:
    """Return whether a host's own deploy failed and could not restore anything: going back again would not help."""
    return result.end is HostEnd.FAILED and result.back is None


class _Here(Executor):
    """Runs each call at once, in the thread that submits it, so that Ctrl-C reaches it."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Run a call, and return its result as a future. Exceptions are raised here."""
        done: Future[Any] = Future()
        done.set_result(fn(*args, **kwargs))
        return done
