"""The options that say where a release is made, of the commands that make one: one host, several hosts, or how many clusters at once."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from boltseal.cli.deploy_options import ParallelOption
from boltseal.cli.durations import duration_option
from boltseal.cli.host_options import HostsFileOption, named_hosts
from boltseal.cli.parameters import CommandFunction, expanded
from boltseal.cli.running_options import HostsOption
from boltseal.errors import Invalid
from boltseal.loading import deferred
from boltseal.policy.durations import Duration

if TYPE_CHECKING:
    from boltseal.commands import host_runs
    from boltseal.commands.deploy import DeployOptions
    from boltseal.commands.host_runs import HostsRequest
    from boltseal.engines import host_list
else:  # most deploys are to one host
    host_runs = deferred("boltseal.commands.host_runs")
    host_list = deferred("boltseal.engines.host_list")

DEFAULT_CANARY_FOR: Final = Duration.parse("1m")
CanaryOption = Annotated[
    int,
    typer.Option(
        "--canary",
        metavar="NUMBER",
        min=0,
        show_default=False,
        help="First only to so many of several hosts; the others follow if these stay healthy.",
    ),
]
CanaryForOption = Annotated[
    Duration,
    duration_option(
        "--canary-for", "How long the hosts of --canary must stay healthy.", at_most="1d", show_default=True
    ),
]
_OPTIONS: Final = {
    "host": (HostsOption, None),
    "hosts_file": (HostsFileOption, None),
    "parallel": (ParallelOption, None),
    "canary": (CanaryOption, 0),
    "canary_for": (CanaryForOption, DEFAULT_CANARY_FOR),
}


@dataclass(frozen=True, slots=True)
class Targets:
    """Where a release is made. `hosts`: of `--host`; `file`: of `--hosts-file`; `parallel`: None for one after the other."""

    hosts: tuple[str, ...] = ()
    file: Path | None = None
    parallel: int | None = None
    canary: int = 0
    canary_for: Duration = DEFAULT_CANARY_FOR

    @property
    def several(self) -> bool:
        """Whether the command is about several hosts, so that all of them go back together."""
        return self.file is not None or len(self.hosts) > 1

    @property
    def host(self) -> str | None:
        """The only host, None for the default engine."""
        return next(iter(named_hosts(self.hosts, None)), None)

    @property
    def given(self) -> bool:
        """Whether any of these options was given that is only about hosts."""
        return bool(self.hosts or self.file or self.canary)

    def check_one(self) -> None:
        """Check that no option needs several hosts or clusters. Raises: Invalid."""
        if self.parallel or self.canary:
            raise Invalid(
                "--parallel needs several hosts or clusters, and --canary several hosts: repeat --host, or use --hosts-file"
            )

    def request(self, options: DeployOptions) -> HostsRequest:
        """Return what is done on several hosts. Raises: EngineAddressInvalid, HostsFileInvalid; OSError: the file can't be read."""
        hosts = [str(options.client.engine_address(each)) for each in named_hosts(self.hosts, self.file)]
        words = [part for each in self.hosts for part in ("--host", host_list.in_command(each))]
        if self.file is not None:
            words += ["--hosts-file", str(self.file.absolute())]
        return host_runs.HostsRequest(
            options, tuple(dict.fromkeys(hosts)), shlex.join(words), self.parallel or 1, self.canary,
            self.canary_for.seconds,
        )  # fmt: skip


def takes_targets(function: CommandFunction) -> CommandFunction:
    """Declare the options of hosts; the command gets them as `targets`."""

    def made(**given: Any) -> Mapping[str, Targets]:
        return {
            "targets": Targets(
                tuple(given["host"] or ()), given["hosts_file"], given["parallel"], given["canary"], given["canary_for"]
            )
        }

    return expanded(function, _OPTIONS, made, replace="targets")
