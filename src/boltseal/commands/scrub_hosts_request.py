"""What `scrub --host` runs on other hosts; apart from the code that runs it, which imports asyncio."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from boltseal.commands.scrub import parse_rate
from boltseal.errors import Invalid
from boltseal.host.scrub.rotation import parse_share


@dataclass(frozen=True, slots=True)
class ScrubHostsRequest:
    """What to verify on which hosts.

    Attributes:
        hosts: `ssh://[USER@]HOST[:PORT]`.
        images: names or IDs; none for all.
        roots: stores there; none for its engines' stores.
        options: further arguments of `boltseal scrub` there.
        kind: the kind of run: full, quick or share.
        allow_empty: whether no image is a success.
        timeout_s: how long a host may take.
        metrics: the file for the metrics of all hosts.
    """

    hosts: tuple[str, ...]
    images: tuple[str, ...] = ()
    roots: tuple[Path, ...] = ()
    options: tuple[str, ...] = ()
    kind: str = "full"
    allow_empty: bool = False
    timeout_s: float = 6 * 3600
    metrics: Path | None = None

    @property
    def program(self) -> tuple[str, ...]:
        """The command that runs there; a lock in the login's home must not decide what is expected."""
        roots = [word for root in self.roots for word in ("--root", str(root))]
        empty = ["--allow-empty"] if self.allow_empty else []
        return (
            "boltseal",
            "scrub",
            "--json",
            "--no-lock",
            "--end-with-stdin",
            *self.options,
            *roots,
            *empty,
            "--",
            *self.images,
        )


def refuse_local_options(**given: object) -> None:
    """Refuse options of files on this host, which other hosts do not have. Raises: Invalid."""
    names = [f"--{name.replace('_', '-')}" for name, value in given.items() if value]
    if names:
        raise Invalid(
            f"{', '.join(names)}: a file of this host, which --host can't use; give IMAGE@DIGEST or --expect, or run "
            "boltseal scrub there"
        )


def remote_options(expect: str | None, rate: str, share: str | None, **flags: bool) -> tuple[str, ...]:
    """Return the options that the scrub of another host gets. Raises: Invalid: one is malformed."""
    parse_rate(rate)
    if share is not None:
        parse_share(share)
    valued = {"--expect": expect, "--bytes-per-second": rate, "--share": share}
    return (
        *(f"{name}={value}" for name, value in valued.items() if value),
        *(f"--{name.replace('_', '-')}" for name, is_set in flags.items() if is_set),
    )
