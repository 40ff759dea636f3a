"""The programs that build: how each is called, so that its bases are what was found, and no other.

    buildx     docker buildx build    a source policy: every image that the build takes in, by its digest
    docker     docker build           the classic builder, which knows no policy: a copy of the Dockerfile with digests in it
    buildah    buildah bud            the same copy

An image for several platforms is an index. buildx writes it into a folder, as an OCI layout, from where the caller pushes it;
buildah gathers it under a name of its own; the classic builder makes none. For one platform buildx adds no attestations: an
image with them is an index too, and daemons with containerd's store push the parts of one under the tag itself, one after the
other, which a tag that is sealed does not take.

What they print goes where the caller says. A build that fails is an error with its exit code; nothing was pushed then.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from hashlib import sha256
from pathlib import Path
from typing import IO, Final

from boltseal.errors import Invalid, Unavailable, quote
from boltseal.oci.reference import Reference

POLICY_VARIABLE: Final = "EXPERIMENTAL_BUILDKIT_SOURCE_POLICY"
PLAIN_VARIABLE: Final = "BUILDX_NO_DEFAULT_ATTESTATIONS"
ASK_S: Final = 20


class Builder(StrEnum):
    """A program that builds."""

    BUILDX = "buildx"
    DOCKER = "docker"
    BUILDAH = "buildah"

    @property
    def takes_policy(self) -> bool:
        """Whether it is given a source policy, and not a copy of the Dockerfile."""
        return self is Builder.BUILDX

    @property
    def program(self) -> str:
        """What is run."""
        return "buildah" if self is Builder.BUILDAH else "docker"


class BuilderMissing(Invalid):
    """No program that builds is here."""


class OnePlatform(Invalid):
    """An image for several platforms is wanted of a builder that makes images for one."""


class BuildFailed(Unavailable):
    """A builder, or its push, did not end well."""


@dataclass(frozen=True, slots=True)
class Build:
    """What is to be built. `dockerfile`: the file that is given to the builder. `more`: further words for it, as typed.

    `gathered`: where an image for several platforms is put: for buildx a folder that is not there yet, for buildah a name that
    nobody else has.
    """

    context: Path
    dockerfile: Path
    image: Reference
    labels: Mapping[str, str]
    build_args: Mapping[str, str]
    target: str | None = None
    platform: str | None = None
    policy: Path | None = None
    more: Sequence[str] = ()
    plain_http: bool = False
    gathered: str = ""

    @property
    def several(self) -> bool:
        """Whether it is built for more than one platform."""
        return self.platform is not None and "," in self.platform


def found_builder() -> Builder:
    """The best builder that is here. BuilderMissing."""
    if shutil.which("docker"):
        return Builder.BUILDX if _answers("docker", "buildx", "version") else Builder.DOCKER
    if shutil.which("buildah"):
        return Builder.BUILDAH
    raise BuilderMissing("neither docker nor buildah is here to build with; install one, or name it with --builder")


def build_command(builder: Builder, build: Build) -> list[str]:
    """The words of the call. OnePlatform."""
    words, named = ["env"], ["--tag", str(build.image)]
    if build.policy is not None:
        words.append(f"{POLICY_VARIABLE}={build.policy}")
    match builder:
        case Builder.BUILDX if build.several:
            words += ["docker", "buildx", "build", "--output", f"type=oci,tar=false,dest={build.gathered}"]
        case Builder.BUILDX:
            words += [f"{PLAIN_VARIABLE}=1", "docker", "buildx", "build", "--load"]
        case Builder.DOCKER if build.several:
            raise OnePlatform(
                f"docker build makes an image for one platform, not for {build.platform}; take --builder buildx or buildah"
            )
        case Builder.DOCKER:
            words += ["DOCKER_BUILDKIT=0", "docker", "build"]
        case Builder.BUILDAH:
            words += ["buildah", "bud", *_over_http(build)]
            named = ["--manifest", build.gathered] if build.several else named
    return [*words, "--file", str(build.dockerfile), *named, *_flags(build), *build.more, str(build.context)]


def gathered_in(builder: Builder, scratch: Path) -> str:
    """Where an image for several platforms is put before it is pushed. `scratch`: a folder that nobody else has."""
    if builder is Builder.BUILDX:
        return str(scratch / "layout")
    # not the folder's own name, which may end with what no repository's name ends with
    return f"localhost/boltseal-{sha256(os.fsencode(scratch)).hexdigest()[:16]}:gathered"


def push_command(builder: Builder, build: Build) -> list[str]:
    """The words of the call that pushes what was built; none where a folder holds it, for the caller to push."""
    image = str(build.image)
    if builder is Builder.BUILDAH and build.several:
        return ["buildah", "manifest", "push", "--all", *_over_http(build), build.gathered, f"docker://{image}"]
    if builder is Builder.BUILDAH:
        return ["buildah", "push", *_over_http(build), image]
    return [] if build.several else ["docker", "push", image]


def tidy_command(builder: Builder, build: Build) -> list[str]:
    """The words of the call that takes away what was only gathered to be pushed; none where nothing is left."""
    return ["buildah", "manifest", "rm", build.gathered] if builder is Builder.BUILDAH and build.several else []


def _over_http(build: Build) -> list[str]:
    return ["--tls-verify=false"] if build.plain_http else []


def run(words: Sequence[str], output: IO[str]) -> None:
    """Run a builder to its end; what it prints goes to `output`. BuilderMissing, BuildFailed."""
    told = next((word for word in words if word in ("docker", "buildah")), words[0])
    try:
        done = subprocess.run(  # noqa: S603 - a list of words, no shell
            words, stdin=subprocess.DEVNULL, stdout=output, stderr=output, check=False
        )
    except OSError as error:
        raise BuilderMissing(f"{quote(told)} can't be run: {error.strerror}") from error
    if done.returncode:
        code = done.returncode
        how = f"ended by signal {-code}" if code < 0 else f"failed with exit code {code}"
        what = " ".join(words[words.index(told) :][:3])
        raise BuildFailed(f"`{what} ...` {how}; nothing was recorded")


def _flags(build: Build) -> Iterator[str]:
    for name, value in build.labels.items():
        yield from ("--label", f"{name}={value}")
    for name, value in build.build_args.items():
        yield from ("--build-arg", f"{name}={value}")
    if build.target is not None:
        yield from ("--target", build.target)
    if build.platform is not None:
        yield from ("--platform", build.platform)


def _answers(*words: str) -> bool:
    try:
        return (
            subprocess.run(  # noqa: S603 - fixed words, no shell
                words, stdin=subprocess.DEVNULL, capture_output=True, timeout=ASK_S, check=False
            ).returncode
            == 0
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
