"""`boltseal restore-local`: give a name on an engine back to an image that was kept."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from boltseal.cli.answer import CommandOutput, clean, print_line, say
from boltseal.cli.keeping import kept_fields, on_host, tagged
from boltseal.cli.onhost import HostOption
from boltseal.cli.options import JsonOption
from boltseal.cli.remote import RegistryOptions

if TYPE_CHECKING:
    from boltseal.client.transport import Transport
    from boltseal.engines.inventory import EngineImage
    from boltseal.host.engine_images import EngineHost
    from boltseal.host.restore_kept import RestoredImage


def restore_local(
    name: Annotated[
        str,
        typer.Argument(metavar="NAME", show_default=False, help="What it was called: localhost:5000/shop/app:latest"),
    ],
    to: Annotated[
        str,
        typer.Option(
            "--to",
            metavar="DIGEST|N",
            show_default=False,
            help="Which: a number or digest of `boltseal kept`. [newest]",
        ),
    ] = "",
    scrub: Annotated[
        bool, typer.Option("--scrub", help="Read it from the disk before; the name moves only if it holds.")
    ] = False,
    host: HostOption = None,
    as_json: JsonOption = False,
) -> None:
    """Bring an image back that `boltseal pull` has kept: exactly that one, without asking any registry.

    What the name means now is kept, so that the same verb leads forward again. Containers are left alone: recreate them.
    """
    with CommandOutput("restore-local", as_json=as_json) as answer:
        wanted = tagged(name)

        async def run(opened: EngineHost, _: Transport) -> RestoredImage:
            from boltseal.host.pulled_check import scrub_pulled_image
            from boltseal.host.restore_kept import restore

            async def look(image: EngineImage) -> None:
                await scrub_pulled_image(opened, image)

            return await restore(opened, wanted, to, look if scrub else None)

        done = on_host(RegistryOptions(), (), host, run)
        status = "restored" if done.changed else "unchanged"
        answer.add(
            ref=str(done.name),
            status=status,
            reason="",
            digest=None if done.digest is None else str(done.digest),
            image=str(done.image),
            proof=None if done.proof is None else str(done.proof),
            kept=kept_fields(done.kept),
        )
        if not as_json:
            print_line(clean(f"{status:<9} {done.name.familiar()}  {done.digest or done.image}"))
        if done.kept is not None:
            was = (done.kept.digest or done.kept.image).short
            say(clean(f"kept {was} as {done.kept.keep_name.familiar()}; forward again with the same command"))
