"""`boltseal build`: docker build, docker buildx build or buildah bud, with bases by digest, labels, a unique tag, and a record."""

from __future__ import annotations

import contextlib
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer

from boltseal.build.builders import Builder
from boltseal.build.tag_template import Scheme
from boltseal.cli.answer import CommandOutput, print_line, say
from boltseal.cli.labels import created_us, git_of
from boltseal.cli.new_tag import build_of, date_of, describe_of
from boltseal.cli.onbuild import (
    BuildArgOption,
    FileOption,
    TargetOption,
    digests_of,
    dockerfile_of,
    hash_of,
    ignore_text,
    parse_build_args,
)
from boltseal.cli.onproject import AllowOption
from boltseal.cli.options import JsonOption
from boltseal.cli.remote import AnonymousOption, CaFileOption, PlainHttpOption, registry_options
from boltseal.commands.image_locations import opened_transfer
from boltseal.commands.registry_access import ReferenceUnsuitable, RegistryOptions, ask_followed, repository_only
from boltseal.errors import BoltsealError, Invalid, Unavailable

if TYPE_CHECKING:
    from boltseal.build.builders import Build
    from boltseal.build.dockerfile_bases import Dockerfile
    from boltseal.client.transport import Transport
    from boltseal.ledger.entry import Entry
    from boltseal.oci.digest import Digest
    from boltseal.oci.reference import Reference, Tag
    from boltseal.project.image_references import ImageReference


class PushedOther(Unavailable):
    """What the tag means after the push is not what was built: somebody else pushed at the same time."""


class NotPinned(Invalid):
    """A Dockerfile whose images can't be named by digest for this builder."""


@dataclass(frozen=True, slots=True)
class _Plan:
    """A build that was thought through: what it stands on, and the hash of all that it reads."""

    dockerfile: Dockerfile
    digests: dict[ImageReference, Digest]
    inputs: str

    @property
    def base(self) -> tuple[Reference, Digest] | None:
        """The image under the last stage, None where that begins with nothing."""
        site = self.dockerfile.base
        return None if site is None or site.resolved is None else (site.resolved, self.digests[site])


def build(
    context: Annotated[Path, typer.Argument(metavar="DIR", help="The folder that is built.", show_default=False)],
    more: Annotated[
        list[str] | None,
        typer.Argument(metavar="[-- WORD...]", show_default=False, help="Further words for the builder."),
    ] = None,
    repository: Annotated[
        str, typer.Option("--repository", "-r", metavar="REPO", help="Where it is pushed.", show_default=False)
    ] = "",
    scheme: Annotated[
        Scheme, typer.Option("--scheme", help="What its tag is made of; content can't be known before.")
    ] = Scheme.INPUT,
    tag: Annotated[str | None, typer.Option("--tag", metavar="TAG", show_default=False, help="A tag of yours.")] = None,
    builder: Annotated[
        Builder | None, typer.Option("--builder", show_default=False, help="Default: buildx, else what is there.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Build, though the same was built before.")] = False,
    file: FileOption = None,
    build_arg: BuildArgOption = None,
    target: TargetOption = None,
    platform: Annotated[
        str | None, typer.Option("--platform", metavar="OS/ARCH,...", show_default=False, help="What it is built for.")
    ] = None,
    allow: AllowOption = None,
    plain_http: PlainHttpOption = False,
    ca_file: CaFileOption = None,
    anonymous: AnonymousOption = False,
    as_json: JsonOption = False,
) -> None:
    """Build and push an image whose bases are known for ever.

    Wraps docker buildx build, docker build or buildah bud: every image that the Dockerfile names is taken by its digest
    (its pin, boltseal.lock, or what its tag means now); labels say where it comes from; the tag is new; what it was built
    of is recorded in the registry's ledger. Same bases, Dockerfile and inputs as before: nothing to do.
    """
    with CommandOutput("build", as_json=as_json) as answer:
        if not repository:
            raise ReferenceUnsuitable("where to? --repository localhost:5000/shop/app")
        to = repository_only(repository)
        reach = registry_options(plain_http, ca_file, anonymous)
        dockerfile = dockerfile_of(context, file, build_arg or [], target)
        digests = digests_of(dockerfile.sites, context, reach, allow or [])
        inputs = hash_of(dockerfile, digests, context, file, build_arg or [], target, platform, more or [])
        plan = _Plan(dockerfile, digests, inputs)
        before = None if force else _before(to, inputs, tag, reach)
        if before is not None:
            when = f" at {before.when}" if before.when else ", says its tag"
            _tell(answer, before.name, "unchanged", f"nothing to do: built of the same{when}", before.digest, plan)
            return
        image = replace(to, tag=_tag(tag, scheme, context, inputs))
        used = builder or _found()
        digest = _build(used, plan, image, reach, context, file, build_arg or [], target, platform, more or [])
        index = _record(image, digest, plan, used, platform, reach)
        reason = "" if index is None else f"entry {index} of the ledger says of what"
        _tell(answer, str(image), "built", reason, str(digest), plan)


def _found() -> Builder:
    from boltseal.build.builders import found_builder

    return found_builder()


def _time(entry: Entry) -> str:
    from boltseal.ledger.entry import format_time

    return format_time(entry.time_us)[:19] + "Z"


def _tell(answer: CommandOutput, name: str, status: str, reason: str, digest: str, plan: _Plan) -> None:
    base = plan.base
    answer.add(
        ref=name,
        status=status,
        reason=reason,
        digest=digest,
        inputs=plan.inputs,
        base=None if base is None else str(base[0]),
        base_digest=None if base is None else str(base[1]),
    )
    if reason:
        say(f"boltseal: {name}: {reason}")
    if not answer.as_json:
        print_line(f"{name}@{digest}")


def _tag(given: str | None, scheme: Scheme, context: Path, inputs: str) -> Tag:
    from boltseal.build.tag_template import input_tag
    from boltseal.oci.reference import Tag

    if given is not None:
        return Tag(given)
    match scheme:
        case Scheme.DESCRIBE:
            return describe_of(context)
        case Scheme.DATE:
            return date_of()
        case Scheme.BUILD:
            return build_of()
        case Scheme.INPUT:
            return input_tag(inputs)
        case Scheme.CONTENT:
            raise Invalid("--scheme content: the content is known only when it is built; take input, or give a --tag")


class _Before(NamedTuple):
    """An image that was built of the same. `when`: by its record, "" where only its tag says so."""

    name: str
    digest: str
    when: str


def _before(to: Reference, inputs: str, wanted: str | None, reach: RegistryOptions) -> _Before | None:
    """An image that was built of the same and is still there, by its record or its tag; None where nobody knows of one.

    `wanted`: a tag of the user's, which has to mean it: one that floats may have meant it before, and mean another now.
    """

    async def look(transport: Transport) -> _Before | None:
        from boltseal.build.ledger_entries import same_build
        from boltseal.build.tag_template import input_tag
        from boltseal.client.errors import RemoteNotFound
        from boltseal.client.ledger_records import NoRecords, records
        from boltseal.client.registry_client import RegistryClient
        from boltseal.oci.digest import Digest
        from boltseal.oci.reference import Tag

        client = RegistryClient(transport, to.registry)
        try:
            entries = await records(transport, to.registry, to.repository)
        except NoRecords:
            entries = []
        found, tag = same_build((entry for _, entry in entries), inputs), input_tag(inputs)
        try:
            if found is None:
                named = Tag(wanted) if wanted is not None else tag
                digest = (await client.resolve(to.repository, tag)).digest
                means = digest if named == tag else (await client.resolve(to.repository, named)).digest
                return _Before(f"{to.name}:{named}", str(digest), "") if means == digest else None
            at = Digest.parse(found.digest) if wanted is None else Tag(wanted)
            if str((await client.resolve(to.repository, at)).digest) != found.digest:
                return None
        except RemoteNotFound:
            return None
        name = ":".join(filter(None, (to.name, wanted or found.tag)))
        return _Before(name, found.digest, _time(found))

    return ask_followed(reach, [to.registry], look)


def _build(
    builder: Builder,
    plan: _Plan,
    image: Reference,
    reach: RegistryOptions,
    context: Path,
    file: Path | None,
    build_args: list[str],
    target: str | None,
    platform: str | None,
    more: list[str],
) -> Digest:
    """Build, push, and what the registry calls it. BuildFailed."""
    from tempfile import TemporaryDirectory

    from boltseal.build.builders import Build, build_command, gathered_in, push_command, run, tidy_command
    from boltseal.build.labels import labels_of
    from boltseal.client.hosts import is_loopback
    from boltseal.project.bases.image_facts import IMAGE, INPUTS

    labels = {
        **labels_of(git_of(context), str(image.tag), created_us(), plan.base),
        IMAGE: str(image),
        INPUTS: plan.inputs,
    }
    path = file or context / "Dockerfile"
    with TemporaryDirectory(prefix="boltseal-") as scratch:
        made = Build(
            context,
            path,
            image,
            labels,
            parse_build_args(build_args),
            target,
            platform,
            more=more,
            plain_http=reach.plain_http or is_loopback(image.registry),
            gathered=gathered_in(builder, Path(scratch)),
        )
        made = _with_digests(builder, made, plan, Path(scratch), ignore_text(context, path))
        try:
            run(build_command(builder, made), sys.stderr)
            if words := push_command(builder, made):
                run(words, sys.stderr)
            else:
                _push(made.gathered, image, reach)
        finally:
            if words := tidy_command(builder, made):
                with contextlib.suppress(BoltsealError):  # it may not have come so far
                    run(words, sys.stderr)
    return _pushed(image, plan.inputs, reach)


def _push(layout: str, image: Reference, reach: RegistryOptions) -> None:
    """Push the one image that an OCI layout holds: its parts by digest, and last the index under the tag. BuildFailed."""

    async def push(transport: Transport) -> None:
        from boltseal.build.builders import BuildFailed
        from boltseal.transfer.copy import Copier
        from boltseal.transfer.locations import Location

        source, target = Location.parse(f"oci:{layout}"), Location.parse(str(image))
        async with opened_transfer(reach.client, transport, source, target, force=True) as (from_, to, within):
            [name] = await from_.names()
            try:
                await Copier(from_, to, within=within, force=True).image(name, str(image.tag))
            except BoltsealError as error:
                raise BuildFailed(f"the push failed: {error.message}; nothing was recorded") from error

    ask_followed(reach, [image.registry], push)


def _with_digests(builder: Builder, made: Build, plan: _Plan, scratch: Path, ignored: str) -> Build:
    """The same build, with every image by its digest: by a policy, or in a copy of the Dockerfile. NotPinned."""
    if builder.takes_policy:
        from boltseal.project.generated_files import source_policy

        policy = source_policy(plan.digests)
        if policy.left_out:
            site, reason = policy.left_out[0]
            raise NotPinned(f"{site.path}:{site.line}: {site.written} can't be pinned: {reason}")
        (scratch / "policy.json").write_text(policy.text, encoding="utf-8")
        return replace(made, policy=scratch / "policy.json")
    copy = scratch / "Dockerfile"
    copy.write_text(plan.dockerfile.pinned(plan.digests), encoding="utf-8", newline="")
    copy.with_name("Dockerfile.dockerignore").write_text(ignored, encoding="utf-8")
    again = dockerfile_of(scratch, copy, [], made.target)
    if [site.pinned for site in again.sites] != [plan.digests[site] for site in plan.dockerfile.sites]:
        raise NotPinned("the Dockerfile's images can't be named by digest in a copy of it; build with --builder buildx")
    return replace(made, dockerfile=copy)


def _pushed(image: Reference, inputs: str, reach: RegistryOptions) -> Digest:
    """What the registry calls it. PushedOther where the tag means an image of other inputs by now."""

    async def look(transport: Transport) -> Digest:
        from boltseal.client.registry_client import RegistryClient
        from boltseal.oci.reference import Tag
        from boltseal.project.bases.image_documents import children
        from boltseal.project.bases.image_facts import INPUTS, config_of, read_facts

        client, tag = RegistryClient(transport, image.registry), image.tag or Tag("latest")
        digest = (await client.resolve(image.repository, tag)).digest
        manifest = await client.manifest(image.repository, digest)
        images = [child.digest for child in children(manifest)] if manifest.is_index else [digest]
        for one in images or [digest]:
            manifest = await client.manifest(image.repository, one)
            config, size = config_of(manifest, one)
            raw = b"".join([piece async for piece in client.blob(image.repository, config, size)])
            if read_facts(manifest, one, raw).labels.get(INPUTS) != inputs:
                raise PushedOther(
                    f"{image} was pushed, and means something else now ({digest.short}): nothing was recorded"
                )
        return digest

    return ask_followed(reach, [image.registry], look)


def _record(
    image: Reference, digest: Digest, plan: _Plan, builder: Builder, platform: str | None, reach: RegistryOptions
) -> int | None:
    """Write down of what it was built; None where the registry keeps no ledger, so that only the labels say so."""

    async def write(transport: Transport) -> int | None:
        from boltseal.build.ledger_entries import built_extra
        from boltseal.client.ledger_records import NoRecords, record
        from boltseal.ledger.entry import EntryKind

        bases = {site.written: of for site, of in plan.digests.items()}
        extra = built_extra(plan.base, plan.inputs, bases, str(builder), platform)
        try:
            return await record(transport, EntryKind.BUILT, image, digest, extra)
        except NoRecords:
            say(f"boltseal: {image.registry} keeps no ledger: the labels of the image alone say on what it was built")
            return None

    return ask_followed(reach, [image.registry], write)
