"""What an image build reads: the Dockerfile, its arguments, the digests of its base images, and a hash over all of it."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Final

from boltseal.build.dockerfile_bases import Dockerfile, read
from boltseal.build.dockerignore import IgnoreInvalid, parse_ignore
from boltseal.build.input_hash import Inputs, input_hash
from boltseal.client.registry_client import Resolved
from boltseal.client.transport import Transport
from boltseal.commands.project_images import registry_filter
from boltseal.commands.registry_access import RegistryOptions, ask, followed
from boltseal.errors import BoltsealError, Invalid, Unavailable, quote
from boltseal.files.named_files import FileMissing
from boltseal.lockfile.document import Lock, lock_key
from boltseal.oci.digest import Digest
from boltseal.oci.reference import Reference
from boltseal.project.image_references import ImageReference
from boltseal.project.lock_file import read_lock
from boltseal.project.resolve import Resolver

_UNHASHED: Final = ("--secret", "--ssh", "--build-context", "--build-arg-file", "--volume", "-v")
"""Options of builders that name what else a build reads."""


@dataclass(frozen=True, slots=True)
class BuildInputs:
    """The arguments of a build.

    `file`: None for `Dockerfile` in `context`. `build_args`: NAME=VALUE. `more`: further arguments for the builder.
    """

    context: Path
    file: Path | None = None
    build_args: tuple[str, ...] = ()
    target: str | None = None
    platform: str | None = None
    more: tuple[str, ...] = ()

    @property
    def dockerfile(self) -> Path:
        """The Dockerfile's path."""
        return self.file or self.context / "Dockerfile"


def parse_build_args(build_args: Sequence[str]) -> dict[str, str]:
    """Return build arguments by name; the last one of a name counts, as for docker. Raises: Invalid."""
    found = {}
    for text in build_args:
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise Invalid(f"--build-arg {quote(text)}: expected NAME=VALUE; a value of the environment is not taken")
        found[name] = value
    return found


def read_dockerfile(inputs: BuildInputs) -> Dockerfile:
    """Read the Dockerfile of a build. Raises: DockerfileInvalid, Invalid."""
    path = inputs.dockerfile
    if not path.is_file():
        raise FileMissing(path)
    return read(path.parent, Path(path.name), parse_build_args(inputs.build_args), inputs.target)


def resolve_bases(
    image_refs: Sequence[ImageReference], context: Path, options: RegistryOptions, allow: Sequence[str]
) -> dict[ImageReference, Digest]:
    """Return the digest of each image: its pin, else that of the context's boltseal.lock, else what its tag resolves to.

    Raises: Unavailable: one can't be resolved; LockInvalid, ProjectInvalid, LedgerBroken.
    """
    lock = read_lock(context) or Lock()
    digests: dict[ImageReference, Digest] = {}
    by_tag: dict[ImageReference, Reference] = {}
    for image_ref in image_refs:
        if image_ref.resolved is None:
            raise Unavailable(
                f"{image_ref.path}:{image_ref.line}: {quote(image_ref.written)} can't be determined: {image_ref.why}"
            )
        locked = lock.find(image_ref.resolved)
        digest = image_ref.pinned or (None if locked is None else locked.digest)
        if digest is None:
            by_tag[image_ref] = lock_key(image_ref.resolved)
        else:
            digests[image_ref] = digest
    answers = _ask(set(by_tag.values()), options, allow) if by_tag else {}
    for image_ref, reference in by_tag.items():
        answer = answers[reference]
        if isinstance(answer, BoltsealError):
            raise Unavailable(f"{image_ref.path}:{image_ref.line}: {reference.familiar()} can't be resolved: {answer}")
        digests[image_ref] = answer.digest
    return digests


def _ask(
    references: set[Reference], options: RegistryOptions, allow: Sequence[str]
) -> Mapping[Reference, Resolved | BoltsealError]:
    allowed = registry_filter(options, allow)

    async def run(transport: Transport) -> Mapping[Reference, Resolved | BoltsealError]:
        resolver = Resolver(
            transport, allowed, watch=lambda registry: followed(options, transport, registry), explain=True
        )
        return await resolver.resolve(references)

    return ask(options, {reference.registry for reference in references}, run)


def hash_inputs(inputs: BuildInputs, dockerfile: Dockerfile, digests: Mapping[ImageReference, Digest]) -> str:
    """Return a hash of everything that a build reads. Raises: IgnoreInvalid, ContextUnreadable."""
    arguments = parse_build_args(inputs.build_args)
    if inputs.more:
        arguments["--"] = shlex.join(inputs.more)  # no build argument has this name
    read_by_build = Inputs(
        dockerfile.raw,
        arguments,
        [(image_ref.written, digest) for image_ref, digest in digests.items()],
        inputs.target,
        inputs.platform,
    )
    return input_hash(read_by_build, inputs.context, parse_ignore(ignore_text(inputs)))


def unhashed_inputs(more: Sequence[str]) -> str:
    """Return a remark about what the builder reads by further arguments and the hash does not cover; "" for nothing.

    Secrets are not covered because the hash is public: with such a content in it, an attacker could test guesses of the content.
    """
    named = [flag for flag in _UNHASHED if any(word == flag or word.startswith(f"{flag}=") for word in more)]
    named += ["--build-arg without a value"] if _takes_values_of_environment(more) else []
    if not named:
        return ""
    listed = " and ".join(filter(None, (", ".join(named[:-1]), named[-1])))
    return f"; the contents of {listed} are not inputs: if they changed, build with --force"


def _takes_values_of_environment(more: Sequence[str]) -> bool:
    values = [value for flag, value in pairwise(more) if flag == "--build-arg"]
    values += [word.partition("=")[2] for word in more if word.startswith("--build-arg=")]
    return any("=" not in value for value in values)


def ignore_text(inputs: BuildInputs) -> str:
    """Return the text of the ignore file that BuildKit would use, or "": the Dockerfile's own, else the context's.

    Raises: IgnoreInvalid.
    """
    file = inputs.dockerfile
    for path in (file.with_name(f"{file.name}.dockerignore"), inputs.context / ".dockerignore"):
        if path.is_file():
            try:
                return path.read_text(encoding="utf-8")
            except (OSError, UnicodeDecodeError) as error:
                raise IgnoreInvalid(f"{path} can't be read: {error}") from error
    return ""
