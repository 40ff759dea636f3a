"""`boltseal build --print-labels`: the OCI annotations that say where an image comes from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from boltseal.build.git_state import GitState, git_state
from boltseal.build.labels import labels_of
from boltseal.build.tag_template import describe_tag
from boltseal.commands.build_inputs import BuildInputs, read_dockerfile, resolve_bases
from boltseal.commands.registry_access import RegistryOptions
from boltseal.commands.text import clean
from boltseal.config import child_environment
from boltseal.oci.annotations import REVISION, SOURCE, VERSION
from boltseal.project.git_program import NotGit


@dataclass(frozen=True, slots=True)
class LabelsRequest:
    """What to label. `version`: None for what git describe says. `created_us`: the image's time, since 1970."""

    inputs: BuildInputs
    created_us: int
    version: str | None = None
    allow: tuple[str, ...] = ()


def image_labels(request: LabelsRequest, options: RegistryOptions) -> dict[str, str]:
    """Return the labels of an image, by name. Raises: GitFailed, DockerfileInvalid, Invalid, Unavailable, LockInvalid."""
    inputs = request.inputs
    git = git_if_any(inputs.context, options.client.notice, has_version=request.version is not None)
    base = None
    if inputs.dockerfile.is_file() or inputs.file is not None:
        image_ref = read_dockerfile(inputs).base
        if image_ref is not None and image_ref.resolved is not None:
            base = (image_ref.resolved, resolve_bases([image_ref], inputs.context, options, request.allow)[image_ref])
    described = "" if git is None else str(describe_tag(git.described, git.dirt))
    return labels_of(git, described if request.version is None else request.version, request.created_us, base)


def git_if_any(context: Path, notice: Callable[[str], None], *, has_version: bool) -> GitState | None:
    """Return the git state of a folder; None where it is in no repository, with a notice about the labels that lack then.

    `has_version`: the version does not come from git. Raises: GitFailed.
    """
    try:
        found = git_state(context, child_environment())
    except NotGit as error:
        absent = [REVISION, SOURCE, *([] if has_version else [VERSION])]
        notice(clean(f"boltseal: left out: the labels {', '.join(absent)}: {error.message}"))
        return None
    if not found.source:
        notice(clean(f"boltseal: left out: the label {SOURCE}: the git remote `origin` has no public address"))
    return found


def image_time_us(epoch_s: int | None, now_us: int) -> int:
    """Return the time that an image says it was made: SOURCE_DATE_EPOCH, else now; in microseconds since 1970."""
    return now_us if epoch_s is None else epoch_s * 1_000_000
