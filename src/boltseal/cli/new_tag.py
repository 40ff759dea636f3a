"""`boltseal new-tag`: a tag that no other build takes, made of what the build is."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from boltseal.build.tag_template import Scheme
from boltseal.cli.answer import CommandOutput, print_line, say
from boltseal.cli.clock import clock_us
from boltseal.cli.onbuild import (
    BuildArgOption,
    ContextArgument,
    FileOption,
    TargetOption,
    digests_of,
    dockerfile_of,
    hash_of,
)
from boltseal.cli.onproject import AllowOption
from boltseal.cli.options import JsonOption
from boltseal.cli.remote import AnonymousOption, CaFileOption, PlainHttpOption, registry_options
from boltseal.commands.outcome import Outcome
from boltseal.commands.registry_access import RegistryOptions, ask, repository_only
from boltseal.errors import Invalid

if TYPE_CHECKING:
    from collections.abc import Callable

    from boltseal.client.transport import Transport
    from boltseal.oci.digest import Digest
    from boltseal.oci.reference import Reference, Tag


class NothingToTag(Invalid):
    """An option that a scheme needs is missing."""


def new_tag(
    context: ContextArgument = Path(),
    scheme: Annotated[Scheme, typer.Option("--scheme", help="What the tag is made of.")] = Scheme.DESCRIBE,
    image: Annotated[
        str | None,
        typer.Option("--image", metavar="IMAGE", show_default=False, help="content: an image of the daemon."),
    ] = None,
    apply: Annotated[
        str | None,
        typer.Option(
            "--apply", metavar="IMAGE", show_default=False, help="Give the daemon's image the tag, beside its own."
        ),
    ] = None,
    check: Annotated[
        str | None,
        typer.Option("--check", metavar="REPO", show_default=False, help="Make sure that the tag is free there."),
    ] = None,
    file: FileOption = None,
    build_arg: BuildArgOption = None,
    target: TargetOption = None,
    platform: Annotated[
        str | None,
        typer.Option("--platform", metavar="OS/ARCH", show_default=False, help="input: what it is built for."),
    ] = None,
    allow: AllowOption = None,
    plain_http: PlainHttpOption = False,
    ca_file: CaFileOption = None,
    anonymous: AnonymousOption = False,
    as_json: JsonOption = False,
) -> None:
    """Print a unique tag for a build.

    describe: git describe, and a hash of what is not committed. date: the time. build: the pipeline's number. content:
    the image's own digest. input: a hash of Dockerfile, context, arguments and base digests: same inputs, same tag.

    Exit code 1: with --check, the tag is taken; nothing was tagged then.
    """
    with CommandOutput("new-tag", as_json=as_json) as answer:
        reach = registry_options(plain_http, ca_file, anonymous)
        named = _image(image, apply, scheme)
        makers: dict[Scheme, Callable[[], Tag]] = {
            Scheme.DESCRIBE: lambda: describe_of(context),
            Scheme.DATE: date_of,
            Scheme.BUILD: build_of,
            Scheme.CONTENT: lambda: _content(named),
            Scheme.INPUT: lambda: _input(context, file, build_arg or [], target, platform, reach, allow or []),
        }
        tag = makers[scheme]()
        taken = None if check is None else _taken(check, tag, reach)
        if taken is not None:
            answer.outcome = Outcome.DIFFERS
            answer.add(ref=f"{check}:{tag}", status="taken", reason=taken, tag=str(tag), scheme=scheme)
            say(f"boltseal: {check}:{tag} is {taken}")
            return
        applied = None if apply is None or named is None else _apply(named, tag)
        answer.add(
            ref=str(tag) if check is None else f"{check}:{tag}",
            status="free" if check is not None else "new",
            reason="" if applied is None else f"the daemon's image is {applied} too",
            tag=str(tag),
            scheme=scheme,
            applied=applied,
        )
        if not as_json:
            print_line(str(tag))


def _image(image: str | None, apply: str | None, scheme: Scheme) -> Reference | None:
    from boltseal.oci.reference import Reference

    text = apply or image
    if text is None:
        if scheme is Scheme.CONTENT:
            raise NothingToTag("--scheme content needs an image of the daemon: --image app:dev, or --apply app:dev")
        return None
    return Reference.parse(text).complete


def describe_of(context: Path) -> Tag:
    """A tag of what git says of a folder. NotGit, GitFailed."""
    from boltseal.build.git_state import git_state
    from boltseal.build.tag_template import describe_tag

    state = git_state(context)
    if state.shallow:
        say("boltseal: the clone is shallow: tags may be missing, and another clone may say another name")
    return describe_tag(state.described, state.dirt)


def date_of() -> Tag:
    """A tag of the time."""

    from boltseal.build.tag_template import date_tag

    return date_tag(clock_us())


def build_of() -> Tag:
    """A tag of the pipeline's number. NothingToTag."""
    from boltseal.build.tag_template import build_tag
    from boltseal.config import BUILD_NUMBERS, build_environment

    number = build_environment().number
    if not number:
        names = ", ".join(("GITHUB_RUN_NUMBER", *BUILD_NUMBERS))
        raise NothingToTag(f"no pipeline says its number here; expected one of {names}")
    return build_tag(number)


def _content(image: Reference | None) -> Tag:
    from boltseal.build.tag_template import content_tag

    if image is None:
        raise AssertionError("asked for before")
    return content_tag(_daemon_id(image))


def _daemon_id(image: Reference) -> Digest:
    import asyncio

    from boltseal.build.local_images import image_id
    from boltseal.cli.engine_options import engine_address

    return asyncio.run(image_id(engine_address(), image))


def _apply(image: Reference, tag: Tag) -> str:
    import asyncio

    from boltseal.build.local_images import add_tag, image_id
    from boltseal.cli.engine_options import engine_address

    async def run() -> Reference:
        host = engine_address()
        return await add_tag(host, image, await image_id(host, image), tag)

    return asyncio.run(run()).familiar()


def _input(
    context: Path,
    file: Path | None,
    build_args: list[str],
    target: str | None,
    platform: str | None,
    reach: RegistryOptions,
    allow: list[str],
) -> Tag:
    from boltseal.build.tag_template import input_tag

    dockerfile = dockerfile_of(context, file, build_args, target)
    digests = digests_of(dockerfile.sites, context, reach, allow)
    return input_tag(hash_of(dockerfile, digests, context, file, build_args, target, platform))


def _taken(repo: str, tag: Tag, reach: RegistryOptions) -> str | None:
    """Why the tag can't be published in a repository, None where it is free."""
    reference = repository_only(repo)

    async def look(transport: Transport) -> str | None:
        from boltseal.client.errors import RemoteNotFound
        from boltseal.client.registry_client import RegistryClient

        try:
            found = await RegistryClient(transport, reference.registry).resolve(reference.repository, tag)
        except RemoteNotFound as missing:
            return (
                None if missing.bound is None else f"bound: it was deleted, and can come back only as {missing.bound}"
            )
        return f"taken: it means {found.digest}"

    return ask(reach, [reference.registry], look)
