"""`boltseal ratelimit`: show what is left of a registry's pull limit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import typer

from boltseal.cli.clock import clock_us
from boltseal.cli.loading import load_module
from boltseal.cli.options import ConfigOption, DataOption, JsonOption
from boltseal.cli.output import CommandOutput, say
from boltseal.cli.remote import takes_registry_options
from boltseal.cli.table import print_table
from boltseal.client.pull_limit import PullLimit
from boltseal.commands.outcome import Outcome
from boltseal.commands.ratelimit import UpstreamLimit, pull_limits
from boltseal.commands.registry_access import RegistryOptions
from boltseal.commands.registry_state import RegistryState, UpstreamInfo
from boltseal.commands.text import clean
from boltseal.errors import BoltsealError, Invalid
from boltseal.ledger.entry import parse_time
from boltseal.ledger.tag_intervals import moment


@takes_registry_options
def ratelimit(
    registries: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[HOST]...",
            show_default=False,
            help="Registries to ask, such as docker.io. Default: the mirror's records.",
        ),
    ] = None,
    server: Annotated[
        str | None,
        typer.Option(
            "--server",
            metavar="HOST",
            show_default=False,
            help="What the upstreams of this registry reported last; it needs an operator's login.",
        ),
    ] = None,
    *,
    access: RegistryOptions,
    config: ConfigOption = None,
    data: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show how many pulls are left, without using one: one HEAD request for each registry.

    Without a registry it shows what the upstreams of the mirror on this data folder reported last, and sends no request. With
    --server it asks another registry's admin API for the same.

    Exit code 1: the pulls left are at most the upstream's reserve, or a registry in the arguments has none left; 3: a
    registry did not answer, nothing is recorded of an upstream, or there is none.
    """
    with CommandOutput("ratelimit", as_json=as_json) as output:
        rows = []
        if server is not None:
            if registries or config or data:
                raise Invalid("--server excludes registries in the arguments, --config and --data; give one of them")
            rows = _show_limits(output, [_limit_of(each) for each in RegistryState(access, server).upstreams()])
        elif registries:
            for name, limit in pull_limits(registries, access).items():
                if isinstance(limit, BoltsealError):
                    rows.append(_add_unknown(output, name, limit.message))
                else:
                    rows.append(_add(output, name, limit, 0, moment(clock_us())))
        else:
            rows = _of_mirror(output, config, data)
        if not as_json and rows:
            print_table(("REGISTRY", "LEFT", "OF", "IN", "COUNTED FOR", "AS OF"), rows)


def _of_mirror(output: CommandOutput, config: ConfigOption, data: DataOption) -> list[tuple[str, ...]]:
    # a client that asks registries needs nothing of the server
    options = load_module("boltseal.cli.server_options", command="ratelimit", extra="server")
    use_case = load_module("boltseal.server.commands.ratelimit", command="ratelimit", extra="server")
    return _show_limits(output, use_case.upstream_limits(options.store_settings(config, data)))


def _limit_of(found: UpstreamInfo) -> UpstreamLimit:
    """Return the limit of an upstream, as the admin API describes it, in the form of the data folder's records."""
    limit = None
    if found.limit is not None:
        limit = PullLimit(found.limit, found.remaining or 0, found.window_s or 0, found.source or "")
    return UpstreamLimit(
        registry=found.name,
        reserve=found.reserve,
        limit=limit,
        time_us=_time_us(found.reported),
        down_us=_time_us(found.down_since),
        down_reason=clean(found.down_reason),
        paused_until_us=_time_us(found.paused_until),
        pause_reason=clean(found.pause_reason),
    )


def _time_us(text: str | None) -> int | None:
    return None if text is None else parse_time(text)


def _show_limits(output: CommandOutput, limits: Sequence[UpstreamLimit]) -> list[tuple[str, ...]]:
    """Add the limits of upstreams to the results, and return their rows of the table."""
    rows = []
    for each in limits:
        if each.limit is None:
            rows.append(_add_unknown(output, each.registry, _why_unknown(each)))
        else:
            rows.append(_add(output, each.registry, each.limit, each.reserve, _time(each.time_us)))
        if each.down_us is not None:
            say(f"{each.registry} has not answered since {_time(each.down_us)}: {each.down_reason}")
        if each.paused_until_us is not None:
            say(f"{each.registry} gets no request before {_time(each.paused_until_us)}: {each.pause_reason}")
    if not limits:
        output.outcome = Outcome.UNKNOWN
        say(
            "boltseal: nothing to show: there is no [[upstream]]; name a registry, such as: boltseal ratelimit docker.io"
        )
    return rows


def _why_unknown(each: UpstreamLimit) -> str:
    if each.down_us is not None:
        return f"it has not answered since {_time(each.down_us)}, and no pull limit is recorded"
    return f"no pull limit is recorded: it was not asked yet, or states none; ask it with: boltseal ratelimit {each.registry}"


def _add_unknown(output: CommandOutput, name: str, reason: str) -> tuple[str, ...]:
    """Add a registry whose limit is not known to the results, and return its row of the table."""
    if output.outcome is not Outcome.DIFFERS:
        output.outcome = Outcome.UNKNOWN
    output.add(ref=name, status="unknown", reason=reason)
    say(f"boltseal: {name}: {reason}")
    return name, "?", "?", "", "", ""


def _time(time_us: int | None) -> str:
    return "" if time_us is None else moment(time_us)


def _add(output: CommandOutput, name: str, limit: PullLimit | None, reserve: int, when: str) -> tuple[str, ...]:
    """Add one registry to the results, and return its row of the table."""
    if limit is None:
        output.add(ref=name, status="none", reason="its answer states no pull limit")
        return name, "-", "-", "", "", when
    low = limit.remaining <= reserve
    if low:
        output.outcome = Outcome.DIFFERS
    output.add(
        ref=name,
        status="low" if low else "left",
        reason=f"no more are left than the reserve of {reserve}" if low else "",
        remaining=limit.remaining,
        limit=limit.limit,
        window_s=limit.window_s,
        source=limit.source,
        time=when,
    )
    window = f"{limit.window_s // 3600} h" if limit.window_s >= 3600 else f"{limit.window_s} s"
    return name, str(limit.remaining), str(limit.limit), window, limit.source, when
