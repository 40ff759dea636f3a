"""`boltseal accept`: let an upstream's tag that is held mean what upstream says it means."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from boltseal.cli.answer import CommandOutput, Outcome, print_line, print_table, say
from boltseal.cli.onstore import admin, on_store
from boltseal.cli.options import ConfigOption, DataOption, JsonOption, settings_of
from boltseal.errors import Invalid, quote

if TYPE_CHECKING:
    from boltseal.oci.digest import Digest
    from boltseal.oci.reference import Repository, Tag
    from boltseal.server.registry.observations import HeldTag, ObservationResult
    from boltseal.server.settings import Settings
    from boltseal.server.store_factory import OpenStore


class NotMirrored(Invalid):
    """A reference to an image of no configured upstream, or to no tag."""


def accept(
    ref: Annotated[
        str | None,
        typer.Argument(
            metavar="REF", show_default=False, help="A tag of a mirrored registry: docker.io/library/node:16.13"
        ),
    ] = None,
    reason: Annotated[str, typer.Option("--reason", metavar="TEXT", help="Why; recorded for ever.")] = "",
    config: ConfigOption = None,
    data: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """Serve what an upstream's tag means now, where a rule (on_move, first_seen) holds it back. Works beside a running server.

    With a digest (REF@sha256:...) only that is accepted. Without REF it lists what is held.

    Exit code 1: nothing is held of that tag, or another digest.
    """
    with CommandOutput("accept", as_json=as_json) as answer:
        settings = settings_of(config, data=data)
        if ref is None:
            _list(answer, settings)
            return
        repository, tag, digest = mirrored_tag(ref, settings)

        async def call(store: OpenStore) -> ObservationResult:
            return await store.registry.observations.accept(repository, tag, digest, admin(), reason.strip())

        noted = on_store(settings, call)
        if noted.now is None or noted.now.known.serves is None:
            raise AssertionError("what was accepted is served")
        accepted = noted.now.known.serves.digest
        was = None if noted.before is None or noted.before.serves is None else str(noted.before.serves.digest)
        name = f"{repository}:{tag}"
        answer.add(
            ref=name, status="accepted", reason=reason.strip(), digest=str(accepted), was=was, entry=noted.now.entry
        )
        if not as_json:
            print_line(f"{name}@{accepted}")
            say(f"{name} is served as {accepted.short} from now on (observation {noted.now.entry})")


def mirrored_tag(text: str, settings: Settings) -> tuple[Repository, Tag, Digest | None]:
    """What a reference means among the mirrored ones, `docker.io/library/node:16.13` or behind our own host's name."""
    from boltseal.oci.reference import Reference, Repository, Tag

    names = {terms.name for terms in settings.upstreams}
    reference = Reference.parse(text)
    if reference.registry in names:
        repository = Repository(reference.name)
    elif reference.repository.partition("/")[0] in names:
        repository = reference.repository
        if repository.startswith("docker.io/") and "/" not in repository.removeprefix("docker.io/"):
            repository = Repository(f"docker.io/library/{repository.removeprefix('docker.io/')}")
    else:
        known = ", ".join(sorted(names)) or "there is no [[upstream]]"
        raise NotMirrored(f"{quote(text)} is of no registry that is mirrored here ({known})")
    if reference.tag is None:
        raise NotMirrored(f"{quote(text)} names no tag; expected one, such as {repository}:1.4.2")
    return repository, Tag(reference.tag), reference.digest


def _list(answer: CommandOutput, settings: Settings) -> None:
    from boltseal.ledger.entry import format_time

    async def call(store: OpenStore) -> list[HeldTag]:
        return await store.registry.observations.held()

    rows = []
    for one in on_store(settings, call):
        held, serves = one.known.held, one.known.serves
        if held is None:
            continue
        since = format_time(one.known.held_us or 0)
        was = None if serves is None else str(serves.digest)
        answer.outcome = Outcome.DIFFERS
        answer.add(
            ref=f"{one.repository}:{one.tag}", status="held", reason="", digest=str(held.digest), was=was, time=since
        )
        served = "nothing" if serves is None else serves.digest.hex[:12]
        rows.append((f"{one.repository}:{one.tag}", held.digest.hex[:12], served, since[:16].replace("T", " ")))
    if not answer.as_json:
        if rows:
            print_table(("TAG", "HELD", "SERVED", "SINCE (UTC)"), rows)
        else:
            say("nothing is held")
