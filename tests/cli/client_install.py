"""A virtual environment with boltseal and its core dependencies, as `pip install boltseal` without extras makes it."""

from __future__ import annotations

import json
import re
import subprocess
import venv
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement

import boltseal
from tests.cli.program import TIMEOUT_S, Run, clean_environment

CALLS_EACH = """
import io, json, sys
from contextlib import redirect_stderr, redirect_stdout
from boltseal.cli import root

ended = []
for arguments in json.load(sys.stdin):
    with redirect_stdout(io.StringIO()) as out, redirect_stderr(io.StringIO()) as err:
        try:
            root.run(arguments)
        except SystemExit as exit:
            ended.append((exit.code, out.getvalue(), err.getvalue()))
print(json.dumps(ended))
"""


@dataclass(frozen=True, slots=True)
class ClientInstall:
    """`distributions`: the names of everything that is installed, boltseal included."""

    python: Path
    distributions: Collection[str]

    def run(self, *arguments: str | Path, environment: Mapping[str, str] | None = None, cwd: Path | None = None) -> Run:
        """Run the installed boltseal and return its result."""
        done = subprocess.run(
            [self.python, "-m", "boltseal", *map(str, arguments)],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            env=clean_environment(environment),
            cwd=cwd,
            timeout=TIMEOUT_S,
            check=False,
        )
        return Run(done.returncode, done.stdout, done.stderr)

    def run_each(self, *commands: Sequence[str]) -> list[Run]:
        """Run several commands, one after the other in one process."""
        done = subprocess.run(
            [self.python, "-c", CALLS_EACH],
            input=json.dumps(commands),
            stdout=subprocess.PIPE,
            text=True,
            env=clean_environment(),
            timeout=TIMEOUT_S,
            check=True,
        )
        return [Run(*ended) for ended in json.loads(done.stdout)]


def install_client(folder: Path) -> ClientInstall:
    """Create the environment in `folder` offline: its packages are links to those of this environment."""
    venv.create(folder, with_pip=False)
    (image_ref,) = folder.glob("lib/python*/site-packages")
    image_ref.joinpath("boltseal").symlink_to(Path(boltseal.__file__).parent, target_is_directory=True)
    distributions = _required("boltseal")
    for name in distributions - {"boltseal"}:
        _link(metadata.distribution(name), image_ref)
    return ClientInstall(folder / "bin/python", distributions)


def _required(name: str) -> set[str]:
    """Return the distribution and all that it requires on this Python, without extras that are not requested."""
    seen: set[tuple[str, frozenset[str]]] = set()
    pending = [Requirement(name)]
    while pending:
        wanted = pending.pop()
        key = re.sub(r"[-_.]+", "-", wanted.name).lower(), frozenset(wanted.extras)
        if key in seen:
            continue
        seen.add(key)
        for text in metadata.requires(wanted.name) or ():
            found = Requirement(text)
            extras = {"", *wanted.extras}
            if found.marker is None or any(found.marker.evaluate({"extra": extra}) for extra in extras):
                pending.append(found)
    return {name for name, _ in seen}


def _link(distribution: metadata.Distribution, image_ref: Path) -> None:
    """Link the top-level files and folders of a distribution into `image_ref`; programs in bin/ are left out."""
    assert distribution.files
    for name in {file.parts[0] for file in distribution.files} - {"..", "__pycache__"}:
        target = image_ref / name
        if not target.exists():
            target.symlink_to(Path(str(distribution.locate_file(name))))
