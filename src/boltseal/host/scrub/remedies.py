"""Says what to do about an image that differs: which containers run on it, since when, and the commands that replace it.

Nothing here changes a host. The order of the steps keeps the evidence: neither the image nor its containers are removed.
The digest by which the image is loaded again comes from the expectation of the check, if there is one. A digest in the store
itself is shown as such: an attacker who changed files there may have changed it too.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from shlex import quote as quoted
from typing import Final

from boltseal.host.scrub import archives, docker_store, podman_store
from boltseal.host.scrub.differences import shown
from boltseal.host.scrub.plans import ContainerPlan, ImagePlan
from boltseal.host.scrub.trust import Expectation, is_id, local_reference
from boltseal.lockfile.container_check import is_changed_mark, is_keep_tag, without_keep_tags
from boltseal.lockfile.format import time_text
from boltseal.oci.digest import Digest
from boltseal.oci.reference import Reference

MAX_CONTAINERS: Final = 100
_DOCKERS_CONTAINERD: Final = ("containerd", "daemon")
_START_TIME: Final = 19
"""The index of the start time in /proc/PID/stat, counted after the program's name."""


@dataclass(frozen=True, slots=True)
class ContainerUse:
    """A container on an image. `running`: its process ID, 0 if it does not run. `since`: when that started, "" if unknown."""

    id: str
    name: str
    running: int = 0
    since: str = ""


@dataclass(frozen=True, slots=True)
class RemedyStep:
    """One step. `command`: the command that does it, "" if there is none."""

    text: str
    command: str = ""


@dataclass(frozen=True, slots=True)
class ScrubAgain:
    """The arguments of the check. `typed`: the text that selected the image, "" for none; `roots`: the named stores."""

    typed: str = ""
    roots: tuple[Path, ...] = ()

    def command(self, name: str) -> str:
        """Return the command that checks an image in the same stores."""
        roots = [f"--root {quoted(str(each))}" for each in self.roots]
        return " ".join(("boltseal scrub", *roots, quoted(name)))


@dataclass(frozen=True, slots=True)
class Remedy:
    """What to do about an image. `digest`: by which it is loaded again; `digest_by`: the source of that digest."""

    containers: tuple[ContainerUse, ...] = ()
    digest: str = ""
    digest_by: str = ""
    steps: tuple[RemedyStep, ...] = ()


def remedy_of(
    image: ImagePlan,
    containers: Sequence[ContainerPlan],
    running: Mapping[str, int],
    expected: Expectation | None,
    again: ScrubAgain,
    proc: Path,
) -> Remedy:
    """Return what to do about an image that differs.

    `containers`: those of its store. `running`: the process IDs of running containers, by container ID.
    """
    uses = tuple(
        ContainerUse(each.id, shown(each.name), pid := running.get(each.id, 0), _since(proc, pid))
        for each in containers
        if each.image == image.id
    )
    name, digest, by = _name(image, again.typed), *_digest(image, expected)
    target = _target(image, name, digest)
    if image.store == archives.NAME:
        copy = f"boltseal copy {quoted(target)} docker-archive:FILE" if target else ""
        return Remedy(
            uses, digest, by, (RemedyStep("keep this file as evidence, and copy the image again to another", copy),)
        )
    program = _program(image)
    if program is None:
        return Remedy(uses, digest, by, _steps_in_containerd(image, uses, target, again))
    if _is_only_evidence(image):
        return Remedy(uses, digest, by, _steps_of_evidence(program, image, uses))
    host = f" --host unix://{_podman_socket(image.root)}" if program == "podman" else ""
    by_what = f", by {by}" if by.startswith("the digest ") else f", by the digest of {by}" if digest else ""
    known = RemedyStep(
        f"load the image again beside the changed one{by_what}", f"boltseal pull --replace{host} {quoted(target)}"
    )
    missing = RemedyStep("build or load the image again under another name: no registry is known that has it")
    steps = [*_keep(program, uses), known if target else missing]
    if uses:
        steps.append(_start_anew(program, uses))
    steps.append(RemedyStep("check the new image", again.command(name or str(image.id))))
    return Remedy(uses, digest, by, tuple(steps))


def _is_only_evidence(image: ImagePlan) -> bool:
    """Return whether `pull --replace` has replaced an image: it has no name of its own any more, and the mark as evidence."""
    tagged = [each for each in map(local_reference, image.names) if each is not None and each.tag is not None]
    return any(map(is_changed_mark, tagged)) and all(map(is_keep_tag, tagged))


def _steps_of_evidence(program: str, image: ImagePlan, uses: Sequence[ContainerUse]) -> tuple[RemedyStep, ...]:
    """Return the steps for an image that was replaced: to load it again would take the keep tag from the evidence."""
    running = [each for each in uses if each.running]
    end = f"`{program} rmi --force {image.id}` removes the image when the investigation has ended"
    return (
        *_keep(program, uses),
        *([_start_anew(program, running)] if running else []),
        RemedyStep(f"load nothing again: the image was replaced, and this one is kept as evidence. {end}"),
    )


def _start_anew(program: str, uses: Sequence[ContainerUse]) -> RemedyStep:
    """Return the step that starts containers on the new image, and keeps the old ones."""
    return RemedyStep(
        "start new containers by the name of the image, in place of those above; keep those for the investigation, "
        "in a file and under another name: Compose and `boltseal deploy` remove those of their project, also "
        "renamed ones. A digest or image ID in place of the name still resolves to the changed files, except for "
        "`boltseal deploy`",
        "\n".join(_set_aside(program, each.name) for each in uses),
    )


def _set_aside(program: str, name: str) -> str:
    """Return the commands that save a container's files and give its name free."""
    other = f"{name}-evidence"
    saved = f"{program} export --output {quoted(f'./{other}.tar')} {quoted(name)}"
    return f"{saved}\n{program} rename {quoted(name)} {quoted(other)}"


def _podman_socket(root: Path) -> str:
    """Return where Podman's service of the user listens who owns a store."""
    try:
        owner = root.stat().st_uid
    except OSError:
        owner = 0
    return f"/run/user/{owner}/podman/podman.sock" if owner else "/run/podman/podman.sock"


def _keep(program: str, uses: Sequence[ContainerUse]) -> list[RemedyStep]:
    """Return the step that stops containers, which then keep their files."""
    names = " ".join(quoted(each.name) for each in uses[:MAX_CONTAINERS] if each.running)
    text = "keep the evidence: remove neither the image nor its containers"
    return [RemedyStep(f"{text}; stop those that run", f"{program} stop {names}") if names else RemedyStep(text)]


def _steps_in_containerd(
    image: ImagePlan, uses: Sequence[ContainerUse], target: str, again: ScrubAgain
) -> tuple[RemedyStep, ...]:
    """Return the steps for containerd without Docker, whose clients refer to an image by its digest, so that no copy can stand in."""
    folders = " ".join(
        quoted(str(image.root / os.fsdecode(each.folder))) for each in image.layers if each.folder is not None
    )
    copy = f"cp --archive --parents {folders} /EVIDENCE" if folders else ""
    ending = (
        "end the containers on this image (Kubernetes: kubectl drain NODE)" if uses else "let no container start on it"
    )
    return (
        RemedyStep(
            "keep the evidence first: a pull reuses the layers that containerd has, so the image has to be removed",
            copy,
        ),
        RemedyStep(f"{ending}, and remove every name of the image and of images that share its layers", ""),
        RemedyStep("pull it again by its digest", f"crictl pull {quoted(target)}" if target else ""),
        RemedyStep("check the new image", again.command(target.partition("@")[0] or str(image.id))),
    )


def _program(image: ImagePlan) -> str | None:
    """Return the engine's own command; None for containerd without Docker."""
    if image.store == podman_store.NAME:
        return "podman"
    is_docker = image.store == docker_store.NAME or image.root.parts[-2:] == _DOCKERS_CONTAINERD
    return "docker" if is_docker else None


def _name(image: ImagePlan, typed: str) -> str:
    """Return the image's name with a tag, "" if it has none. A typed name is preferred: others may be an attacker's.

    A keep tag is returned only if the image has no other name.
    """
    given = local_reference(typed) if typed and not is_id(typed) else None
    if given is not None and (given.tag is not None or given.digest is None):
        return shown(given.by_tag.familiar())
    found = [local_reference(each) for each in image.names]
    tagged = [each for each in found if each is not None and each.tag is not None and not is_changed_mark(each)]
    by_rank = (*without_keep_tags(tagged), *filter(is_keep_tag, tagged))
    named = next((each for each in by_rank if given is None or each.name == given.name), None)
    return "" if named is None else shown(named.by_tag.familiar())


def _digest(image: ImagePlan, expected: Expectation | None) -> tuple[str, str]:
    """Return the digest by which to load the image again, and its source; "" for none."""
    if expected is not None and expected.of_manifest:
        return str(expected.digest), expected.by
    if image.id != image.config:  # containerd's store, whose image ID is the registry's digest
        return str(image.id), _BY_STORE
    found = [each.digest for name in image.names if (each := local_reference(name)) is not None]
    digest: Digest | None = next(filter(None, found), None)
    return (str(digest), _BY_STORE) if digest is not None else ("", "")


_BY_STORE: Final = "the changed store's own record; compare it with your lock or the ledger"


def _target(image: ImagePlan, name: str, digest: str) -> str:
    """Return the reference to pull, "" if no registry is known to have the image."""
    if name:
        return f"{name}@{digest}" if digest else ""
    found = [local_reference(each) for each in image.names]
    named: Reference | None = next(filter(None, found), None)
    return f"{shown(named.name)}@{digest}" if named is not None and digest else ""


def _since(proc: Path, pid: int) -> str:
    """Return when a process started; "" if it is not known."""
    if not pid:
        return ""
    try:
        ticks = int((proc / str(pid) / "stat").read_bytes().rpartition(b")")[2].split()[_START_TIME])
        lines = (proc / "stat").read_text(encoding="ascii").splitlines()
        (booted_s,) = [int(line.split()[1]) for line in lines if line.startswith("btime ")]
    except (OSError, ValueError, IndexError):
        return ""
    return time_text(booted_s * 1_000_000 + ticks * 1_000_000 // os.sysconf("SC_CLK_TCK"))
