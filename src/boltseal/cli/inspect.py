"""`boltseal inspect`: show the metadata of an image without pulling it."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from boltseal.cli.evidence_table import evidence_json, print_evidence
from boltseal.cli.options import JsonOption
from boltseal.cli.output import CommandOutput
from boltseal.cli.progress import size_text
from boltseal.cli.remote import LOCATION_HELP, SIGNED_BY_HELP, takes_registry_options
from boltseal.commands.contents_diff import installed
from boltseal.commands.image_contents import ImageContents
from boltseal.commands.inspect import inspect_image
from boltseal.commands.outcome import Outcome
from boltseal.commands.registry_access import RegistryOptions
from boltseal.commands.text import counted
from boltseal.errors import quote
from boltseal.transfer.inspect import Inspected
from boltseal.transfer.locations import Location


@takes_registry_options
def inspect(
    ref: Annotated[
        str,
        typer.Argument(metavar="LOCATION", show_default=False, help=LOCATION_HELP),
    ],
    platform: Annotated[
        str | None, typer.Option("--platform", metavar="PLATFORM", show_default=False, help="Which image of an index.")
    ] = None,
    packages: Annotated[
        bool, typer.Option("--packages", help="Also show packages (by SBOMs, else by the layers) and files.")
    ] = False,
    signed_by: Annotated[
        list[str] | None,
        typer.Option("--signed-by", metavar="SIGNER", show_default=False, help=SIGNED_BY_HELP),
    ] = None,
    *,
    access: RegistryOptions,
    as_json: JsonOption = False,
) -> None:
    """Show platforms, labels, layers, base image and signatures.

    Downloads only the manifests and the config, and verifies their digests. On Docker Hub it counts as one pull.
    --packages also downloads the layers, at most 2 GiB, and unpacks nothing on the disk. --signed-by downloads the signatures
    and attestations, and shows for each its signer, its time, and whether it is verified, or why not.

    Exit code 1: the image lacks a signature of --signed-by. Exit code 3: --packages could not find out the packages, or a
    signature could not be verified.
    """
    with CommandOutput("inspect", as_json=as_json) as output:
        location = Location.parse(ref)
        found, settles, contents, evidence = inspect_image(
            location, platform, access, contents=packages, signed_by=tuple(signed_by or ())
        )
        name = ref if location.reference is None else str(location.reference)
        output.add(
            ref=name,
            status="settling" if settles else "present",
            settles=settles or None,
            **_fields(found),
            **_packages_json(contents),
            **evidence_json(evidence),
        )
        if settles:
            output.print(f"settling    the tag is not sealed before {_clean(settles)}")
        for line in _lines(found):
            output.print(line)
        if contents is not None:
            _print_packages(output, contents)
        if evidence is not None:
            print_evidence(output, evidence)


def _packages_json(contents: ImageContents | None) -> dict[str, Any]:
    if contents is None:
        return {}
    (packages, reason), origin = installed(contents)
    return {
        "packages": None if packages is None else [each._asdict() for each in packages],
        "packages_from": None if packages is None else origin,
        "packages_reason": reason or None,
        "files": None if contents.files is None else len(contents.files),
    }


def _print_packages(output: CommandOutput, contents: ImageContents) -> None:
    (packages, reason), origin = installed(contents)
    if packages is None:
        output.outcome = Outcome.UNKNOWN
        output.print(f"packages    could not check: {_clean(reason)}")
        return
    output.print(f"packages    {len(packages)}, by {origin}")
    for each in packages:
        kind = f"  ({_clean(each.kind)})" if each.kind else ""
        output.print(f"package     {_clean(each.name)} {_clean(each.version)}{kind}")


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
        lines.append(f"created     {_clean(config.created) or 'unknown'}")
        lines.append(f"user        {_clean(config.user) or 'root'}")
        lines.append(f"command     {_clean(' '.join(config.command)) or 'none'}")
        lines += [f"label       {_clean(name)}={_clean(value)}" for name, value in sorted(config.labels.items())]
    lines += [f"layer       {layer.digest}  {size_text(layer.size)}" for layer in layers]
    lines.append(f"size        {size_text(sum(layer.size for layer in layers))} in {counted(len(layers), 'layer')}")
    base = " ".join(_clean(part) for part in found.base if part)
    lines.append(f"base        {base or 'not in its annotations'}")
    lines += [f"referrer    {each.digest}  {_clean(each.artifact_type or each.media_type)}" for each in found.referrers]
    lines += [f"signature   {tag}" for tag in found.signatures]
    if not found.referrers and not found.signatures:
        lines.append("signatures  none")
    return lines


def _clean(text: str) -> str:
    """Return text from an image with control characters escaped, cut at 400 characters."""
    return quote(text, 400)[1:-1]
