"""Whether a change of a base image reaches an image that is built on it. Pure.

Each changed part of the base (a package, a file, a setting) is looked up in the image:

    former     the image has it as the former base has it, or older than in the new one: the change reaches the image
    new        the image has it as the new base has it, or newer
    replaced   the image has another one, from its own layers or from a base in between
    gone       the image does not have it: its own layers delete it, or they only copied other files of the base
    unknown    it can't be compared

One former part is enough for `reaches`. `does not reach` needs all parts: what could not be read or compared makes the
result `could not check`, and so does a part from which the image's own build may have copied something:

    - a file with the content of a changed one, if the new base has that content as well
    - a file that only the new base has: a rebuild copies it with its folder, or by a pattern
    - a setting in which a changed variable may have been expanded, or with which steps of the build ran

A program that was compiled from a changed file is not recognised by its content; so an image that does not begin with the
base's layers is `does not reach` only if both bases have all of its files.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final, NamedTuple

from boltseal.oci.layer_tree import FileState
from boltseal.policy.debian_versions import is_older

_FOR_STEPS: Final = frozenset({"ONBUILD", "SHELL", "USER", "WORKDIR"})
"""Settings of a base that each step of a build on it depends on."""
_NOT_EXPANDED: Final = frozenset({"CMD", "ENTRYPOINT", "HEALTHCHECK", "ONBUILD", "SHELL"})
"""Settings in which a build expands no variables (Dockerfile reference, "Environment replacement")."""


class PartState(StrEnum):
    """How the image has a part that changed in its base."""

    FORMER = "former"
    NEW = "new"
    REPLACED = "replaced"
    GONE = "gone"
    UNKNOWN = "unknown"


class Reach(StrEnum):
    """Whether a change of the base reaches the image."""

    REACHES = "reaches"
    DOES_NOT = "does not reach"
    UNKNOWN = "could not check"


class ChangedSetting(NamedTuple):
    """A setting that differs between the bases, and its value in the image; "" for not set."""

    what: str
    was: str
    now: str
    own: str


@dataclass(frozen=True, slots=True)
class CopyTraces:
    """What an image's own build may have copied from changed parts of the base.

    `copies`: how many of its own files may be copies of changed ones, though the new base has their content too; `copy`: the
    path of one. `added`, `folder`: the path of a file that only the new base has, and of a folder that only one of the bases
    has, as the image does or does not. `setting`: why a setting may be copied, from `setting_trace`. "" for none.
    """

    copies: int = 0
    copy: str = ""
    added: str = ""
    folder: str = ""
    setting: str = ""


@dataclass(frozen=True, slots=True)
class ChangedParts:
    """The states of all changed parts in an image. `packages`, `files`: None with a reason if they could not be compared.

    `no_packages`: neither base has a package database or an SBOM. `unexplained`: the image does not begin with the base's
    layers, and has files that are not from it. `traces`: what its own build may have copied from the base.
    """

    settings: Sequence[PartState]
    packages: Sequence[PartState] | None
    files: Sequence[PartState] | None
    packages_reason: str = ""
    files_reason: str = ""
    no_packages: bool = False
    unexplained: bool = False
    traces: CopyTraces = field(default_factory=CopyTraces)


def file_state(was: FileState | None, now: FileState | None, own: FileState | None, *, inherits: bool) -> PartState:
    """Return how an image has a file that differs between the former and the new base. None: there is no such file.

    `inherits`: whether the image would have the file if only the new base had it.
    """
    if own is None:
        if now is None:
            return PartState.NEW
        return PartState.FORMER if was is None and inherits else PartState.GONE
    if was is None or now is None:
        other = was if now is None else now
        if other is None or _content(own) != _content(other):
            return PartState.REPLACED
        return PartState.FORMER if now is None else PartState.NEW
    if _content(own) not in (_content(was), _content(now)):
        return PartState.REPLACED
    changed = [(before, after, mine) for before, after, mine in zip(was, now, own, strict=True) if before != after]
    if any(mine == before for before, _, mine in changed):
        return PartState.FORMER
    return PartState.NEW if all(mine == after for _, after, mine in changed) else PartState.REPLACED


def package_state(kind: str, was: str, now: str, own: str, *, inherits: bool) -> PartState:
    """Return how an image has a package whose version differs between the bases. "": it is not installed.

    `kind`: of Debian packages, also other versions than those of the bases are compared. `inherits`: as in `file_state`.
    """
    if own == now:
        return PartState.NEW
    if not own:
        return PartState.FORMER if not was and inherits else PartState.GONE
    if own == was:
        return PartState.FORMER
    if not (was and now):
        return PartState.REPLACED
    if kind != "deb" or any("," in version for version in (was, now, own)) or not is_older(was, now):
        return PartState.UNKNOWN
    return PartState.FORMER if is_older(own, now) else PartState.NEW


def setting_state(was: str, now: str, own: str) -> PartState:
    """Return how an image has a setting that differs between the bases. "": not set."""
    if own == was:
        return PartState.FORMER
    return PartState.NEW if own == now else PartState.REPLACED


def setting_trace(changed: Sequence[ChangedSetting], own: Mapping[str, str]) -> str:
    """Return why a changed setting may be in the image though it has not its former value; "" if it can't be.

    `own`: the image's settings that differ from those of the new base.
    """
    for what, was, _, mine in changed:
        if what in _FOR_STEPS and mine != was:
            return f"its own build may have used the former {what}"
        if what.startswith("ENV ") and not was and mine:
            return f"the new base adds {what}, which its own build may use"
    values = {each.what: each.own for each in changed if each.own != each.was} | dict(own)
    for each in changed:
        for what, value in values.items():
            if each.what.startswith("ENV ") and each.was and each.was in value and what not in _NOT_EXPANDED:
                return f"its {what} may contain the former value of {each.what}"
    return ""


def judge_reach(parts: ChangedParts) -> tuple[Reach, str]:
    """Return whether the change reaches the image, and why."""
    groups = (parts.settings, parts.packages or (), parts.files or ())
    former = [sum(state is PartState.FORMER for state in states) for states in groups]
    if any(former):
        counts = zip(former, groups, ("setting", "package", "file"), strict=True)
        named = [f"{some} of {len(states)} changed {what}s" for some, states, what in counts if some]
        listed = " and ".join(filter(None, (", ".join(named[:-1]), named[-1])))
        return Reach.REACHES, f"it has {listed} as before the change"
    doubt = _doubt(parts)
    if doubt:
        return Reach.UNKNOWN, doubt
    if not any(groups):
        return Reach.UNKNOWN, "no package, file or setting differs between the two images of the base"
    return Reach.DOES_NOT, "it has none of the changed packages, files and settings as before the change"


def _doubt(parts: ChangedParts) -> str:
    """Return what prevents the result that the change does not reach; "" for nothing."""
    if parts.files is None:
        return parts.files_reason
    if parts.unexplained:
        return (
            "it does not begin with the layers of the former base, and has other files, which may have been built from "
            "changed ones"
        )
    if parts.packages is None:
        if parts.no_packages or PartState.REPLACED not in parts.files:
            return _copied(parts.traces)
        return (
            f"it has files of its own in place of changed ones, and its packages are unknown: {parts.packages_reason}"
        )
    if PartState.UNKNOWN in parts.packages:
        return "it has other versions of changed packages than both bases, and which are newer is not known"
    return _copied(parts.traces)


def _copied(traces: CopyTraces) -> str:
    if traces.copies:
        files = f"{traces.copies} of its own files" if traces.copies > 1 else "one of its own files"
        return f"{files} may be a copy of a changed one, which the new base has in another place: {traces.copy}"
    if traces.added:
        return f"the new base adds files that its own build may copy, such as {traces.added}"
    if traces.folder:
        return f"only one of the two images of the base has a folder {traces.folder}, and it is as the former one"
    return traces.setting


def _content(file: FileState) -> tuple[str, bytes]:
    return file.kind, file.content
