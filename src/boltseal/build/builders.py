"""Call the programs that build images, so that each build uses exactly the base images that were resolved.

    buildx     docker buildx build    a source policy with the digest of every image that the build reads
    docker     docker build           the classic builder has no policy: a copy of the Dockerfile with digests in it
    buildah    buildah bud            a copy of the Dockerfile with digests in it

An image for several platforms is an index. buildx writes it into a folder as an OCI layout, and the caller pushes that.
buildah collects the images in a local manifest list. The classic builder can't build for several platforms. For one platform
buildx adds no attestations: an image with attestations is an index, and daemons with containerd's store push the parts of an
index under the tag itself, one after the other. A sealed tag refuses that.

The output of a program goes to the stream that the caller passes. A failed build is an error with the exit code, and nothing
is pushed.
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
        """Whether the builder takes a source policy. The others get a copy of the Dockerfile with digests."""
        return self is Builder.BUILDX

    @property
    def program(self) -> str:
        """The name of the program to run."""
        return "buildah" if self is Builder.BUILDAH else "docker"


class BuilderMissing(Invalid):
    """No program that builds images is installed."""


class OnePlatform(Invalid):
    """The builder can't build an image for several platforms."""


class BuildFailed(Unavailable):
    """A build or the push of its image failed. `facts`: of the registry's refusal."""

    def __init__(self, message: str, facts: dict[str, object] | None = None) -> None:
        super().__init__(message)
        self.facts = facts

    def refusal_facts(self) -> dict[str, object] | None:
        """Return the facts of the refusal, None where no registry refused."""
        return self.facts


@dataclass(frozen=True, slots=True)
class Build:
    """The arguments of one build. `dockerfile`: the file passed to the builder. `more`: further arguments for it, as typed.

    `gathered`: where the builder puts an image for several platforms: for buildx a folder that does not exist yet, for buildah
    a unique local name.
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
        """Whether the image is built for more than one platform."""
        return self.platform is not None and "," in self.platform


def found_builder() -> Builder:
    """Return the best installed builder: buildx, docker, buildah. Raises: BuilderMissing."""
    if shutil.which("docker"):
        return Builder.BUILDX if _answers("docker", "buildx", "version") else Builder.DOCKER
    if shutil.which("buildah"):
        return Builder.BUILDAH
    raise BuilderMissing(
        "neither docker nor buildah is installed; install one of them, or choose a builder with --builder"
    )


def build_command(builder: Builder, build: Build) -> list[str]:
    """Return the command that builds. Raises: OnePlatform."""
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
    """Return where the builder puts an image for several platforms before the push. `scratch`: a private temporary folder."""
    if builder is Builder.BUILDX:
        return str(scratch / "layout")
    # A hash, since the folder's name may not be a valid repository name.
    return f"localhost/boltseal-{sha256(os.fsencode(scratch)).hexdigest()[:16]}:gathered"


def push_command(builder: Builder, build: Build) -> list[str]:
    """Return the command that pushes the built image; empty when the caller pushes it from a folder."""
    image = str(build.image)
    if builder is Builder.BUILDAH and build.several:
        return ["buildah", "manifest", "push", "--all", *_over_http(build), build.gathered, f"docker://{image}"]
    if builder is Builder.BUILDAH:
        return ["buildah", "push", *_over_http(build), image]
    return [] if build.several else ["docker", "push", image]


def tidy_command(builder: Builder, build: Build) -> list[str]:
    """Return the command that deletes the local manifest list after the push; empty when there is none."""
    return ["buildah", "manifest", "rm", build.gathered] if builder is Builder.BUILDAH and build.several else []


def _over_http(build: Build) -> list[str]:
    return ["--tls-verify=false"] if build.plain_http else []


def run(words: Sequence[str], output: IO[str]) -> None:
    """Run a builder and wait for it; its output goes to `output`. Raises: BuilderMissing, BuildFailed."""
    program = next((word for word in words if word in ("docker", "buildah")), words[0])
    try:
        done = subprocess.run(  # noqa: S603 - a list of arguments, no shell
            words, stdin=subprocess.DEVNULL, stdout=output, stderr=output, check=False
        )
    except OSError as error:
        raise BuilderMissing(f"{quote(program)} can't be run: {error.strerror}") from error
    if done.returncode:
        code = done.returncode
        how = f"ended by signal {-code}" if code < 0 else f"failed with exit code {code}"
        what = " ".join(words[words.index(program) :][:3])
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
            subprocess.run(  # noqa: S603 - fixed arguments, no shell
                words, stdin=subprocess.DEVNULL, capture_output=True, timeout=ASK_S, check=False
            ).returncode
            == 0
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
