"""Runs Podman's systemd generator as a dry run, and reads the services that it prints.

What systemd would start is what this program says, so boltseal does not evaluate units itself: continued lines, drop-in files of the
user, units that name other units, and settings of newer versions are all in its answer. It prints each service as

    ---web.service---
    [X-Container]            the merged unit: of several lines of one key, the last one counts
    Image=docker.io/library/nginx:1.27
    [Unit]
    SourcePath=/etc/containers/systemd/web.container
    [Service]
    ExecStart=/usr/bin/podman run ... docker.io/library/nginx:1.27

An additional first folder with drop-in files shows what a release would change, before anything is changed.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from boltseal.deploy.quadlet.unit_folders import DIRS_VARIABLE, ProjectUnits, UnitFolders, UnitsInvalid
from boltseal.errors import NotFound, Unavailable, quote

PROGRAMS: Final = (
    "/usr/libexec/podman/quadlet",
    "/usr/lib/podman/quadlet",
    "/usr/lib/systemd/system-generators/podman-system-generator",
)
_TIME_LIMIT_S: Final = 60.0
_BEGIN: Final = re.compile(r"---([A-Za-z0-9:_.\\@-]+\.service)---")
_SECTION: Final = re.compile(r"\[([^\]]*)\]")
_REFUSED: Final = re.compile(r'converting "([^"]+)": (.*)')


class GeneratorFailed(Unavailable):
    """Podman's generator is missing, or did not answer. Nothing was changed."""


@dataclass(frozen=True, slots=True)
class GeneratedService:
    """A service that the generator makes. `lines`: without the first one."""

    name: str
    lines: tuple[str, ...]

    def values(self, section: str, key: str) -> tuple[str, ...]:
        """Return all values of a key in a section, in order."""
        return tuple(value for inside, name, value in self._settings() if (inside, name) == (section, key))

    def value(self, section: str, key: str) -> str:
        """Return the value that counts: the last one, "" if there is none."""
        return next(reversed(self.values(section, key)), "")

    @property
    def source(self) -> Path:
        """The unit from which it is made."""
        return Path(self.value("Unit", "SourcePath"))

    def _settings(self) -> Iterator[tuple[str, str, str]]:
        section = ""
        for line in self.lines:
            begins = _SECTION.fullmatch(line)
            if begins is not None:
                section = begins[1]
                continue
            key, found, value = line.partition("=")
            if found:
                yield section, key, value


@dataclass(frozen=True, slots=True)
class Generated:
    """What the generator prints. `refused`: why it makes no service of a unit, by the unit's name."""

    services: tuple[GeneratedService, ...]
    refused: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Generator:
    """Podman's generator with this user's folders. `environment`: of this process."""

    folders: UnitFolders
    environment: Mapping[str, str]

    def now(self) -> Generated:
        """Return what systemd gets at its next reload. Raises: GeneratorFailed."""
        return self._run({})

    def with_first(self, folder: Path) -> Generated:
        """Return what systemd would get if the drop-in files of a folder took precedence. Raises: GeneratorFailed."""
        dirs = os.pathsep.join(map(str, (folder, *self.folders.searched)))
        return self._run({DIRS_VARIABLE: dirs})

    def _run(self, added: Mapping[str, str]) -> Generated:
        program = next((each for each in PROGRAMS if os.access(each, os.X_OK)), None)
        if program is None:
            raise NotFound(f"Podman's systemd generator is not installed (expected {PROGRAMS[0]}); install podman")
        words = [program, *(["-user"] if self.folders.user else []), "-dryrun"]
        try:
            done = subprocess.run(  # noqa: S603 - fixed words
                words,
                env={**self.environment, **added},
                stdin=subprocess.DEVNULL,
                capture_output=True,
                check=False,
                timeout=_TIME_LIMIT_S,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise GeneratorFailed(f"Podman's generator can't be run: {error}; nothing was changed") from error
        errors = done.stderr.decode("utf-8", "replace")
        refused = {match[1]: match[2] for match in map(_REFUSED.search, errors.splitlines()) if match is not None}
        services = parse_services(done.stdout.decode("utf-8", "replace"))
        if done.returncode and not refused:
            last = (errors.strip().splitlines() or [""])[-1]
            raise GeneratorFailed(
                f"Podman's generator ended with exit code {done.returncode}: {quote(last, 300)}; nothing was changed"
            )
        return Generated(services, refused)


def parse_services(text: str) -> tuple[GeneratedService, ...]:
    """Return the services in the generator's output. A setting has `=`, so that none can look like the beginning of a service."""
    found: list[tuple[str, list[str]]] = []
    for line in text.split("\n"):
        begins = _BEGIN.fullmatch(line)
        if begins is not None:
            found.append((begins[1], []))
        elif found and line:  # an empty drop-in file adds an empty line
            found[-1][1].append(line)
    return tuple(GeneratedService(name, tuple(lines)) for name, lines in found)


def services_of(generated: Generated, project: ProjectUnits) -> dict[str, GeneratedService]:
    """Return the service of each unit of a project. Raises: UnitsInvalid: the generator makes none, or one of another file."""
    by_source: dict[str, list[GeneratedService]] = {}
    for each in generated.services:
        by_source.setdefault(each.source.name, []).append(each)
    wrong, found = list[str](), dict[str, GeneratedService]()
    for unit in project.units:
        of_name = by_source.get(unit, [])
        own = [each for each in of_name if _is_in(each.source, project.root)]
        if len(own) == 1:
            found[unit] = own[0]
        elif unit in generated.refused:
            wrong.append(f"{unit}: Podman's generator refuses it: {generated.refused[unit]}")
        elif of_name:
            wrong.append(
                f"{unit}: Podman uses another file of this name (got {of_name[0].source}, expected {project.root / unit})"
            )
        else:
            wrong.append(
                f"{unit}: Podman's generator does not read {project.root}; link that folder from the one where Podman looks for units"
            )
    if wrong:
        raise UnitsInvalid(f"{quote('; '.join(wrong[:20]), 2000)[1:-1]}. Nothing was changed")
    return found


def _is_in(path: Path, root: Path) -> bool:
    return Path(os.path.realpath(path.parent)) == root


def tokens_differ(before: Sequence[str], after: Sequence[str], images: Mapping[str, str]) -> str | None:
    """Return the first line that differs in more than these images (as written, to as deployed); None if there is none."""
    if len(before) != len(after):
        longer = max(before, after, key=len)
        return next((each for each in longer if each not in min(before, after, key=len)), longer[-1])
    for old, new in zip(before, after, strict=True):
        words = (old.split(" "), new.split(" "))
        if len(words[0]) != len(words[1]) or any(a != b and images.get(a) != b for a, b in zip(*words, strict=True)):
            return new
    return None
