"""`boltseal tag new`: make a tag for a build that no other build gets."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from boltseal.build.git_state import git_state
from boltseal.build.local_images import add_tag, image_id
from boltseal.build.tag_template import Scheme, build_tag, content_tag, date_tag, describe_tag, input_tag
from boltseal.client.errors import RemoteNotFound
from boltseal.client.registry_client import RegistryClient
from boltseal.client.transport import Transport
from boltseal.commands.build_inputs import BuildInputs, hash_inputs, read_dockerfile, resolve_bases
from boltseal.commands.build_revisions import next_free_revision
from boltseal.commands.outcome import Outcome
from boltseal.commands.registry_access import RegistryOptions, ask, repository_only
from boltseal.config import BUILD_NUMBERS, child_environment
from boltseal.errors import Invalid
from boltseal.oci.reference import Reference, Tag
from boltseal.policy.tag_revisions import DOT


@dataclass(frozen=True, slots=True)
class NewTagRequest:
    """How to make a tag, and for which image.

    `image`: an image of the daemon, whose content makes the tag. `apply`: one that gets the tag as well. `check`: a
    repository in which the tag must be free. `build_number`: of the pipeline; "" outside of one. `revision_of`: scheme
    revision: the tag that is built again, in the repository `check`. `separator`: between it and the revision's number.
    """

    scheme: Scheme
    inputs: BuildInputs
    image: str | None = None
    apply: str | None = None
    check: str | None = None
    build_number: str = ""
    allow: tuple[str, ...] = ()
    revision_of: str | None = None
    separator: str = DOT


@dataclass(frozen=True, slots=True)
class NewTagReport:
    """The proposed tag. `taken`: why the tag is not free, else None. `applied`: the new name of the daemon's image."""

    outcome: Outcome
    tag: Tag
    taken: str | None = None
    applied: str | None = None


def new_tag(request: NewTagRequest, options: RegistryOptions) -> NewTagReport:
    """Make a tag, check that it is free, and apply it. Raises: Invalid, NotGit, GitFailed, EngineUnavailable, Unavailable."""
    image = _image(request)
    tag = _make(request, image, options)
    taken = None if request.check is None else _taken(request.check, tag, options)
    if taken is not None:
        return NewTagReport(Outcome.DIFFERS, tag, taken)
    applied = None if request.apply is None or image is None else _apply(image, tag, options)
    return NewTagReport(Outcome.HOLDS, tag, applied=applied)


def _image(request: NewTagRequest) -> Reference | None:
    text = request.apply or request.image
    if text is None:
        if request.scheme is Scheme.CONTENT:
            raise Invalid("--scheme content needs an image of the daemon: --image app:dev, or --apply app:dev")
        return None
    return Reference.parse(text).complete


def _make(request: NewTagRequest, image: Reference | None, options: RegistryOptions) -> Tag:
    if request.scheme is Scheme.CONTENT and image is not None:
        return content_tag(asyncio.run(image_id(options.client.engine_address(), image)))
    if request.scheme is Scheme.INPUT:
        dockerfile = read_dockerfile(request.inputs)
        digests = resolve_bases(dockerfile.image_refs, request.inputs.context, options, request.allow)
        return input_tag(hash_inputs(request.inputs, dockerfile, digests))
    if request.scheme is Scheme.REVISION:
        if request.check is None:
            raise Invalid("--scheme revision needs the repository with the tag: --of 1.4.2 --check localhost:5000/app")
        return next_free_revision(repository_only(request.check), request.revision_of, request.separator, options)
    return tag_of_source(request.scheme, request.inputs, request.build_number, options)


def tag_of_source(scheme: Scheme, inputs: BuildInputs, build_number: str, options: RegistryOptions) -> Tag:
    """Return the tag of a scheme that needs neither image nor input hash. Raises: Invalid, NotGit, GitFailed."""
    makers: dict[Scheme, Callable[[], Tag]] = {
        Scheme.DESCRIBE: lambda: _described(inputs, options),
        Scheme.DATE: lambda: date_tag(options.client.now_us()),
        Scheme.BUILD: lambda: _numbered(build_number),
    }
    return makers[scheme]()


def _described(inputs: BuildInputs, options: RegistryOptions) -> Tag:
    state = git_state(inputs.context, child_environment())
    if state.shallow:
        options.client.notice(
            "boltseal: the clone is shallow: tags may be missing, and another clone may make another tag"
        )
    return describe_tag(state.described, state.dirt)


def _numbered(number: str) -> Tag:
    if not number:
        names = ", ".join(("GITHUB_RUN_NUMBER", *BUILD_NUMBERS))
        raise Invalid(f"no build number of a pipeline in the environment; expected one of {names}")
    return build_tag(number)


def _apply(image: Reference, tag: Tag, options: RegistryOptions) -> str:
    async def run() -> Reference:
        host = options.client.engine_address()
        return await add_tag(host, image, await image_id(host, image), tag)

    return asyncio.run(run()).familiar()


def _taken(repository: str, tag: Tag, options: RegistryOptions) -> str | None:
    """Return why the tag can't be published in a repository; None where it is free."""
    reference = repository_only(repository)

    async def look(transport: Transport) -> str | None:
        try:
            found = await RegistryClient(transport, reference.registry).resolve(reference.repository, tag)
        except RemoteNotFound as missing:
            if missing.bound is None:
                return None
            return f"not free: it was deleted, and can come back only as {missing.bound}"
        return f"taken: it resolves to {found.digest}"

    return ask(options, [reference.registry], look)
