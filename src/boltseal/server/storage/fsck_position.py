"""How far `admin fsck` is with the bytes and names of a store, in a file that the operator names.

A check of a large store takes hours, and changes nothing in the store, so that its position is kept elsewhere. The file has what
was counted and found so far; the rows are checked anew by each run. It is removed when a run has ended.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from boltseal.errors import Invalid, Unavailable
from boltseal.files.atomic_files import Disk, write_file
from boltseal.server.storage.findings import Finding, FindingCollector, FindingStatus

SCHEMA: Final = "boltseal.fsck-position/1"
STEPS: Final = ("blobs", "stored", "names", "end")
"""In order: blobs that rows refer to, stored blobs, all names in the store."""
SAVED_EVERY_BYTES: Final = 256 * 1024 * 1024


@dataclass(slots=True)
class FsckPosition:
    """Everything up to `after` in a step was checked, and all earlier steps. `path` None: nothing is saved.

    `saved_every_bytes`: the position is saved after so many hashed bytes, and after each page. `registry`: the store that is checked,
    so that the file of another one is not used.
    """

    path: Path | None = None
    saved_every_bytes: int = SAVED_EVERY_BYTES
    registry: str = ""
    step: str = STEPS[0]
    after: str = ""
    counts: dict[str, int] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)

    def begin(self, registry: str) -> None:
        """Read the file, if there is one. Raises: Invalid: it is another file, or of another registry. Unavailable."""
        self.registry = registry
        if self.path is None:
            return
        try:
            document = json.loads(self.path.read_bytes())
        except FileNotFoundError:
            return
        except OSError as error:
            raise Unavailable(f"{self.path} can't be read: {error.strerror}") from error
        except ValueError as error:
            raise self._unusable("it is not JSON") from error
        self._take(document)

    def _take(self, document: Any) -> None:
        try:
            if document["schema"] != SCHEMA:
                raise self._unusable(f"its schema is {document['schema']!r}, expected {SCHEMA!r}")
            if document["step"] not in STEPS:
                raise self._unusable(f"its step is {document['step']!r}, expected one of {', '.join(STEPS)}")
            if document["registry"] != self.registry:
                raise self._unusable(f"it is of the registry {document['registry']}, not of {self.registry}")
            self.step, self.after = str(document["step"]), str(document["after"])
            self.counts = {str(name): int(number) for name, number in document["counts"].items()}
            self.findings = [
                Finding(str(what), str(problem), FindingStatus(status))
                for what, problem, status in document["findings"]
            ]
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise self._unusable("a field is missing or has another type") from error

    def _unusable(self, why: str) -> Invalid:
        return Invalid(f"{self.path} is not the position of this check: {why}; name another file, or remove it")

    def start_of(self, step: str) -> str | None:
        """Return after what a step begins: "" at its start; None: it is done."""
        reached = STEPS.index(self.step)
        return None if STEPS.index(step) < reached else self.after if step == self.step else ""

    def reached(self, step: str, after: str, found: FindingCollector) -> None:
        """Save the position with everything that was found. Raises: Unavailable."""
        self.step, self.after = step, after
        if self.path is None:
            return
        findings = [[each.what, each.problem, str(each.status)] for each in found.findings]
        document = {"schema": SCHEMA, "registry": self.registry, "step": step, "after": after, "counts": found.counted}
        try:
            write_file(Disk(), self.path, json.dumps(document | {"findings": findings}).encode())
        except OSError as error:
            raise Unavailable(f"{self.path} can't be written: {error.strerror}; choose another file") from error

    def end(self) -> None:
        """Remove the file."""
        if self.path is not None:
            self.path.unlink(missing_ok=True)
