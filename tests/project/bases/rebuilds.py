"""Rebuild requests: what a scan of base images reports, and a command that records its calls."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from boltseal.oci.reference import Reference
from boltseal.policy.rebuild_actions import parse_on_outdated
from boltseal.policy.tag_expectations import Expect
from boltseal.project.bases.base_claims import BaseClaim, ClaimSource
from boltseal.project.bases.base_report import BaseReport, ImageToCheck
from boltseal.project.bases.freshness import BaseStatus, BaseVerdict
from boltseal.project.bases.rebuild_journal import RebuildJournal
from boltseal.project.bases.rebuild_requests import Rebuilder
from tests.project.bases.samples import digest

APP, OURS, NODE = "reg.test/shop/app:1", "reg.test/shop/ours:1", "docker.io/library/node:16.13"


def base_report(
    image: str, base: str, now: str = "new", status: BaseStatus = BaseStatus.OUTDATED, expect: Expect | None = None
) -> BaseReport:
    """Return the report of a scan: an image, its base, and the digest to which the base's tag resolves now. `expect`: how
    that tag moves by custom."""
    claim = BaseClaim(Reference.parse(base), digest("old"), ClaimSource.BUILT)
    verdict = BaseVerdict(status, "why", claim, digest("old"), digest(now), expect=expect)
    return BaseReport(ImageToCheck(image, Reference.parse(image)), digest(image), (verdict,))


def script(tmp_path: Path, body: str) -> list[str]:
    """Write a shell script; return the command of a rebuild with the placeholders that it gets as arguments."""
    file = tmp_path / "rebuild"
    file.write_text(f"#!/bin/sh\n{body}\n")
    file.chmod(0o755)
    return [str(file), "{image}", "{base}", "{base_digest}"]


def rebuilder(journal: RebuildJournal, command: Sequence[str], **more: Any) -> Rebuilder:
    """Return a rebuilder with this command, without pauses. `more`: arguments of `Rebuilder`, or `attempts`."""
    table: Mapping[str, object] = {"command": list(command), "attempts": more.pop("attempts", 2)}
    return Rebuilder(parse_on_outdated([table]), journal, lambda: 1, pause_s=0, **more)
