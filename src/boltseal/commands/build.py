"""`boltseal build`: build and push an image with its base images pinned by digest, and record its inputs.

1. Resolve the images that the Dockerfile names. 2. Hash everything that the build reads. 3. An image of the same inputs is
in the repository: nothing to do. 4. Build and push under a new tag. 5. Check that the tag resolves to an image of these
inputs. 6. Record it in the registry's ledger, and wait until the record is signed: `outdated` reads signed entries only.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import IO, NamedTuple

from boltseal.build.builders import (
    Build,
    Builder,
    BuildFailed,
    build_command,
    found_builder,
    gathered_in,
    push_command,
    run,
    tidy_command,
)
from boltseal.build.dockerfile_bases import Dockerfile
from boltseal.build.labels import labels_of
from boltseal.build.ledger_entries import built_extra, same_build
from boltseal.build.tag_template import Scheme, input_tag
from boltseal.client.errors import RemoteNotFound
from boltseal.client.history import prove_entry
from boltseal.client.hosts import is_loopback
from boltseal.client.ledger_records import SIGNED_TIMEOUT_S, NoRecords, add_record, is_signed, list_records
from boltseal.client.registry_client import RegistryClient
from boltseal.client.transport import Transport
from boltseal.commands.build_inputs import (
    BuildInputs,
    hash_inputs,
    ignore_text,
    parse_build_args,
    read_dockerfile,
    resolve_bases,
    unhashed_inputs,
)
from boltseal.commands.build_labels import git_if_any
from boltseal.commands.build_revisions import Rebuilt, next_free_revision, rebuilt_tag
from boltseal.commands.image_locations import opened_transfer
from boltseal.commands.pushed_build import pushed_build
from boltseal.commands.registry_access import RegistryOptions, ask_followed, followed, repository_only
from boltseal.commands.tag_new import tag_of_source
from boltseal.errors import BoltsealError, Invalid
from boltseal.ledger.entry import EntryKind, format_time
from boltseal.ledger.follow import LedgerBroken
from boltseal.oci.digest import Digest
from boltseal.oci.reference import Reference, Tag
from boltseal.policy.tag_revisions import DOT
from boltseal.project.bases.image_facts import IMAGE, INPUTS
from boltseal.project.generated_files import source_policy
from boltseal.project.image_references import ImageReference
from boltseal.transfer.copy import Copier
from boltseal.transfer.locations import Location
from boltseal.transfer.protocols import TagTaken


@dataclass(frozen=True, slots=True)
class BuildRequest:
    """What to build.

    `repository`: where it is pushed. `tag`: None for one made by `scheme`. `builder`: None for the one that is installed.
    `force`: build even if an image of the same inputs is there. `created_us`: the image's time, since 1970. `allow`:
    further registries that the Dockerfile may name. `build_number`: of the pipeline; "" outside of one. `revision_of`:
    scheme revision: the sealed tag to rebuild. `separator`: between it and the revision's number.
    """

    inputs: BuildInputs
    repository: str
    created_us: int
    scheme: Scheme = Scheme.INPUT
    tag: str | None = None
    builder: Builder | None = None
    force: bool = False
    build_number: str = ""
    allow: tuple[str, ...] = ()
    revision_of: str | None = None
    separator: str = DOT


@dataclass(frozen=True, slots=True)
class BuildReport:
    """The result of a build.

    `image`: name and tag. `status`: built or unchanged. `base`: the last stage's image, None for scratch.
    """

    image: str
    status: str
    reason: str
    digest: str
    inputs: str
    base: tuple[Reference, Digest] | None


class EarlierBuild(NamedTuple):
    """An image of the same inputs. `when`: the time of its ledger entry; "" if it was found by its tag."""

    name: str
    digest: str
    when: str


@dataclass(frozen=True, slots=True)
class _Plan:
    """A build before it runs. `hash`: of all its inputs. `rebuilt`: what its tag is a revision of."""

    inputs: BuildInputs
    dockerfile: Dockerfile
    digests: Mapping[ImageReference, Digest]
    hash: str
    rebuilt: Rebuilt | None = None

    @property
    def base(self) -> tuple[Reference, Digest] | None:
        image_ref = self.dockerfile.base
        return (
            None if image_ref is None or image_ref.resolved is None else (image_ref.resolved, self.digests[image_ref])
        )


def build_image(request: BuildRequest, options: RegistryOptions, log: IO[str]) -> BuildReport:
    """Build, push and record an image. `log`: where the builder prints.

    Raises: Invalid, DockerfileInvalid, BuilderMissing, BuildFailed, Unavailable, LedgerBroken.
    """
    if not request.repository:
        raise Invalid("no repository to push to; pass one, such as --repository localhost:5000/shop/app")
    repository = repository_only(request.repository)
    inputs = request.inputs
    dockerfile = read_dockerfile(inputs)
    digests = resolve_bases(dockerfile.image_refs, inputs.context, options, request.allow)
    plan = _Plan(inputs, dockerfile, digests, hash_inputs(inputs, dockerfile, digests))
    earlier = None if request.force else _earlier(repository, plan.hash, request.tag, options)
    if earlier is not None:
        when = f" at {earlier.when}" if earlier.when else ", by its tag"
        reason = f"nothing to do: built of the same inputs{when}{unhashed_inputs(inputs.more)}"
        return BuildReport(earlier.name, "unchanged", reason, earlier.digest, plan.hash, plan.base)
    image = replace(repository, tag=_tag(request, plan.hash, options))
    plan = replace(plan, rebuilt=rebuilt_tag(image, plan.base, request.separator, options))
    builder = request.builder or found_builder()
    chosen_free = request.tag is None and request.scheme is Scheme.REVISION
    _build(builder, plan, image, request.created_us, options, log, chosen_free=chosen_free)
    digest = _pushed(image, plan.hash, options)
    index = _record(image, digest, plan, builder, options)
    reason = "" if index is None else f"entry {index} of the ledger records its inputs"
    if plan.rebuilt is not None:
        reason = "; ".join(filter(None, (plan.rebuilt.text, reason)))
    return BuildReport(str(image), "built", reason, str(digest), plan.hash, plan.base)


def _tag(request: BuildRequest, inputs: str, options: RegistryOptions) -> Tag:
    if request.tag is not None:
        return Tag(request.tag)
    if request.scheme is Scheme.INPUT:
        return input_tag(inputs)
    if request.scheme is Scheme.CONTENT:
        raise Invalid("--scheme content: the content is known only after the build; use input, or give a --tag")
    if request.scheme is Scheme.REVISION:
        return next_free_revision(repository_only(request.repository), request.revision_of, request.separator, options)
    return tag_of_source(request.scheme, request.inputs, request.build_number, options)


def _earlier(
    repository: Reference, inputs: str, wanted_tag: str | None, options: RegistryOptions
) -> EarlierBuild | None:
    """Return an image of the same inputs that is still there, by its ledger entry or its tag; else None.

    `wanted_tag`: the user's tag, which must resolve to it now: one that floats may have done so before. Raises:
    Mismatch: the entry is not in the signed ledger.
    """

    async def look(transport: Transport) -> EarlierBuild | None:
        client = RegistryClient(transport, repository.registry)
        try:
            entries = await list_records(transport, repository.registry, repository.repository)
        except NoRecords:
            entries = []
        entry, tag = same_build((each.entry for each in entries), inputs), input_tag(inputs)
        try:
            if entry is None:
                named = Tag(wanted_tag) if wanted_tag is not None else tag
                digest = (await client.resolve(repository.repository, tag)).digest
                current = digest if named == tag else (await client.resolve(repository.repository, named)).digest
                return EarlierBuild(f"{repository.name}:{named}", str(digest), "") if current == digest else None
            at = Digest.parse(entry.digest) if wanted_tag is None else Tag(wanted_tag)
            if str((await client.resolve(repository.repository, at)).digest) != entry.digest:
                return None
            [index] = [each.entry_index for each in entries if each.entry is entry]
            await prove_entry(
                transport, repository.registry, index, entry, lambda registry: followed(options, transport, registry)
            )
        except RemoteNotFound:
            return None
        name = ":".join(filter(None, (repository.name, wanted_tag or entry.tag)))
        return EarlierBuild(name, entry.digest, format_time(entry.time_us)[:19] + "Z")

    return ask_followed(options, [repository.registry], look)


def _build(
    builder: Builder,
    plan: _Plan,
    image: Reference,
    created_us: int,
    options: RegistryOptions,
    log: IO[str],
    *,
    chosen_free: bool,
) -> None:
    """Build and push. `chosen_free`: the tag was chosen because it was free, so it is not taken from another build.

    Raises: BuildFailed, Invalid: an image can't be named by digest.
    """
    inputs = plan.inputs
    labels = {
        **labels_of(
            git_if_any(inputs.context, options.client.notice, has_version=True), str(image.tag), created_us, plan.base
        ),
        IMAGE: str(image),
        INPUTS: plan.hash,
        **(plan.rebuilt.labels if plan.rebuilt is not None else {}),
    }
    with TemporaryDirectory(prefix="boltseal-") as scratch:
        planned = Build(
            context=inputs.context,
            dockerfile=inputs.dockerfile,
            image=image,
            labels=labels,
            build_args=parse_build_args(inputs.build_args),
            target=inputs.target,
            platform=inputs.platform,
            more=inputs.more,
            plain_http=options.without_tls(image.registry) or is_loopback(image.registry),
            gathered=gathered_in(builder, Path(scratch)),
        )
        planned = _with_digests(builder, planned, plan, Path(scratch))
        try:
            run(build_command(builder, planned), log)
            if words := push_command(builder, planned):
                if chosen_free:
                    _check_free(image, options)
                run(words, log)
            else:
                _push(planned.gathered, image, options, only_new=chosen_free)
        finally:
            if words := tidy_command(builder, planned):
                with contextlib.suppress(
                    BoltsealError
                ):  # the build may have failed before there was anything to remove
                    run(words, log)


def _check_free(image: Reference, options: RegistryOptions) -> None:
    """Check right before a builder's own push, which has no conditions, that the tag is still free. Raises: BuildFailed."""

    async def look(transport: Transport) -> Digest | None:
        try:
            client = RegistryClient(transport, image.registry)
            return (await client.resolve(image.repository, image.tag or Tag("latest"))).digest
        except RemoteNotFound:
            return None

    if ask_followed(options, [image.registry], look) is not None:
        raise BuildFailed(_taken(image))


def _taken(image: Reference) -> str:
    return f"another push took {image} during the build; its tag was not moved: run it again for the next revision"


def _push(layout: str, image: Reference, options: RegistryOptions, *, only_new: bool) -> None:
    """Push the one image of an OCI layout: its parts by digest, and last the index under the tag. Raises: BuildFailed.

    `only_new`: refuse if the tag is taken, by a condition (`If-None-Match`) where the registry takes it.
    """

    async def push(transport: Transport) -> None:
        source, target = Location.parse(f"oci:{layout}"), Location.parse(str(image))
        async with opened_transfer(options.client, transport, source, target, force=not only_new) as transfer:
            [name] = await transfer.source.names()
            copier = Copier(transfer.source, transfer.target, within=transfer.within, force=not only_new)
            try:
                await copier.image(name, str(image.tag))
            except LedgerBroken:  # the alarm keeps its exit code
                raise
            except TagTaken as error:
                raise BuildFailed(_taken(image)) from error
            except BoltsealError as error:
                message = f"the push failed: {error.message}; nothing was recorded"
                raise BuildFailed(message, error.refusal_facts()) from error

    ask_followed(options, [image.registry], push)


def _with_digests(builder: Builder, planned: Build, plan: _Plan, scratch: Path) -> Build:
    """Return the build with every image by its digest: in a source policy, or in a copy of the Dockerfile. Raises: Invalid."""
    if builder.takes_policy:
        policy = source_policy(plan.digests)
        if policy.left_out:
            image_ref, reason = policy.left_out[0]
            raise Invalid(f"{image_ref.path}:{image_ref.line}: {image_ref.written} can't be pinned: {reason}")
        (scratch / "policy.json").write_text(policy.text, encoding="utf-8")
        return replace(planned, policy=scratch / "policy.json")
    copy = scratch / "Dockerfile"
    copy.write_text(plan.dockerfile.pinned(plan.digests), encoding="utf-8", newline="")
    copy.with_name("Dockerfile.dockerignore").write_text(ignore_text(plan.inputs), encoding="utf-8")
    reread = read_dockerfile(BuildInputs(scratch, copy, target=planned.target))
    if [image_ref.pinned for image_ref in reread.image_refs] != [
        plan.digests[image_ref] for image_ref in plan.dockerfile.image_refs
    ]:
        raise Invalid("the Dockerfile's images can't be named by digest in a copy of it; build with --builder buildx")
    return replace(planned, dockerfile=copy)


def _pushed(image: Reference, inputs: str, options: RegistryOptions) -> Digest:
    """Return the digest of what was pushed. Raises: Unavailable: the tag resolves to an image of other inputs."""

    async def look(transport: Transport) -> Digest:
        return await pushed_build(transport, options.client.state, options.client.now_us(), image, inputs)

    return ask_followed(options, [image.registry], look)


def _record(image: Reference, digest: Digest, plan: _Plan, builder: Builder, options: RegistryOptions) -> int | None:
    """Record the build and wait for its signature; return the entry's index, None where the registry keeps no ledger."""

    async def write(transport: Transport) -> int | None:
        bases = {image_ref.written: of for image_ref, of in plan.digests.items()}
        rebuilt = plan.rebuilt.extra if plan.rebuilt is not None else {}
        extra = built_extra(plan.base, plan.hash, bases, str(builder), plan.inputs.platform, rebuilt)
        try:
            index = await add_record(transport, EntryKind.BUILT, image, digest, extra)
        except NoRecords:
            options.client.notice(
                f"boltseal: {image.registry} keeps no ledger: only the labels of the image say what it was built of"
            )
            return None
        try:
            signed = await is_signed(transport, image.registry, image.repository, index)
            reason = "" if signed else f"did not sign it within {SIGNED_TIMEOUT_S:g} s"
        except BoltsealError as error:  # image and record are there: the build has succeeded
            reason = f"does not show it: {error.message}"
        if reason:
            options.client.notice(
                f"boltseal: {image.registry} accepted the record of the build as entry {index} of its ledger, but {reason}; "
                "`boltseal outdated` sees the record when it is signed"
            )
        return index

    return ask_followed(options, [image.registry], write)
