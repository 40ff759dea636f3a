"""`boltseal quota`: what is left of a registry's pull limit."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from boltseal.cli.answer import CommandOutput, Outcome, print_table, say
from boltseal.cli.onstore import on_store
from boltseal.cli.options import ConfigOption, DataOption, JsonOption, settings_of
from boltseal.cli.remote import AnonymousOption, CaFileOption, PlainHttpOption, RegistryOptions, ask

if TYPE_CHECKING:
    from boltseal.client.pull_limit import PullLimit
    from boltseal.client.transport import Transport
    from boltseal.server.registry.upstream_state import UpstreamRow
    from boltseal.server.store_factory import OpenStore

PROBE = "ratelimitpreview/test"
"""The repository that Docker Hub keeps for this question. A HEAD of it counts as no pull."""


def quota(
    registries: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[REGISTRY]...",
            show_default=False,
            help="Ask these, as this machine: docker.io. Without: the mirror's.",
        ),
    ] = None,
    plain_http: PlainHttpOption = False,
    ca_file: CaFileOption = None,
    anonymous: AnonymousOption = False,
    config: ConfigOption = None,
    data: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show how many pulls are left, which costs none: one HEAD for each registry that is named.

    Without a registry it shows what the mirror on this data folder was told last by its upstreams, and asks nobody.

    Exit code 1: no more are left than the upstream's reserve (of a registry that is named: none). 3: one does not answer.
    """
    with CommandOutput("quota", as_json=as_json) as answer:
        rows = []
        if registries:
            from boltseal.client.pull_limit import PullLimit

            for name, found in _asked(RegistryOptions(plain_http, ca_file, anonymous), registries).items():
                rows.append(_said(answer, name, found if isinstance(found, PullLimit) else None, 0, "now"))
        else:
            rows = _of_mirror(answer, config, data)
        if not as_json and rows:
            print_table(("REGISTRY", "LEFT", "OF", "IN", "COUNTED FOR", "AS OF (UTC)"), rows)


def _asked(reach: RegistryOptions, registries: list[str]) -> dict[str, PullLimit | None]:
    async def run(transport: Transport) -> dict[str, PullLimit | None]:
        from boltseal.client.errors import RemoteBusy
        from boltseal.client.transport import RegistryRequest
        from boltseal.oci.reference import HUB

        found: dict[str, PullLimit | None] = {}
        for name in dict.fromkeys(registries):
            if name == HUB:
                path, scopes = f"/v2/{PROBE}/manifests/latest", frozenset({f"repository:{PROBE}:pull"})
            else:
                path, scopes = "/v2/", frozenset[str]()
            try:
                await transport.request(
                    RegistryRequest(name, "HEAD", path, "its pull limit", scopes, ok=frozenset({200, 401, 404}))
                )
            except RemoteBusy:
                if name not in transport.quotas:  # of the other limit, which says nothing of pulls
                    raise
            found[name] = transport.quotas.get(name)
        return found

    return ask(reach, registries, run)


def _of_mirror(answer: CommandOutput, config: ConfigOption, data: DataOption) -> list[tuple[str, ...]]:
    from boltseal.client.pull_limit import PullLimit
    from boltseal.ledger.entry import format_time

    settings = settings_of(config, data=data)

    async def call(store: OpenStore) -> dict[str, UpstreamRow]:
        return await store.registry.upstreams.every()

    known = on_store(settings, call)
    rows = []
    for terms in settings.upstreams:
        row = known.get(terms.name)
        found, when = None, ""
        if row is not None and row.quota_limit is not None:
            window_s, source = row.quota_window_s or 0, row.quota_source or ""
            found = PullLimit(row.quota_limit, row.quota_remaining or 0, window_s, source)
            when = format_time(row.quota_us or 0)[:16].replace("T", " ")
        rows.append(_said(answer, terms.name, found, terms.reserve, when))
        if row is not None and row.down_us is not None:
            since = format_time(row.down_us)[:16].replace("T", " ")
            say(f"{terms.name} has not answered since {since}: {row.down_reason}")
    if not settings.upstreams:
        say("there is no [[upstream]]; name a registry, such as: boltseal quota docker.io")
    return rows


def _said(answer: CommandOutput, name: str, found: PullLimit | None, reserve: int, when: str) -> tuple[str, ...]:
    if found is None:
        answer.add(ref=name, status="none", reason="it has said nothing of a pull limit")
        return name, "-", "-", "", "", when
    low = found.remaining <= reserve
    if low:
        answer.outcome = Outcome.DIFFERS
    answer.add(
        ref=name,
        status="low" if low else "left",
        reason=f"no more are left than the reserve of {reserve}" if low else "",
        remaining=found.remaining,
        limit=found.limit,
        window_s=found.window_s,
        source=found.source,
        time=when,
    )
    window = f"{found.window_s // 3600} h" if found.window_s >= 3600 else f"{found.window_s} s"
    return name, str(found.remaining), str(found.limit), window, found.source, when
