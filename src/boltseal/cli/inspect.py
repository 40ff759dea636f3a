"""`boltseal inspect`: everything there is to see of an image without pulling it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from boltseal.cli.answer import CommandOutput, counted, print_line
from boltseal.cli.options import JsonOption
from boltseal.cli.progress import in_words
from boltseal.cli.remote import (
    AnonymousOption,
    CaFileOption,
    PlainHttpOption,
    RegistryOptions,
    StrictOption,
    ask_followed,
    in_daemon,
    opened_sources,
)
from boltseal.errors import quote

if TYPE_CHECKING:
    from boltseal.client.transport import Transport
    from boltseal.transfer.inspect import Inspected


def inspect(
    ref: Annotated[
        str,
        typer.Argument(metavar="REF", show_default=False, help="A reference, oci:DIR:TAG, docker-archive:FILE, ..."),
    ],
    platform: Annotated[
        str | None, typer.Option("--platform", metavar="OS/ARCH", show_default=False, help="Which of several.")
    ] = None,
    plain_http: PlainHttpOption = False,
    ca_file: CaFileOption = None,
    anonymous: AnonymousOption = False,
    strict: StrictOption = False,
    as_json: JsonOption = False,
) -> None:
    """Show platforms, labels, layers, base and signatures.

    Nothing is pulled but the documents that say so; each is verified. On Docker Hub it counts as one pull.
    """
    with CommandOutput("inspect", as_json=as_json) as answer:
        from boltseal.transfer.inspect import inspect as inspected
        from boltseal.transfer.locations import Location

        place = Location.parse(ref)

        async def look(transport: Transport) -> Inspected:
            async with opened_sources(transport, place) as (source,):
                return await inspected(source, in_daemon(place), platform)

        registries = [] if place.reference is None else [place.reference.registry]
        found = ask_followed(RegistryOptions(plain_http, ca_file, anonymous, strict), registries, look)
        answer.add(ref=ref if place.reference is None else str(place.reference), status="present", **_fields(found))
        if not as_json:
            for line in _lines(found):
                print_line(line)


def _fields(found: Inspected) -> dict[str, Any]:
    config = found.config
    return {
        "digest": str(found.digest),
        "media_type": found.manifest.media_type,
        "artifact_type": found.manifest.artifact_type,
        "platforms": {name: str(digest) for name, digest in found.platforms.items()},
        "platform": found.chosen or (None if config is None else str(config.platform)),
        "created": None if config is None else config.created or None,
        "image_id": None if found.image.config is None else str(found.image.config.digest),
        "labels": {} if config is None else dict(config.labels),
        "annotations": {**found.manifest.annotations, **found.image.annotations},
        "user": None if config is None else config.user,
        "command": [] if config is None else list(config.command),
        "layers": [
            {"digest": str(layer.digest), "size": layer.size, "media_type": layer.media_type}
            for layer in found.image.layers
        ],
        "size": sum(layer.size for layer in found.image.layers),
        "base": {"name": found.base[0] or None, "digest": found.base[1] or None},
        "referrers": [
            {"digest": str(each.digest), "artifact_type": each.artifact_type, "annotations": dict(each.annotations)}
            for each in found.referrers
        ],
        "signatures": {tag: str(digest) for tag, digest in found.signatures.items()},
    }


def _lines(found: Inspected) -> list[str]:
    config, layers = found.config, found.image.layers
    lines = [f"digest      {found.digest}", f"media type  {found.manifest.media_type}"]
    lines += [f"platform    {name}  {digest}" for name, digest in found.platforms.items()]
    if found.platforms:
        lines += ["", f"of the image for {_clean(found.chosen)}:"]
    elif config is not None and str(config.platform):
        lines.append(f"platform    {_clean(str(config.platform))}")
    if config is not None:
        lines.append(f"created     {_clean(config.created) or 'not said'}")
        lines.append(f"user        {_clean(config.user) or 'root'}")
        lines.append(f"command     {_clean(' '.join(config.command)) or 'none'}")
        lines += [f"label       {_clean(name)}={_clean(value)}" for name, value in sorted(config.labels.items())]
    lines += [f"layer       {layer.digest}  {in_words(layer.size)}" for layer in layers]
    lines.append(f"size        {in_words(sum(layer.size for layer in layers))} in {counted(len(layers), 'layer')}")
    base = " ".join(_clean(part) for part in found.base if part)
    lines.append(f"base        {base or 'not said by its annotations'}")
    lines += [
        f"refers to it  {each.digest}  {_clean(each.artifact_type or each.media_type)}" for each in found.referrers
    ]
    lines += [f"signature   {tag}" for tag in found.signatures]
    if not found.referrers and not found.signatures:
        lines.append("signatures  none")
    return lines


def _clean(text: str) -> str:
    """Text of an image's maker, as a terminal may show it."""
    return quote(text, 400)[1:-1]
