"""Check several hosts before a deploy or a rollback touches any of them: each is reachable, no other process deploys there, and the lock holds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, TypeVar

from boltseal.commands.deploy import DeployableProject, DeployOptions, open_deployable
from boltseal.commands.each_host import AT_ONCE, on_each
from boltseal.commands.engine_releases import engine_releases
from boltseal.commands.releases import release_folder
from boltseal.commands.text import clean
from boltseal.deploy.compose_program import ProjectFiles
from boltseal.deploy.holds import check_repeated
from boltseal.deploy.host_run import newest_number
from boltseal.deploy.host_run_file import RecordedRun
from boltseal.deploy.releases import Release, check_kind, rollback_target
from boltseal.errors import BoltsealError, Invalid, NotFound

_ERROR: Final = "boltseal: "
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class CheckedHost:
    """A host that a run can begin on.

    `mark`: the number of its newest release; `project`: what is deployed; `to`: the release that a rollback deploys again.
    `continued`: the run left a release of some services unfinished there, which has to be resumed.
    """

    host: str
    mark: int
    project: DeployableProject | None = None
    to: int | None = None
    continued: bool = False


@dataclass(frozen=True, slots=True)
class CheckedHosts:
    """The hosts of a run after the check, and what is wrong with which of them."""

    ready: tuple[CheckedHost, ...]
    wrong: dict[str, BoltsealError]


def options_for(options: DeployOptions, host: str) -> DeployOptions:
    """Return the options of a deploy to one of several hosts: its notices name the host."""
    client, notice = options.client, options.client.notice

    def named(line: str) -> None:
        error, _, text = line.rpartition(_ERROR) if line.startswith(_ERROR) else ("", "", line)
        notice(clean(f"{_ERROR}{host}: {text}") if error or text != line else clean(f"  {host}: {line.strip()}"))

    there = replace(options.registries, client=replace(client, notice=named))
    return replace(options, host=host, registries=there)


@dataclass(frozen=True, slots=True)
class HostsProject:
    """A project that is deployed to several hosts. `services`: only these; empty: all. `allow`: see `open_deployable`.

    `named`: its files. `anyway`: also if they differ from what a rollback restored.
    """

    named: ProjectFiles
    services: tuple[str, ...] = ()
    allow: tuple[str, ...] = ()
    anyway: bool = False


def check_deploy(
    options: DeployOptions, hosts: Sequence[str], wanted: HostsProject, begun: RecordedRun | None = None
) -> CheckedHosts:
    """Check the hosts of a deploy. `begun`: the run that is continued.

    Raises: Invalid: two hosts are one engine; the error of all hosts, if it is the same.
    """

    def check(host: str) -> CheckedHost:
        project = open_deployable(options_for(options, host), wanted.named, wanted.services, wanted.allow)
        with project.folder.deploying():
            releases = project.folder.all()
            check_kind(releases, project.folder.project, units=False)
            if not wanted.anyway:
                project.check_files()
            own = begun is not None and any(_is_left(each, begun, host) for each in releases)
            if not own:
                project.check()
        return CheckedHost(host, newest_number(releases), project, continued=own)

    return _checked(options, hosts, check)


def _is_left(release: Release, run: RecordedRun, host: str) -> bool:
    """Return whether a run to some services left this release unfinished. One of another person is not finished for that person."""
    begun = release.unfinished and release.number > run.host(host).mark and release.who == run.who
    return begun and bool(run.services) and set(run.services) <= set(release.chosen)


def check_rollback(options: DeployOptions, hosts: Sequence[str], project: str) -> CheckedHosts:
    """Check the hosts of a rollback. Raises: as `check_deploy`."""

    def check(host: str) -> CheckedHost:
        folder = release_folder(options_for(options, host).client, project, host, "rollback")
        with folder.deploying():
            releases = folder.all()
            check_kind(releases, project, units=False)
            check_repeated(releases)
            target = rollback_target(releases)
            if target is None:
                raise NotFound(f"can't roll back: {project} has no release before the running one on {host}")
            folder.contents(target.number)
        return CheckedHost(host, newest_number(releases), to=target.number)

    return _checked(options, hosts, check)


def check_reachable(options: DeployOptions, hosts: Sequence[str], project: str) -> CheckedHosts:
    """Check that the releases of a project can be read and changed on these hosts. Raises: as `check_deploy`."""

    def check(host: str) -> CheckedHost:
        folder = release_folder(options_for(options, host).client, project, host, "deploy --resume")
        with folder.deploying():
            return CheckedHost(host, newest_number(folder.all()))

    return _checked(options, hosts, check)


def _checked(options: DeployOptions, hosts: Sequence[str], check: Callable[[str], CheckedHost]) -> CheckedHosts:
    """Check that each host can be reached and is an engine of its own, and then what `check` does."""
    found = _attempted(hosts, lambda host: engine_releases(options.client, host).root)
    wrong = {host: each for host, each in found.items() if isinstance(each, BoltsealError)}
    by_engine: dict[Path, str] = {}
    for host, each in found.items():
        other = host if isinstance(each, BoltsealError) else by_engine.setdefault(each, host)
        if other != host:
            raise Invalid(f"{other} and {host} are one engine; name it once. Nothing was touched")
    if wrong:
        return CheckedHosts((), wrong)
    checked = _attempted(hosts, check)
    ready = tuple(each for each in checked.values() if isinstance(each, CheckedHost))
    wrong = {host: each for host, each in checked.items() if isinstance(each, BoltsealError)}
    if not ready and len({(type(each), each.message) for each in wrong.values()}) == 1:
        raise next(iter(wrong.values()))
    return CheckedHosts(ready, wrong)


def _attempted(hosts: Sequence[str], call: Callable[[str], T]) -> dict[str, T | BoltsealError]:
    def attempt(host: str) -> T | BoltsealError:
        try:
            return call(host)
        except BoltsealError as error:
            return error

    return dict(zip(hosts, on_each(hosts, AT_ONCE, attempt), strict=True))
