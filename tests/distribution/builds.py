"""Runs the release scripts as docs/releasing.md describes."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.docs.pages import ROOT, text, typed_lines

TIMEOUT_S = 900
PAGE = "docs/releasing.md"


def typed(beginning: str, **replaced: str) -> list[str]:
    """Return the command of docs/releasing.md that begins with some words, with the test's names in place of the
    page's.

    `replaced`: the test's names for `dist`, `again`, `layout`, `image`, and `wheel` or `sdist`, which are the page's
    names.
    """
    (line,) = (line for line in typed_lines(text(PAGE)) if line.startswith(f"{beginning} "))
    written = {
        "again": "dist-again",
        "wheel": "dist/boltseal-0.2.0-py3-none-any.whl",
        "sdist": "$PWD/dist/boltseal-0.2.0.tar.gz",
        "dist": "dist",
        "layout": "image:0.2.0",
        "image": "registry.example.com/boltseal:0.2.0",
        "by_digest": "registry.example.com/boltseal@sha256:...",
    }
    words = shlex.split(line)
    for name, new in replaced.items():
        assert written[name] in line, f"{PAGE}: {line!r} has no {written[name]!r}"
        words = [
            new if word == written[name] else word.replace(f"file://{written[name]}", f"file://{new}") for word in words
        ]
    return words


@dataclass(frozen=True, slots=True)
class Dist:
    """The folder that scripts/build-dist fills."""

    folder: Path

    @property
    def wheel(self) -> Path:
        (wheel,) = self.folder.glob("*.whl")
        return wheel

    @property
    def sdist(self) -> Path:
        (sdist,) = self.folder.glob("*.tar.gz")
        return sdist

    def contents(self) -> dict[str, bytes]:
        """Return every file of the folder with its content."""
        return {path.name: path.read_bytes() for path in self.folder.iterdir()}


def committed() -> str:
    """Return a commit with HEAD and the changes of tracked files, without a branch or any other change."""
    identity = ("-c", "user.name=tests", "-c", "user.email=tests@localhost")
    return checked(["git", *identity, "stash", "create"]) or checked(["git", "rev-parse", "HEAD"])


def clone(folder: Path, revision: str) -> Path:
    """Return another checkout of a commit, whose files only their owner may read."""
    checked(["git", "clone", "--quiet", "--shared", "--no-checkout", str(ROOT), str(folder)])
    checked(["sh", "-c", 'umask 077; exec git -C "$0" checkout --quiet "$1"', str(folder), revision])
    return folder


def download_wheels(folder: Path, python_version: str) -> Path:
    """Download the wheels of requirements.lock, each verified by its hash."""
    options = ("--require-hashes", "--no-deps", "--only-binary", ":all:", "--python-version", python_version)
    checked(
        [sys.executable, "-m", "pip", "download", *options, "-r", str(ROOT / "requirements.lock"), "-d", str(folder)]
    )
    return folder


def build_dist(out: Path, revision: str, *, root: Path = ROOT) -> Dist:
    """Build wheel and sdist of a commit in a checkout."""
    checked([str(root / "scripts/build-dist"), str(out)], {"REVISION": revision, "PYTHON": sys.executable})
    return Dist(out)


def checked(command: Sequence[str], variables: Mapping[str, str] | None = None, cwd: Path = ROOT) -> str:
    """Run a command that must succeed, and return its standard output."""
    done = subprocess.run(
        command,
        cwd=cwd,
        env=os.environ | dict(variables or {}),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
    return done.stdout.strip()


def is_valid_sbom(text: str) -> bool:
    """Return whether a text is CycloneDX 1.6 in JSON, by its strict schema."""
    # loading takes a second of processor time, which collecting the tests would take in every run
    from cyclonedx.schema import SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator

    return JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
