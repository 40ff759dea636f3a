"""What `scrub --host` runs on other hosts."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from boltseal.commands.scrub import ScrubImagesRequest
from boltseal.errors import Invalid

if TYPE_CHECKING:  # a scrub of this host needs no registry
    from boltseal.commands.registry_access import RegistryOptions


@dataclass(frozen=True, slots=True)
class ScrubHostsRequest:
    """What to verify on which hosts.

    Attributes:
        hosts: `ssh://[USER@]HOST[:PORT]`.
        scrub: what to verify on each host, and how; `metrics` is a file of this host.
        registries: how the hosts reach registries.
        allowed: registries that they may contact although only a store names them.
        timeout_s: how long a host may take.
        registry_config: the file with logins that was named on the command line.

    Raises: Invalid: for an option with a file of this host, which other hosts do not have.
    """

    hosts: tuple[str, ...]
    scrub: ScrubImagesRequest
    registries: RegistryOptions
    allowed: tuple[str, ...] = ()
    timeout_s: float = 6 * 3600
    registry_config: Path | None = None

    def __post_init__(self) -> None:
        expected, baseline = self.scrub.expectations, self.scrub.baseline
        given = {
            "--lock": expected.lock,
            "--receipt": expected.receipts,
            "--key": expected.key,
            "--documents": expected.documents,
            "--baseline": baseline.check,
            "--write-baseline": baseline.write,
            "--ca-file": self.registries.ca_file,
            "--registry-config": self.registry_config,
        }
        names = [name for name, value in given.items() if value]
        if names:
            raise Invalid(
                f"{', '.join(names)}: a file of this host, which --host can't use; give IMAGE@DIGEST or --expect, or run "
                "boltseal scrub there"
            )

    @property
    def program(self) -> tuple[str, ...]:
        """The command that runs on each host; a lock in the login's home must not decide what is expected."""
        wanted = self.scrub
        valued = {
            "--expect": wanted.expectations.expect,
            "--bytes-per-second": wanted.rate.bytes_per_second,
            "--share": wanted.shares and f"1/{wanted.shares}",
        }
        flags = {
            "--quick": wanted.mode.quick,
            "--from-disk": wanted.mode.from_disk,
            "--nice": wanted.low_priority,
            "--offline": wanted.offline,
            "--complete": wanted.complete,
            "--allow-empty": wanted.allow_empty,
            "--plain-http": self.registries.plain_http,
            "--anonymous": self.registries.anonymous,
            "--strict": self.registries.strict,
        }
        return (
            *("boltseal", "scrub", "--json", "--no-lock", "--end-with-stdin"),
            *(f"{name}={value}" for name, value in valued.items() if value),
            *(name for name, is_set in flags.items() if is_set),
            *(f"--allow={registry}" for registry in self.allowed),
            *(word for root in wanted.roots for word in ("--root", str(root))),
            "--",
            *wanted.images,
        )
